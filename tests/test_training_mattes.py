"""The Attention U-Net learns real photos by heart."""

import copy
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

CONFIGS = Path(__file__).resolve().parents[1] / 'configs' / 'attn_unet'
NUM_PHOTOS = 8
NUM_STEPS = 300
# It ends as soon as the photos are known.
STEPS_BETWEEN_CHECKS = 25
GOAL = 0.98
# (w, h): photos of 550 x 825, nearly.
SIZE = (96, 128)


def read_batch(root: Path) -> dict[str, list]:
    """The first photos, shrunk, with hard masks of the people."""
    inputs, samples = [], []
    for photo in sorted((root / 'photos').glob('*.jpg'))[:NUM_PHOTOS]:
        label = scipy.io.loadmat(root / 'labels' / f'{photo.stem}.mat')['groundtruth']
        image = cv2.resize(cv2.imread(str(photo)), SIZE, interpolation=cv2.INTER_AREA)
        mask = cv2.resize((label > 0).astype(np.uint8), SIZE, interpolation=cv2.INTER_NEAREST)
        sample = SegDataSample(metainfo=dict(ori_shape=mask.shape))
        sample.gt_alpha = PixelData(data=torch.from_numpy(mask).float()[None])
        inputs.append(torch.from_numpy(image.transpose(2, 0, 1).copy()))
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


# At most 300 steps of the whole ResNet-50 form, from random weights: minutes of two cores.
@pytest.mark.slow
@pytest.mark.data
def test_resnet50_form__overfits_eight_photos() -> None:
    torch.manual_seed(0)
    cfg = Config.fromfile(CONFIGS / 'attn-unet_r50_1xb8-150e_person-parsing-512x512.py')
    cfg.model.backbone.checkpoint = None
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(cfg.model)
    model.init_weights()
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=NUM_STEPS)
    photos = read_batch(Path(os.environ['MMEXT_DATA']) / 'person_parsing')
    batch = model.data_preprocessor(copy.deepcopy(photos), training=True)
    history: dict[int, list[float]] = {}
    for step in range(1, NUM_STEPS + 1):
        model.train()
        loss, _ = model.parse_losses(model(**batch, mode='loss'))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % STEPS_BETWEEN_CHECKS == 0:
            history[step] = overlaps(model, photos)
            if min(history[step]) > GOAL:
                break
    assert min(history[step]) > GOAL, history


def overlaps(model: nn.Module, photos: dict[str, list]) -> list[float]:
    """IoU of prediction and truth, of every photo."""
    model.eval()
    with torch.no_grad():
        found = model.test_step(copy.deepcopy(photos))
    return [iou(sample.pred_alpha.data > 0.5, sample.gt_alpha.data > 0.5) for sample in found]


def iou(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one & other).sum() / (one | other).sum()).item()
