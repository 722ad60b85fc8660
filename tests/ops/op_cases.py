"""Calls of mmcv's ops on seeded inputs: recorded with compiled ops, replayed with torch ones.

`CASES` maps a name to a function that calls `mmcv.ops` and returns named arrays: outputs and, where
the op has them, the derivatives of a weighted sum of the outputs by every input.
"""

from collections.abc import Callable
from functools import partial

import mmcv.ops
import numpy as np
import torch
from torch import Tensor

Arrays = dict[str, np.ndarray]


def uniform(seed: int, *shape: int, low: float = -1.0, high: float = 1.0) -> Tensor:
    values = np.random.default_rng(seed).random(shape) * (high - low) + low
    return torch.from_numpy(values.astype(np.float32))


def random_boxes(seed: int, num: int, extent: float = 100.0, size: float = 30.0) -> Tensor:
    """Boxes (num, 4) xyxy around [0, extent], so that some stick out on each side."""
    centre = uniform(seed, num, 2, low=0, high=extent)
    half = uniform(seed + 1, num, 2, low=1, high=size) / 2
    return torch.cat([centre - half, centre + half], 1)


def scores_of(seed: int, num: int) -> Tensor:
    return uniform(seed + 2, num, low=0.05, high=1)


def special_boxes() -> dict[str, tuple[Tensor, Tensor]]:
    """Boxes and scores where greedy suppression has something to decide."""
    square = torch.tensor([[0.0, 0, 10, 10]])
    return {
        'empty': (torch.empty(0, 4), torch.empty(0)),
        'one': (square, torch.tensor([0.5])),
        'identical': (square.repeat(6, 1), torch.tensor([0.2, 0.9, 0.1, 0.8, 0.3, 0.4])),
        'identical_equal_scores': (square.repeat(6, 1), torch.full((6,), 0.5)),
        # IoU of exactly 1/2 with the first box: at the threshold, not above it.
        'at_threshold': (torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]]), torch.tensor([0.9, 0.8])),
        'no_area': (
            torch.tensor([[3.0, 3, 3, 3], [3, 3, 3, 3], [0, 0, 9, 9], [5, 5, 5, 5]]),
            torch.tensor([0.9, 0.8, 0.7, 0.6]),
        ),
        'inverted': (
            torch.tensor([[9.0, 9, 1, 1], [1, 1, 9, 9], [2, 2, 9, 9]]),
            torch.tensor([0.9, 0.8, 0.7]),
        ),
        'negative': (random_boxes(7, 40) - 1000, scores_of(7, 40)),
    }


def arrays(**tensors: Tensor) -> Arrays:
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def with_gradients(output: Tensor, **inputs: Tensor) -> Arrays:
    """The output and the derivatives of its sum, weighted by a formula."""
    weight = torch.arange(output.numel(), dtype=torch.float32).mul(0.7).cos().view(output.shape)
    grads = torch.autograd.grad((output * weight).sum(), list(inputs.values()))
    named = {f'grad_{name}': grad for name, grad in zip(inputs, grads, strict=True)}
    return arrays(output=output, **named)


def nms_case(boxes: Tensor, scores: Tensor, **options: float) -> Arrays:
    dets, index = mmcv.ops.nms(boxes, scores, **options)
    return arrays(dets=dets, index=index)


def soft_nms_case(boxes: Tensor, scores: Tensor, **options: float | str) -> Arrays:
    dets, index = mmcv.ops.soft_nms(boxes, scores, **options)
    return arrays(dets=dets, index=index)


def batched_nms_case(num: int, **options: float) -> Arrays:
    labels = torch.arange(num) * 7 % 20
    dets, index = mmcv.ops.batched_nms(
        random_boxes(21, num), scores_of(21, num), labels, dict(type='nms', **options)
    )
    return arrays(scores=dets[:, 4], index=index.to(torch.int16))


def nms_match_case(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Arrays:
    groups = mmcv.ops.nms_match(torch.cat([boxes, scores[:, None]], 1), iou_threshold)
    return arrays(
        index=torch.cat([torch.zeros(0, dtype=torch.long), *groups]),
        sizes=torch.tensor([len(group) for group in groups], dtype=torch.long),
    )


def overlaps_case(first: Tensor, second: Tensor, **options: int | str | bool) -> Arrays:
    return arrays(ious=mmcv.ops.bbox_overlaps(first, second, **options))


ROIS = {
    'inside': [[0, 4.0, 6, 40, 30], [1, 10.3, 5.7, 21.9, 44.2], [0, 30, 30, 33, 34]],
    'beyond': [[1, -30.0, -10, 20, 90], [0, 60, 50, 90, 70], [1, -40, -40, -30, -30]],
    'no_size': [[0, 8.0, 8, 8, 8], [1, 5, 5, 25, 5], [0, 0.5, 0.5, 1, 1]],
    'none': [],
}


def roi_align_case(
    rois: str, output_size: tuple[int, int], sampling_ratio: int, pool_mode: str, aligned: bool
) -> Arrays:
    features = uniform(31, 2, 2, 11, 15).requires_grad_()
    boxes = torch.tensor(ROIS[rois]).view(-1, 5)
    output = mmcv.ops.roi_align(
        features, boxes, output_size, 0.25, sampling_ratio, pool_mode, aligned
    )
    return with_gradients(output, features=features)


# Channels in and out, size of the map, kernel, stride, padding, dilation, groups, deformable
# groups.
CONVOLUTIONS = {
    'plain': (3, 4, (7, 9), (3, 3), (1, 1), (1, 1), (1, 1), 1, 1),
    'strided': (4, 2, (9, 6), (3, 3), (2, 1), (0, 1), (1, 1), 1, 2),
    'dilated': (4, 6, (8, 7), (3, 3), (1, 1), (2, 2), (2, 2), 2, 1),
    'groups': (4, 4, (5, 6), (1, 3), (1, 2), (0, 1), (1, 1), 2, 4),
}


def deform_conv_case(name: str, batch: int, modulated: bool, spread: float, bias: bool) -> Arrays:
    """`spread` is the size of the offsets, in cells; 0 puts every sample exactly on a cell."""
    c_in, c_out, size, kernel, stride, padding, dilation, groups, deform_groups = CONVOLUTIONS[name]
    out = [
        (size[axis] + 2 * padding[axis] - dilation[axis] * (kernel[axis] - 1) - 1) // stride[axis]
        + 1
        for axis in range(2)
    ]
    num = deform_groups * kernel[0] * kernel[1]
    inputs = {
        'input': uniform(41, batch, c_in, *size),
        'offset': uniform(42, batch, 2 * num, *out, low=-spread, high=spread),
        'mask': uniform(43, batch, num, *out, low=0),
        'weight': uniform(44, c_out, c_in // groups, *kernel),
        'bias': uniform(45, c_out),
    }
    if not modulated:
        del inputs['mask']
    if not bias:
        del inputs['bias']
    for tensor in inputs.values():
        tensor.requires_grad_()
    geometry = (stride, padding, dilation, groups, deform_groups)
    if modulated:
        tensors = [inputs.get(key) for key in ('input', 'offset', 'mask', 'weight', 'bias')]
        output = mmcv.ops.modulated_deform_conv2d(*tensors, *geometry)
    else:
        tensors = [inputs[key] for key in ('input', 'offset', 'weight')]
        output = mmcv.ops.deform_conv2d(*tensors, *geometry)
    return with_gradients(output, **inputs)


def _nms_cases() -> dict[str, Callable[[], Arrays]]:
    boxes, scores = random_boxes(1, 300), scores_of(1, 300)
    cases: dict[str, Callable[[], Arrays]] = {}
    for threshold in (0.1, 0.5, 0.8):
        for offset in (0, 1):
            cases[f'nms-random-{threshold}-{offset}'] = partial(
                nms_case, boxes, scores, iou_threshold=threshold, offset=offset
            )
    for method in ('naive', 'linear', 'gaussian'):
        for offset in (0, 1):
            cases[f'soft_nms-{method}-{offset}'] = partial(
                soft_nms_case, boxes[:60], scores[:60], method=method, offset=offset, min_score=0.05
            )
    for name, (special, score) in special_boxes().items():
        cases[f'nms-{name}'] = partial(nms_case, special, score, iou_threshold=0.5)
        cases[f'nms_match-{name}'] = partial(nms_match_case, special, score, 0.5)
        cases[f'soft_nms-{name}'] = partial(soft_nms_case, special, score, iou_threshold=0.5)
    cases['nms-score_threshold'] = partial(
        nms_case, boxes, scores, iou_threshold=0.5, score_threshold=0.6, max_num=20
    )
    cases['nms_match-random'] = partial(nms_match_case, boxes, scores, 0.3)
    cases['batched_nms'] = partial(batched_nms_case, 1500, iou_threshold=0.5)
    cases['batched_nms-split'] = partial(batched_nms_case, 1500, iou_threshold=0.5, split_thr=100)
    return cases


def _overlap_cases() -> dict[str, Callable[[], Arrays]]:
    first, second = random_boxes(11, 9), random_boxes(14, 7)
    special, _ = special_boxes()['no_area']
    cases: dict[str, Callable[[], Arrays]] = {}
    for mode in ('iou', 'iof'):
        for offset in (0, 1):
            options = dict(mode=mode, offset=offset)
            name = f'bbox_overlaps-{mode}-{offset}'
            cases[name] = partial(overlaps_case, first, second, **options)
            cases[f'{name}-aligned'] = partial(
                overlaps_case, first[:7], second, aligned=True, **options
            )
            cases[f'{name}-no_area'] = partial(overlaps_case, special, special, **options)
    cases['bbox_overlaps-empty'] = partial(overlaps_case, first[:0], second)
    return cases


def _roi_align_cases() -> dict[str, Callable[[], Arrays]]:
    cases: dict[str, Callable[[], Arrays]] = {}
    for pool_mode in ('avg', 'max'):
        for aligned in (True, False):
            for rois, sampling_ratio, size in (
                ('inside', 0, (3, 2)),
                ('inside', 2, (1, 4)),
                ('beyond', 0, (2, 2)),
                ('no_size', 0, (2, 3)),
                ('none', 0, (2, 2)),
            ):
                name = f'roi_align-{pool_mode}-{"aligned" if aligned else "legacy"}-{rois}'
                cases[f'{name}-{sampling_ratio}'] = partial(
                    roi_align_case, rois, size, sampling_ratio, pool_mode, aligned
                )
    return cases


def _deform_cases() -> dict[str, Callable[[], Arrays]]:
    cases: dict[str, Callable[[], Arrays]] = {}
    for name in CONVOLUTIONS:
        cases[f'deform_conv-{name}'] = partial(deform_conv_case, name, 2, False, 2.0, False)
        cases[f'modulated_deform_conv-{name}'] = partial(
            deform_conv_case, name, 1, True, 2.0, name != 'groups'
        )
    cases['deform_conv-zero_offsets'] = partial(deform_conv_case, 'plain', 1, False, 0.0, False)
    cases['modulated_deform_conv-zero_offsets'] = partial(
        deform_conv_case, 'plain', 1, True, 0.0, True
    )
    cases['modulated_deform_conv-far_offsets'] = partial(
        deform_conv_case, 'strided', 1, True, 9.0, True
    )
    return cases


CASES: dict[str, Callable[[], Arrays]] = {
    **_nms_cases(),
    **_overlap_cases(),
    **_roi_align_cases(),
    **_deform_cases(),
}
