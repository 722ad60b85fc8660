"""Warm-up of YOLO training, per iteration and per parameter group."""

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from mmext.registry import HOOKS


def ramp(step: int, num_steps: int, start: float, end: float) -> float:
    """Straight line from `start` at step 0 to `end` at step `num_steps`."""
    return start + (end - start) * min(step / num_steps, 1.0)


@HOOKS.register_module()
class YOLOWarmupHook(Hook):
    """Raises learning rates and momentum to their scheduled values over the first iterations.

    Biases come down from `bias_lr`, everything else goes up from 0, momentum (SGD: `momentum`, Adam: the
    first of `betas`) goes up from `momentum`. Which group holds the biases is read from the key `role` that
    `mmext.YOLOOptimWrapperConstructor` writes.

    The hook lays the warm-up over the schedule: before an iteration it replaces the values of the groups,
    after it it puts the scheduled values back. mmengine's schedulers compute each value from the last, so
    anything else would bend the schedule for good. It also makes the hook stateless: a resumed
    run continues the ramp from `runner.iter` alone. The priority puts it before the hook that logs the rate
    and before the schedulers' step.

    Args:
        warmup_epochs: length in epochs.
        min_iters: least length in iterations, for small data sets.
        bias_lr: learning rate of the biases at iteration 0.
        momentum: momentum at iteration 0.

    Raises:
        ValueError: if the length is negative or a start value is out of range.
    """

    priority = 'HIGHEST'

    def __init__(
        self,
        warmup_epochs: float = 3,
        min_iters: int = 100,
        *,
        bias_lr: float = 0.1,
        momentum: float = 0.8,
    ) -> None:
        if warmup_epochs < 0 or min_iters < 0 or warmup_epochs + min_iters == 0:
            raise ValueError(
                'YOLOWarmupHook needs warmup_epochs >= 0 and min_iters >= 0, one of them above 0, got '
                f'{warmup_epochs} and {min_iters}; remove the hook to train without warm-up'
            )
        if bias_lr < 0 or not 0 <= momentum < 1:
            raise ValueError(
                'YOLOWarmupHook needs bias_lr >= 0 and momentum in [0, 1), got '
                f'{bias_lr} and {momentum}'
            )
        self.warmup_epochs = warmup_epochs
        self.min_iters = min_iters
        self.bias_lr = bias_lr
        self.momentum = momentum
        self.num_iters = 0
        self._scheduled: list[dict] = []

    def before_train(self, runner: Runner) -> None:
        """Computes the length and warns if no group says that it holds biases."""
        epoch_iters = len(runner.train_dataloader)
        self.num_iters = max(round(self.warmup_epochs * epoch_iters), self.min_iters)
        if not any(group.get('role') == 'bias' for group in runner.optim_wrapper.param_groups):
            print_log(
                'YOLOWarmupHook: no parameter group has the role "bias", bias_lr has no effect; '
                "set optim_wrapper.constructor='mmext.YOLOOptimWrapperConstructor'",
                'current',
                level=30,
            )

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Replaces the values of all groups while the warm-up lasts."""
        if runner.iter >= self.num_iters:
            return
        for group in runner.optim_wrapper.param_groups:
            keys = [key for key in ('lr', 'momentum', 'betas') if key in group]
            self._scheduled.append({key: group[key] for key in keys})
            start = self.bias_lr if group.get('role') == 'bias' else 0.0
            group['lr'] = ramp(runner.iter, self.num_iters, start, group['lr'])
            if 'momentum' in group:
                group['momentum'] = ramp(
                    runner.iter, self.num_iters, self.momentum, group['momentum']
                )
            if 'betas' in group:
                first, *rest = group['betas']
                group['betas'] = (ramp(runner.iter, self.num_iters, self.momentum, first), *rest)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Puts the scheduled values back."""
        groups = runner.optim_wrapper.param_groups
        for group, scheduled in zip(groups, self._scheduled, strict=False):
            group.update(scheduled)
        self._scheduled = []
