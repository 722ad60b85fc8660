"""TransformersBackbone: maps and weights as transformers has them, and what users can get wrong."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmext.engine.preflight_pixels import check_pixel_range
from mmext.models.backbones import transformers_backbone, transformers_files
from mmext.models.backbones.transformers_backbone import TransformersBackbone
from tests.models.transformers_networks import CHANNELS, NETWORKS, STAGES, STRIDES

networks = pytest.mark.parametrize('name', NETWORKS)


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """What is logged."""
    texts: list[str] = []
    for module in (transformers_backbone, transformers_files):
        monkeypatch.setattr(module, 'print_log', lambda text, *args, **kwargs: texts.append(text))
    return texts


def build(name: str, **changes: object) -> TransformersBackbone:
    """The backbone with all four maps."""
    torch.manual_seed(0)
    config = dict(
        type='mmext.TransformersBackbone', config=NETWORKS[name], out_indices=(1, 2, 3, 4)
    )
    return MODELS.build(config | changes)


def published(name: str, folder: Path, **options: object) -> nn.Module:
    """A model with a head, as on the hub, in `folder`."""
    from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

    torch.manual_seed(1)
    settings = AutoConfig.for_model(**NETWORKS[name])
    # Of DINOv3 the headless model is published.
    kind = AutoModel if name == 'dinov3' else AutoModelForImageClassification
    model = kind.from_config(settings).eval()
    model.save_pretrained(folder, **options)
    return model


@pytest.mark.slow
@networks
def test_forward__equals_auto_backbone(name):
    from transformers import AutoBackbone, AutoConfig

    backbone = build(name).eval()
    settings = AutoConfig.for_model(**NETWORKS[name], out_indices=[1, 2, 3, 4])
    plain = AutoBackbone.from_config(settings).eval()
    plain.load_state_dict(backbone.network.state_dict())
    side = backbone.size_divisor * 3
    images = torch.randn(2, 3, side, 2 * side)
    with torch.no_grad():
        maps, expected = backbone(images), plain(images).feature_maps
    assert backbone.strides == STRIDES[name] and backbone.out_channels == CHANNELS[name]
    for own, other, stride in zip(maps, expected, STRIDES[name], strict=True):
        assert torch.equal(own, other)
        assert own.shape[2:] == (side // stride, 2 * side // stride)


@pytest.mark.slow
@networks
def test_forward__odd_sizes_lose_no_pixel(name, said):
    backbone = build(name).eval()
    divisor = backbone.size_divisor
    images = torch.randn(1, 3, 33, 3 * divisor)
    padded = torch.zeros(1, 3, -(-33 // divisor) * divisor, 3 * divisor)
    padded[:, :, :33] = images
    with torch.no_grad():
        maps, expected = backbone(images), backbone(padded)
        backbone(images)
    for own, other, stride in zip(maps, expected, STRIDES[name], strict=True):
        assert torch.equal(own, other) and own.shape[2] * stride >= 33
    # 33 is no multiple of 14, 16 or 32; said once.
    (text,) = said
    assert 'got images of 33 x' in text and f'pad_size_divisor={divisor}' in text


@pytest.mark.slow
@networks
def test_gradients__reach_every_parameter_that_wants_one(name):
    backbone = build(name)
    torch.stack([m.square().sum() for m in backbone(torch.randn(2, 3, 64, 64))]).sum().backward()
    for path, parameter in backbone.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, path


@pytest.mark.slow
@networks
def test_frozen_stages__never_change(name):
    backbone = build(name, frozen_stages=2)
    before = {path: value.clone() for path, value in backbone.state_dict().items()}
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1, weight_decay=0.1)
    backbone.eval().train()
    torch.stack([m.square().mean() for m in backbone(torch.randn(2, 3, 64, 64))]).sum().backward()
    optimizer.step()
    changed = {
        path for path, v in backbone.state_dict().items() if not torch.equal(v, before[path])
    }
    # Named by hand: the stem and two stages on one side, the last two on the other.
    frozen, trained = {
        'resnet': (('embedder', 'stages.0', 'stages.1'), ('stages.2', 'stages.3')),
        'convnext': (('embeddings', 'stages.0', 'stages.1'), ('stages.2', 'stages.3', 'norms')),
        'swin': (('embeddings', 'layers.0', 'layers.1'), ('layers.2', 'layers.3', 'norms')),
        'dinov2': (('embeddings', 'layer.0', 'layer.1'), ('layer.2', 'layer.3')),
        'dinov3': (('embeddings', 'layer.0', 'layer.1'), ('layer.2', 'layer.3')),
    }[name]
    assert not [path for path in changed if any(part in path for part in frozen)]
    for part in trained:
        assert [path for path in changed if part in path], part


@pytest.mark.slow
def test_frozen_stages__normalise_with_the_statistics_that_they_have():
    backbone = build('resnet', frozen_stages=0).train()
    assert not backbone.network.embedder.embedder.normalization.training
    assert backbone.network.encoder.stages[0].layers[0].layer[0].normalization.training
    assert backbone.network.encoder.stages[0].training


@pytest.mark.slow
@pytest.mark.parametrize('form', ['one file', 'sharded', 'bin'])
@networks
def test_init_weights__from_the_hubs_files(name, form, tmp_path):
    source = published(name, tmp_path, **(dict(max_shard_size='8KB') if form == 'sharded' else {}))
    if form == 'sharded':
        assert len(list(tmp_path.glob('*.safetensors'))) > 1
    if form == 'bin':
        (tmp_path / 'model.safetensors').unlink()
        torch.save(source.state_dict(), tmp_path / 'pytorch_model.bin')
    backbone = build(name, config=str(tmp_path), checkpoint=str(tmp_path)).eval()
    backbone.init_weights()
    if (
        name == 'swin'
    ):  # whose states are those behind the reduction of each stage: weight by weight
        filled = backbone.network.swin.state_dict()
        for key, value in source.swin.state_dict().items():
            assert torch.equal(filled[key], value), key
        return
    side = backbone.size_divisor * 2
    images = torch.randn(1, 3, side, side)
    with torch.no_grad():
        maps = backbone(images)
        states = source(images, output_hidden_states=True).hidden_states
        expected = [by_hand(name, source, own) for own in states[1:]]
    for found, own in zip(maps, expected, strict=True):
        torch.testing.assert_close(found, own, atol=1e-4, rtol=1e-4)


def by_hand(name: str, source: nn.Module, state: torch.Tensor) -> torch.Tensor:
    """The map of a state of the model with its head."""
    if name == 'resnet':
        return state
    if name == 'convnext':  # norms of the maps are new: they neither scale nor shift
        last = state.movedim(1, -1)
        return nn.functional.layer_norm(last, last.shape[-1:], eps=1e-6).movedim(-1, 1)
    norm = source.dinov2.layernorm if name == 'dinov2' else source.norm
    # Four patches, behind a class token and, of DINOv3, registers.
    return norm(state)[:, -4:].transpose(1, 2).unflatten(2, (2, 2))


@pytest.mark.slow
def test_init_weights__faulty_folders(tmp_path):
    from safetensors.torch import load_file, save_file

    published('resnet', tmp_path)
    file = tmp_path / 'model.safetensors'
    whole = load_file(file)
    backbone = build('resnet', checkpoint=str(tmp_path))
    before = {key: value.clone() for key, value in backbone.state_dict().items()}

    def expect(message: str) -> None:
        with pytest.raises(ValueError, match=message):
            backbone.init_weights()
        assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())

    first = next(key for key in whole if key.endswith('convolution.weight'))
    save_file({k: v for k, v in whole.items() if k != first}, file, metadata=dict(format='pt'))
    expect('1 entries are missing and 0 of another shape, such as .*convolution.weight')
    save_file(whole | {first: whole[first] * torch.nan}, file, metadata=dict(format='pt'))
    expect('are not finite')
    file.write_bytes(b'no tensors')
    expect('cannot be read into a ResNetBackbone')
    file.unlink()
    expect('cannot be read into a ResNetBackbone')


@pytest.mark.slow
def test_init_weights__a_part_of_the_files_is_missing(tmp_path):
    published('resnet', tmp_path, max_shard_size='8KB')
    max(tmp_path.glob('model-*.safetensors')).unlink()
    with pytest.raises(ValueError, match='cannot be read into a ResNetBackbone'):
        build('resnet', checkpoint=str(tmp_path)).init_weights()


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'stages', 'message'),
    [
        ('resnet', 5, 'expected -1 to 4'),
        ('resnet', -2, 'expected -1'),
        ('pvt', 1, 'expected -1: where the 3 stages of a PvtV2Backbone are is not known'),
    ],
)
def test_frozen_stages__that_there_are_not(name, stages, message):
    pvt = dict(model_type='pvt_v2', hidden_sizes=[8, 8, 8, 8], num_attention_heads=[1, 1, 1, 1])
    with pytest.raises(ValueError, match=f'frozen_stages={stages}, {message}'):
        build('resnet', config=NETWORKS.get(name, pvt), out_indices=(1, 3), frozen_stages=stages)


@pytest.mark.slow
def test_frozen_stages__a_stem_inside_of_the_first_stage():
    config = dict(model_type='dinov3_convnext', **STAGES)
    with pytest.raises(ValueError, match='expected -1, or 1 to 4: the stem of a DINOv3ConvNext'):
        build('convnext', config=config, frozen_stages=0)
    assert build('convnext', config=config, frozen_stages=1)._frozen


IMAGENET = dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])


@pytest.mark.slow
def test_init_weights__reports_the_normalisation(tmp_path, said):
    published('resnet', tmp_path)
    backbone = build('resnet', checkpoint=str(tmp_path))
    assert backbone.pixel_range is None
    backbone.init_weights()
    assert 'no preprocessor_config.json' in said[-1] and backbone.pixel_range is None
    (tmp_path / 'preprocessor_config.json').write_text(json.dumps(IMAGENET))
    backbone.init_weights()
    assert 'mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]' in said[-1]
    assert check_pixel_range(with_preprocessor(backbone, IMAGENET_PIXELS)) == []


@pytest.mark.parametrize(
    ('content', 'expected'),
    [
        (IMAGENET, ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])),
        (IMAGENET | dict(rescale_factor=0.5), ([0.97, 0.912, 0.812], [0.458, 0.448, 0.45])),
        (dict(do_normalize=False), ([0.0] * 3, [255.0] * 3)),
        (dict(do_normalize=False, do_rescale=False), ([0.0] * 3, [1.0] * 3)),
        (dict(size=224), None),
    ],
    ids=['imagenet', 'other scale', 'scale alone', 'nothing', 'unknown'],
)
def test_read_pixel_range__as_the_image_processors_count(content, expected, tmp_path):
    (tmp_path / 'preprocessor_config.json').write_text(json.dumps(content))
    found = transformers_files.read_pixel_range(str(tmp_path))
    if expected is None:
        assert found is None
    else:
        for own, other in zip(found, expected, strict=True):
            assert own == pytest.approx(other)


@pytest.mark.parametrize('text', ['{', '[]', '{"image_mean": "a", "image_std": [1]}'])
def test_read_pixel_range__damaged(text, tmp_path):
    (tmp_path / 'preprocessor_config.json').write_text(text)
    with pytest.raises(ValueError, match=r'preprocessor_config\.json cannot be read'):
        transformers_files.read_pixel_range(str(tmp_path))


IMAGENET_PIXELS = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)


def with_preprocessor(backbone: nn.Module, settings: dict, scope: str = 'mmdet.Det') -> nn.Module:
    """A model with a backbone behind a preprocessor."""
    model = nn.Module()
    kind = dict(type='mmdet.DetDataPreprocessor' if 'Det' in scope else 'mmseg.SegDataPreProcessor')
    model.data_preprocessor = MODELS.build(kind | settings)
    model.backbone = backbone
    return model


@pytest.mark.parametrize('scope', ['mmdet.Det', 'mmseg.Seg'])
@pytest.mark.parametrize(
    ('settings', 'messages'),
    [
        (IMAGENET_PIXELS, []),
        (IMAGENET_PIXELS | dict(mean=[123.68, 116.78, 103.94]), []),
        (IMAGENET_PIXELS | dict(bgr_to_rgb=False), ['set bgr_to_rgb=True']),
        (
            IMAGENET_PIXELS | dict(mean=[0.0] * 3, std=[255.0] * 3),
            [r'normalises with mean=[0.0, 0.0, 0.0], std=[255.0, 255.0, 255.0]'],
        ),
        (dict(bgr_to_rgb=True), ['normalises with mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0]']),
    ],
    ids=['same', 'rounded', 'order', 'numbers', 'none'],
)
def test_check_pixel_range__says_what_differs(scope, settings, messages):
    backbone = nn.Module()
    backbone.pixel_range = transformers_files.PixelRange(
        (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    )
    found = check_pixel_range(with_preprocessor(backbone, settings, scope))
    assert len(found) == len(messages)
    for finding, message in zip(found, messages, strict=True):
        assert not finding.is_error and message in finding.text and 'model.backbone' in finding.text
    backbone.pixel_range = None
    assert check_pixel_range(with_preprocessor(backbone, settings, scope)) == []
