"""CloseMosaicHook with what it acts on: mmdet's MultiImageMixDataset in the worker of a real DataLoader."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from mmdet.datasets import MultiImageMixDataset
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from torch.utils.data import DataLoader

from mmext.datasets import InstanceDataset
from mmext.engine import CloseMosaicHook
from tests.tiny import IMAGE_SIZE, make_tiny_coco

MAX_EPOCHS, NUM_LAST_EPOCHS = 4, 2


@pytest.fixture
def loader(tmp_path: Path) -> DataLoader:
    """Four images in two batches. A mosaic is twice the size: what ran can be seen from the shape."""
    ann_file = make_tiny_coco(tmp_path, 4)
    images = InstanceDataset(
        ann_file=str(ann_file),
        data_prefix=dict(img=str(tmp_path / 'images')),
        pipeline=[
            dict(type='mmext.LoadImage'),
            dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True),
        ],
    )
    mixed = MultiImageMixDataset(
        images,
        [
            dict(type='mmext.Mosaic', scale=(IMAGE_SIZE, IMAGE_SIZE)),
            dict(type='mmdet.PackDetInputs', meta_keys=('img_id',)),
        ],
    )
    return DataLoader(
        mixed, batch_size=2, num_workers=1, persistent_workers=True, collate_fn=pseudo_collate
    )


def test_close_mosaic__the_worker_of_a_persistent_loader_skips_it(loader: DataLoader) -> None:
    runner = SimpleNamespace(
        train_dataloader=loader,
        epoch=0,
        max_epochs=MAX_EPOCHS,
        logger=MMLogger.get_instance('close-mosaic'),
    )
    hook = CloseMosaicHook(NUM_LAST_EPOCHS)
    hook.before_train(runner)
    sizes = []
    for runner.epoch in range(MAX_EPOCHS):
        hook.before_train_epoch(runner)
        shapes = [tuple(image.shape) for batch in loader for image in batch['inputs']]
        assert len(shapes) == 4
        sizes.append(set(shapes))
    mosaic, single = (3, 2 * IMAGE_SIZE, 2 * IMAGE_SIZE), (3, IMAGE_SIZE, IMAGE_SIZE)
    assert sizes == [{mosaic}, {mosaic}, {single}, {single}]
