"""Which query answers for which object: costs, the Hungarian algorithm, and the pairs that the box losses use.

Sources: DETR (https://arxiv.org/abs/2005.12872) for the first cost, DEIMv2 (https://arxiv.org/abs/2509.20787) for the
second, D-FINE (https://arxiv.org/abs/2410.13842) for the union of the pairs of all outputs.

Shape letters: N outputs (heads) that are matched each on its own, B images, Q queries, C classes, G objects of an
image, T objects of the batch, m pairs of an output. Boxes are cxcywh in [0, 1].
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmext.models.common.matching import CostWarning, are_finite, copy_to_host, solve_assignments
from mmext.models.deim.losses import giou_loss, overlaps
from mmext.models.deim.outputs import ImageTargets
from mmext.models.deim.union import merge_pairs
from mmext.registry import TASK_UTILS

# The focal cost of a saturated probability stays finite.
_LOG_EPS = 1e-8


class Pairs(NamedTuple):
    """Matched queries and objects; every output has the same number of them in each image.

    Attributes:
        image: (m,) int64 in [0, B), ascending.
        query: (N, m) int64 in [0, Q).
        target: (N, m) int64 in [0, T), the objects of all images counted through.
    """

    image: Tensor
    query: Tensor
    target: Tensor

    def of_first(self, num_outputs: int) -> 'Pairs':
        """The pairs of the first outputs alone."""
        return Pairs(self.image, self.query[:num_outputs], self.target[:num_outputs])

    @property
    def places(self) -> tuple[Tensor, Tensor, Tensor]:
        """Indices that pick (N, m, ...), the matched queries, out of (N, B, Q, ...)."""
        outputs = torch.arange(len(self.query), device=self.query.device)
        return outputs[:, None], self.image, self.query


class Matches(NamedTuple):
    """What a matcher finds.

    Attributes:
        own: the pairs of each output for itself, min(Q, G) in an image; for the class loss.
        boxes: the pairs for the box losses.
        num_boxes: what the sums of the box losses of an output are divided by.
    """

    own: Pairs
    boxes: Pairs
    num_boxes: int


def focal_cost(logits: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss of a query that has the class less that of one that has it not, element by element."""
    probability = logits.sigmoid()
    has = alpha * (1 - probability) ** gamma * -(probability + _LOG_EPS).log()
    has_not = (1 - alpha) * probability**gamma * -(1 - probability + _LOG_EPS).log()
    return has - has_not


@TASK_UTILS.register_module()
class DEIMMatcher:
    """Matches every output of every image one to one, and gives each output its own pairs for the box losses too.

    Until `change_epoch` the cost is class_weight * focal + l1_weight * L1 - giou_weight * GIoU, from then on
    -probability * IoU^iou_power.

    Args:
        change_epoch: first epoch, counted from 0, with the second cost.
        class_weight: of the focal cost.
        l1_weight: of the L1 distance of cxcywh.
        giou_weight: of the generalized IoU.
        iou_power: of the second cost.

    Raises:
        ValueError: a number is negative.
    """

    def __init__(
        self,
        change_epoch: int,
        *,
        class_weight: float = 2.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        iou_power: float = 4.0,
    ) -> None:
        numbers = (change_epoch, class_weight, l1_weight, giou_weight, iou_power)
        if min(numbers) < 0:
            raise ValueError(
                f'{type(self).__name__}: got change_epoch, class_weight, l1_weight, giou_weight, iou_power = '
                f'{numbers}; expected no negative number.'
            )
        self.change_epoch = change_epoch
        self.class_weight = class_weight
        self.l1_weight = l1_weight
        self.giou_weight = giou_weight
        self.iou_power = iou_power
        self._warn = CostWarning(type(self).__name__)

    @torch.no_grad()
    def __call__(
        self, logits: Tensor, boxes: Tensor, targets: Sequence[ImageTargets], *, epoch: int
    ) -> Matches:
        """Match with one transfer to the CPU and one back.

        Costs that are not finite never crash: such pairs are chosen only where there is no other way. The first time,
        a warning says where they come from.

        Args:
            logits: (N, B, Q, C) float32.
            boxes: (N, B, Q, 4) float32.
            targets: B of them.
            epoch: counted from 0.
        """
        cost = self._early_cost if epoch < self.change_epoch else self._late_cost
        costs = [cost(logits[:, i], boxes[:, i], own) for i, own in enumerate(targets)]
        finite = torch.stack(
            [values.isfinite().flatten(1).all(dim=1) for values in (logits, boxes)]
        )  # 2 x N
        *host_costs, host_finite = copy_to_host([*costs, finite])
        # Costs hide what is broken in a class that no object has.
        if not (host_finite.all() and are_finite(host_costs)):
            self._warn(lambda: find_cause(host_finite > 0))

        own = _join_images(solve_assignments(host_costs), [len(t.labels) for t in targets])
        box, num_boxes = self._choose_box_pairs(
            own, num_objects=sum(len(t.labels) for t in targets)
        )
        pairs = torch.from_numpy(np.concatenate([own, box], axis=2)).to(logits.device)
        own_pairs, box_pairs = pairs.split([own.shape[2], box.shape[2]], dim=2)
        return Matches(_as_pairs(own_pairs), _as_pairs(box_pairs), num_boxes)

    def _early_cost(self, logits: Tensor, boxes: Tensor, targets: ImageTargets) -> Tensor:
        """Logits (N, Q, C), boxes (N, Q, 4) and G objects of an image to (N, Q, G)."""
        return (
            self.class_weight * focal_cost(logits[..., targets.labels])
            + self.l1_weight * torch.cdist(boxes, targets.boxes.float(), p=1)
            + self.giou_weight * (giou_loss(boxes[..., None, :], targets.boxes.float()) - 1)
        )

    def _late_cost(self, logits: Tensor, boxes: Tensor, targets: ImageTargets) -> Tensor:
        """As `_early_cost`."""
        iou = overlaps(boxes[..., None, :], targets.boxes.float())
        return -logits[..., targets.labels].sigmoid() * iou**self.iou_power

    def _choose_box_pairs(self, own: np.ndarray, *, num_objects: int) -> tuple[np.ndarray, int]:
        """The pairs for the box losses, and their divisor, from each output's own pairs (3, N, m)."""
        return own, num_objects


@TASK_UTILS.register_module()
class DEIMUnionMatcher(DEIMMatcher):
    """As `DEIMMatcher`, but the box losses of all outputs use the union of their pairs (see `merge_pairs`).

    Args: those of `DEIMMatcher`.
    """

    def _choose_box_pairs(self, own: np.ndarray, *, num_objects: int) -> tuple[np.ndarray, int]:
        image, query, target = own.reshape(3, -1)
        num_queries = query.max(initial=0) + 1
        merged, targets = merge_pairs(image * num_queries + query, target)
        union = np.stack([merged // num_queries, merged % num_queries, targets])  # 3 x u
        return np.repeat(union[:, None], own.shape[1], axis=1), len(targets)


def find_cause(finite: np.ndarray) -> str:
    """What is broken: finite is (2, N) bool, whether an output's logits and boxes are all finite."""
    broken = [
        f'{name} of outputs {np.flatnonzero(~own).tolist()}'
        for name, own in zip(('logits', 'boxes'), finite, strict=True)
        if not own.all()
    ]
    cause = ' and '.join(broken) or 'boxes of objects, or an overflow of the cost'
    return f'{cause} (the decoder layers come first, then the prediction before refinement and that of the encoder)'


def _join_images(solved: Sequence[np.ndarray], counts: Sequence[int]) -> np.ndarray:
    """Pairs (2, N, min(Q, G)) of each image, with `counts` objects, to (3, N, m): image, query, target."""
    starts = np.cumsum([0, *counts[:-1]])
    return np.concatenate(
        [
            np.stack([np.full_like(query, image), query, gt + start])
            for image, ((query, gt), start) in enumerate(zip(solved, starts, strict=True))
        ],
        axis=2,
    )


def _as_pairs(pairs: Tensor) -> Pairs:
    """(3, N, m) to Pairs."""
    image, query, target = pairs
    return Pairs(image[0], query, target)
