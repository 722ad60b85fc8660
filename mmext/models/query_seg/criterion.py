"""The training objective of mmdet's Mask2Former computed another way: same points, same matches, same losses.

What differs from `mmdet.Mask2FormerHead.loss_by_feat`: queries are matched without masks (see matcher.py); only matched
queries get masks, those of all outputs in one product; masks of the ground truth are a byte a pixel and floats only a few
at a time; what each output's losses need for the backward pass is computed again there.

Shape letters: N outputs of the decoder, B images, Q queries, C classes, d embedding channels, G objects of an image,
M matched pairs of an output over all images, P points.
"""

from collections.abc import Callable, Sequence

import torch
from mmdet.utils import reduce_mean
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmext.models.common.query_outputs import QueryOutputs
from mmext.models.query_seg.matcher import PointMatcher
from mmext.models.query_seg.points import PointRule, sample_own, sample_own_truth
from mmext.models.query_seg.truth import ImageTruth


class PointCriterion:
    """Class, mask and Dice loss of every output, each matched anew.

    Args:
        num_classes: C.
        class_weight: C + 1 numbers, of "no object" last.
        matcher: of queries and objects.
        points: at which masks are compared.
        loss_cls: mmdet's loss module, called with (B Q, C + 1) logits, (B Q,) labels, weights and divisor.
        loss_mask: called with (M P,) logits and targets and a divisor.
        loss_dice: called with (M, P) logits and targets and a divisor.

    Raises:
        ValueError: there are not C + 1 class weights.
    """

    def __init__(
        self,
        num_classes: int,
        class_weight: Sequence[float],
        *,
        matcher: PointMatcher,
        points: PointRule,
        loss_cls: Callable[..., Tensor],
        loss_mask: Callable[..., Tensor],
        loss_dice: Callable[..., Tensor],
    ) -> None:
        if len(class_weight) != num_classes + 1:
            raise ValueError(
                f'FastMask2FormerHead: got loss_cls with {len(class_weight)} class weights, expected '
                f'{num_classes + 1}: one for each of the {num_classes} classes, and one for "no object". Write '
                f'class_weight=[1.0] * {num_classes} + [0.1].'
            )
        self.num_classes = num_classes
        self.class_weight = tuple(class_weight)
        self.matcher = matcher
        self.points = points
        self.loss_cls = loss_cls
        self.loss_mask = loss_mask
        self.loss_dice = loss_dice

    def __call__(self, outputs: QueryOutputs, truths: Sequence[ImageTruth]) -> dict[str, Tensor]:
        """Compute the losses, in float32 whatever the outputs are.

        Args:
            outputs: of every layer.
            truths: B of them.

        Returns:
            `loss_cls`, `loss_mask`, `loss_dice`: scalars of the last output; with the prefix `d{i}.` those of output i
            before it.
        """
        with torch.autocast(outputs.mask_features.device.type, enabled=False):
            logits = torch.stack(outputs.class_logits).float()  # N x B x Q x (C + 1)
            embeddings = torch.stack(outputs.mask_embeddings).float()  # N x B x Q x d
            features = outputs.mask_features.float()
            pairs, generators = self.matcher(logits, embeddings, features, truths)
            losses_cls = self._class_losses(logits, truths, pairs)
            losses_mask, losses_dice = self._mask_losses(
                embeddings, features, truths, pairs, generators
            )
        prefixes = ['', *(f'd{index}.' for index in range(len(logits) - 1))]
        losses = {}
        for index, prefix in enumerate(prefixes, start=-1):
            losses[f'{prefix}loss_cls'] = losses_cls[index]
            losses[f'{prefix}loss_mask'] = losses_mask[index]
            losses[f'{prefix}loss_dice'] = losses_dice[index]
        return losses

    def _class_losses(
        self, logits: Tensor, truths: Sequence[ImageTruth], pairs: Sequence[Tensor]
    ) -> list[Tensor]:
        """N scalars. Every query counts, those without an object as "no object"."""
        targets = torch.full(
            logits.shape[:3], self.num_classes, dtype=torch.long, device=logits.device
        )
        for image, (truth, (query, gt)) in enumerate(zip(truths, pairs, strict=True)):
            targets[:, image].scatter_(1, query, truth.labels[gt])
        weights = logits.new_tensor(self.class_weight)[targets].sum(dim=(1, 2))  # N
        ones = logits.new_ones(targets[0].numel())
        return [
            self.loss_cls(own.flatten(0, 1), labels.flatten(), ones, avg_factor=weight)
            for own, labels, weight in zip(logits, targets, weights, strict=True)
        ]

    def _mask_losses(
        self,
        embeddings: Tensor,
        features: Tensor,
        truths: Sequence[ImageTruth],
        pairs: Sequence[Tensor],
        generators: Sequence[torch.Generator],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """N scalars of the mask loss and N of the Dice loss."""
        counts = [own.shape[2] for own in pairs]
        # Before a batch without objects leaves: the other processes would wait for this one.
        divisor = average_count(counts, features)
        if sum(counts) == 0:
            # Empty slices: the loss of a batch without objects is 0, but has a gradient to every parameter.
            nothing = embeddings[:, :, :0].sum(dim=(1, 2, 3)) + features[:0].sum()
            return list(nothing), list(nothing)

        losses_mask, losses_dice = [], []
        masks = predict_matched(embeddings, features, pairs)
        for output, generator in enumerate(generators):
            own_masks = torch.cat([of_image[output] for of_image in masks])  # M x h x w
            grid = self.points.choose_own(own_masks, generator)
            places = zip(truths, pairs, grid.split(counts), strict=True)
            targets = torch.cat(
                [sample_own_truth(truth.masks, gt[output], own) for truth, (_, gt), own in places]
            )
            loss_mask, loss_dice = checkpoint(
                self._point_losses,
                own_masks,
                grid,
                targets,
                divisor,
                use_reentrant=False,
                preserve_rng_state=False,
            )
            losses_mask.append(loss_mask)
            losses_dice.append(loss_dice)
        return losses_mask, losses_dice

    def _point_losses(
        self, masks: Tensor, grid: Tensor, targets: Tensor, divisor: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mask and Dice loss of masks (M, h, w) at places (M, P, 2) where the truth is `targets` (M, P)."""
        logits = sample_own(masks, grid)
        loss_dice = self.loss_dice(logits, targets, avg_factor=divisor)
        loss_mask = self.loss_mask(
            logits.reshape(-1), targets.reshape(-1), avg_factor=divisor * grid.shape[1]
        )
        return loss_mask, loss_dice


def average_count(counts: Sequence[int], like: Tensor) -> Tensor:
    """Matched objects of a process, the mean over all processes and at least 1; every process must ask, in every step.

    Args:
        counts: of the images of this process. As in mmdet, an image without objects counts as one.
        like: any tensor, for device and type.

    Returns:
        A scalar.
    """
    count = like.new_tensor(float(sum(max(own, 1) for own in counts)))
    return reduce_mean(count).clamp(min=1)


def predict_matched(
    embeddings: Tensor, features: Tensor, pairs: Sequence[Tensor]
) -> list[tuple[Tensor, ...]]:
    """Masks of the matched queries alone.

    Args:
        embeddings: (N, B, Q, d).
        features: (B, d, h, w).
        pairs: (2, N, m) of each image.

    Returns:
        For each image N maps (m, h, w).
    """
    masks = []
    # Unbound once: each index of a batch would get a gradient of the whole batch's size.
    images = zip(embeddings.unbind(1), features.unbind(), pairs, strict=True)
    for own_embeddings, own_features, (query, _) in images:
        places = query[..., None].expand(-1, -1, own_embeddings.shape[2])
        matched = own_embeddings.gather(1, places).flatten(0, 1)  # N m x d
        products = matched @ own_features.flatten(1)
        masks.append(products.view(*query.shape, *own_features.shape[1:]).unbind())
    return masks
