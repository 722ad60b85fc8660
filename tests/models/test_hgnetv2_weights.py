"""Files of HGNetv2 weights: those of the architecture, B0's for the smaller ones, and what can be wrong with them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mmext.models.backbones.dinov3_sta import DINOv3STA
from mmext.models.backbones.hgnetv2 import HGNetv2
from tests.reference_numbers import named_weight

State = dict[str, Tensor]


@pytest.fixture(scope='module')
def b0() -> State:
    """As published: all four stages and the classifier of the pre-training."""
    with torch.device('meta'):
        names = HGNetv2('b0', out_indices=(3,)).state_dict()
    state = {name: named_weight(name, tensor.shape) for name, tensor in names.items()}
    return {**state, 'fc.weight': torch.ones(2, 3)}


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []

    def write(message: str, logger: str, level: int) -> None:
        lines.append(f'{level} {message}')

    monkeypatch.setattr('mmext.models.backbones.pretrained.print_log', write)
    return lines


def small(arch: str, path: Path) -> HGNetv2:
    last = 3 if arch == 'b0' else 2
    backbone = HGNetv2(arch, out_indices=(last,), checkpoint=str(path))
    for parameter in backbone.parameters():
        nn.init.constant_(parameter, 5.0)  # in no file
    return backbone


def kept_names(backbone: nn.Module) -> set[str]:
    """Parameters that no file has filled."""
    return {name for name, p in backbone.named_parameters() if bool((p == 5).all())}


def test_init_weights__fills_everything_from_its_own_file(
    b0: State, tmp_path: Path, log: list[str]
) -> None:
    torch.save(b0, tmp_path / 'b0.pth')
    backbone = small('b0', tmp_path / 'b0.pth')
    backbone.init_weights()
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, b0[name]), name
    assert any('not used: fc.weight' in line for line in log)


@pytest.mark.parametrize('wrap', [lambda s: {'ema': {'module': s}, 'model': {}}, None])
def test_init_weights__from_the_file_of_a_detector(
    b0: State, wrap: Callable | None, tmp_path: Path
) -> None:
    state = {f'backbone.{name}': tensor for name, tensor in b0.items()}
    state['decoder.enc_score_head.bias'] = torch.ones(3)
    path = tmp_path / ('b0.pth' if wrap else 'b0.safetensors')
    torch.save(wrap(state), path) if wrap else save_file(state, path)
    backbone = small('b0', path)
    backbone.init_weights()
    assert kept_names(backbone) == set()


@pytest.mark.parametrize(
    ('arch', 'unused'), [('femto', 'stages.2.blocks.1.'), ('pico', 'stages.3.')]
)
def test_init_weights__part_of_b0(
    arch: str, unused: str, b0: State, tmp_path: Path, log: list[str]
) -> None:
    torch.save(b0, tmp_path / 'b0.pth')
    backbone = small(arch, tmp_path / 'b0.pth')
    backbone.init_weights()
    assert kept_names(backbone) == set()
    assert any(line.startswith('30') and f'not used: {unused}' in line for line in log)


def test_init_weights__last_stage_of_atto_does_not_fit_b0(
    b0: State, tmp_path: Path, log: list[str]
) -> None:
    torch.save(b0, tmp_path / 'b0.pth')
    backbone = small('atto', tmp_path / 'b0.pth')
    backbone.init_weights()
    kept = kept_names(backbone)
    # Depthwise kernels of 3 instead of 5; half the channels behind.
    block = 'stages.2.blocks.0'
    convolutions = [f'{block}.layers.{i}.conv2.conv.weight' for i in range(3)]
    aggregations = [f'{block}.aggregation.{i}.conv.weight' for i in range(2)]
    norms = [f'{block}.aggregation.{i}.bn.{kind}' for i in range(2) for kind in ('weight', 'bias')]
    assert kept == {*convolutions, *aggregations, *norms}
    assert any('13 do not fit and keep random values' in line for line in log)


def test_init_weights__other_stages_of_atto_must_fit(b0: State, tmp_path: Path) -> None:
    torch.save({n: t for n, t in b0.items() if 'stages.1' not in n}, tmp_path / 'b0.pth')
    with pytest.raises(ValueError, match=r'missing: stages\.1\.downsample\.conv\.weight'):
        small('atto', tmp_path / 'b0.pth').init_weights()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda s: {n: t for n, t in s.items() if 'stem1' not in n}, r'7 missing: stem\.stem1'),
        (lambda s: {**s, 'stem.stem1.lab.bias': torch.ones(2)}, r'1 of another shape: .*\(2,\)'),
        (
            lambda s: {**s, 'stem.stem1.lab.bias': torch.tensor([torch.nan])},
            r'1 not finite: stem\.stem1\.lab\.bias',
        ),
    ],
    ids=['partial', 'shape', 'nan'],
)
def test_init_weights__file_that_does_not_fill_the_network(
    b0: State, change: Callable[[State], State], message: str, tmp_path: Path
) -> None:
    without_counters = {n: t for n, t in b0.items() if not n.endswith('num_batches_tracked')}
    torch.save(change(without_counters), tmp_path / 'b0.pth')
    backbone = small('pico', tmp_path / 'b0.pth')
    with pytest.raises(ValueError, match=message):
        backbone.init_weights()
    assert kept_names(backbone) == {name for name, _ in backbone.named_parameters()}


def test_init_weights__missing_file() -> None:
    with pytest.raises(FileNotFoundError, match=r'absent\.pth .*does not exist.*checkpoint=None'):
        HGNetv2('atto', out_indices=(2,), checkpoint='absent.pth').init_weights()


def test_init_weights__says_that_weights_are_random(log: list[str]) -> None:
    HGNetv2('atto', out_indices=(2,)).init_weights()
    assert [line for line in log if line.startswith('30') and 'random weights' in line]


PRETRAINED = dict(type='Pretrained', checkpoint='x.pth')


@pytest.mark.parametrize(
    'init_cfg', [PRETRAINED, [dict(type='Kaiming', layer='Conv2d'), PRETRAINED]]
)
@pytest.mark.parametrize(
    'build',
    [
        lambda cfg: HGNetv2('atto', out_indices=(2,), init_cfg=cfg),
        lambda cfg: DINOv3STA('vit_tiny', sta_channels=8, out_channels=16, init_cfg=cfg),
    ],
    ids=['HGNetv2', 'DINOv3STA'],
)  # fmt: skip
def test_backbone__pretrained_by_halves_is_refused(build: Callable, init_cfg) -> None:
    with pytest.raises(ValueError, match=r"give the file as checkpoint='x\.pth'"):
        build(init_cfg)
