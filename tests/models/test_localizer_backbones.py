"""Backbones of mmdet and transformers around the heads of the localizer, with weights from local files."""

import copy
from pathlib import Path

import mmdet.models  # noqa: F401  (registers its backbones and necks)
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from mmext.engine.config_file import merge_options
from mmext.registry import MODELS
from tests.systems import SYSTEMS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'localizer'
RESNET = dict(type='mmdet.ResNet', depth=50, out_indices=(1, 2, 3))
VGG = dict(
    type='mmdet.SSDVGG',
    depth=16,
    ceil_mode=True,
    out_indices=(3, 4),
    out_feature_indices=(22, 34),
)
FPN = dict(type='mmdet.FPN', in_channels=[512, 1024, 2048], out_channels=256, num_outs=3)
MOBILENET = dict(type='mmdet.MobileNetV2', out_indices=(2, 4, 7))
# Backbone, neck and channels as configs/localizer/README.md lists them.
BACKBONES = {
    'resnet': (RESNET, None, [512, 1024, 2048]),
    'resnet-fpn': (RESNET, FPN, [256, 256, 256]),
    'vgg': (VGG, None, [512, 1024]),
    'mobilenet': (MOBILENET, None, [32, 96, 1280]),
}
TINY_RESNET = dict(
    model_type='resnet', embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1]
)


def localizer(backbone: dict, neck: dict | None, channels: list[int]) -> nn.Module:
    config = copy.deepcopy(SYSTEMS['localizer-votes'])
    config['head']['in_channels'] = channels
    return MODELS.build(config | dict(backbone=backbone, neck=neck))


@pytest.mark.parametrize(('backbone', 'neck', 'channels'), BACKBONES.values(), ids=BACKBONES)
def test_backbones_of_mmdet__take_the_place_of_ours(backbone, neck, channels):
    # No number is computed: only shapes are asked for.
    with torch.device('meta'):
        model = localizer(backbone, neck, channels)
        out = model(torch.zeros(2, 3, 256, 256), mode='tensor')
    assert out.boxes.shape == (2, 4) and out.votes.shape == (2, 32 * 32, 4)


def published(backbone: nn.Module, name: str) -> dict[str, torch.Tensor]:
    """A file of weights as it is published for a backbone: constants under the publisher's names."""
    state = {key: torch.full_like(value, 3) for key, value in backbone.state_dict().items()}
    if name == 'mobilenet':  # mmpretrain's, a whole classifier
        return {f'backbone.{key}': value for key, value in state.items()} | {
            'head.fc.weight': torch.zeros(1000, 1280)
        }
    if name == 'vgg':  # torchvision's: without the two convolutions and the norm that are SSD's
        state = {key: v for key, v in state.items() if key.startswith('features.')}
        state = {key: v for key, v in state.items() if int(key.split('.')[1]) <= 28}
        return state | {'classifier.0.weight': torch.zeros(8, 8)}
    return state | {'fc.weight': torch.zeros(1000, 2048)}


@pytest.mark.slow
@pytest.mark.parametrize('name', BACKBONES)
def test_backbones_of_mmdet__weights_from_a_local_file(name, tmp_path):
    backbone, neck, channels = BACKBONES[name]
    path = tmp_path / 'weights.pth'
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    if name == 'mobilenet':
        init_cfg['prefix'] = 'backbone.'
    model = localizer(dict(backbone, init_cfg=init_cfg), neck, channels)
    content = published(model.backbone, name)
    torch.save(content, path)
    model.init_weights()
    filled = [key for key, value in model.backbone.state_dict().items() if bool((value == 3).all())]
    names = [key.removeprefix('backbone.') for key in content if not key.startswith(('head', 'fc'))]
    assert filled == [key for key in names if not key.startswith('classifier')]
    assert len(filled) >= (26 if name == 'vgg' else 200)


@pytest.mark.parametrize('shipped', ['localizer-votes_r50_1xb32-37e_face-mask.py'])
def test_config__weights_by_path_and_a_missing_file_is_named(shipped, tmp_path):
    cfg = Config.fromfile(CONFIGS / shipped)
    setting = 'model.backbone.init_cfg'
    path = str(tmp_path / 'resnet50.pth')
    merge_options(cfg, {f'{setting}.type': 'Pretrained', f'{setting}.checkpoint': path})
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
    with pytest.raises(FileNotFoundError, match='resnet50.pth'):
        model.init_weights()


@pytest.mark.slow
def test_transformers__maps_and_weights_from_a_local_folder(tmp_path):
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    settings = {key: value for key, value in TINY_RESNET.items() if key != 'model_type'}
    classifier = ResNetForImageClassification(ResNetConfig(**settings)).eval()
    classifier.save_pretrained(tmp_path)
    config = dict(type='mmext.TransformersBackbone', out_indices=(2, 3, 4))
    for source in (TINY_RESNET, str(tmp_path)):
        model = localizer(
            dict(config, config=source, checkpoint=str(tmp_path)), None, [16, 24, 32]
        ).eval()
        assert model.backbone.out_channels == (16, 24, 32)
        model.init_weights()
        images = torch.randn(2, 3, 64, 96)
        with torch.no_grad():
            maps = model.backbone(images)
            expected = classifier.resnet(images, output_hidden_states=True).hidden_states
        assert len(maps) == 3
        for found, own in zip(maps, expected[2:], strict=True):
            torch.testing.assert_close(found, own)
        assert model(images, mode='tensor').votes.shape == (2, 8 * 12, 4)


@pytest.mark.slow
def test_transformers__wrong_files_and_settings(tmp_path):
    from transformers import ResNetConfig, ResNetForImageClassification

    def build(settings: dict | str = TINY_RESNET, **more: object) -> nn.Module:
        config = dict(type='mmext.TransformersBackbone', config=settings, out_indices=(4,))
        return MODELS.build(config | more)

    with pytest.raises(FileNotFoundError, match='none is no folder with a config.json'):
        build(str(tmp_path / 'none'))
    with pytest.raises(FileNotFoundError, match='none is no folder with a config.json'):
        build(checkpoint=str(tmp_path / 'none')).init_weights()
    with pytest.raises(ValueError, match='none given'):
        build(dict(depths=[1]))
    with pytest.raises(ValueError, match='out_indices'):
        build(out_indices=(7,))
    with pytest.raises(ValueError, match='give the file as checkpoint'):
        build(init_cfg=dict(type='Pretrained', checkpoint='a.pth'))
    wider = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 48], depths=[1, 1, 1, 1])
    ResNetForImageClassification(wider).save_pretrained(tmp_path / 'wider')
    backbone = build(checkpoint=str(tmp_path / 'wider'))
    before = copy.deepcopy(backbone.state_dict())
    with pytest.raises(ValueError, match='does not fill the ResNetBackbone: 0 entries are missing'):
        backbone.init_weights()
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
