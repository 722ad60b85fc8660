"""A matting model behind the `BackgroundRemover`."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmseg.structures import SegDataSample
from torch import nn

from mmext.apis import init_model
from mmext.apis.background import BackgroundRemover
from mmext.apis.matte_network import ModelNetwork
from mmext.tools import remove_background
from tests.systems import attn_unet_light

PIPELINE = [
    dict(type='mmext.LoadImage'),
    dict(type='mmext.AlphaResize', scale=(64, 64), keep_ratio=True),
    dict(type='mmext.LoadAlpha'),
    dict(type='mmext.PackMatteInputs'),
]


def make_config() -> Config:
    return Config(
        dict(
            default_scope='mmseg',
            model=attn_unet_light(),
            test_dataloader=dict(dataset=dict(pipeline=PIPELINE)),
        )
    )


@pytest.fixture(scope='module')
def model() -> nn.Module:
    """Untrained, with weights that make its alphas differ from place to place."""
    torch.manual_seed(0)
    return init_model(make_config())


def noise(*size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def test_model_network__is_the_model_at_the_size_of_the_network(model: nn.Module) -> None:
    image = noise(48, 64)
    network = ModelNetwork(model)
    prepared = network.prepare(image)
    assert np.array_equal(prepared, image)
    (alpha,) = network.predict([prepared])
    # What the model says to BGR, as mmcv's loader gives it.
    inputs = torch.from_numpy(image[..., ::-1].transpose(2, 0, 1).copy())
    sample = SegDataSample(metainfo=dict(ori_shape=(48, 64), img_shape=(48, 64)))
    data = pseudo_collate([dict(inputs=inputs, data_samples=sample)])
    with torch.no_grad():
        (expected,) = model.test_step(data)
    assert np.array_equal(alpha, expected.pred_alpha.data[0].numpy())
    assert alpha.dtype == np.float32 and np.ptp(alpha) > 0


def test_model_network__large_photos_are_seen_small_and_sizes_go_together(
    model: nn.Module,
) -> None:
    network = ModelNetwork(model)
    prepared = [network.prepare(image) for image in (noise(120, 160), noise(240, 320))]
    assert [image.shape for image in prepared] == [(48, 64, 3)] * 2
    together = network.predict(prepared)
    for image, alpha in zip(prepared, together, strict=True):
        assert alpha.shape == (48, 64)
        np.testing.assert_allclose(alpha, network.predict([image])[0], atol=1e-5)


def test_model_network__a_model_without_alpha_is_named(model: nn.Module) -> None:
    network = ModelNetwork(model)
    network.model = nn.Identity()
    network.model.test_step = lambda data: data['data_samples']
    with pytest.raises(ValueError, match='Identity predicts no alpha'):
        network.predict([noise(48, 64)])


def test_remover__config_and_checkpoint(model: nn.Module, tmp_path: Path) -> None:
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'model.pth')
    (expected,) = BackgroundRemover(model)(noise(90, 61))
    (found,) = BackgroundRemover(make_config(), tmp_path / 'model.pth')(noise(90, 61))
    assert found.alpha.shape == (90, 61)
    # The one of a config is in its deploy form.
    np.testing.assert_allclose(found.alpha, expected.alpha, atol=1e-3)


@pytest.mark.slow
def test_tool__from_config_and_photos_to_files(model: nn.Module, tmp_path: Path) -> None:
    make_config().dump(tmp_path / 'config.py')
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'model.pth')
    for index, size in enumerate([(90, 61), (33, 120)]):
        (tmp_path / 'in').mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / 'in' / f'{index}.jpg'), noise(*size))
    paths = [tmp_path / name for name in ('config.py', 'model.pth', 'in', 'out')]
    options = ['--alpha', '--tta', '--batch-size', '2', '--device', 'cpu']
    assert remove_background.main(['folder', *map(str, paths), *options]) == 0
    for index, size in enumerate([(90, 61), (33, 120)]):
        alpha = cv2.imread(str(tmp_path / 'out' / f'{index}.png'), cv2.IMREAD_UNCHANGED)
        assert alpha.shape == size
