"""The Dice loss of classes, against a slow loop, and what it is for: rare classes and ignored pixels."""

import numpy as np
import pytest
import torch

from mmext.models.common.class_dice import ClassDiceLoss, class_dice_loss


def slow_loss(
    logits: np.ndarray, labels: np.ndarray, ignored: int, smooth: float, weights: np.ndarray | None
) -> float:
    """Class by class and pixel by pixel."""
    num_images, num_classes, height, width = logits.shape
    sums = np.zeros((3, num_classes))
    for image, row, column in np.ndindex(num_images, height, width):
        label = labels[image, row, column]
        if label == ignored:
            continue
        weight = 1.0 if weights is None else weights[image, row, column]
        exponents = np.exp(logits[image, :, row, column].astype(float))
        probs = exponents / exponents.sum()
        sums[0] += weight * probs
        sums[1, label] += weight
        sums[2, label] += weight * probs[label]
    losses = [
        1 - (2 * common + smooth) / (found + area + smooth)
        for found, area, common in sums.T
        if area > 0
    ]
    return float(np.mean(losses)) if losses else 0.0


@pytest.mark.parametrize('weighted', (False, True), ids=('plain', 'pixel weights'))
@pytest.mark.parametrize('ignored', (255, 1), ids=('255', 'a class'))
def test_loss__equals_a_loop(ignored: int, weighted: bool) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 4, 5, 7)).astype(np.float32)
    labels = rng.choice([0, 1, 2, ignored], size=(2, 5, 7))  # class 3 is not shown
    weights = rng.uniform(0, 2, size=(2, 5, 7)).astype(np.float32) if weighted else None
    loss = class_dice_loss(
        torch.from_numpy(logits),
        torch.from_numpy(labels),
        ignore_index=ignored,
        pixel_weight=None if weights is None else torch.from_numpy(weights),
        smooth=0.5,
    )
    assert float(loss) == pytest.approx(slow_loss(logits, labels, ignored, 0.5, weights), abs=1e-6)


def test_loss__a_missed_speck_costs_as_much_as_a_missed_half() -> None:
    labels = torch.zeros(1, 40, 40, dtype=torch.long)
    labels[0, :2, :2] = 1
    labels[0, 20:] = 2
    losses = []
    for missed in (1, 2):
        logits = 50.0 * torch.nn.functional.one_hot(labels.where(labels != missed, 0), 3)
        losses.append(float(class_dice_loss(logits.permute(0, 3, 1, 2), labels, smooth=1e-3)))
    assert losses[0] > 0.33 and losses[1] > 0.33  # a third each: all of one class is missed
    perfect = 50.0 * torch.nn.functional.one_hot(labels, 3).permute(0, 3, 1, 2)
    assert float(class_dice_loss(perfect, labels)) < 1e-6


@pytest.mark.parametrize('case', ('all ignored', 'extreme', 'half precision', 'one class'))
def test_loss__gradient_is_finite(case: str) -> None:
    num_classes = 1 if case == 'one class' else 3
    dtype = torch.bfloat16 if case == 'half precision' else torch.float32
    logits = torch.randn(2, num_classes, 4, 4).to(dtype).requires_grad_()
    labels = torch.randint(0, num_classes, (2, 4, 4))
    if case == 'all ignored':
        labels[:] = 255
    scale = 1e4 if case == 'extreme' else 1.0
    loss = ClassDiceLoss(2.0)(logits * scale, labels)
    loss.backward()
    assert loss.dtype == torch.float32 and torch.isfinite(loss) and 0 <= loss <= 2
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
    if case == 'all ignored':
        assert float(loss.detach()) == 0 and not logits.grad.any()


def test_loss__ignored_pixels_change_nothing() -> None:
    logits, labels = torch.randn(1, 3, 6, 6), torch.randint(0, 3, (1, 6, 6))
    padded_logits = torch.nn.functional.pad(logits, (0, 5, 0, 5), value=9.0)
    padded_labels = torch.nn.functional.pad(labels, (0, 5, 0, 5), value=255)
    expected = class_dice_loss(logits, labels)
    torch.testing.assert_close(class_dice_loss(padded_logits, padded_labels), expected)
