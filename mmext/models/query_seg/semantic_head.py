"""mmseg's Mask2Former head with a faster decoder and cheaper losses: the adapter of semantic segmentation."""

from collections.abc import Sequence
from typing import Any

from mmseg.models.decode_heads import Mask2FormerHead
from mmseg.structures import SegDataSample
from torch import Tensor

from mmext.models.common.query_outputs import predict_masks
from mmext.models.query_seg.decoder import check_attentions
from mmext.models.query_seg.head import build_criterion, compute_losses, decode
from mmext.models.query_seg.semantics import score_classes
from mmext.models.query_seg.truth import ImageTruth
from mmext.registry import MODELS


@MODELS.register_module()
class FastMask2FormerSegHead(Mask2FormerHead):
    """`mmseg.Mask2FormerHead` with the same arguments, parameters, random points, matches, losses and predictions.

    In a config of mmseg only the type changes; checkpoints go both ways.

    Args:
        **kwargs: of `mmseg.Mask2FormerHead`. `train_cfg` takes a `HungarianAssigner` with `ClassificationCost`,
            `CrossEntropyLossCost` and `DiceCost`.

    Raises:
        ValueError: an attention, an assigner or a match cost of another kind, or numbers out of their range.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_attentions(self.transformer_decoder)
        self.criterion = build_criterion(self) if self.train_cfg else None

    def forward(
        self, x: Sequence[Tensor], batch_data_samples: Sequence[SegDataSample] | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Classes and masks, see `FastMask2FormerHead.forward`; the samples are not read."""
        outputs = decode(self, x, every_output=self.training)
        masks = [
            predict_masks(embeddings, outputs.mask_features)
            for embeddings in outputs.mask_embeddings
        ]
        return outputs.class_logits, masks

    def loss(
        self, x: Sequence[Tensor], batch_data_samples: Sequence[SegDataSample], train_cfg: dict
    ) -> dict[str, Tensor]:
        """Losses of a batch; see `PointCriterion`.

        Args:
            x: (B, C_l, H_l, W_l) of each level of the backbone, finest first.
            batch_data_samples: with `gt_sem_seg`.
            train_cfg: of the segmentor; not read.

        Raises:
            ValueError: the head has no `train_cfg`, or there are labels that are no classes.
        """
        truths = [
            read_classes(sample, self.num_classes, self.ignore_index)
            for sample in batch_data_samples
        ]
        return compute_losses(self, x, truths)

    def predict(
        self, x: Sequence[Tensor], batch_img_metas: Sequence[dict], test_cfg: dict
    ) -> Tensor:
        """Scores of classes, (B, C, H, W) at the size of the network input; see `score_classes`.

        Args:
            x: (B, C_l, H_l, W_l) of each level of the backbone, finest first.
            batch_img_metas: of which the first one's `pad_shape`, or else `img_shape`, is the size.
            test_cfg: of the segmentor; not read.
        """
        outputs = decode(self, x, every_output=False)
        masks = predict_masks(outputs.mask_embeddings[-1], outputs.mask_features)
        meta = batch_img_metas[0]
        height, width = meta.get('pad_shape', meta['img_shape'])[:2]
        return score_classes(outputs.class_logits[-1], masks, (height, width))


def read_classes(sample: SegDataSample, num_classes: int, ignore_index: int) -> ImageTruth:
    """The classes that an image has, each as one object.

    Args:
        sample: with `gt_sem_seg`, (1, H, W) int.
        num_classes: C.
        ignore_index: label of pixels that belong to no class.

    Raises:
        ValueError: a label is neither a class nor to be ignored.
    """
    seg = sample.gt_sem_seg.data[0]
    present = [label for label in seg.unique().tolist() if label != ignore_index]
    if present and not 0 <= min(present) <= max(present) < num_classes:
        raise ValueError(
            f'FastMask2FormerSegHead: got the labels {present} in an image, expected classes in [0, {num_classes}) and '
            f'{ignore_index} for what is to be ignored. Look at num_classes, reduce_zero_label and the label files.'
        )
    labels = seg.new_tensor(present).long()
    return ImageTruth(labels, seg == labels[:, None, None])
