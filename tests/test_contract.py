"""Promises that every system keeps, whatever its task: see `tests/systems.py` for the systems."""

import copy
import json
from pathlib import Path

import mmdet.models  # noqa: F401  (registers the stock parts that the configs name)
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement
from torch import nn

from mmext.registry import MODELS
from tests.contract_kinds import kind_of
from tests.systems import SLOW, SYSTEMS

GOLDEN = Path(__file__).parent / 'golden' / 'contract.json'

NAMES = [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in SYSTEMS]


@pytest.fixture
def config(name: str) -> dict:
    return SYSTEMS[name]


system = pytest.mark.parametrize('name', NAMES)


BUILT: dict[str, nn.Module] = {}


def build(config: dict) -> nn.Module:
    """A model with weights from a formula, as a copy: building one takes longer than what is asked of it here."""
    key = repr(config)
    if key not in BUILT:
        BUILT[key] = build_afresh(config)
    return copy.deepcopy(BUILT[key])


def build_afresh(config: dict) -> nn.Module:
    """A model with weights from a formula: no generator, the same on every machine."""
    model = MODELS.build(copy.deepcopy(config))
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            wave = torch.sin(torch.arange(tensor.numel(), dtype=torch.float64) * 1.7 + 0.3)
            if tensor.ndim > 1:
                tensor.copy_((wave * tensor[0].numel() ** -0.5).reshape(tensor.shape))
            elif name.endswith('bias'):
                tensor.copy_(wave * 0.1)
    return model


def photo(height: int, width: int, phase: float = 0.0) -> torch.Tensor:
    """(3, H, W) uint8 waves."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    waves = [torch.sin(x / (5 + c) + phase) * torch.cos(y / (7 - c)) for c in range(3)]
    return ((torch.stack(waves) + 1) * 127).to(torch.uint8)


def loss_of(
    model: nn.Module, config: dict, objects: list[int], size: tuple[int, int] = (64, 96)
) -> torch.Tensor:
    data = dict(
        inputs=[photo(*size, phase=i) for i in range(len(objects))],
        data_samples=[kind_of(config).sample(*size, num) for num in objects],
    )
    losses = model(**model.data_preprocessor(data, training=True), mode='loss')
    return model.parse_losses(losses)[0]


def predictions(
    model: nn.Module, config: dict, photos: list[torch.Tensor], **meta: object
) -> list[BaseDataElement]:
    samples = [kind_of(config).sample(*image.shape[1:], 1) for image in photos]
    for each in samples:
        each.set_metainfo(meta)
    model.eval()
    with torch.no_grad():
        return model.test_step(dict(inputs=photos, data_samples=samples))


@system
@pytest.mark.parametrize('objects', [[0, 0], [0, 1], [1, 12]], ids=['none', 'one', 'many'])
def test_loss__is_finite_and_reaches_every_parameter(config, objects):
    model = build(config).train()
    loss = loss_of(model, config, objects)
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in model.named_parameters():
        assert not parameter.requires_grad or parameter.grad is not None, name
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name


@system
@pytest.mark.parametrize('size', [(33, 95), (97, 161)], ids=str)
def test_odd_sizes__train_and_predict(config, size):
    model = build(config)
    assert torch.isfinite(loss_of(model.train(), config, [1, 2], size))
    (found,) = predictions(model, config, [photo(*size)])
    kind_of(config).check_result(found, size)


@system
def test_predict__in_the_frame_of_the_original_image(config):
    model = build(config)
    plain = predictions(model, config, [photo(96, 128)])[0]
    # The same network input, said to be a photo of twice the size.
    meta = dict(ori_shape=(192, 256), scale_factor=(0.5, 0.5))
    large = predictions(model, config, [photo(96, 128)], **meta)[0]
    kind = kind_of(config)
    kind.check_result(plain, (96, 128))
    kind.check_result(large, (192, 256))
    kind.check_enlarged(plain, large)


@system
def test_predict__a_batch_of_two_equals_two_singles(config):
    model = build(config)
    photos = [photo(96, 128), photo(96, 128, phase=2.0)]
    singles = [predictions(model, config, [image])[0] for image in photos]
    for together, alone in zip(predictions(model, config, photos), singles, strict=True):
        kind_of(config).check_same(together, alone)


@system
def test_state_dict__round_trip_into_a_fresh_model(config):
    first, second = build(config), MODELS.build(copy.deepcopy(config))
    second.load_state_dict(first.state_dict())
    image = torch.stack([photo(64, 64)]).float() / 255
    first.eval(), second.eval()
    with torch.no_grad():
        for one, other in zip(tensors(first(image)), tensors(second(image)), strict=True):
            assert torch.equal(one, other)


@system
def test_training__the_same_seed_gives_the_same_weights_and_gradients(config):
    runs = []
    for _ in range(2):
        torch.manual_seed(0)
        model = MODELS.build(copy.deepcopy(config)).train()
        loss_of(model, config, [1, 3], (64, 64)).backward()
        found = model.state_dict()
        found |= {f'{n}.grad': p.grad for n, p in model.named_parameters() if p.grad is not None}
        runs.append(found)
    assert runs[0].keys() == runs[1].keys() > model.state_dict().keys()
    for name, tensor in runs[0].items():
        assert torch.equal(tensor, runs[1][name]), name


@system
def test_config__its_dump_rebuilds_the_same_model(config, tmp_path):
    path = tmp_path / 'model.py'
    Config(dict(model=config)).dump(path)
    rebuilt = MODELS.build(Config.fromfile(path).model)
    shapes = {name: tensor.shape for name, tensor in build(config).state_dict().items()}
    assert {name: tensor.shape for name, tensor in rebuilt.state_dict().items()} == shapes


@system
def test_autocast__bfloat16_stays_finite(config):
    model = build(config).train()
    with torch.autocast('cpu', torch.bfloat16):
        loss = loss_of(model, config, [1, 4])
    loss.backward()
    assert torch.isfinite(loss)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    with torch.autocast('cpu', torch.bfloat16):
        (found,) = predictions(model, config, [photo(64, 64)])
    kind_of(config).check_result(found, (64, 64))


@system
def test_golden__summary_of_the_raw_outputs(name, update_golden):
    model = build(SYSTEMS[name]).eval()
    with torch.no_grad():
        outputs = model(torch.stack([photo(64, 96)]).float() / 255, mode='tensor')
    found = [summary(tensor) for tensor in tensors(outputs)]
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {}
    if update_golden:
        GOLDEN.write_text(json.dumps(golden | {name: found}, indent=1) + '\n')
        return
    assert len(found) == len(golden[name])
    for one, other in zip(found, golden[name], strict=True):
        assert one['shape'] == other['shape']
        for key in ('mean', 'std', 'entries'):
            np.testing.assert_allclose(one[key], other[key], rtol=1e-3, atol=1e-5)


def tensors(outputs: object) -> list[torch.Tensor]:
    """All tensors of nested outputs, in order."""
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    items = outputs.values() if isinstance(outputs, dict) else outputs
    return [tensor for item in items for tensor in tensors(item)]


def summary(tensor: torch.Tensor) -> dict:
    flat = tensor.flatten().double()
    picked = flat[torch.linspace(0, len(flat) - 1, 5).long()]
    return dict(
        shape=list(tensor.shape),
        mean=round(flat.mean().item(), 6),
        std=round(flat.std().item(), 6),
        entries=[round(value, 6) for value in picked.tolist()],
    )
