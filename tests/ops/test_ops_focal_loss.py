"""Focal losses against autograd on the formula of the paper (mmcv compiles them for CUDA only)."""

import mmcv.ops
import pytest
import torch
from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss
from torch import Tensor
from torch.nn import functional

CLASS_WEIGHTS = torch.tensor([0.5, 2.0, 1.5, 0.1], dtype=torch.float64)


def logits_and_targets(num: int = 9, background: int | None = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num)
    # In float64: the ops' log(1 - p) loses digits in float32, and mmdet's formula does not.
    logits = (4 * torch.randn(num, 4, generator=generator).double()).requires_grad_()
    targets = torch.randint(0, 4, (num,), generator=generator)
    if background is not None:
        targets[::3] = background
    return logits, targets


def assert_same_with_gradient(output: Tensor, expected: Tensor, logits: Tensor) -> None:
    torch.testing.assert_close(output, expected)
    grads = [torch.autograd.grad(value.sum(), logits)[0] for value in (output, expected)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
@pytest.mark.parametrize('gamma', [0.0, 1.5, 2.0])
def test_sigmoid_focal_loss__matches_mmdet_on_one_hot_targets(gamma, reduction, torch_ops):
    logits, targets = logits_and_targets()
    output = mmcv.ops.sigmoid_focal_loss(logits, targets, gamma, 0.3, None, reduction)
    one_hot = functional.one_hot(targets, 5)[:, :4]
    expected = py_sigmoid_focal_loss(logits, one_hot, gamma=gamma, alpha=0.3, reduction='none')
    if reduction != 'none':
        expected = expected.sum() / (len(logits) if reduction == 'mean' else 1)
    assert_same_with_gradient(output, expected, logits)


def test_sigmoid_focal_loss__class_weights_scale_the_samples(torch_ops):
    logits, targets = logits_and_targets()
    plain = mmcv.ops.sigmoid_focal_loss(logits, targets, 2.0, 0.25, None, 'none')
    weighted = mmcv.ops.sigmoid_focal_loss(logits, targets, 2.0, 0.25, CLASS_WEIGHTS, 'none')
    factors = torch.cat([CLASS_WEIGHTS, torch.ones(1)])[targets]  # background counts 1
    assert_same_with_gradient(weighted, plain * factors[:, None], logits)


def test_sigmoid_focal_loss__extreme_logits_stay_finite(torch_ops):
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = mmcv.ops.sigmoid_focal_loss(logits, torch.tensor([1]), 2.0, 0.25, None, 'none')
    loss.sum().backward()
    # -log of the smallest normal float32, times (1 - alpha) and alpha: both entries are wrong.
    torch.testing.assert_close(loss, torch.tensor([[0.75, 0.25]]) * 87.33655)
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_sigmoid_focal_loss__no_samples(torch_ops):
    logits = torch.empty(0, 3, requires_grad=True)
    targets = torch.empty(0, dtype=torch.long)
    loss = mmcv.ops.sigmoid_focal_loss(logits, targets, 2.0, 0.25, None, 'sum')
    loss.backward()
    assert loss == 0 and logits.grad is not None


@pytest.mark.parametrize('weights', [None, CLASS_WEIGHTS], ids=['unweighted', 'weighted'])
@pytest.mark.parametrize('reduction', ['mean', 'sum'])
def test_softmax_focal_loss__matches_autograd_on_the_formula(reduction, weights, torch_ops):
    logits, targets = logits_and_targets(background=None)
    output = mmcv.ops.softmax_focal_loss(logits, targets, 2.0, 0.3, weights, reduction)
    log_prob = logits.log_softmax(1).gather(1, targets[:, None])[:, 0]
    expected = -0.3 * (1 - log_prob.exp()) ** 2 * log_prob
    if weights is not None:
        expected = expected * weights[targets]
    expected = expected.sum() / (len(logits) if reduction == 'mean' else 1)
    assert_same_with_gradient(output, expected, logits)


def test_softmax_focal_loss__negative_targets_are_ignored(torch_ops):
    logits, targets = logits_and_targets(background=-1)
    loss = mmcv.ops.softmax_focal_loss(logits, targets, 2.0, 0.25, CLASS_WEIGHTS, 'sum')
    rest = targets >= 0
    expected = mmcv.ops.softmax_focal_loss(
        logits[rest], targets[rest], 2.0, 0.25, CLASS_WEIGHTS, 'sum'
    )
    assert_same_with_gradient(loss, expected, logits)
