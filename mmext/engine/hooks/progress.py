"""A progress bar for people who sit in front of a training."""

from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from tqdm import tqdm

from mmext.registry import HOOKS


@HOOKS.register_module()
class ProgressBarHook(Hook):
    """Shows steps, epoch, loss and the time left, on a terminal only: logs in files stay as they are."""

    priority = 'LOWEST'

    def before_train(self, runner: Runner) -> None:
        """Open the bar; a resumed run starts where it was."""
        # disable=None switches the bar off where stderr is no terminal.
        self._bar = tqdm(
            total=runner.max_iters,
            initial=runner.iter,
            unit='step',
            disable=None if is_main_process() else True,
            dynamic_ncols=True,
        )

    def before_train_epoch(self, runner: Runner) -> None:
        """Name the epoch."""
        self._bar.set_description(f'epoch {runner.epoch + 1}/{runner.max_epochs}', refresh=False)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """One step further. The loss is read once in ten steps: on a GPU each look waits for the device."""
        if outputs and 'loss' in outputs and batch_idx % 10 == 0 and not self._bar.disable:
            self._bar.set_postfix(loss=f'{float(outputs["loss"]):.3f}', refresh=False)
        self._bar.update()

    def after_train(self, runner: Runner) -> None:
        """Leave the full bar behind."""
        self._bar.close()
