"""Predictions in a pickle file, for evaluation outside the run."""

from collections.abc import Sequence
from typing import Any

from mmdet.structures.mask import encode_mask_results
from mmengine.evaluator import DumpResults
from torch import Tensor

from mmext.registry import METRICS

GROUND_TRUTH = ('gt_instances', 'ignored_instances', 'gt_panoptic_seg')


def without_truth(sample: dict[str, Any]) -> dict[str, Any]:
    """A prediction as it is dumped: no ground truth, dense masks as run-length dicts."""
    kept = {key: value for key, value in sample.items() if key not in GROUND_TRUTH}
    instances = kept.get('pred_instances', {})
    if isinstance(instances.get('masks'), Tensor):
        masks = encode_mask_results(instances['masks'].cpu().numpy())
        kept['pred_instances'] = {**instances, 'masks': masks}
    return kept


@METRICS.register_module()
class DumpInstanceResults(DumpResults):
    """Writes predictions as mmdet's DumpDetResults does, also where the head gives run-length masks itself.

    mmdet's class calls `.numpy()` on whatever the masks are, and takes the ground truth out of samples that the other
    metrics share. The file is a list with one dict an image, as mmdet's analysis tools read it: `img_id`,
    `img_path`, `ori_shape` and `pred_instances` with `bboxes`, `scores`, `labels` and, where there are any,
    `masks` as COCO run-length dicts.

    Args: as mmengine's DumpResults (`out_file_path`).
    """

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Collects the predictions of a batch."""
        super().process(data_batch, [without_truth(sample) for sample in data_samples])
