"""Tells a model how often each class occurs in its training data."""

from collections import Counter

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from mmext.engine.checkpoint import bare_model
from mmext.registry import HOOKS


@HOOKS.register_module()
class ClassWeightHook(Hook):
    """Counts the objects of each class in the training data, before training, and tells the model.

    For models with the method `set_class_counts`, such as `mmext.SingleObjectLocalizer`, whose loss computes its class
    weights from the counts with `class_weight='balanced'`.

    Raises:
        ValueError: the model has no such method, or the data set names no classes.
    """

    def before_train(self, runner: Runner) -> None:
        """Counts and tells."""
        model, dataset = bare_model(runner.model), runner.train_dataloader.dataset
        classes = dataset.metainfo.get('classes') or ()
        tell = getattr(model, 'set_class_counts', None)
        if not callable(tell) or not classes:
            raise ValueError(
                f'ClassWeightHook: got a {type(model).__name__} and the classes {tuple(classes)}, expected a model with '
                'set_class_counts, such as mmext.SingleObjectLocalizer, and class names. Remove the hook, or name the '
                'classes in metainfo.'
            )
        counts = Counter(
            instance['bbox_label']
            for index in range(len(dataset))
            for instance in dataset.get_data_info(index)['instances']
        )
        tell([counts[label] for label in range(len(classes))])
        listed = ', '.join(f'{name} {counts[label]}' for label, name in enumerate(classes))
        print_log(f'training objects of each class: {listed}', 'current')
