"""RoI pooling against a slow loop written from the definition (mmcv compiles it for CUDA only)."""

import math

import mmcv.ops
import pytest
import torch
from torch import Tensor

ROIS = torch.tensor(
    [
        [0, 0.0, 0, 30, 20],
        [1, 3.3, 7.8, 19.1, 21.7],
        [1, -9, -9, 8, 60],  # partly off the map
        [0, 70, 70, 90, 90],  # wholly off the map
        [0, 12, 12, 12, 12],  # one pixel
    ]
)


def slow_roi_pool(features: Tensor, rois: Tensor, size: tuple[int, int], scale: float) -> Tensor:
    """One bin at a time; differentiable."""
    rows = []
    for image, x1, y1, x2, y2 in rois.tolist():
        left, top = x1 * scale, y1 * scale
        bin_w, bin_h = ((x2 + 1) * scale - left) / size[1], ((y2 + 1) * scale - top) / size[0]
        height, width = features.shape[2:]
        cells = []
        for i in range(size[0]):
            for j in range(size[1]):
                first_y = min(max(math.floor(top + i * bin_h), 0), height)
                last_y = min(max(math.ceil(top + (i + 1) * bin_h), 0), height)
                first_x = min(max(math.floor(left + j * bin_w), 0), width)
                last_x = min(max(math.ceil(left + (j + 1) * bin_w), 0), width)
                part = features[int(image), :, first_y:last_y, first_x:last_x].flatten(1)
                empty = part.size(1) == 0
                cells.append(features.new_zeros(len(part)) if empty else part.max(1).values)
        rows.append(torch.stack(cells, 1).view(-1, *size))
    return torch.stack(rows)


@pytest.mark.parametrize('size', [(1, 1), (2, 3), (7, 7)], ids=str)
def test_roi_pool__matches_a_slow_loop(size, torch_ops):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 9, 13, generator=generator).requires_grad_()
    output = mmcv.ops.roi_pool(features, ROIS, size, 0.25)
    expected = slow_roi_pool(features, ROIS, size, 0.25)
    torch.testing.assert_close(output, expected, rtol=0, atol=0)

    weight = torch.randn(output.shape, generator=generator)
    grads = [
        torch.autograd.grad((result * weight).sum(), features)[0] for result in (output, expected)
    ]
    torch.testing.assert_close(*grads)


def test_roi_pool__equal_cells_send_the_gradient_to_the_first_in_reading_order(torch_ops):
    features = torch.zeros(1, 1, 3, 3, requires_grad=True)
    mmcv.ops.roi_pool(features, torch.tensor([[0.0, 0, 0, 2, 2]]), 1).sum().backward()
    assert features.grad is not None
    assert features.grad.flatten().tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0]
    features = torch.tensor([[[[0.0, 0, 5], [0, 5, 0], [5, 0, 0]]]], requires_grad=True)
    mmcv.ops.roi_pool(features, torch.tensor([[0.0, 0, 0, 2, 2]]), 1).sum().backward()
    assert features.grad is not None
    assert features.grad.flatten().tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0]


def test_roi_pool__negative_size_gives_zeros_and_sends_the_gradient_to_the_first_cell(torch_ops):
    # What the CUDA kernel does with mmcv's buffers: it skips such a box, and the cell stays at 0.
    features = torch.ones(1, 1, 3, 3, requires_grad=True)
    output = mmcv.ops.roi_pool(features, torch.tensor([[0.0, 2, 0, 0, 2]]), 2)
    output.sum().backward()
    assert not output.any()
    assert features.grad is not None
    assert features.grad.flatten().tolist() == [4, 0, 0, 0, 0, 0, 0, 0, 0]


def test_roi_pool__no_boxes(torch_ops):
    features = torch.randn(1, 2, 4, 4, requires_grad=True)
    output = mmcv.ops.roi_pool(features, torch.empty(0, 5), 3)
    output.sum().backward()
    assert output.shape == (0, 2, 3, 3)
    assert features.grad is not None and not features.grad.any()
