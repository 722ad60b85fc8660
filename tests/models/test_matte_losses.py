"""The losses of mattes against hand arithmetic, SciPy, scikit-image and OpenCV; and at the worst inputs."""

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage

from mmext.models.attn_unet.image_filters import laplacian_pyramid
from mmext.models.attn_unet.losses import (
    AlphaEdgeLoss,
    LaplacianPyramidLoss,
    MatteBCELoss,
    MatteDiceLoss,
    alpha_edge,
    matte_dice,
)
from mmext.models.attn_unet.perceptual import PerceptualLoss
from mmext.registry import MODELS

LOSSES = {
    'bce': MatteBCELoss,
    'dice': MatteDiceLoss,
    'dice-linear': lambda: MatteDiceLoss(denominator='linear'),
    'edge': AlphaEdgeLoss,
    'edge-magnitude': lambda: AlphaEdgeLoss(magnitude=True),
    'laplacian': LaplacianPyramidLoss,
    'perceptual': lambda: with_encoder(PerceptualLoss()),
    'perceptual-mask': lambda: with_encoder(PerceptualLoss(mode='mask', background=0.5)),
}
every_loss = pytest.mark.parametrize('make', LOSSES.values(), ids=LOSSES)


class Encoder(torch.nn.Module):
    """Two convolutions, each of which halves the size."""

    def __init__(self):
        super().__init__()
        self.convs = torch.nn.ModuleList(
            [torch.nn.Conv2d(channels, 4, 3, stride=2, padding=1) for channels in (3, 4)]
        )

    def forward(self, x):
        first = self.convs[0](x)
        return first, self.convs[1](first.relu())


def with_encoder(loss):
    loss.bind_encoder(Encoder(), mean=(120.0, 115.0, 100.0), std=(58.0, 57.0, 57.0))
    return loss


def truth(kind, size=(21, 34)):
    """Alpha and validity (2, 1, H, W): the second image has a soft truth, unless it is empty or full."""
    alpha = torch.zeros(2, 1, *size)
    alpha[:, :, size[0] // 4 :, : size[1] // 2] = 1
    alpha[1] = alpha[1] * 0.5 + 0.25
    alpha = {'empty': torch.zeros_like(alpha), 'full': torch.ones_like(alpha)}.get(kind, alpha)
    valid = torch.full_like(alpha, kind != 'ignored', dtype=torch.bool)
    return alpha, valid


@every_loss
@pytest.mark.parametrize('kind', ['mixed', 'empty', 'full', 'ignored'])
@pytest.mark.parametrize('logit', [-100.0, 0.0, 100.0])
def test_losses__are_finite_with_finite_gradients(make, kind, logit):
    alpha, valid = truth(kind)
    logits = torch.full_like(alpha, logit, requires_grad=True)
    value = make()(logits, alpha, valid, torch.rand(2, 3, *alpha.shape[2:]))
    value.backward()
    assert value.ndim == 0 and value.isfinite() and value >= 0
    assert logits.grad.isfinite().all()
    if kind == 'ignored':
        assert value == 0 and not logits.grad.any()


@every_loss
@pytest.mark.parametrize('size', [(1, 1), (2, 97), (33, 5)], ids=str)
def test_losses__take_any_size(make, size):
    alpha, valid = truth('mixed', size)
    logits = torch.randn_like(alpha, requires_grad=True)
    value = make()(logits, alpha, valid, torch.rand(2, 3, *size))
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()


@every_loss
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_losses__under_autocast_compute_in_float32(make, dtype):
    alpha, valid = truth('mixed')
    torch.manual_seed(1)
    logits, images = torch.randn_like(alpha).to(dtype), torch.rand(2, 3, *alpha.shape[2:])
    loss = make()
    torch.manual_seed(2)
    expected = loss(logits.float(), alpha, valid, images)
    torch.manual_seed(2)
    with torch.autocast('cpu', dtype):
        value = loss(logits, alpha, valid, images)
    assert value.dtype == torch.float32 and torch.equal(value, expected)


@every_loss
def test_losses__do_not_see_what_stands_where_the_truth_is_unknown(make):
    alpha, valid = truth('mixed')
    valid[..., 20:] = False
    logits = torch.randn_like(alpha).requires_grad_()
    images = torch.rand(2, 3, *alpha.shape[2:])
    loss, values = make(), []
    for unknown in (0.0, float('nan')):
        torch.manual_seed(0)
        values.append(loss(logits, alpha.masked_fill(~valid, unknown), valid, images))
    assert torch.equal(*values)
    (grad,) = torch.autograd.grad(values[1], logits)
    assert grad.isfinite().all() and grad[valid].any() and not grad[~valid].any()


# Linear sums do not, and the lengths of gradients are the same in the inverse.
@pytest.mark.parametrize(
    'make', [LOSSES[name] for name in LOSSES if name not in ('dice-linear', 'edge-magnitude')]
)
def test_losses__prefer_the_truth(make):
    alpha, valid = truth('mixed')
    images = torch.rand(2, 3, *alpha.shape[2:])
    right = torch.logit(alpha.clamp(1e-6, 1 - 1e-6))
    loss, values = make(), []
    for logits in (right, right + 1, right - 1, -right):
        torch.manual_seed(0)
        values.append(loss(logits, alpha, valid, images))
    assert min(values[1:3]) >= values[0] and values[3] > 1.05 * values[0]


@pytest.mark.parametrize(
    ('name', 'key', 'weight'),
    [
        ('MatteBCELoss', 'loss_bce', 1.0),
        ('MatteDiceLoss', 'loss_dice', 1.0),
        ('PerceptualLoss', 'loss_perceptual', 0.5),
        ('AlphaEdgeLoss', 'loss_edge', 0.3),
        ('LaplacianPyramidLoss', 'loss_laplacian', 1.0),
    ],
)
def test_losses__are_registered_with_name_and_weight(name, key, weight):
    loss = MODELS.build(dict(type=f'mmext.{name}'))
    assert (loss.loss_name, loss.loss_weight) == (key, weight)
    assert MODELS.build(dict(type=f'mmext.{name}', loss_weight=2)).loss_weight == 2


@every_loss
def test_losses__grow_with_their_weight_and_vanish_at_0(make):
    alpha, valid = truth('mixed')
    logits, images = torch.randn_like(alpha).requires_grad_(), torch.rand(2, 3, *alpha.shape[2:])
    loss = make()
    values = {}
    for weight in (0, 1, 3):
        loss.loss_weight = weight
        torch.manual_seed(0)
        values[weight] = loss(logits, alpha, valid, images)
    assert values[3].item() == pytest.approx(3 * values[1].item())
    assert values[0] == 0 and values[0].requires_grad


def test_bce__by_hand():
    logits = torch.tensor([0.0, 2.0, -1.0, 5.0]).view(1, 1, 2, 2)
    alpha = torch.tensor([0.3, 1.0, 0.0, 0.0]).view(1, 1, 2, 2)
    valid = torch.tensor([True, True, True, False]).view(1, 1, 2, 2)
    p = 1 / (1 + np.exp([0.0, -2.0, 1.0]))
    expected = -(0.3 * np.log(p[0]) + 0.7 * np.log(1 - p[0]) + np.log(p[1]) + np.log(1 - p[2])) / 3
    value = MatteBCELoss()(logits, alpha, valid, torch.zeros(1, 3, 2, 2))
    assert value == pytest.approx(expected, rel=1e-6)


def test_dice__is_0_for_a_perfect_mask_and_1_for_its_inverse():
    alpha, valid = truth('mixed', (64, 64))
    alpha, valid = alpha[:1], valid[:1]
    images = torch.zeros(1, 3, 64, 64)
    loss = MatteDiceLoss()
    assert loss(200 * alpha - 100, alpha, valid, images) < 1e-6
    assert loss(100 - 200 * alpha, alpha, valid, images) > 0.99


def test_dice__is_averaged_over_images_not_over_pixels():
    alpha = torch.zeros(2, 1, 10, 10)
    alpha[0], alpha[1, 0, 0, 0] = 1, 1
    prediction = alpha.clone()
    prediction[1] = 0
    # The small object is missed: 1 - 1 / (1 + 1).
    value = matte_dice(prediction, alpha, torch.ones_like(alpha))
    assert value == pytest.approx((0 + 0.5) / 2)


@pytest.mark.parametrize(
    ('denominator', 'expected'), [('squared', (0.0, 0.2)), ('linear', (0.5, 1 / 3))]
)
def test_dice__soft_truth_wants_squares(denominator, expected):
    # Truth 0.5 everywhere, predicted 0.5 and 1: only squares prefer the truth.
    alpha = torch.full((1, 1, 100, 100), 0.5)
    values = [
        matte_dice(
            torch.full_like(alpha, own), alpha, torch.ones_like(alpha), denominator=denominator
        )
        for own in (0.5, 1.0)
    ]
    assert [value.item() for value in values] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize('magnitude', [False, True], ids=['components', 'magnitude'])
def test_edge__equals_scipy(magnitude):
    rng = np.random.default_rng(0)
    prediction, alpha = rng.random((2, 13, 17))
    valid = np.ones((13, 17), bool)
    valid[4:6, 9] = False
    slopes = [
        [ndimage.sobel(own, axis=axis, mode='nearest') / 8 for axis in (1, 0)]
        for own in (prediction, alpha)
    ]
    if magnitude:
        lengths = [np.sqrt(x**2 + y**2 + 1e-6) for x, y in slopes]
        distance = abs(lengths[0] - lengths[1])
    else:
        distance = sum(abs(own - other) for own, other in zip(*slopes, strict=True))
    inside = ndimage.binary_erosion(valid, np.ones((3, 3)), border_value=1)
    tensors = [
        torch.from_numpy(own)[None, None] for own in (prediction, alpha, valid.astype(float))
    ]
    assert alpha_edge(*tensors, magnitude=magnitude) == pytest.approx(distance[inside].mean())


def test_edge__a_bright_image_has_no_edge_at_its_border():
    ones = torch.ones(1, 1, 8, 8)
    assert alpha_edge(ones, torch.zeros_like(ones), ones) == 0


@pytest.mark.parametrize('size', [(64, 48), (37, 51), (3, 1)], ids=str)
def test_pyramid__a_constant_has_no_details(size):
    *details, rest = laplacian_pyramid(torch.full((1, 1, *size), 0.7), 5)
    assert max(level.abs().max() for level in details) < 1e-6
    torch.testing.assert_close(rest, torch.full_like(rest, 0.7))


def test_pyramid__first_level_equals_opencv_inside():
    image = np.random.default_rng(0).random((40, 56)).astype(np.float32)
    small = cv2.pyrDown(image, borderType=cv2.BORDER_REPLICATE)
    expected = image - cv2.pyrUp(small)
    levels = laplacian_pyramid(torch.from_numpy(image)[None, None], 2)
    np.testing.assert_allclose(levels[1][0, 0], small, atol=1e-6)
    # OpenCV mirrors at the border when it enlarges.
    np.testing.assert_allclose(levels[0][0, 0, 4:-4, 4:-4], expected[4:-4, 4:-4], atol=1e-6)


def test_laplacian__constant_offset_costs_the_weight_of_the_last_level():
    alpha, valid = torch.full((1, 1, 32, 32), 0.5), torch.ones(1, 1, 32, 32, dtype=torch.bool)
    logits = torch.logit(torch.full_like(alpha, 0.6))
    value = LaplacianPyramidLoss()(logits, alpha, valid, torch.zeros(1, 3, 32, 32))
    assert value == pytest.approx(2**4 * 0.1 / 5, rel=1e-5)


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: MatteBCELoss(-1), 'loss_weight=-1'),
        (lambda: MatteBCELoss(float('nan')), 'loss_weight=nan'),
        (lambda: MatteDiceLoss(denominator='cubic'), "denominator='cubic', expected one of"),
        (lambda: MatteDiceLoss(epsilon=0), 'epsilon=0'),
        (lambda: LaplacianPyramidLoss(num_levels=0), 'num_levels=0'),
        (lambda: PerceptualLoss(mode='photo'), "mode='photo'"),
        (lambda: PerceptualLoss(background='green'), "background='green'"),
        (lambda: PerceptualLoss(background=2), 'background=2'),
        (lambda: PerceptualLoss(max_size=8), 'max_size=8'),
    ],
)
def test_losses__refuse_impossible_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        (
            dict(logits=torch.zeros(1, 2, 8, 8)),
            r'logits of shape \(1, 2, 8, 8\), expected \(1, 1, 8, 8\)',
        ),
        (dict(alpha=torch.zeros(1, 8, 8)), 'alpha of shape'),
        (dict(valid=torch.ones(1, 1, 8, 8)), 'expected bool'),
        (dict(images=torch.zeros(1, 3, 4, 4)), 'images of shape'),
    ],
    ids=['two-logits', 'alpha', 'valid', 'images'],
)
def test_losses__refuse_shapes_that_would_broadcast(changed, message):
    inputs = dict(
        logits=torch.zeros(1, 1, 8, 8),
        alpha=torch.zeros(1, 1, 8, 8),
        valid=torch.ones(1, 1, 8, 8, dtype=torch.bool),
        images=torch.zeros(1, 3, 8, 8),
    )
    with pytest.raises(ValueError, match=message):
        MatteDiceLoss()(**inputs | changed)
