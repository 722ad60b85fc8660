"""The second stage of DEIM's training: without strong augmentation, from the best checkpoint of the first stage.

Source: DEIM (https://arxiv.org/abs/2412.04234) and the released training of DEIMv2.
"""

from bisect import bisect
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from mmengine.dist import barrier
from mmengine.fileio import join_path
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import CheckpointLoader, EpochBasedTrainLoop, Runner
from torch import nn

from mmext.engine.checkpoint import bare_model
from mmext.engine.preflight_probe import untouched_randomness
from mmext.registry import HOOKS

BEST_OF_STAGE_ONE = 'best_stg1.pth'
# Where the hook keeps its state among the infos of mmengine's MessageHub, which every checkpoint contains.
STAGE_ONE, STAGE_TWO = 'stage_one_best_epoch', 'stage_two'


@HOOKS.register_module()
class StageTwoHook(Hook):
    """Goes back to the best checkpoint of the first stage where the second begins, and whenever it does not get on.

    The metric is the one of CheckpointHook: `default_hooks.checkpoint.save_best` with its `rule`. Epochs count from 0.

    - Before epoch `stop_epoch`, each validation that beats all before it also writes `best_stg1.pth`: model,
      averaged model, optimizer, loss scaler.
    - At the start of epoch `stop_epoch` this checkpoint is loaded again. Learning rates and all other settings of the
      parameter groups stay those of the schedule.
    - From then on every validation is compared with the running best, which starts as the best of the first stage.
      If it is better, it becomes the running best. If not, the next epoch starts from `best_stg1.pth` again, and the
      running best is forgotten: the next validation is better in any case. Epochs without validation just go on.
    - CheckpointHook's own best checkpoint is the best of both stages, as ever.

    A run can be resumed in both stages and continues as if it had not been interrupted. For this the checkpoint of an
    epoch is written once more after its validation in the second stage, and a validation that the interrupted
    run did not finish is made up for. `best_stg1.pth` has to stay in the folder of the checkpoints.

    The published "restart" of the averaged model at `stop_epoch`, with a decay of its own that falls by 1e-4 for each
    epoch that did not improve, has no effect in the published code. The default repeats that: the average just goes on
    from the checkpoint. Set `ema_decay` for what was meant.

    Args:
        stop_epoch: first epoch of the second stage, at least 1.
        ema_decay: None, or the decay of the averaged model in the second stage, in (0, 1).
        ema_decay_step: with `ema_decay`, how much less it gets with each validation that was no better.

    Raises:
        ValueError: an argument is out of its range; or before training, if there are no epochs, no validation in the
            first stage, no `save_best` with one metric, or no averaged model for `ema_decay`.
    """

    # After EMAHook has swapped the trained weights back in, before CheckpointHook takes note of a better score.
    priority = 'LOW'

    def __init__(
        self, stop_epoch: int, *, ema_decay: float | None = None, ema_decay_step: float = 1e-4
    ) -> None:
        if stop_epoch < 1:
            raise ValueError(
                f'StageTwoHook: got stop_epoch={stop_epoch}; expected at least 1, an epoch for the first stage'
            )
        if ema_decay is not None and (not 0 < ema_decay < 1 or ema_decay_step < 0):
            raise ValueError(
                f'StageTwoHook: got ema_decay={ema_decay}, ema_decay_step={ema_decay_step}; expected a decay between '
                '0 and 1, such as 0.9999, and a step of at least 0'
            )
        self.stop_epoch = stop_epoch
        self.ema_decay = ema_decay
        self.ema_decay_step = ema_decay_step
        # Found before training: the CheckpointHook, and the averaged model of EMAHook, which may stay None.
        self._checkpoint: Any = None
        self._averaged: Any = None

    def before_train(self, runner: Runner) -> None:
        """Find the neighbours, and stop a run that lacks one."""
        self._checkpoint = _find_checkpoint_hook(runner)
        self._check_loops(runner)
        self._averaged = next((h.ema_model for h in runner.hooks if isinstance(h, EMAHook)), None)
        if self.ema_decay is not None and not hasattr(self._averaged, 'momentum'):
            raise ValueError(
                'StageTwoHook: got ema_decay, but there is no averaged model with a momentum; add mmext.StepEMAHook '
                'to custom_hooks or remove ema_decay'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Start the epoch from the best checkpoint of the first stage, if it is its turn."""
        if runner.epoch < self.stop_epoch:
            return
        if self._has_missed_validation(runner):
            runner.logger.info(
                'StageTwoHook: the validation that the interrupted run did not finish'
            )
            with untouched_randomness():
                runner.val_loop.run()
        state = runner.message_hub.runtime_info.get(STAGE_TWO, {})
        if runner.epoch == self.stop_epoch or state.get('reloads'):
            self._reload(runner)
            runner.message_hub.update_info(STAGE_TWO, {**state, 'reloads': False})
        if self.ema_decay is not None:
            decay = self.ema_decay - self.ema_decay_step * state.get('num_failures', 0)
            self._averaged.momentum = 1 - decay

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Judge the epoch. The Runner has counted it already."""
        if self._checkpoint is None:
            return  # a validation without training
        infos = runner.message_hub.runtime_info
        (metric,) = self._checkpoint.key_indicators
        worst = self._checkpoint.init_value_map[self._checkpoint.rules[0]]
        is_better = self._checkpoint.is_better_than[metric]
        # Without any metrics CheckpointHook has its say; a metric that failed is None or not a number.
        score = (metrics or {}).get(metric)
        score = worst if score is None else float(score)

        if runner.epoch <= self.stop_epoch:
            if is_better(score, infos.get('best_score', worst)):
                runner.message_hub.update_info(STAGE_ONE, runner.epoch)
                self._save(runner, BEST_OF_STAGE_ONE, optimizer=True, schedulers=False)
            return
        state = infos.get(STAGE_TWO, {})
        improves = is_better(score, state.get('best', infos.get('best_score', worst)))
        runner.message_hub.update_info(
            STAGE_TWO,
            dict(
                best=score if improves else worst,
                num_failures=state.get('num_failures', 0) + (not improves),
                reloads=not improves,
                epoch=runner.epoch,
            ),
        )
        self._save_again(runner)

    def _check_loops(self, runner: Runner) -> None:
        loop = runner.train_loop
        if not isinstance(loop, EpochBasedTrainLoop):
            raise ValueError(
                f'StageTwoHook: got a {type(loop).__name__}, which has no epochs; set '
                "train_cfg.type='EpochBasedTrainLoop'"
            )
        if runner.val_loop is None:
            raise ValueError(
                'StageTwoHook: got no validation, but the best checkpoint is wanted; set val_dataloader, '
                'val_evaluator and val_cfg, or remove the hook'
            )
        if not any(_is_validated(loop, epoch) for epoch in range(1, self.stop_epoch + 1)):
            raise ValueError(
                f'StageTwoHook: no validation comes before epoch stop_epoch={self.stop_epoch} with val_begin='
                f'{loop.val_begin}, val_interval={loop.val_interval}; validate earlier or stop later'
            )
        if self.stop_epoch >= loop.max_epochs:
            runner.logger.warning(
                f'StageTwoHook: stop_epoch={self.stop_epoch} has no effect in {loop.max_epochs} epochs'
            )

    def _has_missed_validation(self, runner: Runner) -> bool:
        state = runner.message_hub.runtime_info.get(STAGE_TWO, {})
        return (
            runner.epoch > self.stop_epoch
            and state.get('epoch') != runner.epoch
            and _is_validated(runner.train_loop, runner.epoch)
        )

    def _reload(self, runner: Runner) -> None:
        """Model, averaged model, optimizer and loss scaler of the first stage's best checkpoint."""
        path = join_path(self._checkpoint.out_dir, BEST_OF_STAGE_ONE)
        epoch = runner.message_hub.runtime_info.get(STAGE_ONE)
        if epoch is None:
            raise ValueError(
                'StageTwoHook: no validation of the first stage had a score, so there is no best checkpoint; look at '
                'its metrics, or resume from a checkpoint of a run with this hook'
            )
        # The first process may still be writing.
        barrier()
        try:
            checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu')
        except FileNotFoundError as error:
            raise ValueError(
                f'StageTwoHook: {path} does not exist; copy the one that the first stage wrote there'
            ) from error
        if checkpoint['meta']['epoch'] != epoch:
            runner.logger.warning(
                f'StageTwoHook: {path} is of epoch {checkpoint["meta"]["epoch"]}, but the best one of this run was '
                f'{epoch}: another run wrote it'
            )
        restore_weights(bare_model(runner.model), self._averaged, checkpoint)
        restore_optimizer(runner.optim_wrapper, checkpoint['optimizer'])
        runner.logger.info(f'StageTwoHook: epoch {runner.epoch + 1} starts from {path}')

    def _save(self, runner: Runner, name: str, *, optimizer: bool, schedulers: bool) -> None:
        runner.save_checkpoint(
            self._checkpoint.out_dir,
            name,
            save_optimizer=optimizer,
            save_param_scheduler=schedulers,
            meta=dict(epoch=runner.epoch, iter=runner.iter),
            backend_args=self._checkpoint.backend_args,
        )

    def _save_again(self, runner: Runner) -> None:
        """The checkpoint of this epoch, if there is one, with what the validation has decided."""
        hook = self._checkpoint
        name = hook.filename_tmpl.format(runner.epoch)
        if hook.last_ckpt is not None and PurePath(hook.last_ckpt).name == name:
            self._save(
                runner,
                name,
                optimizer=hook.save_optimizer,
                schedulers=hook.save_param_scheduler,
            )


def restore_weights(
    model: nn.Module, averaged: nn.Module | None, checkpoint: Mapping[str, Any]
) -> None:
    """Load both models from a checkpoint of a run.

    Args:
        model: the trained one.
        averaged: of EMAHook, or None.
        checkpoint: with `state_dict`; where EMAHook took part, that is the averaged model, and the trained one is in
            `ema_state_dict`.
    """
    if averaged is None:
        model.load_state_dict(checkpoint['state_dict'])
        return
    swapped = checkpoint['ema_state_dict']
    prefix = 'module.'
    model.load_state_dict(
        {name[len(prefix) :]: value for name, value in swapped.items() if name.startswith(prefix)}
    )
    averages = {f'{prefix}{name}': value for name, value in checkpoint['state_dict'].items()}
    averaged.load_state_dict({**swapped, **averages})


def restore_optimizer(wrapper: OptimWrapper, state: dict[str, Any]) -> None:
    """Load moments and loss scale; the settings of the groups stay, since the schedule went on.

    Args:
        wrapper: of the run.
        state: what its `state_dict` was.
    """
    groups = wrapper.optimizer.param_groups
    settings = [{key: own[key] for key in own if key != 'params'} for own in groups]
    base = wrapper.base_param_settings
    wrapper.load_state_dict(state)
    for group, own in zip(wrapper.optimizer.param_groups, settings, strict=True):
        group.update(own)
    wrapper.base_param_settings = base


def _is_validated(loop: EpochBasedTrainLoop, epoch: int) -> bool:
    """Whether the loop validates after so many epochs."""
    interval = loop.dynamic_intervals[bisect(loop.dynamic_milestones, epoch + 1) - 1]
    return epoch >= loop.val_begin and (epoch % interval == 0 or epoch == loop.max_epochs)


def _find_checkpoint_hook(runner: Runner) -> CheckpointHook:
    """The one that saves the best checkpoint by one metric.

    Raises:
        ValueError: there is none.
    """
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and hook.by_epoch and hook.save_best:
            if len(hook.save_best) == 1 and hook.save_best != ['auto']:
                return hook
    raise ValueError(
        'StageTwoHook: got no CheckpointHook by epochs that saves the best by one metric; set '
        "default_hooks.checkpoint=dict(save_best='coco/bbox_mAP', rule='greater')"
    )
