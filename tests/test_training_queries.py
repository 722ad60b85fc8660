"""The small query model learns: it knows the masks of eight images by heart."""

from pathlib import Path

import pytest
from mmengine.config import Config

from mmext.datasets.synthetic import METAL, write_dataset
from mmext.tools import train
from tests.tools.test_train_distributed import coco_scores

CONFIG = (
    Path(__file__).resolve().parents[1] / 'configs/query_seg/query-seg_v8n_1xb8-24e_synthetic.py'
)
IMAGE_SIZE, NUM_IMAGES, BATCH_SIZE = 128, 8, 4
NUM_EPOCHS = 120  # of two steps


def eight_images(folder: Path) -> Config:
    """The shipped config on eight images without augmentation, with a curve of five points."""
    write_dataset(folder, METAL, num_images=dict(train=NUM_IMAGES, val=0), size=IMAGE_SIZE)
    cfg = Config.fromfile(CONFIG)
    dataset = dict(data_root=str(folder), ann_file='train.json')
    loader = dict(num_workers=0, persistent_workers=False, dataset=dataset)
    cfg.merge_from_dict(
        {
            'train_dataloader': loader | dict(batch_size=BATCH_SIZE),
            'val_dataloader': loader,
            'val_evaluator': dict(
                ann_file=str(folder / 'train.json'), classwise=False, metric=['segm']
            ),
            'train_cfg': dict(max_epochs=NUM_EPOCHS, val_interval=NUM_EPOCHS // 5),
            'default_hooks.checkpoint.interval': NUM_EPOCHS,
            'optim_wrapper.optimizer.lr': 2e-3,
        }
    )
    warmup, cosine = cfg.param_scheduler
    warmup.end = 20
    cosine.end = cosine.T_max = NUM_EPOCHS
    # By heart, so always the same pixels.
    varying = ('mmdet.RandomFlip', 'mmext.HSV')
    train_set, val_set = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
    train_set.pipeline = [step for step in train_set.pipeline if step.type not in varying]
    for pipeline in (train_set.pipeline, val_set.pipeline):
        (letter_box,) = (step for step in pipeline if step.type == 'mmext.LetterBox')
        letter_box.scale = (IMAGE_SIZE, IMAGE_SIZE)
    (average,) = (hook for hook in cfg.custom_hooks if hook.type == 'mmext.StepEMAHook')
    average.momentum, average.gamma = 0.05, 20
    return cfg


# A minute and a quarter of one core; configs/query_seg/README.md has the curve.
@pytest.mark.slow
def test_query_model__overfits_eight_images(tmp_path: Path) -> None:
    config, work = tmp_path / 'eight_images.py', tmp_path / 'work'
    eight_images(tmp_path / 'data').dump(config)
    options = ['--work-dir', str(work), '--seed', '0', '--device', 'cpu']
    assert train.main([str(config), *options]) == 0
    (curve,) = work.glob('*/vis_data/scalars.json')
    assert coco_scores(curve)['coco/segm_mAP_50'] > 0.9
