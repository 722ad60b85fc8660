"""Training and testing of the shipped SegFormer configs through the tools, on a few drawn photos in ADE20K's folders."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmext.models.segformer.weights import revert_state_dict
from mmext.tools import convert_weights, train
from mmext.tools import test as test_tool

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'segformer'
B0 = CONFIGS / 'segformer_mit-b0_8xb2-160k_ade20k-512x512.py'


def write_photos(root: Path) -> None:
    """Walls (1) with bright discs of sky (3), a border without class (0), each photo of another size."""
    rng = np.random.default_rng(0)
    for split in ('training', 'validation'):
        for folder in ('images', 'annotations'):
            (root / folder / split).mkdir(parents=True)
        for index in range(4):
            height, width = 60 + 4 * index, 90 - 3 * index
            image = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
            labels = np.ones((height, width), np.uint8)
            cv2.circle(labels, (width // 2, height // 2), 15 + index, 3, -1)
            image[labels == 3] += 150
            labels[:3] = 0
            cv2.imwrite(str(root / 'images' / split / f'{index}.jpg'), image)
            cv2.imwrite(str(root / 'annotations' / split / f'{index}.png'), labels)


def write_config(folder: Path, root: Path) -> Path:
    """The recipe of B0 for two steps of small windows."""
    cfg = Config.fromfile(B0)
    loader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root=str(root)))
    cfg.merge_from_dict(
        {
            'train_dataloader': loader,
            'val_dataloader': loader,
            'test_dataloader': loader,
            'train_cfg': dict(max_iters=2, val_interval=2),
            'default_hooks.checkpoint.interval': 2,
            'default_hooks.logger.interval': 1,
            'model.data_preprocessor.size': (64, 64),
        }
    )
    pipeline = cfg.train_dataloader.dataset.pipeline
    pipeline[2].scale, pipeline[3].crop_size = (256, 64), (64, 64)
    for name in ('val_dataloader', 'test_dataloader'):
        cfg[name].dataset.pipeline[1].scale = (256, 64)
    path = folder / 'segformer.py'
    cfg.dump(path)
    return path


@pytest.mark.slow
def test_tools__train_test_and_export(tmp_path: Path) -> None:
    root, work = tmp_path / 'data', tmp_path / 'work'
    write_photos(root)
    config = write_config(tmp_path, root)
    assert train.main([str(config), '--work-dir', str(work), '--seed', '0']) == 0
    (log,) = work.glob('*/vis_data/scalars.json')
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert sum(np.isfinite(row['decode.loss_ce']) for row in rows if 'decode.loss_ce' in row) == 2
    assert any('mIoU' in row for row in rows)

    checkpoint = str(work / 'iter_2.pth')
    arguments = [str(config), checkpoint, '--work-dir', str(tmp_path / 'test')]
    assert test_tool.main(arguments) == 0
    # What mmext has trained is read by others, and the other way round.
    given, again = tmp_path / 'hf.bin', tmp_path / 'again.pth'
    assert convert_weights.main([checkpoint, str(given), '--to', 'segformer-hf']) == 0
    assert convert_weights.main([str(given), str(again), '--source', 'segformer-hf']) == 0
    trained = torch.load(again, weights_only=True)['state_dict']
    assert revert_state_dict(trained, 'hf')[0].keys() == torch.load(given, weights_only=True).keys()
