"""Test-time augmentation for classes of pixels from queries: the scores of several views are averaged.

mmseg's `SegTTAModel` takes the softmax of what a model gives. Of scores, which are sums of probabilities (see
`semantics.py`), it makes nearly equal shares: a class that one view is sure of hardly counts more than one that another
view doubts.
"""

from collections.abc import Sequence

import torch
from mmengine.model import BaseTTAModel
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmext.registry import MODELS


@MODELS.register_module()
class ClassScoreTTAModel(BaseTTAModel):
    """Averages the scores of classes that the views of a photo have.

    The views may differ by flips and by scale: mmseg's `EncoderDecoder` turns each back and brings it to the size of the
    photo file. `meta_keys` of the pipeline need `flip` and `flip_direction`, as those of `PackSegInputs` are.

    Args:
        module: an `EncoderDecoder` with `mmext.FastMask2FormerSegHead` or `mmseg.Mask2FormerHead`, or its config.
        data_preprocessor: as in mmengine's `BaseTTAModel`; None takes that of the module.
    """

    def merge_preds(
        self, data_samples_list: Sequence[Sequence[SegDataSample]]
    ) -> list[SegDataSample]:
        """One sample per photo out of the samples of its views.

        Returns:
            The first view's sample with the mean of all `seg_logits`, (C, H, W), and `pred_sem_seg`, (1, H, W), by it.
        """
        return [self._merge_views(views) for views in data_samples_list]

    def _merge_views(self, views: Sequence[SegDataSample]) -> SegDataSample:
        merged = views[0]
        total = torch.zeros_like(merged.seg_logits.data)
        for view in views:
            # One by one: of a dozen views with 150 classes a stack would take as much memory once more.
            total += view.seg_logits.data
        scores = total / len(views)
        merged.seg_logits = PixelData(data=scores)
        merged.pred_sem_seg = PixelData(data=scores.argmax(dim=0, keepdim=True))
        return merged
