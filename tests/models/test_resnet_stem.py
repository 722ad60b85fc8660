"""`ResNetStem`: mmseg's ResNet and one map more; its weights come from a file completely, or not at all."""

from pathlib import Path

import pytest
import torch
from mmseg.models.backbones import ResNet, ResNetV1c
from torch import nn

from mmext.models.backbones.resnet_stem import ResNetStem

NARROW = dict(stem_channels=4, base_channels=4)


def image(height: int = 33, width: int = 47) -> torch.Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ('stock', 'deep_stem'), [(ResNet, False), (ResNetV1c, True)], ids=['plain', 'v1c']
)
def test_maps__are_those_of_mmseg_and_the_stem(stock: type[nn.Module], deep_stem: bool) -> None:
    reference = stock(depth=18, **NARROW)
    backbone = ResNetStem(18, deep_stem=deep_stem, **NARROW)
    backbone.load_state_dict(reference.state_dict())
    reference.eval(), backbone.eval()
    stem, *maps = backbone(image())
    assert stem.shape == (2, 4, 17, 24) and (stem >= 0).all()
    for own, other in zip(maps, reference(image()), strict=True):
        assert torch.equal(own, other)
    # The pooling of this map is what the first stage gets.
    torch.testing.assert_close(backbone.layer1(backbone.maxpool(stem)), maps[0])
    assert backbone.out_channels == tuple(m.shape[1] for m in (stem, *maps))


def test_bottlenecks__widths() -> None:
    with torch.device('meta'):
        backbone = ResNetStem(50)
    assert backbone.out_channels == (64, 256, 512, 1024, 2048)
    assert round(sum(p.numel() for p in backbone.parameters()) / 1e6, 2) == 23.51


def test_activation_checkpointing__changes_no_gradient() -> None:
    plain, saving = ResNetStem(18, **NARROW), ResNetStem(18, with_cp=True, **NARROW)
    saving.load_state_dict(plain.state_dict())
    for backbone in (plain, saving):
        # In training mode a second forward would move the statistics of the norms once more.
        backbone.eval()
        sum(m.square().mean() for m in backbone(image())).backward()
    for own, other in zip(saving.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)


def test_eval__returns_the_module() -> None:
    assert isinstance(ResNetStem(18, **NARROW).eval(), ResNetStem)


def test_checkpoint__fills_everything(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = ResNetStem(18, **NARROW)
    # As torchvision and mmpretrain write them.
    tensors = source.state_dict()
    torch.save(tensors | {'fc.weight': torch.ones(1000, 32)}, tmp_path / 'plain.pth')
    prefixed = {f'backbone.{name}': value for name, value in tensors.items()}
    torch.save(dict(state_dict=prefixed), tmp_path / 'prefixed.pth')
    for name in ('plain.pth', 'prefixed.pth'):
        backbone = ResNetStem(18, checkpoint=str(tmp_path / name), **NARROW)
        backbone.init_weights()
        for own, other in zip(backbone.state_dict().values(), tensors.values(), strict=True):
            assert torch.equal(own, other)


def test_checkpoint__missing_file_is_named() -> None:
    backbone = ResNetStem(18, checkpoint='nowhere/resnet.pth', **NARROW)
    with pytest.raises(FileNotFoundError, match=r'nowhere/resnet.pth.*resnet18-f37072fd.pth'):
        backbone.init_weights()


def test_checkpoint__of_another_depth_is_refused(tmp_path: Path) -> None:
    torch.save(ResNetStem(18, **NARROW).state_dict(), tmp_path / 'r18.pth')
    backbone = ResNetStem(34, checkpoint=str(tmp_path / 'r18.pth'), **NARROW)
    with pytest.raises(ValueError, match='missing'):
        backbone.init_weights()


def test_settings__refused() -> None:
    with pytest.raises(ValueError, match='depth=20'):
        ResNetStem(20)
    with pytest.raises(ValueError, match='checkpoint='):
        ResNetStem(18, init_cfg=dict(type='Pretrained', checkpoint='a.pth'))
