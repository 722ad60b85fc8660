"""Which detections queries start from, and in training which objects they stand for.

Shape letters: A priors over all levels, C classes, Q queries, g objects of an image, n seeds of an image, m of them
that stand for an object.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from mmdet.structures.bbox import bbox_xyxy_to_cxcywh
from torch import Tensor
from torch.nn import functional

from mmext.models.common.query_outputs import QuerySeeds
from mmext.models.yolo.postprocess import Detections, TestSettings, select_detections
from mmext.structures.boxes import box_iou

# The suppression looks at this many of the best priors for every seed that is wanted.
CANDIDATES_PER_SEED = 10
# A seed whose box overlaps an object's this much stands for it; an object's own seeds, this much of what its best does.
MIN_IOU = 0.5
# Part of the seeds that objects' own fill before detections do, their first ones aside: among the detections are those
# that are no object, which the class head must see as well.
OWN_SHARE = 0.5


def select_seeds(
    scores: Tensor, bboxes: Tensor, settings: TestSettings, num_seeds: int
) -> Detections:
    """The best detections after suppression, however low their score, so that training and test start alike.

    Args:
        scores: (C, A) probabilities of one image.
        bboxes: (A, 4) xyxy in pixels of the network input.
        settings: those of the detections. `nms` counts; a prior stands for its best class alone.
        num_seeds: most that are returned; fewer only where the suppression leaves fewer.
    """
    own = replace(
        settings,
        score_thr=0.0,
        multi_label=False,
        nms_pre=min(settings.nms_pre, CANDIDATES_PER_SEED * num_seeds),
        max_per_img=num_seeds,
    )
    return select_detections(scores, bboxes, own)


class TrainingSeeds(NamedTuple):
    """Seeds of one image in training.

    Attributes:
        prior: (n,) int64.
        bboxes: (n, 4) xyxy in pixels of the network input.
        pairs: seeds and objects that belong together, (m,) int64 each. A seed has at most one object; an object may
            have several seeds, as suppression and not the queries decides between them at test time.
    """

    prior: Tensor
    bboxes: Tensor
    pairs: tuple[Tensor, Tensor]


def seed_training(
    scores: Tensor,
    bboxes: Tensor,
    gt_bboxes: Tensor,
    settings: TestSettings,
    num_seeds: int,
    seeds_per_object: int,
) -> TrainingSeeds:
    """The priors that fit each object best, then detections: every object has queries from the first step on.

    Args:
        scores: see `select_seeds`.
        bboxes: the same.
        gt_bboxes: (g, 4) xyxy; objects beyond `num_seeds` get no prior of their own.
        settings: see `select_seeds`.
        num_seeds: the same.
        seeds_per_object: own seeds of each object, see `fit_priors`. They fill at most half of the seeds if that is
            enough for one each: every object's first is there before any object's second, and so on.
    """
    found = select_seeds(scores, bboxes, settings, num_seeds)
    if len(gt_bboxes) == 0:
        nobody = found.prior[:0]
        return TrainingSeeds(found.prior, bboxes[found.prior], (nobody, nobody))
    own, own_gt = fit_priors(bboxes, gt_bboxes[:num_seeds].float(), seeds_per_object)
    num_own = min(max(len(gt_bboxes), int(OWN_SHARE * num_seeds)), num_seeds)
    own, own_gt = own[:num_own], own_gt[:num_own]

    prior = torch.cat([own, found.prior])[:num_seeds]
    overlap, gt = box_iou(bboxes[prior][:, None], gt_bboxes[None]).max(dim=1)
    # A detection may start where an object's own seed does. Both are the same query, so that both stand for the object,
    # however poor the box is.
    twins = prior[:, None] == own  # n x own
    gt = torch.where(overlap >= MIN_IOU, gt, own_gt[twins.int().argmax(dim=1)])
    gt[: len(own)] = own_gt
    (positive,) = ((overlap >= MIN_IOU) | twins.any(dim=1)).nonzero(as_tuple=True)
    return TrainingSeeds(prior, bboxes[prior], (positive, gt[positive]))


def fit_priors(bboxes: Tensor, gt_bboxes: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """The best priors of every object, however poor they are, then the second best of every object, and so on.

    Second and further priors belong to the object that they fit best, are nobody's first, and overlap with it more
    than half as much as its first does. An object with too few of them repeats its first, so that all objects weigh
    the same.

    Args:
        bboxes: (A, 4) xyxy of all priors.
        gt_bboxes: (g, 4) xyxy, at least one.
        num: priors of each object.

    Returns:
        Prior and object, (num g,) int64 each.
    """
    overlap = box_iou(gt_bboxes[:, None], bboxes[None])  # g x A
    best, first = overlap.max(dim=1, keepdim=True)
    others = overlap * (overlap == overlap.amax(dim=0))
    others[:, first[:, 0]] = 0
    value, further = others.topk(min(num, len(bboxes)) - 1, dim=1)
    further = torch.where(value > MIN_IOU * best, further, first)
    prior = torch.cat([first, further], dim=1)  # g x num
    gt = torch.arange(len(prior), device=prior.device)[:, None].expand_as(prior)
    return prior.T.flatten(), gt.T.flatten()


def collate_seeds(
    seeds: Sequence[Detections | TrainingSeeds], *, num_seeds: int, input_size: tuple[int, int]
) -> QuerySeeds:
    """The seeds of each image, filled up to `num_seeds`, for a network input of (height, width)."""
    height, width = input_size
    priors, boxes, valid = [], [], []
    for own in seeds:
        missing = num_seeds - len(own.prior)
        size = own.bboxes.new_tensor([width, height, width, height])
        inside = bbox_xyxy_to_cxcywh((own.bboxes / size).clamp(0, 1))
        priors.append(functional.pad(own.prior, (0, missing)))
        boxes.append(functional.pad(inside, (0, 0, 0, missing)))
        valid.append(torch.arange(num_seeds, device=own.prior.device) < len(own.prior))
    return QuerySeeds(torch.stack(priors), torch.stack(boxes), torch.stack(valid))
