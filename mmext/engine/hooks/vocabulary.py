"""Other classes than those of the training, for detectors that find classes by their texts."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmext.engine.checkpoint import bare_model
from mmext.registry import HOOKS


@HOOKS.register_module()
class VocabularyHook(Hook):
    """Gives the model the texts of the classes of the test data, when its checkpoint has been loaded.

    Stands before `mmext.PreflightHook`, which compares the number of classes of model and data. Not together with EMAHook,
    which would exchange the texts, as all buffers, with those of the averaged model; checkpoints hold the average anyway.

    Args:
        path: what the model's `read_texts` reads; for `mmext.DEIMMultimodal` a file of `tools/embed_text.py`.
    """

    priority = 'HIGHEST'

    def __init__(self, path: str) -> None:
        self.path = path

    def before_test(self, runner: Runner) -> None:
        """Sets the texts.

        Raises:
            ValueError: the model has no texts, or the data set no classes; or what `read_texts` raises.
        """
        model: Any = bare_model(runner.model)
        if not hasattr(model, 'read_texts'):
            raise ValueError(
                f'--descriptions: got a {type(model).__name__}, which knows no texts; expected a model with texts, such as '
                'mmext.DEIMMultimodal'
            )
        classes = runner.test_dataloader.dataset.metainfo.get('classes')
        if not classes:
            raise ValueError(
                '--descriptions: got a data set without class names; set test_dataloader.dataset.metainfo.classes'
            )
        model.read_texts(self.path, classes)
        runner.logger.info(f'texts of {len(classes)} classes from {self.path}')
