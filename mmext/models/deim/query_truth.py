"""What the queries of one output are to be, for heads that classify them again.

Shape letters: B images, Q queries, C classes, G objects of an image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmdet.utils import reduce_mean
from torch import Tensor

from mmext.models.deim.losses import overlaps
from mmext.models.deim.matcher import DEIMMatcher
from mmext.models.deim.outputs import BoxOutputs, ImageTargets

# A query whose box overlaps an object by as much lies on it, whether it answers for it or not.
_MIN_IOU = 0.5


class QueryTruth(NamedTuple):
    """What queries are to be.

    Attributes:
        labels: (B, Q) int64, the class of the object that the query answers for, C for none.
        ious: (B, Q) float32 with that object, 0 for none.
        covered: (B, Q) int64, the class of the object that the query lies on, C for none: of the one it answers for, else
            of the one it overlaps most, by at least 0.5.
        num_objects: scalar of at least 1, of the batch, the mean over the processes.
    """

    labels: Tensor
    ious: Tensor
    covered: Tensor
    num_objects: Tensor


@torch.no_grad()
def assign_queries(
    matcher: DEIMMatcher, outputs: BoxOutputs, targets: Sequence[ImageTargets], *, epoch: int
) -> QueryTruth:
    """Match one output with the objects.

    Args:
        matcher: of the criterion.
        outputs: logits (B, Q, C) and boxes (B, Q, 4).
        targets: B of them.
        epoch: counted from 0.
    """
    logits, boxes = outputs.logits.float(), outputs.boxes.float()
    num_classes = logits.shape[-1]
    covered = torch.stack(
        [_covered(own, image, num_classes) for own, image in zip(boxes, targets, strict=True)]
    )
    pairs = matcher(logits[None], boxes[None], targets, epoch=epoch).own
    image, query, target = pairs.image, pairs.query[0], pairs.target[0]
    labels = torch.full_like(covered, num_classes)
    ious = torch.zeros_like(boxes[..., 0])
    labels[image, query] = torch.cat([own.labels for own in targets])[target]
    truth = torch.cat([own.boxes for own in targets]).float()[target]
    ious[image, query] = overlaps(boxes[image, query], truth)
    covered[image, query] = labels[image, query]
    num_objects = boxes.new_tensor(float(sum(len(own.labels) for own in targets)))
    return QueryTruth(labels, ious, covered, reduce_mean(num_objects).clamp(min=1))


def _covered(boxes: Tensor, targets: ImageTargets, num_classes: int) -> Tensor:
    """The class (Q,) that each box (Q, 4) lies on."""
    if not len(targets.labels):
        return torch.full_like(boxes[:, 0], num_classes, dtype=torch.long)
    best, index = overlaps(boxes[:, None], targets.boxes.float()).max(dim=1)
    return targets.labels[index].masked_fill(~(best >= _MIN_IOU), num_classes)
