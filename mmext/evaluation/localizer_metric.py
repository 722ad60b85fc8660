"""`LocalizerMetric`: class and box of the one object of every image."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from terminaltables import AsciiTable

from mmext.evaluation.localization import Located, localization_scores, overlap
from mmext.registry import METRICS


@METRICS.register_module()
class LocalizerMetric(BaseMetric):
    """Accuracy, mean IoU, AP50 and AP75 over all images, and of each class.

    The IoU is that of each predicted box with the true box of its own image; a predicted box without area counts 0. All
    images are gathered before anything is averaged, so that the batch size changes nothing. Keys are those of
    `mmext.evaluation.localization.localization_scores`, below the prefix: `localizer/IoU`.

    The truth is read from `gt_instances`, which must be in pixels of the original image, as the predictions are: load the
    annotations behind the resizing in validation pipelines, as mmdet does.

    Args:
        collect_device: 'cpu' or 'gpu', see mmengine's BaseMetric.
        prefix: see mmengine's BaseMetric; None is 'localizer'.
    """

    default_prefix = 'localizer'

    def __init__(self, *, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Compare the predictions of a batch with the truth.

        Args:
            data_batch: not read.
            data_samples: dicts with `gt_instances` and `pred_instances`, one object each: `bboxes` (1, 4) xyxy, `labels`
                (1,), and `scores` (1,) of the prediction.

        Raises:
            ValueError: an image has no truth, or more than one object.
        """
        for sample in data_samples:
            path = sample.get('img_path', 'an image')
            true = _checked(sample.get('gt_instances'), 'true', path)
            found = _checked(sample['pred_instances'], 'predicted', path)
            located = Located(
                label=int(found['labels'][0]),
                score=float(found['scores'][0]),
                iou=overlap(_box(found), _box(true)),
                true_label=int(true['labels'][0]),
            )
            self.results.append(located)

    def compute_metrics(self, results: list[tuple]) -> dict[str, float]:
        """Score what `process` collected."""
        # mmengine makes plain tuples of them.
        located = [Located(*result) for result in results]
        scores = localization_scores(located, self.dataset_meta['classes'])
        keys = ('accuracy', 'IoU', 'AP50', 'AP75')
        rows = [['class', 'images', *keys]]
        for label, name in enumerate(self.dataset_meta['classes']):
            number = sum(result.true_label == label for result in located)
            if number:
                rows.append(
                    [name, f'{number}', *(f'{scores[f"{key}_{name}"]:.3f}' for key in keys)]
                )
        rows.append(['all', f'{len(located)}', *(f'{scores[key]:.3f}' for key in keys)])
        MMLogger.get_current_instance().info('\n' + AsciiTable(rows).table)
        return scores


def _checked(instances: Mapping[str, Any] | None, kind: str, path: str) -> Mapping[str, Any]:
    """The instances of an image, of which there must be one."""
    number = 0 if instances is None else len(instances['labels'])
    if instances is None or number != 1:
        raise ValueError(
            f'LocalizerMetric: got {number} {kind} objects in {path}, expected one. Images without labels can be '
            'predicted (tools/predict.py) but not scored.'
        )
    return instances


def _box(instances: Mapping[str, Any]) -> torch.Tensor:
    """The first box, (4,) on the CPU; boxes may be mmdet's box structures."""
    boxes = instances['bboxes']
    return torch.as_tensor(getattr(boxes, 'tensor', boxes))[0].detach().cpu()
