"""One object an image for mmdet: what reads and writes data samples, around networks and losses of plain tensors."""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmext.models.common.deployed import DeployedNetwork
from mmext.models.common.folding import switch_to_deploy
from mmext.models.common.placement import place_in_original
from mmext.models.localizer.outputs import Localization, LocalizerTargets
from mmext.models.localizer.vote_head import VoteOutputs
from mmext.registry import MODELS


@MODELS.register_module()
class SingleObjectLocalizer(BaseDetector):
    """Backbone and head that find the class and the box of the one object in an image.

    Args:
        backbone: config of any backbone of mmext or mmdet, or of transformers by `mmext.TransformersBackbone`: images
            (B, 3, H, W) to a tuple of feature maps, finest first.
        head: config of `mmext.VoteHead` or `mmext.LocalizerHead`.
        neck: config of what comes between, such as `mmdet.FPN`; None for nothing.
        data_preprocessor: config, `mmdet.DetDataPreprocessor` as a rule.
        train_cfg: None; the head has all settings.
        test_cfg: None.
        init_cfg: mmengine init config.

    Raises:
        ValueError: `train_cfg` or `test_cfg` has entries, which would have no effect.
    """

    def __init__(
        self,
        *,
        backbone: dict[str, Any],
        head: dict[str, Any],
        neck: dict[str, Any] | None = None,
        data_preprocessor: dict[str, Any] | None = None,
        train_cfg: dict[str, Any] | None = None,
        test_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        if train_cfg or test_cfg:
            raise ValueError(
                f'SingleObjectLocalizer: got train_cfg={train_cfg} and test_cfg={test_cfg}, expected none. Move the '
                'settings into head=dict(...).'
            )
        self.backbone = MODELS.build(backbone)
        if neck is not None:
            self.neck = MODELS.build(neck)
        self.head = MODELS.build(head)
        self.folded: nn.Module | None = None

    def set_class_counts(self, counts: Sequence[int]) -> None:
        """Tell the loss how many training images of each class there are; `mmext.ClassWeightHook` calls this."""
        self.head.loss_fn.set_class_counts(counts)

    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) to feature maps (B, C_l, h_l, w_l), finest first."""
        feats = self.backbone(batch_inputs)
        return self.neck(feats) if self.with_neck else feats

    def loss(
        self, batch_inputs: Tensor, batch_data_samples: Sequence[DetDataSample]
    ) -> dict[str, Tensor]:
        """Losses of a training step.

        Args:
            batch_inputs: (B, 3, H, W).
            batch_data_samples: B of them with `gt_instances`: `bboxes` (n, 4) xyxy in pixels of the network input and
                `labels` (n,). n is 1, or 0 where nothing is to be learnt.

        Returns:
            See the head's `loss`.

        Raises:
            ValueError: an image has two objects or more.
        """
        targets = _read_targets(batch_data_samples, batch_inputs)
        return self.head.loss(self._forward(batch_inputs), targets)

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: Sequence[DetDataSample]
    ) -> Sequence[DetDataSample]:
        """The object of every image.

        Args:
            batch_inputs: (B, 3, H, W).
            batch_data_samples: B of them. Read are `ori_shape` (h, w), `scale_factor` (w, h), absent where the image was
                not resized, and `pad_param` (top, bottom, left, right), absent where at most its right and bottom were
                padded.

        Returns:
            The samples with `pred_instances`, always one: `bboxes` (1, 4) xyxy in pixels of the original image, clipped
            to it, corners in order, `scores` (1,) the probability of the class, `labels` (1,), `probabilities` (1, K).
        """
        results = self.predict_by_outputs(
            self._forward(batch_inputs), batch_data_samples, input_size=batch_inputs.shape[2:]
        )
        return self.add_pred_to_datasample(batch_data_samples, results)

    def predict_by_outputs(
        self,
        outputs: Localization | VoteOutputs,
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
        probabilities = outputs.class_logits.softmax(dim=1, dtype=torch.float32)
        return [
            _instance(sample, box, probability, input_size)
            for sample, box, probability in zip(
                batch_data_samples, outputs.boxes.float(), probabilities, strict=True
            )
        ]

    def _forward(
        self, batch_inputs: Tensor, batch_data_samples: Sequence[DetDataSample] | None = None
    ) -> Localization | VoteOutputs:
        """Raw outputs of the head, what `mode='tensor'` returns.

        Args:
            batch_inputs: (B, 3, H, W).
            batch_data_samples: not read.

        Returns:
            `class_logits` (B, K), `boxes` (B, 4) xyxy normalised to the network input, and whatever else the head has.
        """
        if self.folded is not None:
            return self.folded(batch_inputs.contiguous(memory_format=torch.channels_last))
        return self.head(self.extract_feat(batch_inputs))

    def switch_to_deploy(self) -> None:
        """Fold every batch norm into the convolution before it, for faster inference; other norms stay.

        Checkpoints are the same in both forms; see `mmext.models.common.folding`.

        Raises:
            ValueError: the model is in training mode.
        """
        switch_to_deploy(self)

    def fold(self) -> nn.Module:
        """The network of the deploy form, for `switch_to_deploy`; its kernels are stored channels last, as CPUs like."""
        network = DeployedNetwork(self.backbone, self.neck if self.with_neck else None, self.head)
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _read_targets(samples: Sequence[DetDataSample], batch_inputs: Tensor) -> LocalizerTargets:
    """True objects of a batch, boxes normalised to the network input."""
    num_objects = [len(sample.gt_instances) for sample in samples]
    if max(num_objects) > 1:
        sample = samples[num_objects.index(max(num_objects))]
        raise ValueError(
            f'SingleObjectLocalizer: got {max(num_objects)} objects in {sample.metainfo.get("img_path", "an image")}, '
            "expected one. dict(type='mmext.LocalizationDataset') keeps the images with one object."
        )
    height, width = batch_inputs.shape[2:]
    boxes = batch_inputs.new_zeros(len(samples), 4, dtype=torch.float32)
    labels = torch.zeros(len(samples), dtype=torch.long, device=batch_inputs.device)
    for index, sample in enumerate(samples):
        if num_objects[index]:
            boxes[index] = get_box_tensor(sample.gt_instances.bboxes)[0]
            labels[index] = sample.gt_instances.labels[0]
    boxes = boxes / boxes.new_tensor([width, height, width, height])
    known = torch.tensor(num_objects, device=batch_inputs.device) > 0
    return LocalizerTargets(boxes, labels, known)


def _instance(
    sample: DetDataSample, box: Tensor, probability: Tensor, input_size: Sequence[int]
) -> InstanceData:
    """A prediction in the frame of the original image; box (4,) normalised to the network input."""
    top, _, left, _ = sample.metainfo.get('pad_param', (0, 0, 0, 0))
    placed = place_in_original(
        box[None],
        input_size=(input_size[0], input_size[1]),
        scale_factor=sample.metainfo.get('scale_factor', (1.0, 1.0))[:2],
        offset=(left, top),
    )
    height, width = sample.ori_shape[:2]
    corners = placed.view(1, 2, 2).sort(dim=1).values.flatten(1)
    limits = corners.new_tensor([width, height, width, height])
    score, label = probability.max(dim=0)
    return InstanceData(
        bboxes=torch.minimum(corners.clamp(min=0), limits),
        scores=score[None],
        labels=label[None],
        probabilities=probability[None],
    )
