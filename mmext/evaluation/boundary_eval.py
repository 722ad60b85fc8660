"""COCO's protocol with outlines: the overlap min(mask IoU, boundary IoU), and the outlines of found objects.

Method: Cheng et al., CVPR 2021, https://arxiv.org/abs/2103.16562.
"""

from typing import NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmext.evaluation.boundary import DILATION_RATIO, boundary_ious


class BoundaryEval(COCOeval):
    """COCO's evaluation with min(mask IoU, boundary IoU).

    Regions of a crowd keep their mask IoU: whether an object lies inside of one is no matter of its outline.

    Args:
        truth: annotations with masks.
        predictions: detections with masks.
        ratio: see `boundary_width`.
    """

    def __init__(self, truth: COCO, predictions: COCO, ratio: float = DILATION_RATIO) -> None:
        super().__init__(truth, predictions, 'segm')
        self.ratio = ratio

    def computeIoU(self, imgId: int, catId: int) -> np.ndarray | list:
        """(detections, truths) of one image and class, detections by descending score; [] without a pair."""
        ious = super().computeIoU(imgId, catId)
        if len(ious) == 0:
            return ious
        truths = self._gts[imgId, catId]
        found = self._dts[imgId, catId]
        order = np.argsort([-own['score'] for own in found], kind='mergesort')[: len(ious)]
        # The minimum is 0 wherever the masks do not meet: most detections need no boundary.
        touching = np.flatnonzero(ious.any(axis=1))
        boundary = boundary_ious(
            [found[order[row]]['segmentation'] for row in touching],
            [own['segmentation'] for own in truths],
            self.ratio,
        )
        plain = np.array([not own['iscrowd'] for own in truths])
        rows = ious[touching]
        rows[:, plain] = np.minimum(rows, boundary)[:, plain]
        ious[touching] = rows
        return ious


class MatchedPair(NamedTuple):
    """An object and the detection that COCO's protocol gives it at a mask IoU of 0.5."""

    category_id: int
    area: float
    boundary_iou: float


def matched_pairs(evaluator: BoundaryEval) -> list[MatchedPair]:
    """Objects that are found at a mask IoU of 0.5, with the boundary IoU of their detection.

    Matched by masks, not by the evaluation's own overlap, which would leave out just those of a poor outline.
    """
    matcher = COCOeval(evaluator.cocoGt, evaluator.cocoDt, 'segm')
    matcher.params.catIds = evaluator.params.catIds
    matcher.params.maxDets = evaluator.params.maxDets
    matcher.params.areaRng = evaluator.params.areaRng[:1]
    matcher.params.areaRngLbl = evaluator.params.areaRngLbl[:1]
    matcher.params.iouThrs = np.array([0.5])
    matcher.evaluate()
    pairs = []
    for image in filter(None, matcher.evalImgs):
        matches = zip(image['dtIds'], image['dtMatches'][0], image['dtIgnore'][0], strict=True)
        for found_id, truth_id, ignored in matches:
            if truth_id > 0 and not ignored:
                truth = evaluator.cocoGt.anns[int(truth_id)]
                found = evaluator.cocoDt.anns[found_id]
                iou = boundary_ious(
                    [found['segmentation']], [truth['segmentation']], evaluator.ratio
                )
                pairs.append(MatchedPair(truth['category_id'], truth['area'], float(iou[0, 0])))
    return pairs
