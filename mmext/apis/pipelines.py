"""The steps of a config that prepare an image for the network, without those that load annotations."""

from collections.abc import Sequence

from mmcv.transforms import BaseTransform, LoadAnnotations
from mmdet.datasets.transforms import LoadEmptyAnnotations, LoadProposals
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import TRANSFORMS, DefaultScope

from mmext.registry import readable_registry_errors

ANNOTATION_STEPS = (LoadAnnotations, LoadEmptyAnnotations, LoadProposals)


def test_pipeline(cfg: Config) -> list[dict]:
    """The steps that prepare an image for the test.

    Raises:
        ValueError: the config has none.
    """
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while 'pipeline' not in dataset and 'dataset' in dataset:
        dataset = dataset['dataset']
    if not dataset.get('pipeline'):
        raise ValueError(
            'the config has no test_dataloader.dataset.pipeline, which says how images are prepared; add one that '
            "begins with dict(type='mmext.LoadImage') and ends with dict(type='mmdet.PackDetInputs')"
        )
    return dataset['pipeline']


def build_pipeline(steps: Sequence[dict], cfg: Config) -> tuple[BaseTransform, Compose]:
    """A pipeline of a config in two: what loads an image, and all that follows but the annotations."""
    scope = DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmdet'))
    with scope, readable_registry_errors():
        loader, *others = [TRANSFORMS.build(step) for step in steps]
    return loader, Compose([step for step in others if not isinstance(step, ANNOTATION_STEPS)])
