"""Encoder and decoder that predict soft mattes: the adapter to mmseg.

Shapes: N batch, H x W the network input, h x w the photo file.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.models.segmentors import EncoderDecoder
from mmseg.structures import SegDataSample
from mmseg.utils import add_prefix
from torch import Tensor, nn

from mmext.models.attn_unet.objective import (
    MatteTruth,
    matte_accuracy,
    matte_logits,
    matte_losses,
    resize_matte,
)
from mmext.models.common.deployed import DeployedNetwork
from mmext.models.common.folding import switch_to_deploy
from mmext.registry import MODELS

# Axes of a map (C, H, W) that each direction of a flip turns.
FLIPPED_AXES = {'horizontal': (2,), 'vertical': (1,), 'diagonal': (1, 2)}


@MODELS.register_module()
class MatteEncoderDecoder(EncoderDecoder):
    """mmseg's `EncoderDecoder` for alpha instead of labels.

    Losses see soft alpha, where it is valid, and the photos. Any decode head of mmseg with one logit, or with two
    classes, will do; `mmext.AttentionUNetHead` also has deep supervision and attention maps.

    Args:
        backbone: config of the encoder.
        decode_head: config of the head, with losses of `mmext` in `loss_decode`.
        data_preprocessor: config of `mmext.MattePreprocessor`.
        neck: config of a neck, or None.
        auxiliary_head: config of further heads, as in mmseg.
        train_cfg: None; nothing is read from it.
        test_cfg: `mode='whole'` (default), or `mode='slide'` with `crop_size` and `stride`, both (h, w).
        init_cfg: mmengine init config.

    Raises:
        ValueError: the head has more than two logits, or the preprocessor is another one.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        decode_head: dict[str, Any],
        *,
        data_preprocessor: dict[str, Any],
        neck: dict[str, Any] | None = None,
        auxiliary_head: dict[str, Any] | list[dict[str, Any]] | None = None,
        train_cfg: dict[str, Any] | None = None,
        test_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(
            backbone,
            decode_head,
            neck=neck,
            auxiliary_head=auxiliary_head,
            train_cfg=train_cfg,
            test_cfg=ConfigDict(dict(mode='whole') | dict(test_cfg or {})),
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        if not hasattr(self.data_preprocessor, 'restore'):
            raise ValueError(
                f'MatteEncoderDecoder: got data_preprocessor {type(self.data_preprocessor).__name__}, expected '
                "dict(type='mmext.MattePreprocessor', ...), which gives the losses their photos"
            )
        if self.out_channels not in (1, 2):
            raise ValueError(
                f'MatteEncoderDecoder: got a head with {self.out_channels} logits, expected out_channels=1, or 2 for '
                'background and foreground'
            )
        # Heads with two logits know none.
        self.threshold: float = self.decode_head.threshold or 0.5
        self.folded: nn.Module | None = None

    def init_weights(self) -> None:
        """Initialise, and give losses that compare features a copy of the encoder as it then is.

        A resumed run comes through here too, before it loads its checkpoint: it reads the same copy or, with the same
        seed, draws it.
        """
        super().init_weights()
        preprocessor = self.data_preprocessor
        for module in list(self.modules()):
            if hasattr(module, 'bind_encoder'):
                module.bind_encoder(
                    self.backbone,
                    mean=preprocessor.mean.flatten().tolist(),
                    std=preprocessor.std.flatten().tolist(),
                )

    def loss(self, inputs: Tensor, data_samples: Sequence[SegDataSample]) -> dict[str, Tensor]:
        """Losses of a training step.

        Args:
            inputs: (N, 3, H, W), normalised.
            data_samples: N of them with `gt_alpha` and `gt_valid` (1, H, W).

        Returns:
            `decode.loss_<x>` of each loss of the head, `decode.acc_matte` in percent; the same of auxiliary heads.
        """
        truth = MatteTruth(
            alpha=torch.stack([sample.gt_alpha.data for sample in data_samples]),
            valid=torch.stack([sample.gt_valid.data for sample in data_samples]),
            images=self.data_preprocessor.restore(inputs),
        )
        features = self.extract_feat(inputs)
        losses = add_prefix(self._head_losses(self.decode_head, features, truth), 'decode')
        if self.with_auxiliary_head:
            heads = self.auxiliary_head
            heads = heads if isinstance(heads, nn.ModuleList) else [heads]
            for index, head in enumerate(heads):
                losses |= add_prefix(self._head_losses(head, features, truth), f'aux_{index}')
        return losses

    def _head_losses(
        self, head: Any, features: Sequence[Tensor], truth: MatteTruth
    ) -> dict[str, Tensor]:
        if hasattr(head, 'matte_losses'):
            return head.matte_losses(features, truth)
        modules = head.loss_decode
        modules = modules if isinstance(modules, nn.ModuleList) else [modules]
        options: dict[str, Any] = dict(align_corners=head.align_corners)
        seg_logits = head(features)
        losses = matte_losses(seg_logits, truth, modules, **options)
        losses['acc_matte'] = matte_accuracy(seg_logits, truth, self.threshold, **options)
        return losses

    def encode_decode(self, inputs: Tensor, batch_img_metas: Sequence[dict[str, Any]]) -> Tensor:
        """Logits (N, C, H, W) float32 of images (N, 3, H, W), whole ones or windows."""
        return resize_matte(self._forward(inputs), inputs.shape[2:], self.align_corners)

    def _forward(
        self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None
    ) -> Tensor:
        """Logits (N, C, H', W') as the head gives them, what `mode='tensor'` returns; samples are not read."""
        if self.folded is not None:
            return self.folded(inputs)
        return self.decode_head(self.extract_feat(inputs))

    def switch_to_deploy(self) -> None:
        """Fold every batch norm into the convolution before it, for faster inference; other norms stay.

        Checkpoints are the same in both forms; see `mmext.models.common.folding`.

        Raises:
            ValueError: the model is in training mode.
        """
        switch_to_deploy(self)

    def fold(self) -> nn.Module:
        """The network of the deploy form, for `switch_to_deploy`."""
        neck = self.neck if self.with_neck else None
        return DeployedNetwork(self.backbone, neck, self.decode_head)

    @torch.no_grad()
    def attention_maps(self, batch_inputs: Tensor) -> list[Tensor]:
        """Where each gate looks.

        Args:
            batch_inputs: (N, 3, H, W), normalised.

        Returns:
            (N, 1, H_i, W_i) in (0, 1) of each gate, coarsest first.

        Raises:
            ValueError: the head has no gates, or the model is in training mode, where a look would change the
                statistics of the norms.
        """
        if not hasattr(self.decode_head, 'decode'):
            raise ValueError(
                f'attention_maps: got a {type(self.decode_head).__name__}, expected mmext.AttentionUNetHead'
            )
        if self.training:
            raise ValueError('attention_maps: got a model in training mode; call eval() before')
        return list(self.decode_head.decode(self.extract_feat(batch_inputs)).attention)

    def postprocess_result(
        self, seg_logits: Tensor, data_samples: Sequence[SegDataSample] | None = None
    ) -> list[SegDataSample]:
        """Put logits into samples, in the frame of the photo file.

        Args:
            seg_logits: (N, C, H, W).
            data_samples: N of them. Read are `padding_size` (left, right, top, bottom), `flip`, `flip_direction` and
                `ori_shape`; what is absent changes nothing. None makes new ones, at the size of the logits.

        Returns:
            The samples with `seg_logits` (C, h, w), raw, `pred_alpha` (1, h, w) float32 in [0, 1] and `pred_sem_seg`
            (1, h, w) int64, 1 where alpha exceeds the threshold.
        """
        samples = [SegDataSample() for _ in seg_logits] if data_samples is None else data_samples
        for logits, sample in zip(seg_logits, samples, strict=True):
            placed = _place_in_original(logits, sample.metainfo, self.align_corners)
            alpha = matte_logits(placed[None])[0].sigmoid()
            sample.set_data(
                dict(
                    seg_logits=PixelData(data=placed),
                    pred_alpha=PixelData(data=alpha),
                    pred_sem_seg=PixelData(data=(alpha > self.threshold).long()),
                )
            )
        return list(samples)


def _place_in_original(logits: Tensor, meta: dict[str, Any], align_corners: bool) -> Tensor:
    """Logits (C, H, W) without padding, turned back, at the size of the photo file."""
    left, right, top, bottom = meta.get('padding_size', (0, 0, 0, 0))
    height, width = logits.shape[1:]
    logits = logits[:, top : height - bottom, left : width - right]
    if meta.get('flip'):
        logits = logits.flip(_flipped_axes(meta))
    size = tuple(meta.get('ori_shape', logits.shape[1:]))[:2]
    return resize_matte(logits[None], size, align_corners)[0]


def _flipped_axes(meta: dict[str, Any]) -> tuple[int, ...]:
    """Axes of a map (C, H, W) that turn a mirrored photo back.

    Raises:
        ValueError: the sample does not say how the photo was mirrored.
    """
    direction = meta.get('flip_direction')
    if direction not in FLIPPED_AXES:
        raise ValueError(
            f'MatteEncoderDecoder: got a mirrored photo ({meta.get("img_path", "no img_path")}) with '
            f'flip_direction={direction!r}, expected one of {list(FLIPPED_AXES)}. Add it to the meta_keys of '
            "dict(type='mmext.PackMatteInputs')."
        )
    return FLIPPED_AXES[direction]
