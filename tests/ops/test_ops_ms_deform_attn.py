"""Multi-scale deformable attention against mmcv's `grid_sample` form.

mmcv compiles the op for CUDA only, so there are no recorded values.
"""

import pytest
import torch
from mmcv.ops.multi_scale_deform_attn import (
    MultiScaleDeformableAttnFunction,
    multi_scale_deformable_attn_pytorch,
)
from torch import Tensor

SHAPES = torch.tensor([[7, 5], [3, 4], [1, 1]])
STARTS = torch.tensor([0, 35, 47])


def inputs(num_queries: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Values, locations (some of them off the map) and weights."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 48, 4, 6), (2, num_queries, 4, 3, 2, 2), (2, num_queries, 4, 3, 2))
    value, locations, weights = (torch.rand(shape, generator=generator) for shape in shapes)
    value, locations, weights = value - 0.5, 1.4 * locations - 0.2, weights.softmax(-1)
    return tuple(tensor.to(dtype).requires_grad_() for tensor in (value, locations, weights))


@pytest.mark.parametrize('num_queries', [0, 1, 50])
def test_ms_deform_attn__matches_grid_sample(num_queries, torch_ops):
    value, locations, weights = leaves = inputs(num_queries)
    output = MultiScaleDeformableAttnFunction.apply(value, SHAPES, STARTS, locations, weights, 64)
    expected = multi_scale_deformable_attn_pytorch(value, SHAPES, locations, weights)
    torch.testing.assert_close(output, expected)

    direction = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    grads = [torch.autograd.grad((out * direction).sum(), leaves) for out in (output, expected)]
    torch.testing.assert_close(*grads)


def test_ms_deform_attn__blocks_of_queries_change_nothing(torch_ops, monkeypatch):
    value, locations, weights = leaves = inputs(50)
    whole = MultiScaleDeformableAttnFunction.apply(value, SHAPES, STARTS, locations, weights, 64)
    monkeypatch.setattr('mmext.ops.ms_deform_attn._POSITIONS_PER_BLOCK', 7 * 4 * 3 * 2)
    parts = MultiScaleDeformableAttnFunction.apply(value, SHAPES, STARTS, locations, weights, 64)
    torch.testing.assert_close(parts, whole)
    expected = multi_scale_deformable_attn_pytorch(value, SHAPES, locations, weights)
    grads = [torch.autograd.grad((out**2).sum(), leaves) for out in (parts, expected)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_ms_deform_attn__half_precision_keeps_its_dtype(dtype, torch_ops):
    value, locations, weights = leaves = inputs(5, dtype)
    output = MultiScaleDeformableAttnFunction.apply(value, SHAPES, STARTS, locations, weights, 64)
    exact = multi_scale_deformable_attn_pytorch(
        value.double(), SHAPES, locations.double(), weights.double()
    )
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), exact, rtol=1e-2, atol=1e-2)
    assert all(grad.dtype == dtype for grad in torch.autograd.grad(output.sum(), leaves))
