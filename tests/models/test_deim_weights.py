"""Conversion of published DEIMv2 weights to the names of `mmext.DEIM`, and back."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mmext.engine.checkpoint import load_checkpoint_report
from mmext.models.deim.parts import OFFICIAL, TRANSFORMERS, Naming, detect_variant, part_configs
from mmext.models.deim.transformers_names import from_transformers, their_names
from mmext.models.deim.variants import VARIANTS
from mmext.models.deim.weights import convert_state_dict, revert_state_dict
from mmext.registry import MODELS
from tests.models.deim_models import backbone_config, decoder_config, encoder_config
from tests.published_deim import published_state_dict

State = dict[str, Tensor]
SIZES = [pytest.param(n, marks=() if n == 'atto' else pytest.mark.slow) for n in VARIANTS]
TABLES = ('decoder.anchors', 'decoder.valid_mask')


@pytest.fixture(scope='module')
def atto() -> State:
    return published_state_dict('atto', num_classes=3)


@pytest.fixture(scope='module')
def converted_atto(atto: State) -> State:
    return convert_state_dict(atto)[0]


def assert_equal(state: State, expected: State) -> None:
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert state[name].dtype == tensor.dtype, name
        assert torch.equal(state[name], tensor), name


@pytest.mark.parametrize('name', SIZES)
def test_convert_and_revert__bit_equal_round_trip(name: str) -> None:
    published = published_state_dict(name)
    assert len(published) == VARIANTS[name].num_keys
    converted, report = convert_state_dict(published)
    assert (report.detected.name, report.detected.num_classes) == (name, 80)
    weights = {n: t for n, t in published.items() if n not in TABLES}
    counters = {n: torch.tensor(0) for n in converted if n in set(report.refilled)}
    expected = {re.sub('^encoder', 'neck', n): t for n, t in weights.items()}
    assert_equal(converted, {**counters, **expected})
    assert len(counters) == (130 if name == 'hgx' else 0)

    reverted, detected = revert_state_dict(converted)
    assert detected.name == name
    assert {n: t.shape for n, t in reverted.items()} == {n: t.shape for n, t in published.items()}
    assert_equal({n: t for n, t in reverted.items() if n not in TABLES}, weights)


@pytest.mark.parametrize('name', VARIANTS)
def test_part_configs__build_what_the_tests_of_the_parts_build(name: str) -> None:
    variant = VARIANTS[name]
    configs = part_configs(variant, 80)
    own = (
        backbone_config(variant),
        encoder_config(variant),
        decoder_config(variant),
    )
    for config, expected in zip(configs.values(), own, strict=True):
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in expected.items()}
        # What they do not state are defaults, and freezing shapes no weights.
        freezing = ('frozen_stages', 'freeze_norm')
        shaping = {k: v for k, v in plain.items() if k not in freezing}
        assert {k: config[k] for k in shaping} == shaping


def test_revert__tables_of_the_published_image_size(converted_atto: State) -> None:
    reverted, _ = revert_state_dict(converted_atto)
    anchors, valid = (reverted[name] for name in TABLES)
    assert anchors.shape == (1, 20 * 20 + 10 * 10, 4)
    assert valid.dtype == torch.bool and valid.all()
    # Second place of the first row, and the first of the second level.
    expected = torch.tensor([[1.5 / 20, 0.5 / 20, 0.05, 0.05], [0.05, 0.05, 0.1, 0.1]])
    torch.testing.assert_close(anchors[0, [1, 400]].sigmoid(), expected)


def test_convert__detector_takes_every_entry(converted_atto: State) -> None:
    configs = part_configs(VARIANTS['atto'], 3)
    weights = dict(mal=1.0, bbox=5.0, giou=2.0)
    criterion = dict(
        type='mmext.DEIMCriterion',
        matcher=dict(type='mmext.DEIMMatcher', change_epoch=1),
        loss_weights=weights,
    )
    config = dict(type='mmext.DEIM', criterion=criterion, test_cfg=dict(max_per_img=300), **configs)
    with torch.device('meta'):
        detector = MODELS.build(config)
    assert detector.state_dict().keys() == converted_atto.keys()


def bare(state: State) -> State:
    """As a file in safetensors is: shared tensors once, no counters, no tables."""
    return {
        name: tensor
        for name, tensor in state.items()
        if name not in TABLES and not name.endswith('num_batches_tracked')
    }


@pytest.mark.parametrize('kept', [0, 1, 2], ids='head{}'.format)
@pytest.mark.parametrize('prefix', ['decoder.', 'decoder.decoder.'], ids=['outer', 'inner'])
def test_convert__aliases_are_filled_in(atto: State, kept: int, prefix: str) -> None:
    dropped = [f'decoder.dec_bbox_head.{i}.' for i in range(3) if i != kept]
    dropped += [p + n for p in ('decoder.', 'decoder.decoder.') if p != prefix for n in ('up', 'reg_scale')]  # fmt: skip
    file = {n: t for n, t in bare(atto).items() if not n.startswith(tuple(dropped))}
    assert len(file) < len(bare(atto))
    converted, report = convert_state_dict(file)
    expected, _ = convert_state_dict(atto)
    for name, tensor in expected.items():
        zero = name.endswith('num_batches_tracked')
        assert torch.equal(converted[name], torch.tensor(0) if zero else tensor), name
    assert 'decoder.dec_bbox_head.0.layers.0.weight' in report.refilled or kept == 0


@pytest.mark.slow
def test_convert__heads_of_their_own_are_not_filled_in() -> None:
    state = {k: v for k, v in published_state_dict('n').items() if 'dec_bbox_head.1.' not in k}
    with pytest.raises(ValueError, match=r'DEIMv2-N.*dec_bbox_head\.1\.layers\.0\.weight: missing'):
        convert_state_dict(state)


@pytest.mark.parametrize('name', ['decoder.reg_scale', 'decoder.decoder.reg_scale'])
def test_convert__whole_number_as_scale(atto: State, name: str) -> None:
    converted, _ = convert_state_dict({**atto, name: torch.tensor([4])})
    assert converted[name].dtype == torch.float32 and converted[name].tolist() == [4.0]


def test_convert__half_precision_becomes_float32_copies(atto: State) -> None:
    half = {n: t.half() if t.is_floating_point() else t for n, t in atto.items()}
    converted, _ = convert_state_dict(half)
    for name, tensor in half.items():
        if name not in TABLES and tensor.is_floating_point():
            own = converted[re.sub('^encoder', 'neck', name)]
            assert torch.equal(own, tensor.float()), name
    full, _ = convert_state_dict(atto)
    full['neck.bi_fusion.cv.conv.weight'].zero_()
    assert atto['encoder.bi_fusion.cv.conv.weight'].any()


@pytest.mark.slow
def test_convert__tiny_transformer_without_its_extra_module() -> None:
    state = published_state_dict('s')
    flat = {name.replace('dinov3._model.', 'dinov3.'): tensor for name, tensor in state.items()}
    assert flat.keys() != state.keys()
    assert_equal(convert_state_dict(flat)[0], convert_state_dict(state)[0])


def without(*parts: str) -> Callable[[State], State]:
    return lambda state: {n: t for n, t in state.items() if not any(p in n for p in parts)}


def replaced(name: str, tensor: Tensor) -> Callable[[State], State]:
    return lambda state: {**state, name: tensor}


def renamed(old: str, new: str) -> Callable[[State], State]:
    return lambda state: {n.replace(old, new): t for n, t in state.items()}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda state: {'conv1.weight': torch.ones(1)}, 'not a DEIMv2 model: no decoder.*conv1'),
        (without('layers.1.', 'layers.2.'), r'no size of DEIMv2 has .*64, 64, 1\); known are atto'),
        (
            without('stem1.conv'),
            r'DEIMv2-Atto with 3 classes: backbone\.stem\.stem1\.conv.*missing',
        ),
        (replaced('backbone.x', torch.ones(1)), r'backbone\.x: not part of the model'),
        (
            replaced('decoder.dec_score_head.1.bias', torch.ones(4)),
            r'dec_score_head\.1\.bias: got \[4\], expected \[3\]',
        ),
        (
            replaced('decoder.dec_score_head.1.bias', torch.full((3,), torch.nan)),
            r'DEIMv2-Atto.*dec_score_head\.1\.bias are not finite',
        ),
        (renamed('cv1.conv', 'cv1.conv_bn_fused'), 'deploy form'),
        (renamed('encoder.', 'neck.'), "mmext's names already"),
    ],
    ids=['other', 'size', 'missing', 'unknown', 'shape', 'nan', 'deploy', 'own'],
)
def test_convert__what_does_not_fit_is_named(
    atto: State, change: Callable[[State], State], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        convert_state_dict(change(atto))


def test_revert__what_does_not_fit_is_named(converted_atto: State) -> None:
    with pytest.raises(ValueError, match=r'neck\.bi_fusion\.cv\.conv\.weight: missing'):
        revert_state_dict(without('bi_fusion')(converted_atto))


@pytest.mark.parametrize('naming', [OFFICIAL, TRANSFORMERS], ids=['published', 'transformers'])
@pytest.mark.parametrize('name', VARIANTS)
def test_detect__every_size(name: str, naming: Naming) -> None:
    variant = VARIANTS[name]
    width, layers = variant.decoder_channels, variant.num_decoder_layers
    state = {naming.queries.format(i): torch.empty(width, width) for i in range(layers)}
    state[naming.scores] = torch.empty(5, width)
    state[naming.maps[variant.encoder == 'lite']] = torch.empty(1, variant.encoder_channels, 1, 1)
    if variant.backbone == 'dinov3_sta':
        state[f'{naming.transformer}norm.weight'] = torch.empty(1)
    detected = detect_variant(state, naming)
    assert (detected.name, detected.num_classes) == (name, 5)


# Rows of section 10 of the design notes: published name, names in transformers (without `model.`).
PORT = {
    'backbone.stem.stem2a.lab.scale': ('conv_encoder.model.embedder.stem2a.lab.scale',),
    'backbone.stages.2.blocks.1.layers.0.conv1.bn.bias': (
        'conv_encoder.model.encoder.stages.2.blocks.1.layers.0.conv1.normalization.bias',
    ),
    'backbone.stages.1.downsample.conv.weight': (
        'conv_encoder.model.encoder.stages.1.downsample.convolution.weight',
    ),
    'backbone.dinov3.storage_tokens': ('conv_encoder.backbone.embeddings.register_tokens',),
    'backbone.dinov3._model.blocks.11.attn.qkv.weight': tuple(
        f'conv_encoder.backbone.model.layer.11.attention.{part}_proj.weight' for part in 'qkv'
    ),
    'backbone.dinov3.blocks.3.ls2.gamma': (
        'conv_encoder.backbone.model.layer.3.layer_scale2.lambda1',
    ),
    'backbone.dinov3.blocks.3.mlp.w2.bias': (
        'conv_encoder.backbone.model.layer.3.mlp.up_proj.bias',
    ),
    'backbone.dinov3.rope_embed.periods': (),
    'backbone.sta.conv4.2.running_var': (
        'conv_encoder.spatial_tuning_adapter.conv4.norm.running_var',
    ),
    'backbone.norms.2.weight': ('conv_encoder.fusion_proj.2.norm.weight',),
    'encoder.input_proj.0.conv.weight': ('conv_encoder.encoder_input_proj.0.conv.weight',),
    'encoder.encoder.0.layers.0.linear2.bias': ('encoder.aifi.0.layers.0.mlp.layers.1.bias',),
    'encoder.pan_blocks.1.cv2.0.bottlenecks.0.conv2.norm.bias': (
        'encoder.pan_blocks.1.csp_rep1.bottlenecks.0.conv2.norm.bias',
    ),
    'encoder.fpn_blocks.0.cv3.1.conv.weight': ('encoder.fpn_blocks.0.csp_rep2.conv2.conv.weight',),
    'encoder.fpn_block.cv4.conv.weight': ('encoder.fpn_block.conv2.conv.weight',),
    'encoder.downsample_convs.1.0.cv2.norm.bias': ('encoder.downsample_convs.1.conv2.norm.bias',),
    'encoder.down_sample2.1.weight': ('encoder.down_conv2.conv.weight',),
    'decoder.decoder.layers.2.swish_ffn.w12.weight': (
        'decoder.layers.2.mlp.gate_proj.weight',
        'decoder.layers.2.mlp.up_proj.weight',
    ),
    'decoder.decoder.layers.2.norm2.scale': ('decoder.layers.2.encoder_attn_layer_norm.weight',),
    'decoder.decoder.layers.0.gateway.gate.bias': ('decoder.layers.0.gateway.gate.bias',),
    'decoder.decoder.up': ('decoder.up',),
    'decoder.query_pos_head.layers.0.bias': ('decoder.query_pos_head.layers.0.bias',),
    'decoder.dec_bbox_head.5.layers.2.bias': ('decoder.bbox_embed.5.layers.2.bias',),
    'decoder.enc_score_head.bias': ('enc_score_head.bias',),
    'decoder.input_proj.1.norm.bias': ('decoder_input_proj.1.norm.bias',),
}


@pytest.mark.parametrize(('published', 'theirs'), PORT.items(), ids=list(PORT))
def test_their_names__rows_of_the_key_map(published: str, theirs: tuple[str, ...]) -> None:
    assert their_names(published, hybrid=True) == tuple(f'model.{name}' for name in theirs)


def test_their_names__input_projection_of_the_lite_encoder() -> None:
    names = their_names('encoder.input_proj.0.conv.weight', hybrid=False)
    assert names == ('model.encoder.input_proj.0.conv.weight',)


def as_in_port(state: State, *, hybrid: bool) -> State:
    """Published weights as transformers has them, cut apart along their rows."""
    port = {}
    for name, tensor in state.items():
        names = their_names(name, hybrid=hybrid) if name not in TABLES else ()
        parts = tensor.chunk(len(names)) if len(names) > 1 else [tensor] * len(names)
        port.update(zip(names, parts, strict=True))
    return port


def test_convert__names_of_transformers(atto: State, converted_atto: State) -> None:
    port = as_in_port(atto, hybrid=False)
    assert not port.keys() & atto.keys()
    # As it saves them: heads at the top, and the layer that the published network lacks.
    heads = {n.replace('model.decoder.', ''): t for n, t in port.items() if '_embed.' in n and 'denoising' not in n}  # fmt: skip
    extra = {'model.enc_output.0.weight': torch.eye(64), 'model.enc_output.1.bias': torch.ones(64)}
    converted, report = convert_state_dict({**port, **heads, **extra})
    assert_equal(converted, converted_atto)
    assert report.naming == 'transformers'
    assert set(report.ignored) == set(extra)


def test_convert__weights_trained_in_transformers_are_refused(atto: State) -> None:
    port = as_in_port(atto, hybrid=False)
    with pytest.raises(ValueError, match='trained in transformers'):
        convert_state_dict({**port, 'model.enc_output.0.weight': torch.rand(64, 64)})


@pytest.mark.parametrize('masked', [True, False], ids=['vits', 'vit_tiny'])
def test_from_transformers__bias_of_the_keys(masked: bool) -> None:
    name = 'backbone.dinov3.blocks.0.attn.qkv.bias'
    sources = their_names(name, hybrid=True)
    port = {sources[0]: torch.ones(2), sources[2]: torch.full((2,), 2.0)}
    if masked:
        found = from_transformers(port, {name, f'{name}_mask'}, hybrid=True)
        assert found.tensors[name].tolist() == [1, 1, 0, 0, 2, 2]
        assert found.unknown == []
    else:
        with pytest.raises(ValueError, match=r'k_proj\.bias is missing.*give the published file'):
            from_transformers(port, {name}, hybrid=True)


class Parts(nn.Module):
    """The parts under the names of the detector."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        for name, config in part_configs(VARIANTS['atto'], num_classes).items():
            self.add_module(name, MODELS.build(config))


CLASS_LAYERS = re.compile(
    r'decoder\.(enc_score_head|dec_score_head\.\d|denoising_class_embed)\.(weight|bias)'
)


@pytest.mark.parametrize('num_classes', [3, 5], ids=['same', 'other'])
def test_fine_tuning__other_classes_cost_the_class_layers_only(
    converted_atto: State, num_classes: int, tmp_path: Path
) -> None:
    path = tmp_path / 'atto.pth'
    torch.save(dict(state_dict=converted_atto), path)
    model = Parts(num_classes)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = load_checkpoint_report(model, path)
    class_layers = {name for name in before if CLASS_LAYERS.fullmatch(name)}
    assert len(class_layers) == 2 + 3 * 2 + 1
    new = class_layers if num_classes == 5 else set()
    assert set(report.mismatched) == new
    assert (report.missing, report.unexpected) == ([], [])
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, (before if name in new else converted_atto)[name]), name
    assert f'mismatched {len(new):5}' in report.table()
    if new:
        assert 'decoder.enc_score_head.weight (3, 64) -> (5, 64)' in report.table()
