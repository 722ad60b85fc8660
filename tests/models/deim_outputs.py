"""Outputs of a DEIM decoder made of random numbers, and objects, for the tests of what reads them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmext.models.deim.distribution import decode_boxes, make_bin_values
from mmext.models.deim.outputs import (
    BoxOutputs,
    DecoderOutputs,
    DenoisingMatches,
    DenoisingOutputs,
    ImageTargets,
    LayerOutputs,
)

CLASSES, SCALE, NUM_BINS = 3, 4.0, 33


def random_targets(*counts: int, classes: int = CLASSES) -> list[ImageTargets]:
    """Objects so large that each overlaps some of the queries; without, the late cost has ties."""
    return [
        ImageTargets(
            torch.randint(classes, (count,)),
            torch.cat([0.2 + 0.6 * torch.rand(count, 2), 0.2 + 0.4 * torch.rand(count, 2)], dim=1),
        )
        for count in counts
    ]


def leaf(values: Tensor) -> Tensor:
    """A value that the losses are to have a gradient to."""
    return values.detach().requires_grad_()


def random_boxes(batch: int, queries: int) -> Tensor:
    """Some of them with a negative size, as heads do emit."""
    boxes = torch.rand(batch, queries, 4)
    boxes[:, ::5, 2:] -= 0.6
    return boxes


def random_box_outputs(batch: int, queries: int, classes: int = CLASSES) -> BoxOutputs:
    return BoxOutputs(
        leaf(torch.randn(batch, queries, classes)), leaf(random_boxes(batch, queries))
    )


def random_layers(
    batch: int, queries: int, layers: int, classes: int = CLASSES
) -> tuple[LayerOutputs, ...]:
    bins = make_bin_values(NUM_BINS, SCALE)
    refs = 0.05 + 0.9 * torch.rand(batch, queries, 4)
    outputs = []
    for _ in range(layers):
        corners = 2 * torch.randn(batch, queries, 4 * NUM_BINS)
        boxes = decode_boxes(refs, corners, bins, SCALE)
        logits = torch.randn(batch, queries, classes)
        outputs.append(LayerOutputs(leaf(logits), leaf(boxes), leaf(corners), refs, refs))
    return tuple(outputs)


def random_denoising(
    targets: Sequence[ImageTargets], groups: int, layers: int, classes: int = CLASSES
) -> DenoisingOutputs:
    """Groups of positives, padded to the largest number of objects, and as many negatives."""
    size = max(len(own.labels) for own in targets)
    matches = DenoisingMatches(
        tuple(
            torch.cat([2 * size * group + torch.arange(len(own.labels)) for group in range(groups)])
            for own in targets
        ),
        tuple(torch.arange(len(own.labels)).repeat(groups) for own in targets),
        groups,
    )
    queries = 2 * size * groups
    return DenoisingOutputs(
        random_layers(len(targets), queries, layers, classes),
        random_box_outputs(len(targets), queries, classes),
        matches,
    )


def random_outputs(
    batch: int,
    *,
    queries: int = 12,
    layers: int = 3,
    classes: int = CLASSES,
    denoising: DenoisingOutputs | None = None,
) -> DecoderOutputs:
    return DecoderOutputs(
        random_layers(batch, queries, layers, classes),
        random_box_outputs(batch, queries, classes),
        random_box_outputs(batch, queries, classes),
        denoising,
        make_bin_values(NUM_BINS, SCALE),
        SCALE,
    )
