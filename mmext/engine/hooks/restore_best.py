"""Ends a training with the best weights instead of the last."""

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from mmext.registry import HOOKS


@HOOKS.register_module()
class RestoreBestHook(Hook):
    """Loads the best checkpoint into the model when training ends, early or not.

    The best is that of `CheckpointHook(save_best=...)` with one key. Its file stays; whatever uses the model after
    `runner.train()` has these weights.

    Raises:
        ValueError: training has ended and there is no best checkpoint.
    """

    # After CheckpointHook, which may save the last epoch when training ends.
    priority = 'LOWEST'

    def after_train(self, runner: Runner) -> None:
        """Loads it."""
        info = runner.message_hub.runtime_info
        if 'best_ckpt' not in info:
            raise ValueError(
                'RestoreBestHook: got a training without a best checkpoint, expected one. Set '
                "default_hooks.checkpoint=dict(save_best='localizer/IoU', rule='greater'), with one key, and validate "
                'at least once.'
            )
        runner.load_checkpoint(info['best_ckpt'])
        print_log(f'the model has the best weights again: {info["best_ckpt"]}', 'current')
