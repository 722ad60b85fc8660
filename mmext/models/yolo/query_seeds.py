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

from mmext.models.yolo.postprocess import Detections, TestSettings, select_detections
from mmext.models.yolo.query_outputs import QuerySeeds
from mmext.structures.boxes import box_iou

# The suppression looks at this many of the best priors for every seed that is wanted.
CANDIDATES_PER_SEED = 10
# A seed whose box overlaps an object's this much stands for it.
MIN_IOU = 0.5


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
    scores: Tensor, bboxes: Tensor, gt_bboxes: Tensor, settings: TestSettings, num_seeds: int
) -> TrainingSeeds:
    """The prior whose box fits each object best, then detections: every object has a query from the first step on.

    Args:
        scores: see `select_seeds`.
        bboxes: the same.
        gt_bboxes: (g, 4) xyxy; objects beyond `num_seeds` get no prior of their own.
        settings: see `select_seeds`.
        num_seeds: the same.
    """
    own = gt_bboxes[:num_seeds].float()
    fitting = box_iou(own[:, None], bboxes[None]).argmax(dim=1)
    found = select_seeds(scores, bboxes, settings, num_seeds)
    prior = torch.cat([fitting, found.prior])[:num_seeds]
    if len(own) == 0:
        return TrainingSeeds(prior, bboxes[prior], (prior[:0], prior[:0]))
    overlap, gt = box_iou(bboxes[prior][:, None], gt_bboxes[None]).max(dim=1)
    # Each object's own seed stands for it, however poor the box is.
    gt[: len(own)] = torch.arange(len(own), device=gt.device)
    overlap[: len(own)] = 1
    (positive,) = (overlap >= MIN_IOU).nonzero(as_tuple=True)
    return TrainingSeeds(prior, bboxes[prior], (positive, gt[positive]))


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
