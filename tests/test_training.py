"""The shipped recipes learn: every system, on a few images that it must know by heart."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from mmext.datasets.synthetic import METAL, write_dataset

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
IMAGE_SIZE = 96


def on_one_batch(cfg: Config, root: Path, *, num_images: int, num_steps: int) -> Config:
    """Cuts a config down to one batch of the data set in `root`, seen `num_steps` times and scored in the end."""
    dataset = dict(data_root=str(root), ann_file='train.json')
    loader = dict(num_workers=0, persistent_workers=False, dataset=dataset)
    cfg.merge_from_dict(
        {
            'train_dataloader': loader | dict(batch_size=num_images),
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


def learn_by_heart(
    name: str, root: Path, *, num_images: int, num_steps: int = 100, rate: float = 2e-3
) -> dict[str, float]:
    """Trains a config for synthetic data on a few images; returns AP at IoU 0.5 on them, of boxes and masks."""
    write_dataset(root, METAL, num_images=dict(train=num_images, val=0), size=IMAGE_SIZE)
    cfg = Config.fromfile(CONFIGS / name)
    cfg = on_one_batch(cfg, root, num_images=num_images, num_steps=num_steps)
    train, val = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
    # By heart, so always the same pixels.
    varying = ('mmdet.RandomFlip', 'mmext.HSV')
    train.pipeline = [step for step in train.pipeline if step.type not in varying]
    for pipeline in (train.pipeline, val.pipeline):
        (letter_box,) = (step for step in pipeline if step.type == 'mmext.LetterBox')
        letter_box.scale = (IMAGE_SIZE, IMAGE_SIZE)
    cfg.optim_wrapper.optimizer.lr = rate
    warm_up, cosine = cfg.param_scheduler
    warm_up.end = 20
    cosine.end = cosine.T_max = num_steps
    (average,) = (hook for hook in cfg.custom_hooks if hook.type == 'mmext.StepEMAHook')
    average.momentum, average.gamma = 0.05, 20

    runner = Runner.from_cfg(cfg)
    runner.train()
    return {
        kind: runner.message_hub.get_scalar(f'val/coco/{kind}_mAP_50').current()
        for kind in ('bbox', 'segm')
    }


@pytest.mark.slow
def test_segment__overfits_eight_images(tmp_path: Path) -> None:
    name = 'yolo/segment_v8n_1xb8-12e_synthetic.py'
    scores = learn_by_heart(name, tmp_path / 'data', num_images=8)
    assert scores['bbox'] > 0.8 and scores['segm'] > 0.6, scores


@pytest.mark.slow
def test_segment_attention__overfits_four_images(tmp_path: Path) -> None:
    # In the config's mode 'matched': a detection takes the mask of the query that agrees with it, or its prototypes'.
    name = 'yolo/segment-attention_v8n_1xb8-12e_synthetic.py'
    scores = learn_by_heart(name, tmp_path / 'attention', num_images=4)
    assert scores['bbox'] > 0.9 and scores['segm'] > 0.9, scores


@pytest.mark.slow
def test_mask2former__overfits_eight_images(tmp_path: Path) -> None:
    # Boxes are drawn around masks; a stray pixel moves them, so the masks are scored.
    name = 'query_seg/mask2former_r18-3l_1xb8-24e_synthetic.py'
    root = tmp_path / 'queries'
    scores = learn_by_heart(name, root, num_images=8, num_steps=200, rate=8e-4)
    assert scores['segm'] > 0.9, scores
