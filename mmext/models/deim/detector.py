"""DEIM for mmdet: what reads and writes data samples, around networks and losses of plain tensors.

Source: DEIMv2 (https://arxiv.org/abs/2509.20787).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mmdet.models.detectors import BaseDetector
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_xyxy_to_cxcywh, get_box_tensor
from mmengine.structures import InstanceData
from torch import Tensor

from mmext.models.common.folding import switch_to_deploy
from mmext.models.common.placement import place_in_original
from mmext.models.deim.outputs import BoxOutputs, ImageTargets, LayerOutputs
from mmext.models.deim.postprocess import select_detections
from mmext.registry import MODELS


@MODELS.register_module()
class DEIM(BaseDetector):
    """Backbone, encoder, transformer decoder and losses of DEIMv2.

    The published models were trained and tested on images resized to a square, without padding. Other sizes work
    with `pad_size_divisor=32` in the data preprocessor. HGNetv2 can do without, but its cells no longer lie evenly on
    an image whose sides are no multiples of 32; DINOv3 refuses sides that are no multiples of 16.

    Weights have the published names; the published `encoder` is called `neck` here, as everywhere in mmdet.

    Args:
        data_preprocessor: config, `mmdet.DetDataPreprocessor` as a rule. Images are RGB; HGNetv2 wants them in [0, 1]
            (mean 0, std 255), DINOv3 with ImageNet's mean and deviation.
        backbone: config of `mmext.HGNetv2` or `mmext.DINOv3STA`.
        neck: config of `mmext.HybridEncoder` or `mmext.LiteEncoder`.
        decoder: config of `mmext.DEIMTransformer`.
        criterion: config of `mmext.DEIMCriterion`.
        test_cfg: `max_per_img`, detections of an image (300 in the published models, COCO scores no more than 100).
        train_cfg: None; the criterion has all settings.
        init_cfg: mmengine init config.

    Raises:
        ValueError: `test_cfg` or `train_cfg` has other entries, which would have no effect.
    """

    def __init__(
        self,
        *,
        backbone: dict[str, Any],
        neck: dict[str, Any],
        decoder: dict[str, Any],
        criterion: dict[str, Any],
        test_cfg: Mapping[str, Any],
        train_cfg: Mapping[str, Any] | None = None,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        _check_settings(test_cfg, train_cfg)
        self.backbone = MODELS.build(backbone)
        self.neck = MODELS.build(neck)
        self.decoder = MODELS.build(decoder)
        self.criterion = MODELS.build(criterion)
        self.max_per_img = test_cfg['max_per_img']
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Tell the matcher, which changes in the course of training, where it stands.

        Args:
            epoch: counted from 0. `dict(type='mmdet.SetEpochInfoHook')` calls this before each epoch.
        """
        self.epoch = epoch

    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) to the encoder's maps, (B, C, H_l, W_l) each, finest first."""
        return self.neck(self.backbone(batch_inputs))

    def switch_to_deploy(self) -> None:
        """Fold every norm into the convolution before it, for faster inference; see `mmext.models.common.folding`.

        Checkpoints are the same in both forms. In eval mode only the last layer's heads run, in both forms; what is
        left out at inference stays for the checkpoint.

        Raises:
            ValueError: the model is in training mode, or has norms other than batch norms.
        """
        switch_to_deploy(self)

    def loss(
        self, batch_inputs: Tensor, batch_data_samples: Sequence[DetDataSample]
    ) -> dict[str, Tensor]:
        """Losses of a training step.

        Args:
            batch_inputs: (B, 3, H, W).
            batch_data_samples: B of them with `gt_instances`: `bboxes` (n, 4) xyxy in pixels of the network input,
                `labels` (n,); n may be 0 in all of them.

        Returns:
            See `DEIMCriterion.forward`.
        """
        height, width = batch_inputs.shape[2:]
        targets = [read_targets(own.gt_instances, height, width) for own in batch_data_samples]
        outputs = self.decoder(self.extract_feat(batch_inputs), targets)
        return self.criterion(outputs, targets, epoch=self.epoch)

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: Sequence[DetDataSample]
    ) -> Sequence[DetDataSample]:
        """Detections of every image.

        Args:
            batch_inputs: (B, 3, H, W).
            batch_data_samples: B of them. Read are `scale_factor` (w, h), absent where the image was not resized, and
                `pad_param` (top, bottom, left, right), absent where at most its right and bottom were padded.

        Returns:
            The samples with `pred_instances`: `bboxes` (k, 4) xyxy in pixels of the original image, not clipped to
            it, `scores` (k,) descending, `labels` (k,). k is the smaller of `max_per_img` and queries times classes.
        """
        results = self.predict_by_outputs(
            self._forward(batch_inputs), batch_data_samples, input_size=batch_inputs.shape[2:]
        )
        return self.add_pred_to_datasample(batch_data_samples, results)

    def predict_by_outputs(
        self,
        outputs: BoxOutputs,
        batch_data_samples: Sequence[DetDataSample],
        *,
        input_size: Sequence[int],
    ) -> list[InstanceData]:
        """What follows the network at inference.

        Args:
            outputs: of `mode='tensor'`.
            batch_data_samples: see `predict`.
            input_size: height and width of the network input.

        Returns:
            The `pred_instances` of `predict`.
        """
        height, width = input_size
        found = select_detections(*outputs, max_per_img=self.max_per_img)
        results = []
        for sample, boxes, scores, labels in zip(batch_data_samples, *found, strict=True):
            top, _, left, _ = sample.metainfo.get('pad_param', (0, 0, 0, 0))
            bboxes = place_in_original(
                boxes,
                input_size=(height, width),
                scale_factor=sample.metainfo.get('scale_factor', (1.0, 1.0))[:2],
                offset=(left, top),
            )
            results.append(InstanceData(bboxes=bboxes, scores=scores, labels=labels))
        return results

    def _forward(
        self, batch_inputs: Tensor, batch_data_samples: Sequence[DetDataSample] | None = None
    ) -> BoxOutputs:
        """Raw outputs of the last layer, what `mode='tensor'` returns.

        Args:
            batch_inputs: (B, 3, H, W).
            batch_data_samples: not read.

        Returns:
            `logits` (B, Q, C) and `boxes` (B, Q, 4) cxcywh, normalised to the network input.
        """
        last: LayerOutputs = self.decoder(self.extract_feat(batch_inputs)).layers[-1]
        return BoxOutputs(last.logits, last.boxes)


def read_targets(instances: InstanceData, height: int, width: int) -> ImageTargets:
    """Objects of an image, whose network input is of that height and width."""
    boxes = get_box_tensor(instances.bboxes).float()
    boxes = boxes / boxes.new_tensor([width, height, width, height])
    return ImageTargets(instances.labels, bbox_xyxy_to_cxcywh(boxes))


def _check_settings(test_cfg: Mapping[str, Any], train_cfg: Mapping[str, Any] | None) -> None:
    if set(test_cfg) != {'max_per_img'} or test_cfg['max_per_img'] < 1:
        raise ValueError(
            f'DEIM: got test_cfg={dict(test_cfg)}, expected max_per_img of at least 1 and nothing else. There is no '
            'threshold and no NMS: filter the results by their scores instead.'
        )
    if train_cfg:
        raise ValueError(
            f'DEIM: got train_cfg={dict(train_cfg)}, expected none. Move the settings into criterion=dict(...).'
        )
