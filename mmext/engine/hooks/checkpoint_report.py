"""Report of what a checkpoint fills, for runs of mmengine's Runner."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmext.engine.checkpoint import (
    bare_model,
    check_report,
    compare_keys,
    install_safe_loading,
    state_dict_of,
)
from mmext.registry import HOOKS


@HOOKS.register_module()
class CheckpointReportHook(Hook):
    """Logs loaded, missing, unexpected and mismatched names whenever the Runner loads a checkpoint.

    Building the hook also makes mmengine read checkpoints without executing anything from
    them (`install_safe_loading`). It runs before the other hooks, so that a checkpoint of
    another model ends here and not in the middle of EMA or the optimizer.

    Args:
        require_all: whether a parameter that the checkpoint does not fill is an error. It always
            is when resuming.
    """

    priority = 'HIGHEST'

    def __init__(self, require_all: bool = False) -> None:
        self.require_all = require_all
        install_safe_loading()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Compares the checkpoint with the model, before the Runner loads it."""
        model = bare_model(runner.model)
        if not isinstance(checkpoint, dict):
            raise ValueError(f'the checkpoint holds a {type(checkpoint).__name__}, expected a dict')
        report = compare_keys(model, state_dict_of(checkpoint))
        path = runner._load_from or runner.work_dir
        check_report(report, model, path, require_all=self.require_all or runner._resume)
