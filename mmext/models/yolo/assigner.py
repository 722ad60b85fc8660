"""Task-aligned assignment of priors to ground truth, batched over images (TOOD, arXiv:2108.07755).

Shape letters: B images, G ground-truth boxes padded to the batch's most, A priors over all levels, C classes,
K candidates per ground truth.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mmext.registry import TASK_UTILS
from mmext.structures.boxes import complete_iou

# Stands for the overlap with a ground truth that the prior does not lie in: below every real one.
OUTSIDE = -1.0


class PaddedTruth(NamedTuple):
    """Ground truth of a batch, padded to one length.

    Attributes:
        labels: (B, G) int64 in [0, C); 0 in the padding.
        bboxes: (B, G, 4) xyxy in pixels of the network input; 0 in the padding.
        valid: (B, G) bool, False in the padding.
    """

    labels: Tensor
    bboxes: Tensor
    valid: Tensor


class Assignment(NamedTuple):
    """What each prior is trained on.

    Attributes:
        gt_index: (B, A) int64, the ground truth of each prior within its image; -1 is background.
        quality: (B, A) float32 in [0, 1], soft class target of each prior; 0 on the background.
    """

    gt_index: Tensor
    quality: Tensor


@TASK_UTILS.register_module()
class BatchTALAssigner:
    """Gives each ground truth its `topk` best-aligned priors.

    Alignment is m = score^alpha * max(CIoU, 0)^beta, for priors whose centre lies inside the box. Unlike
    mmdet's `TaskAlignedAssigner`, the inside test comes before the top-k, overlap is the complete IoU, and the
    batch is assigned at once: ground truths go through in blocks, so that memory does not grow with their
    number. A prior that several ground truths claim goes to the one it overlaps most, of all it lies in. Among
    priors of alignment 0, which the original picks at random, those nearest to the centre come first.

    Args:
        topk: priors per ground truth.
        alpha: exponent of the class score.
        beta: exponent of the overlap.
        min_gt_side: for the inside test only, sides of ground truth shorter than this grow to it, in pixels,
            so that objects between the prior centres get priors too. 0 switches it off.
        eps: added to the best alignment of a ground truth where others are divided by it. Larger than the
            alignments themselves (tiny objects, first iterations), it fades the soft targets out.
        min_quality: lowest soft target of a prior that has a ground truth. A box far from its object's shape has
            alignment 0, hence no loss to improve it: a model that starts from scratch on few or thin objects
            learns sooner with a little of this. 0, as published, leaves the targets alone.
        max_block_pairs: ground truth x prior pairs that are held at a time, over the batch; some 40 bytes each, and
            120 where every prior lies in every box.
    """

    def __init__(
        self,
        topk: int = 10,
        alpha: float = 0.5,
        *,
        beta: float = 6.0,
        min_gt_side: float = 16.0,
        eps: float = 1e-9,
        min_quality: float = 0.0,
        max_block_pairs: int = 2**20,
    ) -> None:
        if topk < 1:
            raise ValueError(f'BatchTALAssigner: got topk={topk}, expected at least 1.')
        self.topk = topk
        self.alpha = alpha
        self.beta = beta
        self.min_gt_side = min_gt_side
        self.eps = eps
        self.min_quality = min_quality
        self.max_block_pairs = max_block_pairs

    @torch.no_grad()
    def assign(
        self, scores: Tensor, bboxes: Tensor, *, priors: Tensor, truth: PaddedTruth
    ) -> Assignment:
        """Assign the priors of a batch.

        Args:
            scores: (B, C, A) class probabilities in [0, 1].
            bboxes: (B, A, 4) predicted boxes, xyxy in pixels of the network input.
            priors: (A, 2) prior centres (x, y) in the same pixels.
            truth: the padded ground truth.

        Returns:
            The ground truth and the soft class target of each prior.
        """
        scores, bboxes = scores.float(), bboxes.float()
        gt_index = self._own(scores, bboxes, priors, truth)
        alignment, overlap = self._align_owned(scores, bboxes, truth, gt_index)
        return Assignment(gt_index, self._soften(gt_index, alignment, overlap, truth))

    def _own(self, scores: Tensor, bboxes: Tensor, priors: Tensor, truth: PaddedTruth) -> Tensor:
        """The ground truth that owns each prior, (B, A), -1 for none."""
        batch, _, num_priors = scores.shape
        num_claims = scores.new_zeros(batch, num_priors, dtype=torch.long)
        claimant = torch.full_like(num_claims, -1)
        # Below every overlap: a truth that the prior does not lie in never wins, even where nothing overlaps.
        best_overlap = scores.new_full((batch, num_priors), OUTSIDE)
        best_gt = torch.zeros_like(num_claims)

        num_truths = truth.labels.shape[1]
        block = max(1, self.max_block_pairs // max(1, batch * num_priors))
        for start in range(0, num_truths, block):
            part = PaddedTruth(*(field[:, start : start + block] for field in truth))
            claims, overlap = self._claim(scores, bboxes, priors, part)
            block_overlap, block_gt = overlap.max(dim=1)
            best_gt = torch.where(block_overlap > best_overlap, block_gt + start, best_gt)
            best_overlap = torch.maximum(block_overlap, best_overlap)
            num_claims += claims.sum(dim=1)
            claimed, block_claimant = claims.max(dim=1)
            claimant = torch.where(claimed, block_claimant + start, claimant)
        return torch.where(num_claims > 1, best_gt, claimant)

    def _claim(
        self, scores: Tensor, bboxes: Tensor, priors: Tensor, truth: PaddedTruth
    ) -> tuple[Tensor, Tensor]:
        """Candidates of each ground truth (B, G, A) bool and overlaps (B, G, A), -1 for priors outside."""
        rank_value, overlap = self._rank(scores, bboxes, priors, truth)
        chosen = rank_value.topk(min(self.topk, len(priors)), dim=-1).indices
        claims = torch.zeros_like(overlap, dtype=torch.bool).scatter_(-1, chosen, True)
        return claims & (overlap != OUTSIDE), overlap

    def _rank(
        self, scores: Tensor, bboxes: Tensor, priors: Tensor, truth: PaddedTruth
    ) -> tuple[Tensor, Tensor]:
        """What candidates are chosen by, and overlaps, -1 for priors outside; both (B, G, A).

        The value is the alignment; where that is 0, minus the squared distance to the centre; -inf outside.
        """
        inside = self._inside(priors, truth)
        # Few priors lie inside a box: the arithmetic runs on those pairs alone.
        image, gt, prior = inside.nonzero(as_tuple=True)
        pair_overlap = complete_iou(bboxes[image, prior], truth.bboxes[image, gt]).clamp(min=0)
        alignment = self._alignment(scores[image, truth.labels[image, gt], prior], pair_overlap)
        overlap = scores.new_full(inside.shape, OUTSIDE)
        overlap[image, gt, prior] = pair_overlap
        # Ranked below every alignment, and never equal to each other by accident: minus squared distances.
        centre = (truth.bboxes[image, gt, :2] + truth.bboxes[image, gt, 2:]) / 2
        nearness = -(priors[prior] - centre).square().sum(dim=-1)
        rank_value = scores.new_full(inside.shape, -torch.inf)
        rank_value[image, gt, prior] = torch.where(alignment > 0, alignment, nearness)
        return rank_value, overlap

    def _inside(self, priors: Tensor, truth: PaddedTruth) -> Tensor:
        """Which priors (A, 2) lie strictly inside which ground truth: (B, G, A) bool."""
        centre = (truth.bboxes[..., :2] + truth.bboxes[..., 2:]) / 2
        side = truth.bboxes[..., 2:] - truth.bboxes[..., :2]
        low, high = truth.bboxes[..., :2], truth.bboxes[..., 2:]
        grow = side < self.min_gt_side
        low = torch.where(grow, centre - self.min_gt_side / 2, low)
        high = torch.where(grow, centre + self.min_gt_side / 2, high)
        inside = truth.valid[..., None]
        for axis in range(2):
            position = priors[:, axis]
            inside = inside & (position > low[..., axis, None]) & (position < high[..., axis, None])
        return inside

    def _alignment(self, score: Tensor, overlap: Tensor) -> Tensor:
        return score.pow(self.alpha) * overlap.pow(self.beta)

    def _align_owned(
        self, scores: Tensor, bboxes: Tensor, truth: PaddedTruth, gt_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Alignment and overlap of each prior with its owner, both (B, A), 0 on the background."""
        alignment = scores.new_zeros(gt_index.shape)
        overlap = torch.zeros_like(alignment)
        image, prior = (gt_index >= 0).nonzero(as_tuple=True)
        gt = gt_index[image, prior]
        owned = complete_iou(bboxes[image, prior], truth.bboxes[image, gt]).clamp(min=0)
        score = scores[image, truth.labels[image, gt], prior]
        alignment[image, prior] = self._alignment(score, owned)
        overlap[image, prior] = owned
        return alignment, overlap

    def _soften(
        self, gt_index: Tensor, alignment: Tensor, overlap: Tensor, truth: PaddedTruth
    ) -> Tensor:
        """Scale alignments so that the best prior of each ground truth gets that truth's best overlap."""
        if truth.labels.shape[1] == 0:
            return torch.zeros_like(alignment)
        owner = gt_index.clamp(min=0)
        peak = alignment.new_zeros(truth.labels.shape)
        best_alignment = peak.scatter_reduce(1, owner, alignment, 'amax').gather(1, owner)
        best_overlap = peak.scatter_reduce(1, owner, overlap, 'amax').gather(1, owner)
        quality = alignment * best_overlap / (best_alignment + self.eps)
        return torch.where(gt_index >= 0, quality.clamp(min=self.min_quality), 0)
