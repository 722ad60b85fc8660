"""LPIPS against its definition, layer by layer, with the published weights of the channels and a random AlexNet."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchmetrics
from torch.nn import functional

from mmext.evaluation.lpips import LPIPS
from mmext.evaluation.matte_scores import MatteScorer

# The names and sizes of torchvision's AlexNet.
CONVS = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
# Stride and padding.
STEPS = [(4, 2), (1, 2), (1, 1), (1, 1), (1, 1)]
LINEAR = Path(torchmetrics.__file__).parent / 'functional/image/lpips_models/alex.pth'


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    generator = torch.Generator().manual_seed(0)
    state = {'classifier.6.bias': torch.zeros(3)}
    for index, (outputs, inputs, size) in CONVS.items():
        weight = torch.randn(outputs, inputs, size, size, generator=generator)
        state[f'features.{index}.weight'] = weight / (inputs * size * size) ** 0.5
        state[f'features.{index}.bias'] = torch.randn(outputs, generator=generator) / 10
    path = tmp_path_factory.mktemp('lpips') / 'alexnet.pth'
    torch.save(state, path)
    return dict(backbone=str(path), linear=str(LINEAR))


def slow_lpips(files, images, others):
    state, linear = (torch.load(files[name], map_location='cpu') for name in ('backbone', 'linear'))
    features = []
    for image in (images, others):
        x = image * 2 - 1
        x = (x - torch.tensor([-0.030, -0.088, -0.188])[:, None, None]) / torch.tensor(
            [0.458, 0.448, 0.450]
        )[:, None, None]
        found = []
        for index, (stride, padding) in zip(CONVS, STEPS, strict=True):
            if index in (3, 6):
                x = functional.max_pool2d(x, 3, 2)
            names = (f'features.{index}.weight', f'features.{index}.bias')
            x = functional.conv2d(x, *(state[name] for name in names), stride, padding).relu()
            found.append(x / (x.norm(dim=1, keepdim=True) + 1e-8))
        features.append(found)
    total = 0
    for layer, (own, other) in enumerate(zip(*features, strict=True)):
        weight = linear[f'lin{layer}.model.1.weight']
        total = total + functional.conv2d((own - other) ** 2, weight).mean(dim=(1, 2, 3))
    return total


def test_lpips__equals_its_definition(files):
    images, others = torch.rand(2, 2, 3, 48, 65, generator=torch.Generator().manual_seed(1))
    own = LPIPS(**files)(images, others)
    torch.testing.assert_close(own, slow_lpips(files, images, others))
    assert (own > 0).all() and not LPIPS(**files)(images, images).any()


def test_lpips__of_mattes_compares_cut_outs(files):
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 255, (40, 50, 3)).astype(np.uint8)
    alphas = rng.random((2, 40, 50)).astype(np.float32)
    scorer = MatteScorer('lpips', lpips_files=files)
    value = scorer.row(scorer.score('a', *alphas, image=photo))['LPIPS']
    views = [
        torch.from_numpy(alpha[..., None] * photo / 255 + (1 - alpha[..., None]) * 0.5)
        for alpha in alphas
    ]
    expected = slow_lpips(files, *(view.permute(2, 0, 1)[None].float() for view in views))
    assert value == pytest.approx(expected.item(), rel=1e-4)
    # Smaller than the network's strides allow.
    tiny = scorer.score('b', alphas[0, :3, :5], alphas[1, :3, :5], image=photo[:3, :5])
    assert np.isfinite(scorer.row(tiny)['LPIPS'])


@pytest.mark.parametrize('which', ['backbone', 'linear'])
@pytest.mark.parametrize('kind', ['missing', 'text', 'other'])
def test_lpips__wrong_files_are_named(files, tmp_path, which, kind):
    path = tmp_path / 'wrong.pth'
    if kind == 'text':
        path.write_text('no weights')
    elif kind == 'other':
        torch.save({'weight': torch.zeros(2)}, path)
    with pytest.raises(ValueError, match='wrong.pth'):
        MatteScorer('lpips', lpips_files=files | {which: str(path)})
