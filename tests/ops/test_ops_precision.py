"""Half precision, autocast, blocks and bad input: what the recorded values cannot show."""

import mmcv.ops
import pytest
import torch
from torch import Tensor

from tests.ops.op_cases import random_boxes, uniform

ROIS = torch.tensor([[0, 2.0, 3, 20, 30], [0, -5, 10, 44, 18]])


def convolution_inputs() -> dict[str, Tensor]:
    return {
        'input': uniform(1, 1, 4, 8, 8),
        'offset': uniform(2, 1, 18, 8, 8),
        'mask': uniform(3, 1, 9, 8, 8, low=0),
        'weight': uniform(4, 6, 4, 3, 3),
        'bias': uniform(5, 6),
    }


@pytest.mark.parametrize('mode', ['avg', 'max'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_roi_align__half_precision(dtype, mode, torch_ops):
    features = uniform(9, 1, 3, 10, 12).to(dtype).requires_grad_()
    rois = ROIS.to(dtype)
    output = mmcv.ops.roi_align(features, rois, 3, 0.25, 0, mode, True)
    exact = mmcv.ops.roi_align(features.double(), rois.double(), 3, 0.25, 0, mode, True)
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), exact, rtol=1e-2, atol=1e-2)
    (grad,), (expected,) = (torch.autograd.grad(out.sum(), features) for out in (output, exact))
    assert grad.dtype == dtype
    torch.testing.assert_close(grad.sum(), expected.sum(), rtol=1e-2, atol=0)


def test_roi_align__gradient_is_that_of_finite_differences(torch_ops):
    features = uniform(9, 1, 2, 5, 6).double().requires_grad_()
    rois = ROIS.double()
    assert torch.autograd.gradcheck(
        lambda values: mmcv.ops.roi_align(values, rois, 2, 0.125, 0, 'avg', True), (features,)
    )


def test_roi_align__blocks_of_boxes_change_nothing(torch_ops, monkeypatch):
    features = uniform(9, 1, 3, 10, 12)
    rois = torch.cat([torch.zeros(20, 1), random_boxes(10, 20, 40)], 1)
    for mode in ('avg', 'max'):
        whole = mmcv.ops.roi_align(features, rois, 3, 0.25, 0, mode, True)
        monkeypatch.setattr('mmext.ops.roi_align._ENTRIES_PER_BLOCK', 3 * (3 * 10 + 3 * 12))
        torch.testing.assert_close(
            mmcv.ops.roi_align(features, rois, 3, 0.25, 0, mode, True), whole
        )
        monkeypatch.undo()


@pytest.mark.parametrize(
    ('x2', 'size'), [(10.0, '-2.5'), (torch.nan, 'nan'), (torch.inf, 'inf')], ids=str
)
def test_roi_align__impossible_size_is_an_error(x2, size, torch_ops):
    rois = torch.tensor([[0, 20.0, 5, x2, 15]])
    with pytest.raises(ValueError, match=f'size {size} '):
        mmcv.ops.roi_align(uniform(9, 1, 1, 8, 8), rois, 2, 0.25, 0, 'avg', True)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_modulated_deform_conv__half_precision(dtype, torch_ops):
    inputs = {key: value.to(dtype) for key, value in convolution_inputs().items()}
    leaves = [tensor.requires_grad_() for tensor in inputs.values()]
    output = mmcv.ops.modulated_deform_conv2d(*leaves, 1, 1)
    exact = mmcv.ops.modulated_deform_conv2d(*(leaf.double() for leaf in leaves), 1, 1)
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), exact, rtol=2e-2, atol=2e-2)
    for grad, reference in zip(
        torch.autograd.grad(output.sum(), leaves),
        torch.autograd.grad(exact.sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(grad, reference, rtol=2e-2, atol=0.2)


def test_modulated_deform_conv__runs_in_float32_under_autocast(torch_ops):
    leaves = [tensor.requires_grad_() for tensor in convolution_inputs().values()]
    expected = mmcv.ops.modulated_deform_conv2d(*leaves, 1, 1)
    with torch.autocast('cpu', torch.bfloat16):
        output = mmcv.ops.modulated_deform_conv2d(*leaves, 1, 1)
        grads = torch.autograd.grad(output.sum(), leaves)
    torch.testing.assert_close(output, expected, rtol=0, atol=0)
    torch.testing.assert_close(
        grads, torch.autograd.grad(expected.sum(), leaves), rtol=1e-6, atol=1e-6
    )


def test_modulated_deform_conv__blocks_of_rows_change_nothing(torch_ops, monkeypatch):
    leaves = [tensor.requires_grad_() for tensor in convolution_inputs().values()]
    whole = mmcv.ops.modulated_deform_conv2d(*leaves, 1, 1)
    grads = torch.autograd.grad((whole**2).sum(), leaves)
    # Three rows a block: the last of eight is shorter.
    monkeypatch.setattr('mmext.ops.deformable._BYTES_PER_BLOCK', 3 * (4 * 4 * 9 * 8 + 200 * 9 * 8))
    parts = mmcv.ops.modulated_deform_conv2d(*leaves, 1, 1)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad((parts**2).sum(), leaves), grads)


def test_deform_conv__without_offsets_is_a_convolution(torch_ops):
    inputs = convolution_inputs()
    output = mmcv.ops.deform_conv2d(
        inputs['input'], torch.zeros_like(inputs['offset']), inputs['weight'], 1, 1
    )
    expected = torch.nn.functional.conv2d(inputs['input'], inputs['weight'], padding=1)
    torch.testing.assert_close(output, expected)


def test_deform_conv__nan_offsets_read_zeros(torch_ops):
    inputs = convolution_inputs()
    offset = torch.full_like(inputs['offset'], torch.nan)
    assert not mmcv.ops.deform_conv2d(inputs['input'], offset, inputs['weight'], 1, 1).any()


def test_bbox_overlaps__blocks_of_rows_change_nothing(torch_ops, monkeypatch):
    first, second = random_boxes(1, 50), random_boxes(2, 30)
    whole = mmcv.ops.bbox_overlaps(first, second)
    monkeypatch.setattr('mmext.ops.bbox_overlaps._PAIRS_PER_BLOCK', 7 * 30)
    torch.testing.assert_close(mmcv.ops.bbox_overlaps(first, second), whole, rtol=0, atol=0)


def test_bbox_overlaps__half_precision_does_not_overflow(torch_ops):
    # The area of this box, 90,000, is beyond float16.
    box = torch.tensor([[0, 0, 300, 300]], dtype=torch.float16)
    assert mmcv.ops.bbox_overlaps(box, box).item() == 1
