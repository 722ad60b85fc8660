"""Pre-trained files for the backbones of the Faster R-CNN baselines: given by path, and never silently absent."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmext.engine.config_file import merge_options

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'deim'
# Names as published: torchvision's for ResNet; mmpretrain's, within a classifier, for EfficientNet.
PREFIXES = {
    'faster-rcnn_r18-fpn_1xb8-36e_synthetic.py': '',
    'faster-rcnn_r18-fpn_1xb2-100e_industrial.py': '',
    'faster-rcnn_effb0-fpn_1xb8-36e_synthetic.py': 'backbone.',
    'faster-rcnn_effb0-fpn_1xb2-100e_industrial.py': 'backbone.',
}


def build_backbone(name: str, path: Path) -> nn.Module:
    """The backbone of a config with the options of the README's command line."""
    cfg = Config.fromfile(CONFIGS / name)
    setting = 'model.backbone.init_cfg'
    options = {f'{setting}.type': 'Pretrained', f'{setting}.checkpoint': str(path)}
    if PREFIXES[name]:
        options[f'{setting}.prefix'] = PREFIXES[name]
    merge_options(cfg, options)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(cfg.model.backbone)


@pytest.mark.parametrize('name', PREFIXES)
def test_init_weights__missing_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'absent\.pth'):
        build_backbone(name, tmp_path / 'absent.pth').init_weights()


@pytest.mark.parametrize('name', [name for name in PREFIXES if 'synthetic' in name])
def test_init_weights__from_the_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / 'weights.pth'
    backbone = build_backbone(name, path)
    state = {n: torch.full_like(value, 3) for n, value in backbone.state_dict().items()}
    torch.save({PREFIXES[name] + n: value for n, value in state.items()}, path)
    backbone.init_weights()
    for n, value in backbone.state_dict().items():
        assert torch.equal(value, state[n]), n
