"""`InstanceCocoMetric`: box AP, mask AP and boundary AP of one run, whole, by size and by class.

mmdet's CocoMetric knows no boundaries, rounds to three digits, and writes the box AP and the mask AP of a class under one
key, so that only the last survives.
"""

import contextlib
import io
from collections.abc import Callable, Sequence

import numpy as np
from mmdet.evaluation import CocoMetric
from mmengine.logging import MMLogger
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from terminaltables import AsciiTable

from mmext.evaluation.boundary import DILATION_RATIO
from mmext.evaluation.boundary_eval import BoundaryEval, matched_pairs
from mmext.registry import METRICS
from mmext.structures.scorable import scoring_faults

# Threshold -> suffix; None is the mean over 0.5, 0.55, ... 0.95.
THRESHOLDS = {None: 'mAP', 0.5: 'mAP_50', 0.75: 'mAP_75'}
# Suffix of pycocotools' area ranges; the areas are those of the annotation file.
SIZES = {'_s': 'small', '_m': 'medium', '_l': 'large'}
NOTHING_TO_FIND = -1.0  # COCO's word for an average over no objects


@METRICS.register_module()
class InstanceCocoMetric(CocoMetric):
    """COCO's protocol for boxes ('bbox'), masks ('segm') and outlines ('boundary').

    Results, with K for each metric: `K_mAP`, `K_mAP_50`, `K_mAP_75`, `K_mAP_s`, `K_mAP_m`, `K_mAP_l`, and with
    `classwise` `K_<class>_mAP`, `K_<class>_mAP_50`, `K_<class>_mAP_75`. 'boundary' scores with min(mask IoU, boundary IoU)
    and adds `boundary_IoU` (also `_s`, `_m`, `_l`, and `boundary_<class>_IoU`): the mean boundary IoU of the objects that are
    found at a mask IoU of 0.5, and `boundary_matched`, the share of objects that are. All in [0, 1], not rounded; -1
    where there is no such object.

    Args:
        ann_file: COCO annotation file; sizes follow its `area`.
        metric: some of 'bbox', 'segm', 'boundary'.
        classwise: also the results of each class.
        max_dets: detections of an image that count, the highest scores first.
        boundary_ratio: width of the boundary as a share of the image's diagonal.
        backend_args: of mmengine's file backend; None for local files.
        collect_device: 'cpu' or 'gpu', see mmengine's BaseMetric.
        prefix: see mmengine's BaseMetric; None is 'coco'.

    Raises:
        ValueError: an unknown metric, or objects in the annotation file that cannot be scored.
    """

    def __init__(
        self,
        ann_file: str,
        metric: str | Sequence[str] = ('bbox', 'segm', 'boundary'),
        *,
        classwise: bool = False,
        max_dets: int = 100,
        boundary_ratio: float = DILATION_RATIO,
        backend_args: dict | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        metrics = [metric] if isinstance(metric, str) else list(metric)
        unknown = sorted(set(metrics) - {'bbox', 'segm', 'boundary'})
        if unknown or not metrics:
            raise ValueError(
                f"InstanceCocoMetric: got metric={metric!r}, expected some of 'bbox', 'segm', 'boundary'."
            )
        super().__init__(
            ann_file=ann_file,
            classwise=classwise,
            backend_args=backend_args,
            collect_device=collect_device,
            prefix=prefix,
        )
        faults = scoring_faults(self._coco_api.dataset, metrics)
        if faults:
            raise ValueError(f'{ann_file}: ' + '\n'.join(faults))
        self._number_annotations()
        self.metrics = metrics
        self.max_dets = max_dets
        self.boundary_ratio = boundary_ratio

    def _number_annotations(self) -> None:
        """Number the annotations from 1, in memory: pycocotools takes the id 0 for "not found"."""
        annotations = self._coco_api.dataset['annotations']
        for number, own in enumerate(annotations, start=1):
            own['id'] = number
        self._coco_api.anns = {own['id']: own for own in annotations}

    def compute_metrics(self, results: list[tuple[dict, dict]]) -> dict[str, float]:
        """Score what `process` collected; see the class for the keys.

        Raises:
            ValueError: masks are to be scored and the model gave none, or a class is not in the annotation file.
        """
        predictions = [prediction for _, prediction in results]
        self.cat_ids = self._category_ids()
        scores: dict[str, float] = {}
        # pycocotools prints its progress.
        with contextlib.redirect_stdout(io.StringIO()):
            for metric in self.metrics:
                evaluator = self._evaluator(metric, predictions)
                evaluator.evaluate()
                evaluator.accumulate()
                scores |= self._average_precisions(metric, evaluator.eval['precision'])
                if metric == 'boundary':
                    scores |= self._matched_outlines(evaluator)
        MMLogger.get_current_instance().info('\n' + self._table(scores))
        return scores

    def _category_ids(self) -> list[int]:
        """Ids in the order of the labels."""
        ids = {own['name']: own['id'] for own in self._coco_api.dataset['categories']}
        unknown = [name for name in self.dataset_meta['classes'] if name not in ids]
        if unknown:
            raise ValueError(
                f'InstanceCocoMetric: got the classes {unknown}, expected some of {sorted(ids)} as in the '
                'annotation file. Correct metainfo or ann_file.'
            )
        return [ids[name] for name in self.dataset_meta['classes']]

    def _evaluator(self, metric: str, predictions: Sequence[dict]) -> COCOeval:
        """pycocotools' evaluation of boxes, masks or outlines, not yet run."""
        make: Callable = self._box_annotations if metric == 'bbox' else self._mask_annotations
        annotations = [own for prediction in predictions for own in make(prediction)]
        if annotations:
            found = self._coco_api.loadRes(annotations)
        else:
            found = COCO()  # loadRes refuses an empty list
            found.dataset = self._coco_api.dataset | dict(annotations=[])
            found.createIndex()
        if metric == 'boundary':
            evaluator = BoundaryEval(self._coco_api, found, self.boundary_ratio)
        else:
            evaluator = COCOeval(self._coco_api, found, metric)
        evaluator.params.catIds = self.cat_ids
        evaluator.params.maxDets = [self.max_dets]
        return evaluator

    def _box_annotations(self, prediction: dict) -> list[dict]:
        return [
            dict(
                image_id=prediction['img_id'],
                category_id=self.cat_ids[label],
                bbox=self.xyxy2xywh(bbox),
                score=float(score),
            )
            for label, bbox, score in zip(
                prediction['labels'], prediction['bboxes'], prediction['scores'], strict=True
            )
        ]

    def _mask_annotations(self, prediction: dict) -> list[dict]:
        if 'masks' not in prediction:
            raise ValueError(
                'InstanceCocoMetric: got predictions without masks; expected masks for the metrics segm and '
                "boundary. Set metric='bbox'."
            )
        scores = prediction.get('mask_scores', prediction['scores'])
        # Without a box: pycocotools would take its area for that of the mask.
        return [
            dict(
                image_id=prediction['img_id'],
                category_id=self.cat_ids[label],
                segmentation=mask,
                score=float(score),
            )
            for label, mask, score in zip(
                prediction['labels'], prediction['masks'], scores, strict=True
            )
        ]

    def _average_precisions(self, metric: str, precision: np.ndarray) -> dict[str, float]:
        """From COCO's array (thresholds, recalls, classes, area ranges, 1) to named averages."""
        rows = {threshold: _threshold_rows(threshold) for threshold in THRESHOLDS}
        scores = {
            f'{metric}_{name}': _mean(precision[rows[threshold], :, :, 0])
            for threshold, name in THRESHOLDS.items()
        }
        for index, suffix in enumerate(SIZES, start=1):
            scores[f'{metric}_mAP{suffix}'] = _mean(precision[:, :, :, index])
        if self.classwise:
            # pycocotools sorts the categories by id.
            for index, category_id in enumerate(sorted(self.cat_ids)):
                for threshold, name in THRESHOLDS.items():
                    key = f'{metric}_{self._coco_api.cats[category_id]["name"]}_{name}'
                    scores[key] = _mean(precision[rows[threshold], :, index, 0])
        return scores

    def _matched_outlines(self, evaluator: BoundaryEval) -> dict[str, float]:
        """Mean boundary IoU of the objects that are found."""
        pairs = matched_pairs(evaluator)
        ranges = dict(zip(evaluator.params.areaRngLbl, evaluator.params.areaRng, strict=True))
        scores = dict(boundary_IoU=_mean([pair.boundary_iou for pair in pairs]))
        for suffix, name in SIZES.items():
            low, high = ranges[name]
            own = [pair.boundary_iou for pair in pairs if low <= pair.area <= high]
            scores[f'boundary_IoU{suffix}'] = _mean(own)
        if self.classwise:
            for category_id in self.cat_ids:
                own = [pair.boundary_iou for pair in pairs if pair.category_id == category_id]
                scores[f'boundary_{self._coco_api.cats[category_id]["name"]}_IoU'] = _mean(own)
        truths = self._coco_api.loadAnns(self._coco_api.getAnnIds(catIds=self.cat_ids))
        objects = sum(not own['iscrowd'] for own in truths)
        scores['boundary_matched'] = len(pairs) / objects if objects else NOTHING_TO_FIND
        return scores

    def _table(self, scores: dict[str, float]) -> str:
        rows = [['metric', 'value'], *([key, f'{value:.3f}'] for key, value in scores.items())]
        return AsciiTable(rows).table


def _threshold_rows(threshold: float | None) -> slice:
    """Where COCO's array of thresholds 0.5, 0.55, ... has this one; all for None."""
    if threshold is None:
        return slice(None)
    row = round((threshold - 0.5) / 0.05)
    return slice(row, row + 1)


def _mean(values: Sequence[float] | np.ndarray) -> float:
    """Mean of the values that exist (COCO marks the others with -1); -1 if none does."""
    known = np.asarray(values, dtype=float)
    known = known[known > -1]
    return float(known.mean()) if known.size else NOTHING_TO_FIND
