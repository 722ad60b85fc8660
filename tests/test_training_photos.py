"""The shipped recipes learn real photos by heart, within minutes on a CPU."""

import json
import os
from pathlib import Path

import pytest
from mmengine.config import Config

from mmext.tools import train
from tests.tools.test_train_distributed import coco_scores

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
# At most; over when the masks are learned. Queries are slower than dense heads.
NUM_EPOCHS = {'segment': 30, 'segment-enhanced': 30, 'segment-attention': 90}
# 800 x 600, shrunk without padding.
SIZE = (256, 192)


def write_config(folder: Path, root: Path, name: str) -> Path:
    """The recipe `name` on the photos below `root`, always the same pixels, scored on what it has seen."""
    num_epochs = NUM_EPOCHS[name]
    annotations = json.loads((root / 'trainval.json').read_text())
    classes = tuple(category['name'] for category in annotations['categories'])
    dataset = dict(
        data_root=str(root),
        ann_file='trainval.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=classes),
    )
    loader = dict(num_workers=0, persistent_workers=False, dataset=dataset)
    cfg = Config.fromfile(CONFIGS / 'yolo' / f'{name}_v8n_1xb8-12e_synthetic.py')
    cfg.merge_from_dict(
        {
            'train_dataloader': loader | dict(batch_size=6),
            'val_dataloader': loader,
            'val_evaluator': dict(
                ann_file=str(root / 'trainval.json'), metric=['bbox', 'segm'], classwise=False
            ),
            'train_cfg': dict(max_epochs=num_epochs, val_interval=10),
            'default_hooks.checkpoint.interval': num_epochs,
            'optim_wrapper.optimizer.lr': 2e-3,
        }
    )
    head = cfg.model.bbox_head
    head.get('det', head).num_classes = len(classes)
    train_set, val_set = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
    varying = ('mmdet.RandomFlip', 'mmext.HSV')
    train_set.pipeline = [step for step in train_set.pipeline if step.type not in varying]
    for pipeline in (train_set.pipeline, val_set.pipeline):
        (letter_box,) = (step for step in pipeline if step.type == 'mmext.LetterBox')
        letter_box.scale = SIZE
    warm_up, cosine = cfg.param_scheduler
    warm_up.end = 20
    cosine.end = cosine.T_max = num_epochs
    (average,) = (hook for hook in cfg.custom_hooks if hook.type == 'mmext.StepEMAHook')
    average.momentum, average.gamma = 0.05, 20
    cfg.custom_hooks.append(
        dict(
            type='EarlyStoppingHook',
            monitor='coco/segm_mAP_50',
            rule='greater',
            stopping_threshold=0.93,
            patience=num_epochs,
        )
    )
    path = folder / 'photos.py'
    cfg.dump(path)
    return path


# 18 photos of 165 dates, figs and hazelnuts; 90 steps of `Segment` take about a minute of one core.
@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize('name', NUM_EPOCHS)
def test_head__overfits_photos_of_fruits_and_nuts(name: str, tmp_path: Path) -> None:
    root = Path(os.environ['MMEXT_DATA']) / 'fruits_nuts' / 'data'
    config = write_config(tmp_path, root, name)
    work = tmp_path / 'work'
    assert train.main([str(config), '--work-dir', str(work), '--seed', '0']) == 0
    (log,) = work.glob('*/vis_data/scalars.json')
    scores = coco_scores(log)
    assert scores['coco/bbox_mAP_50'] > 0.9 and scores['coco/segm_mAP_50'] > 0.9, scores
