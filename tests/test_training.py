"""The shipped recipes learn: every system, on a few images that it must know by heart."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from mmext.datasets.synthetic import METAL, write_dataset

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
NUM_IMAGES, IMAGE_SIZE = 8, 96


def on_one_batch(cfg: Config, root: Path, num_steps: int) -> Config:
    """Cuts a config down to one batch of the data set in `root`, seen `num_steps` times and scored in the end."""
    dataset = dict(data_root=str(root), ann_file='train.json')
    loader = dict(num_workers=0, persistent_workers=False, dataset=dataset)
    cfg.merge_from_dict(
        {
            'train_dataloader': loader | dict(batch_size=NUM_IMAGES),
            'val_dataloader': loader,
            'val_evaluator.ann_file': str(root / 'train.json'),
            'train_cfg': dict(max_epochs=num_steps, val_interval=num_steps),
            'default_hooks.checkpoint.interval': num_steps,
            'randomness': dict(seed=0),
            'work_dir': str(root / 'work'),
            'experiment_name': root.name,
        }
    )
    return cfg


@pytest.mark.slow
def test_segment__overfits_eight_images(tmp_path: Path) -> None:
    num_steps = 100
    num_images = dict(train=NUM_IMAGES, val=0)
    write_dataset(tmp_path / 'data', METAL, num_images=num_images, size=IMAGE_SIZE)
    cfg = Config.fromfile(CONFIGS / 'yolo' / 'segment_v8n_1xb8-12e_synthetic.py')
    cfg = on_one_batch(cfg, tmp_path / 'data', num_steps)
    train, val = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
    # By heart, so always the same pixels.
    varying = ('mmdet.RandomFlip', 'mmext.HSV')
    train.pipeline = [step for step in train.pipeline if step.type not in varying]
    for pipeline in (train.pipeline, val.pipeline):
        (letter_box,) = (step for step in pipeline if step.type == 'mmext.LetterBox')
        letter_box.scale = (IMAGE_SIZE, IMAGE_SIZE)
    cfg.optim_wrapper.optimizer.lr = 2e-3
    warm_up, cosine = cfg.param_scheduler
    warm_up.end = 20
    cosine.end = cosine.T_max = num_steps
    (average,) = (hook for hook in cfg.custom_hooks if hook.type == 'mmext.StepEMAHook')
    average.momentum, average.gamma = 0.05, 20

    runner = Runner.from_cfg(cfg)
    runner.train()
    scores = {
        kind: runner.message_hub.get_scalar(f'val/coco/{kind}_mAP_50').current()
        for kind in ('bbox', 'segm')
    }
    assert scores['bbox'] > 0.8 and scores['segm'] > 0.6, scores
