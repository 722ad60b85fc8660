"""Contrastive denoising: true objects with noise as additional queries, which the decoder learns to mend or to reject.

Sources: DN-DETR (https://arxiv.org/abs/2203.01305), DINO (https://arxiv.org/abs/2203.03605) for the negatives.

Queries stand in groups, each of which holds all objects twice: first as positives with little noise, which have to
become the object, then as negatives with more noise, which have to become nothing. Images with fewer objects than
the richest of the batch fill up with queries of no class.

Shape letters: B images, G objects of the richest image, g groups, D = 2 G g denoising queries, Q matching queries,
C classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmext.models.deim.outputs import DenoisingMatches, ImageTargets

_FLIP_PROBABILITY = 0.25


class NoisyObjects(NamedTuple):
    """Objects with noise, and which of them have to become which object.

    Attributes:
        labels: (B, D) int64 in [0, C], C for the filling.
        boxes: (B, D, 4) cxcywh in [0, 1].
        matches: the positives.
    """

    labels: Tensor
    boxes: Tensor
    matches: DenoisingMatches


@torch.no_grad()
def make_noisy_objects(
    targets: Sequence[ImageTargets], num_classes: int, num_denoising: int
) -> NoisyObjects:
    """Copies of the objects with wrong classes and moved edges.

    A quarter of the labels are drawn anew from all classes. Each edge moves inwards or outwards by up to half of the
    box's size (positives), or by half of it to all of it (negatives).

    Args:
        targets: of every image.
        num_classes: C.
        num_denoising: positives that an image has at most, unless it has more objects: g = num_denoising // G >= 1.

    Returns:
        The copies. Without objects in the batch D is 0: in distributed training every process has the same losses,
        be it of nothing.
    """
    most = max(len(labels) for labels, _ in targets)
    num_groups = max(1, num_denoising // max(1, most))
    labels = pad_sequence(
        [labels for labels, _ in targets], batch_first=True, padding_value=num_classes
    )  # B x G
    boxes = pad_sequence([boxes for _, boxes in targets], batch_first=True)  # B x G x 4
    labels = labels.repeat(1, 2 * num_groups)
    return NoisyObjects(
        _flip_labels(labels, num_classes),
        _move_edges(boxes.repeat(1, 2 * num_groups, 1), _is_negative(most, num_groups, boxes)),
        _match([len(image.labels) for image in targets], num_groups, labels.device),
    )


def block_groups(
    num_queries: int, num_denoising: int, num_groups: int, device: torch.device
) -> Tensor:
    """Who must not see whom: nobody sees a group from outside of it, and everybody sees the matching queries.

    Args:
        num_queries: Q.
        num_denoising: D, a multiple of `num_groups`.
        num_groups: g.
        device: of the result.

    Returns:
        (D + Q, D + Q) bool, denoising queries first, True where query row must not see query column.
    """
    group = torch.full((num_denoising + num_queries,), -1, device=device)
    group[:num_denoising] = torch.arange(num_denoising, device=device) // (
        num_denoising // num_groups
    )
    return (group[:, None] != group) & (group >= 0)


def _is_negative(most: int, num_groups: int, boxes: Tensor) -> Tensor:
    """(D, 1) on the device and in the dtype of `boxes`: 0 for positives, 1 for negatives."""
    halves = boxes.new_tensor([0.0, 1.0])
    return halves.repeat_interleave(most).repeat(num_groups)[:, None]


def _flip_labels(labels: Tensor, num_classes: int) -> Tensor:
    """Labels (B, D), some drawn anew; the filling keeps its class C."""
    flipped = torch.rand(labels.shape, device=labels.device) < _FLIP_PROBABILITY
    drawn = torch.randint_like(labels, num_classes)
    return drawn.where(flipped & (labels < num_classes), labels)


def _move_edges(boxes: Tensor, is_negative: Tensor) -> Tensor:
    """Boxes (B, D, 4) cxcywh with noise on every edge, inside the image; edges that passed each other are swapped."""
    centres, sizes = boxes.split(2, dim=-1)
    edges = torch.stack([centres - sizes / 2, centres + sizes / 2], dim=-2)  # B x D x 2 x 2
    sign = torch.randint_like(edges, 2) * 2 - 1
    amount = torch.rand_like(edges) + is_negative[..., None]
    edges = (edges + sign * amount * sizes[..., None, :] / 2).clamp(0, 1)
    first, second = edges.unbind(dim=-2)
    return torch.cat([(first + second) / 2, (second - first).abs()], dim=-1)


def _match(counts: Sequence[int], num_groups: int, device: torch.device) -> DenoisingMatches:
    """Positives of images with so many objects."""
    starts = torch.arange(num_groups, device=device) * (2 * max(counts))
    objects = [torch.arange(count, device=device) for count in counts]
    return DenoisingMatches(
        query_indices=tuple((starts[:, None] + own).flatten() for own in objects),
        object_indices=tuple(own.repeat(num_groups) for own in objects),
        num_groups=num_groups,
    )
