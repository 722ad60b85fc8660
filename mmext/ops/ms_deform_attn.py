"""Multi-scale deformable attention: mmcv's `ms_deform_attn_forward` and `ms_deform_attn_backward`.

Paper: Deformable DETR, Zhu et al., ICLR 2021 (https://arxiv.org/abs/2010.04159). mmcv's attention
module calls the op for CUDA tensors; on the CPU it samples by `grid_sample` and needs no op.

Letters: B batch, K keys (cells of all levels), Q queries, M heads, D channels of a head, L levels,
P points.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from mmext.ops.precision import widen
from mmext.ops.sampling import bilinear_taps, weighted_rows

# Sampling positions in flight; with what autograd keeps, about 200 bytes each: 50 MB.
_POSITIONS_PER_BLOCK = 1 << 18


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Attend to a few positions on each level.

    Args:
        value: (B, K, M, D).
        value_spatial_shapes: (L, 2) height and width of each level.
        value_level_start_index: (L,) first key of each level.
        sampling_locations: (B, Q, M, L, P, 2) x and y in [0, 1] of the level's map.
        attention_weights: (B, Q, M, L, P).
        im2col_step: images per kernel launch of the compiled op; not used.

    Returns:
        (B, Q, M * D) in the dtype of `value`.
    """
    levels = _levels(value_spatial_shapes, value_level_start_index)
    output = value.new_empty(*sampling_locations.shape[:3], value.size(3))
    for image, queries in _blocks(sampling_locations):
        output[image, queries] = _attend(
            widen(value[image]).flatten(0, 1),
            levels,
            widen(sampling_locations[image, queries]),
            widen(attention_weights[image, queries]),
        )
    return output.flatten(2)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Write the derivatives into the three `grad_*`, each of the shape of its input.

    `grad_output` is (B, Q, M * D); the other arguments are those of the forward op. The forward
    pass is computed again, a block at a time, so that nothing has to be kept in between.
    """
    levels = _levels(value_spatial_shapes, value_level_start_index)
    num_heads, num_channels = value.shape[2:]
    grad_output = grad_output.unflatten(2, (num_heads, num_channels))
    grad_tables = torch.zeros_like(value, dtype=widen(value).dtype)
    for image, queries in _blocks(sampling_locations):
        inputs = (
            widen(value[image]).flatten(0, 1).detach().requires_grad_(),
            widen(sampling_locations[image, queries]).detach().requires_grad_(),
            widen(attention_weights[image, queries]).detach().requires_grad_(),
        )
        with torch.enable_grad():
            output = _attend(inputs[0], levels, *inputs[1:])
        grads = torch.autograd.grad(output, inputs, widen(grad_output[image, queries]))
        grad_tables[image] += grads[0].view_as(grad_tables[image])
        grad_sampling_loc[image, queries] = grads[1].to(grad_sampling_loc.dtype)
        grad_attn_weight[image, queries] = grads[2].to(grad_attn_weight.dtype)
    grad_value.copy_(grad_tables)


def _attend(
    table: Tensor, levels: list[tuple[int, int, int]], locations: Tensor, attention: Tensor
) -> Tensor:
    """Attention of one image, (Q, M, D).

    Args:
        table: (K M, D).
        levels: height, width and first key of each level.
        locations: (Q, M, L, P, 2) x and y in [0, 1].
        attention: (Q, M, L, P).
    """
    num_queries, num_heads = attention.shape[:2]
    head = torch.arange(num_heads, device=table.device)[:, None, None]
    indices, weights = [], []
    for level, (height, width, start) in enumerate(levels):
        x, y = locations[:, :, level].unbind(-1)  # Q x M x P
        index, weight = bilinear_taps(y * height - 0.5, x * width - 0.5, height, width)
        indices.append((index + start) * num_heads + head)
        weights.append(weight * attention[:, :, level, :, None])
    # Each Q x M x P x 4: one output sums over the levels, points and cells.
    index = torch.stack(indices, 2).flatten(2).flatten(0, 1)
    weight = torch.stack(weights, 2).flatten(2).flatten(0, 1)
    return weighted_rows(table, index, weight).view(num_queries, num_heads, table.size(1))


def _levels(spatial_shapes: Tensor, start_index: Tensor) -> list[tuple[int, int, int]]:
    """Height, width and first key of each level, as numbers."""
    table = torch.cat([spatial_shapes.long(), start_index.long()[:, None]], 1).tolist()
    return [(height, width, start) for height, width, start in table]


def _blocks(sampling_locations: Tensor) -> Iterator[tuple[int, slice]]:
    """Image by image, as many queries at a time as fit in memory."""
    num_images, num_queries = sampling_locations.shape[:2]
    per_query = sampling_locations.shape[2:5].numel()
    step = max(1, _POSITIONS_PER_BLOCK // max(1, per_query))
    for image in range(num_images):
        for begin in range(0, num_queries, step):
            yield image, slice(begin, begin + step)
