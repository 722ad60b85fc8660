"""The table of backbone files: against the models, the shipped configs, the README and the error message."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmext.models.backbones import hgnetv2
from mmext.models.backbones.dinov3 import ARCHS, VisionTransformer
from mmext.models.backbones.dinov3_sta import DINOv3STA
from mmext.models.backbones.hgnetv2 import HGNetv2
from mmext.models.backbones.pretrained_files import BACKBONE_FILES
from mmext.models.deim.variants import VARIANTS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'deim'
MAY_BE_ABSENT = ('num_batches_tracked', 'rope_embed.periods', 'bias_mask')
# Of atto's last stage 13 entries are not those of B0; see test_hgnetv2_weights.py.
KEPT = dict(atto=13)


def build(arch: str) -> nn.Module:
    """The backbone with all its stages, as its file has them."""
    with torch.device('meta'):
        if arch in ARCHS:
            return VisionTransformer(ARCHS[arch])
        last = len(hgnetv2.ARCHS[arch].stages) - 1
        return HGNetv2(arch, out_indices=(last,))


def test_table__has_every_backbone() -> None:
    assert set(BACKBONE_FILES) == {*ARCHS, *hgnetv2.ARCHS}


@pytest.mark.parametrize('arch', BACKBONE_FILES)
def test_table__entries_are_those_of_the_backbone(arch: str) -> None:
    file, names = BACKBONE_FILES[arch], list(build(arch).state_dict())
    assert file.first_entry in names
    wanted = [name for name in names if not name.endswith(MAY_BE_ABSENT)]
    assert file.num_entries == len(wanted) - KEPT.get(arch, 0)


@pytest.mark.parametrize('size', VARIANTS)
def test_table__configs_ask_for_its_files(size: str) -> None:
    backbone = Config.fromfile(CONFIGS / f'deimv2_{size}_coco.py').model.backbone
    assert Path(backbone.checkpoint).name == BACKBONE_FILES[backbone.arch].name


def test_table__readme_has_a_row_for_every_file() -> None:
    text = (CONFIGS / 'README.md').read_text()
    rows = re.findall(r'^\| (.+) \| `(.+)` \| (http\S+) \| `(.+)`, (\d+) \|$', text, re.MULTILINE)
    sizes = {
        arch: [n for n, own in VARIANTS.items() if own.arch == arch] for arch in BACKBONE_FILES
    }
    expected = {
        (', '.join(f'`{size}`' for size in sizes[arch]), *map(str, file))
        for arch, file in BACKBONE_FILES.items()
    }
    assert set(rows) == expected


@pytest.mark.parametrize(
    'build_backbone',
    [
        lambda path: HGNetv2('atto', out_indices=(2,), checkpoint=path),
        lambda path: DINOv3STA('vit_tiny', sta_channels=8, out_channels=16, checkpoint=path),
    ],
    ids=['atto', 'vit_tiny'],
)
def test_init_weights__missing_file_says_which_one_is_wanted(build_backbone, request) -> None:
    file = BACKBONE_FILES[request.node.callspec.id]
    message = rf'absent\.pth .*does not exist\. Get {re.escape(file.name)} from {file.source}'
    with pytest.raises(FileNotFoundError, match=message):
        build_backbone('absent.pth').init_weights()


def test_init_weights__missing_file_of_an_architecture_of_ones_own() -> None:
    layout = hgnetv2.ARCHS['atto']._asdict()
    layout['stages'] = [stage._asdict() for stage in layout['stages']]
    backbone = HGNetv2(layout, out_indices=(2,), checkpoint='absent.pth')
    with pytest.raises(FileNotFoundError, match='Get the file of this architecture'):
        backbone.init_weights()
