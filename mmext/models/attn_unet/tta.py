"""Test-time augmentation for mattes: the alpha of several views is averaged.

mmseg's `SegTTAModel` applies the sigmoid a second time to what mmseg has already made probabilities, so that nearly
every pixel ends above 1/2.
"""

from collections.abc import Sequence

import torch
from mmengine.model import BaseTTAModel
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmext.registry import MODELS


@MODELS.register_module()
class MatteTTAModel(BaseTTAModel):
    """Averages the alpha of the views of a photo.

    The views may differ by flips and by scale: `mmext.MatteEncoderDecoder` turns each back and brings it to the size of
    the photo file. `meta_keys` of the pipeline need `flip` and `flip_direction`.

    Args:
        module: the `MatteEncoderDecoder`, or its config.
        data_preprocessor: as in mmengine's `BaseTTAModel`; None takes that of the module.
    """

    def merge_preds(
        self, data_samples_list: Sequence[Sequence[SegDataSample]]
    ) -> list[SegDataSample]:
        """One sample per photo out of the samples of its views.

        Returns:
            The first view's sample with the mean of all `pred_alpha`, and `pred_sem_seg` by it. It has no `seg_logits`:
            a mean of probabilities has none.
        """
        return [self._merge_views(views) for views in data_samples_list]

    def _merge_views(self, views: Sequence[SegDataSample]) -> SegDataSample:
        merged = views[0]
        alpha = torch.stack([view.pred_alpha.data for view in views]).mean(dim=0)
        merged.pred_alpha = PixelData(data=alpha)
        merged.pred_sem_seg = PixelData(data=(alpha > self.module.threshold).long())
        del merged.seg_logits
        return merged
