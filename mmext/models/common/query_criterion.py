"""The training objective of the query decoder on plain tensors: match queries to objects, then score the pairs.

Source: Mask2Former (https://arxiv.org/abs/2112.01527), sections 3.2 and 3.3.

Shape letters: N outputs of the decoder, B images, Q queries, C classes, d embedding channels, G objects of an image,
M matched pairs of an image over all outputs, P points of a mask, S points drawn for an image.
"""

from collections.abc import Sequence

import torch
from mmdet.models.losses.dice_loss import dice_loss
from mmdet.utils import reduce_mean
from torch import Tensor, nn
from torch.nn import functional

from mmext.models.common.matching import (
    Match,
    class_cost,
    cross_entropy_cost,
    dice_cost,
    match_hungarian,
)
from mmext.models.common.points import (
    PointSampler,
    draw_in_boxes,
    sample_bitmaps,
    sample_chosen_bitmaps,
    sample_features,
    sample_logits,
)
from mmext.models.common.query_outputs import QueryOutputs
from mmext.registry import MODELS

DICE_EPS = 1.0
# Boxes in which points are drawn are half as long again as their objects: a mask must learn where it ends, too.
BOX_EXPANSION = 0.5


@MODELS.register_module()
class QueryCriterion(nn.Module):
    """Class, cross entropy and Dice losses of every output of the decoder, each matched anew.

    The numbers are those of mmdet's `Mask2FormerHead` with `HungarianAssigner`, `ClassificationCost`,
    `CrossEntropyLossCost`, `DiceCost`, `CrossEntropyLoss` and `DiceLoss(naive_dice=True, eps=1)` where the points
    are the same. How they are computed differs: masks exist at points only, and the masks of an image share their
    points (see `PointSampler`), so mask features are sampled twice per image instead of forming Q maps per output;
    and all outputs and images are matched with one transfer to the CPU. An image without objects does not count
    as one object in the divisor of the mask losses.

    Points all over the image rarely hit small objects: one of 300 pixels gets 1 in 218 of an image of 256 x 256. Where
    it is known which query belongs to which object, `box_point_ratio` sends a part r of each mask's points to its
    object: uniform in its box, half as long again, as far as that lies inside the image. This is importance without
    correction, as in `PointMaskLoss`, and another loss: its cross entropy is expected to be r times the mean over that
    box, plus 1 - r times what the rule for the others gives; Dice counts the points of both alike.

    Args:
        num_classes: C.
        num_points: P.
        box_point_ratio: r in [0, 1), the part of the points that lie around the object; 0 for Mask2Former's rule.
            Above 0 it takes `pairs`, as matching compares all queries at the same points.
        oversample_ratio: see `PointSampler`.
        importance_ratio: see `PointSampler`.
        cost_weights: of class, cross entropy and Dice in the matching.
        loss_weights: of class, cross entropy and Dice in the loss.
        no_object_weight: class weight of "no object", above 0.

    Raises:
        ValueError: a weight or a number of points is out of its range.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        num_points: int = 12544,
        box_point_ratio: float = 0.0,
        oversample_ratio: float = 3.0,
        importance_ratio: float = 0.75,
        cost_weights: Sequence[float] = (2.0, 5.0, 5.0),
        loss_weights: Sequence[float] = (2.0, 5.0, 5.0),
        no_object_weight: float = 0.1,
    ) -> None:
        super().__init__()
        if no_object_weight <= 0 or len(cost_weights) != 3 or len(loss_weights) != 3:
            raise ValueError(
                f'QueryCriterion: got cost_weights={cost_weights}, loss_weights={loss_weights}, '
                f'no_object_weight={no_object_weight}; expected three numbers (class, cross entropy, Dice), three '
                'numbers, and a number above 0.'
            )
        if not 0 <= box_point_ratio < 1:
            raise ValueError(
                f'QueryCriterion: got box_point_ratio={box_point_ratio}, expected a number in [0, 1).'
            )
        self.num_classes = num_classes
        self.num_box_points = int(num_points * box_point_ratio)
        self.points = PointSampler(
            num_points - self.num_box_points,
            oversample_ratio=oversample_ratio,
            importance_ratio=importance_ratio,
        )
        self.cost_weights = tuple(cost_weights)
        self.loss_weights = tuple(loss_weights)
        class_weight = torch.ones(num_classes + 1)
        class_weight[num_classes] = no_object_weight
        self.class_weight: Tensor
        self.register_buffer('class_weight', class_weight, persistent=False)

    def forward(
        self,
        outputs: QueryOutputs,
        labels: Sequence[Tensor],
        masks: Sequence[Tensor],
        *,
        pairs: Sequence[tuple[Tensor, Tensor]] | None = None,
        bboxes: Sequence[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Compute the losses, in float32 whatever the outputs are.

        Args:
            outputs: raw outputs.
            labels: (G,) int64 in [0, C) of each image.
            masks: (G, H / s, W / s) uint8 in {0, 1} of each image, covering the network input at any stride s.
            pairs: queries and objects of each image that belong together in every output, (m,) int64 each, for
                queries whose object is known from where they start; None to match them.
            bboxes: (G, 4) xyxy in [0, 1] of the network input of each image; only read where points are drawn in them.

        Returns:
            `loss_q_cls`, `loss_q_mask`, `loss_q_dice`: scalars of the last output; with the prefix `d{i}.` those of
            output i before it.

        Raises:
            ValueError: points around objects (`box_point_ratio`) without `pairs` or `bboxes`.
        """
        if self.num_box_points and (pairs is None or bboxes is None):
            raise ValueError(
                'QueryCriterion: got no pairs or no boxes, expected both with box_point_ratio above 0. Set '
                'box_point_ratio=0 for learned queries.'
            )
        with torch.autocast(outputs.mask_features.device.type, enabled=False):
            logits = torch.stack(outputs.class_logits).float()  # N x B x Q x (C + 1)
            embeddings = torch.stack(outputs.mask_embeddings).float()  # N x B x Q x d
            features = outputs.mask_features.float()
            if pairs is None:
                matches = self._match(logits, embeddings, features, labels, masks)
            else:
                matches = [_repeat_pair(*pair, num_outputs=len(logits)) for pair in pairs]
            terms = torch.stack(
                [
                    self._class_loss(logits, labels, matches),
                    *self._mask_losses(embeddings, features, masks, matches, bboxes),
                ]
            )
            terms = terms * terms.new_tensor(self.loss_weights)[:, None]  # 3 x N
        prefixes = [f'd{index}.' for index in range(len(logits) - 1)] + ['']
        return {
            f'{prefix}loss_q_{name}': value
            for prefix, values in zip(prefixes, terms.T, strict=True)
            for name, value in zip(('cls', 'mask', 'dice'), values, strict=True)
        }

    @torch.no_grad()
    def _match(
        self,
        logits: Tensor,
        embeddings: Tensor,
        features: Tensor,
        labels: Sequence[Tensor],
        masks: Sequence[Tensor],
    ) -> list[Match]:
        """Match every output of every image at random points, the same for all outputs of an image."""
        costs = []
        for image, (own_labels, own_masks) in enumerate(zip(labels, masks, strict=True)):
            if len(own_labels) == 0:
                costs.append(logits.new_zeros(*logits[:, image].shape[:2], 0))
                continue
            points = torch.rand(self.points.num_points, 2, device=features.device)
            at_points = embeddings[:, image] @ sample_features(features[image], points)  # N x Q x P
            targets = sample_bitmaps(own_masks, points)  # G x P
            cls_weight, mask_weight, dice_weight = self.cost_weights
            costs.append(
                cls_weight * class_cost(logits[:, image], own_labels)
                + mask_weight * cross_entropy_cost(at_points, targets)
                + dice_weight * dice_cost(at_points, targets, DICE_EPS)
            )
        return match_hungarian(costs)

    def _class_loss(
        self, logits: Tensor, labels: Sequence[Tensor], matches: Sequence[Match]
    ) -> Tensor:
        """Cross entropy of every query, weighted by its target's class, divided by the weights' sum: (N,)."""
        targets = torch.full(logits.shape[:3], self.num_classes, device=logits.device)
        for image, (own_labels, match) in enumerate(zip(labels, matches, strict=True)):
            targets[match.output, image, match.query] = own_labels[match.gt]
        loss = functional.cross_entropy(
            logits.permute(0, 3, 1, 2), targets, weight=self.class_weight, reduction='none'
        )
        return loss.sum(dim=(1, 2)) / self.class_weight[targets].sum(dim=(1, 2))

    def _mask_losses(
        self,
        embeddings: Tensor,
        features: Tensor,
        masks: Sequence[Tensor],
        matches: Sequence[Match],
        bboxes: Sequence[Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        """Cross entropy and Dice of the matched masks, summed, divided by the number of pairs of an output: (N,) each.

        The number is the mean over processes, at least 1.
        """
        # Empty slices: the loss of a batch without objects is 0, but has a gradient to every parameter.
        nothing = embeddings[:, :0].sum(dim=(1, 2, 3)) + features[:0].sum()  # N
        cross_entropy, dice = nothing, nothing
        # Unbound once: each index of a batch would get a gradient of the whole batch's size.
        images = zip(embeddings.unbind(1), features.unbind(), masks, matches, strict=True)
        for image, (own_embeddings, own_features, own_masks, match) in enumerate(images):
            if len(match.gt) == 0:
                continue
            own_bboxes = None if bboxes is None else bboxes[image]
            pred, target = self._sample_masks(
                own_embeddings, own_features, own_masks, match, own_bboxes
            )
            pair_entropy = functional.binary_cross_entropy_with_logits(
                pred, target, reduction='none'
            ).mean(dim=1)
            pair_dice = dice_loss(
                pred.sigmoid(), target, eps=DICE_EPS, reduction='none', naive_dice=True
            )
            cross_entropy = cross_entropy.index_add(0, match.output, pair_entropy)
            dice = dice.index_add(0, match.output, pair_dice)
        # Objects, but where given pairs put several queries on an object or matching leaves some without.
        num_pairs = sum(len(match.gt) for match in matches) / len(embeddings)
        divisor = reduce_mean(features.new_tensor(num_pairs)).clamp(min=1)
        return cross_entropy / divisor, dice / divisor

    def _sample_masks(
        self,
        embeddings: Tensor,
        features: Tensor,
        masks: Tensor,
        match: Match,
        bboxes: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Logits and targets of an image's pairs at their points.

        Args:
            embeddings: (N, Q, d).
            features: (d, h, w) mask features.
            masks: (G, H, W) uint8.
            match: pairs, the same for all outputs where points are drawn in boxes.
            bboxes: (G, 4) xyxy in [0, 1]; None where points are not drawn in them.

        Returns:
            (M, P) logits and (M, P) targets in [0, 1], points in boxes last.
        """
        matched = embeddings[match.output, match.query]  # M x d
        points = self.points.draw(features.device)
        logits = matched @ sample_features(features, points)  # M x S
        chosen = self.points.choose(logits)  # M x P
        targets = sample_bitmaps(masks, points)[match.gt[:, None], chosen]
        logits = logits.gather(1, chosen)
        if bboxes is None or self.num_box_points == 0:
            return logits, targets

        pairs = matched.unflatten(0, (len(embeddings), -1))  # N x m x d
        gt = match.gt[: pairs.shape[1]]
        points = draw_in_boxes(bboxes[gt], self.num_box_points, expansion=BOX_EXPANSION)
        inside = sample_logits(pairs, features, points).flatten(0, 1)
        inside_targets = sample_chosen_bitmaps(masks, gt, points).repeat(len(embeddings), 1)
        return torch.cat([logits, inside], dim=1), torch.cat([targets, inside_targets], dim=1)


def _repeat_pair(query: Tensor, gt: Tensor, *, num_outputs: int) -> Match:
    """The same pairs (m,) for every output."""
    outputs = torch.arange(num_outputs, device=query.device)
    return Match(
        outputs.repeat_interleave(len(query)), query.repeat(num_outputs), gt.repeat(num_outputs)
    )
