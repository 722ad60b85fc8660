"""One prior for each ground truth: the assignment of a head that needs no suppression.

Source: YOLOv10, https://arxiv.org/abs/2405.14458, section 3.1: the one-to-one assignment ranks priors by the metric of
the one-to-many assignment, so that what is best for one is best for the other.

Shape letters: B images, G ground-truth boxes padded to the batch's most, A priors over all levels, C classes,
K candidates per ground truth.
"""

import torch
from torch import Tensor

from mmext.models.yolo.assigner import BatchTALAssigner, PaddedTruth


class OneToOneAssigner(BatchTALAssigner):
    """Gives each ground truth exactly one prior, of those whose centre lies inside its box.

    Pairs of ground truth and prior are made from the highest alignment down, until all ground truths have a prior: a
    prior that several want goes to the one it is best aligned with, the others take their next best. Of ground truths
    that are equal, the first takes the best prior, the second the next best, and so on. Only where more ground truths
    crowd than priors lie in their boxes, the last go without.

    `BatchTALAssigner(topk=1)` is not that: there, who loses a prior gets none, and who wins it may have two.

    Args:
        alpha: see `BatchTALAssigner`, as all others.
        beta: the same.
        min_gt_side: the same.
        eps: the same.
        min_quality: the same.
        max_block_pairs: the same.
    """

    def __init__(
        self,
        *,
        alpha: float,
        beta: float,
        min_gt_side: float,
        eps: float,
        min_quality: float,
        max_block_pairs: int,
    ) -> None:
        super().__init__(
            1,
            alpha,
            beta=beta,
            min_gt_side=min_gt_side,
            eps=eps,
            min_quality=min_quality,
            max_block_pairs=max_block_pairs,
        )

    @classmethod
    def like(cls, assigner: BatchTALAssigner) -> 'OneToOneAssigner':
        """With the settings of another, but `topk`."""
        return cls(
            alpha=assigner.alpha,
            beta=assigner.beta,
            min_gt_side=assigner.min_gt_side,
            eps=assigner.eps,
            min_quality=assigner.min_quality,
            max_block_pairs=assigner.max_block_pairs,
        )

    def _own(self, scores: Tensor, bboxes: Tensor, priors: Tensor, truth: PaddedTruth) -> Tensor:
        """The ground truth that owns each prior, (B, A), -1 for none."""
        batch, _, num_priors = scores.shape
        num_truths = truth.labels.shape[1]
        if num_truths == 0:
            return torch.full((batch, num_priors), -1, device=scores.device)
        # The others can take one prior each: of as many candidates as there are ground truths, one stays free.
        num_candidates = min(num_truths, num_priors)
        block = max(1, self.max_block_pairs // (batch * num_priors))
        parts = [
            self._rank(
                scores,
                bboxes,
                priors,
                PaddedTruth(*(field[:, start : start + block] for field in truth)),
            )[0].topk(num_candidates, dim=-1)
            for start in range(0, num_truths, block)
        ]
        rank_value, candidates = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
        return pair_greedily(rank_value, candidates, num_priors)


def pair_greedily(rank_value: Tensor, candidates: Tensor, num_priors: int) -> Tensor:
    """Pair ground truths and priors from the highest value down, each with one other at most.

    Each round makes all the pairs that have the highest value left both of their ground truth and of their prior; of
    equal ones, that of the first ground truth. The result is that of going through all pairs one by one, in fewer
    steps.

    Args:
        rank_value: (B, G, K), -inf for pairs that must not be made.
        candidates: (B, G, K) int64 in [0, A), the priors, each at most once per ground truth.
        num_priors: A.

    Returns:
        (B, A) int64, the ground truth of each prior; -1 for none.
    """
    batch, num_truths, _ = rank_value.shape
    owner = candidates.new_full((batch, num_priors), -1)
    index = torch.arange(num_truths, device=candidates.device).expand(batch, -1)
    while True:
        value, choice = rank_value.max(dim=2)  # B x G
        wanted = candidates.gather(2, choice[..., None])[..., 0]
        highest = value.new_full(owner.shape, -torch.inf).scatter_reduce(
            1, candidates.flatten(1), rank_value.flatten(1), 'amax'
        )
        leads = (value > -torch.inf) & (value == highest.gather(1, wanted))
        rank = torch.where(leads, index, num_truths)
        first = torch.full_like(owner, num_truths).scatter_reduce(1, wanted, rank, 'amin')
        wins = leads & (first.gather(1, wanted) == index)
        image, gt = wins.nonzero(as_tuple=True)
        if len(image) == 0:
            return owner
        owner[image, wanted[image, gt]] = gt
        taken = (owner.gather(1, candidates.flatten(1)) >= 0).view_as(candidates)
        rank_value = rank_value.masked_fill(taken | wins[..., None], -torch.inf)
