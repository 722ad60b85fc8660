"""Which query answers for which object, at points instead of full-size masks, with one transfer to the CPU a step.

The costs are mmdet's; how they are computed is not. Sampling is linear and acts on each channel alone, so it is the mask
features that are sampled at the shared points, and no query gets a mask.

Shape letters: N outputs of the decoder, B images, Q queries, d embedding channels, G objects of an image, P points.
"""

from collections.abc import Sequence

import numpy as np
import torch
from mmdet.models.task_modules.assigners import ClassificationCost, CrossEntropyLossCost, DiceCost
from mmdet.models.task_modules.assigners.match_cost import BaseMatchCost
from torch import Tensor

from mmext.models.common.matching import (
    CostWarning,
    are_finite,
    class_cost,
    copy_to_host,
    cross_entropy_cost,
    dice_cost,
    solve_assignments,
)
from mmext.models.common.points import sample_features
from mmext.models.query_seg.points import PointRule, sample_shared_truth
from mmext.models.query_seg.truth import ImageTruth


class Costs:
    """Sum of mmdet's match costs.

    Args:
        match_costs: built `ClassificationCost`, `CrossEntropyLossCost` and `DiceCost`, in any number and order.

    Raises:
        ValueError: there is another cost, or an option of these that makes no sense for logits of masks.
    """

    def __init__(self, match_costs: Sequence[BaseMatchCost]) -> None:
        for cost in match_costs:
            if type(cost) not in (ClassificationCost, CrossEntropyLossCost, DiceCost):
                raise ValueError(
                    f'FastMask2FormerHead: got the match cost {type(cost).__name__}, expected ClassificationCost, '
                    'CrossEntropyLossCost and DiceCost. Use these, or mmdet.Mask2FormerHead.'
                )
            if isinstance(cost, DiceCost) and not (cost.pred_act and cost.naive_dice):
                raise ValueError(
                    f'FastMask2FormerHead: got DiceCost(pred_act={cost.pred_act}, naive_dice={cost.naive_dice}), '
                    'expected both True: masks are compared as probabilities, by the plain Dice coefficient.'
                )
            if isinstance(cost, CrossEntropyLossCost) and not cost.use_sigmoid:
                raise ValueError(
                    'FastMask2FormerHead: got CrossEntropyLossCost(use_sigmoid=False), expected True.'
                )
        self.match_costs = tuple(match_costs)

    def __call__(self, logits: Tensor, labels: Tensor, masks: Tensor, targets: Tensor) -> Tensor:
        """Costs of all pairs.

        Args:
            logits: (Q, C + 1) float32.
            labels: (G,) int64.
            masks: (Q, P) logits at points.
            targets: (G, P) in [0, 1] at the same points.

        Returns:
            (Q, G).
        """
        total = logits.new_zeros(len(logits), len(labels))
        for cost in self.match_costs:
            if isinstance(cost, ClassificationCost):
                own = class_cost(logits, labels)
            elif isinstance(cost, DiceCost):
                own = dice_cost(masks, targets, cost.eps)
            else:
                own = cross_entropy_cost(masks, targets)
            total += cost.weight * own
        return total


class PointMatcher:
    """Matches every output of every image one to one.

    Costs that are not finite never crash: such pairs are chosen only where there is no other way. The first time, a warning
    says where they come from.

    Args:
        costs: of pairs.
        points: how many points there are.
    """

    def __init__(self, costs: Costs, points: PointRule) -> None:
        self.costs = costs
        self.points = points
        self._warn = CostWarning('FastMask2FormerHead')

    @torch.no_grad()
    def __call__(
        self, logits: Tensor, embeddings: Tensor, features: Tensor, truths: Sequence[ImageTruth]
    ) -> tuple[list[Tensor], list[torch.Generator]]:
        """Match with one transfer to the CPU and one back.

        Args:
            logits: (N, B, Q, C + 1) float32.
            embeddings: (N, B, Q, d) float32.
            features: (B, d, h, w) float32.
            truths: B of them.

        Returns:
            Pairs of each image, (2, N, min(Q, G)) int64: query, ascending, and object. For each output the generator that
            draws the points of its matched masks, all images joined.
        """
        num_masks = sum(min(logits.shape[2], len(truth.labels)) for truth in truths)
        shared, generators = [], []
        for _ in logits:
            shared.append(torch.stack([self.points.draw_shared(features.device) for _ in truths]))
            generators.append(self.points.skip_own(num_masks, features.device))
        points = torch.stack(shared)  # N x B x P x 2
        # Points are read in half the time where the channels of a place lie side by side.
        features = features.contiguous(memory_format=torch.channels_last)
        costs = [
            self._compare(logits[:, i], embeddings[:, i], features[i], points[:, i], truth)
            for i, truth in enumerate(truths)
        ]
        on_host = copy_to_host(costs)
        if not are_finite(on_host):
            self._warn(lambda: find_cause(on_host, logits, embeddings, features))
        return copy_to_device(solve_assignments(on_host), features.device), generators

    def _compare(
        self,
        logits: Tensor,
        embeddings: Tensor,
        features: Tensor,
        points: Tensor,
        truth: ImageTruth,
    ) -> Tensor:
        """Costs of all pairs of an image.

        Args:
            logits: (N, Q, C + 1).
            embeddings: (N, Q, d).
            features: (d, h, w).
            points: (N, P, 2) in [0, 1].
            truth: of the image.

        Returns:
            (N, Q, G).
        """
        if len(truth.labels) == 0:
            return logits.new_zeros(*logits.shape[:2], 0)
        # Of all outputs at once: masks of the ground truth become floats once.
        targets = sample_shared_truth(truth.masks, points.flatten(0, 1) * 2 - 1)
        outputs = zip(logits, embeddings, points, targets.chunk(len(points), dim=1), strict=True)
        return torch.stack(
            [
                self.costs(own, truth.labels, queries @ sample_features(features, places), target)
                for own, queries, places, target in outputs
            ]
        )


def copy_to_device(arrays: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """Arrays of int64 as tensors, in one transfer."""
    values = torch.from_numpy(np.concatenate([own.ravel() for own in arrays])).to(device)
    parts = values.split([own.size for own in arrays])
    return [part.view(own.shape) for part, own in zip(parts, arrays, strict=True)]


def find_cause(
    costs: Sequence[np.ndarray], logits: Tensor, embeddings: Tensor, features: Tensor
) -> str:
    """What is not finite where costs (N, Q, G) of the images first are not."""
    bad = np.stack([~np.isfinite(own).all(axis=(1, 2)) for own in costs], axis=1)  # N x B
    output, image = np.argwhere(bad)[0]
    parts = {
        'the mask features': features[image],
        'the class logits': logits[output, image],
        'the mask embeddings': embeddings[output, image],
    }
    broken = [name for name, values in parts.items() if not values.isfinite().all()]
    cause = (
        ' and '.join(broken) or 'none of the inputs, but a product of them, too large for float32'
    )
    return f'{cause}, first for output {output} of {len(bad)} and image {image} of the batch'
