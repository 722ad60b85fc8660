"""A semantic network from a photo to its logits: preparation, the forward pass with its time, and the way back."""

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DefaultScope
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import DepthEstimator, EncoderDecoder
from numpy.typing import NDArray
from torch import Tensor, nn

from mmext.apis.photo_files import read_photo
from mmext.apis.pipelines import build_pipeline, test_pipeline
from mmext.apis.semantic_presets import Preset
from mmext.apis.semantic_rows import CroppedRows, ResizedRows, RowSource, StoredRows
from mmext.apis.tiling import Window
from mmext.apis.timing import model_clock
from mmext.datasets.transforms.alpha import LoadAlpha


class Prepared(NamedTuple):
    """What the network sees of an image.

    Attributes:
        inputs: (1, 3, h, w), normalised, on the CPU or the device.
        content: the part of it that is no padding.
    """

    inputs: Tensor
    content: Window


class Preparation(Protocol):
    """How files become images and images inputs.

    Attributes:
        one_step: whether logits go straight to the size of the image.
    """

    one_step: bool

    def load(self, path: Path) -> NDArray[np.uint8]:
        """(H, W, 3) BGR of a file."""

    def prepare(self, image: NDArray[np.uint8]) -> Prepared:
        """What the network sees of (H, W, 3) BGR."""


class PresetPreparation:
    """By a preset; files are read by Pillow.

    Args:
        preset: see `semantic_presets`.
    """

    def __init__(self, preset: Preset) -> None:
        self._preset = preset
        self.one_step = preset.one_step

    def load(self, path: Path) -> NDArray[np.uint8]:
        """See `Preparation`."""
        return cv2.cvtColor(read_photo(path).pixels, cv2.COLOR_RGB2BGR).astype(np.uint8)

    def prepare(self, image: NDArray[np.uint8]) -> Prepared:
        """See `Preparation`."""
        rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8)
        inputs = torch.from_numpy(self._preset(rgb))[None]
        return Prepared(inputs, Window(0, 0, inputs.shape[3], inputs.shape[2]))


class ConfigPreparation:
    """By the test pipeline of a config and the data preprocessor of the model.

    Args:
        model: with `cfg`.

    Raises:
        ValueError: the model has no config, or the config no test pipeline.
    """

    one_step = False

    def __init__(self, model: nn.Module) -> None:
        if not hasattr(model, 'cfg'):
            raise ValueError(
                f'got a {type(model).__name__} without `cfg`, which says how images are prepared; make it with '
                'init_model, or name a preset'
            )
        self._preprocessor: Any = model.data_preprocessor
        self._scope = model.cfg.get('default_scope', 'mmseg')  # type: ignore[operator, union-attr]
        self._loader, steps = build_pipeline(test_pipeline(model.cfg), model.cfg)  # type: ignore[arg-type]
        self._steps = Compose(
            [step for step in steps.transforms if not isinstance(step, LoadAlpha)]
        )

    def load(self, path: Path) -> NDArray[np.uint8]:
        """See `Preparation`."""
        results = self._loader({'img_path': str(path)})
        # mmcv's loader gives None where it was told to pass over what it cannot read.
        if results is None or 'img' not in results:
            raise ValueError(f'{type(self._loader).__name__} gave no image for {path}')
        return results['img']

    def prepare(self, image: NDArray[np.uint8]) -> Prepared:
        """See `Preparation`."""
        shape = image.shape[:2]
        start = dict(img_shape=shape, ori_shape=shape, img_path=None)
        # A step of the pipeline may write into the image.
        packed = self._steps(dict(img=image.copy(), **start))
        if packed is None:
            raise ValueError('the test pipeline dropped an image; remove its step that filters')
        with DefaultScope.overwrite_default_scope(self._scope):
            data = self._preprocessor(pseudo_collate([packed]), False)
        meta = data['data_samples'][0].metainfo
        if meta.get('flip'):
            raise ValueError(
                'the test pipeline mirrored an image; remove its RandomFlip, or set prob=0'
            )
        inputs = data['inputs']
        height, width = inputs.shape[2:]
        padding = meta.get('img_padding_size', meta.get('padding_size', (0, 0, 0, 0)))
        left, right, top, bottom = padding
        return Prepared(inputs, Window(left, top, width - right, height - bottom))


class Forward(NamedTuple):
    """What the network says.

    Attributes:
        logits: (B, C, h, w) float32.
        seconds: the forward pass took, of the whole batch.
    """

    logits: Tensor
    seconds: float


class SemanticNetwork:
    """A model of mmseg, asked for logits at the resolution of its head.

    Args:
        model: an `EncoderDecoder`, in evaluation.

    Attributes:
        num_logits: C; 1 for the foreground of two classes.
        threshold: of the probability of the foreground, with one logit; otherwise None.
        has_logits: whether what it gives are logits. Heads of queries give scores that need not sum to 1.
        align_corners: of the resizing that the model was trained with.

    Raises:
        ValueError: a model of another kind, or in training mode.
    """

    def __init__(self, model: nn.Module) -> None:
        if not isinstance(model, EncoderDecoder):
            raise ValueError(
                f'got a {type(model).__name__}, expected a semantic model of mmseg, an EncoderDecoder; '
                'mmext.apis.InstanceInferencer finds objects'
            )
        if isinstance(model, DepthEstimator):
            raise ValueError(
                f'got a {type(model).__name__}, which says distances; expected a semantic model of mmseg'
            )
        if model.training:
            raise ValueError('got a model in training mode; call eval() before')
        head: Any = model.decode_head
        if isinstance(head, nn.ModuleList):
            head = head[-1]  # of a cascade the last decides
        self.model = model
        self.num_logits: int = model.out_channels
        self.threshold: float | None = head.threshold if self.num_logits == 1 else None
        self.has_logits = isinstance(head, BaseDecodeHead)
        self.align_corners: bool = model.align_corners
        self._is_plain = _is_plain(model)
        self._clock = model_clock(model)
        self._device = next(model.parameters()).device

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Forward:
        """Logits of (B, 3, h, w), normalised, with the time between two moments at which the device has nothing to do.

        Where the head only computes, they have its own resolution. Heads with a prediction of their own (queries,
        points, cascades) and models with one give theirs at the size of the input.

        Raises:
            ValueError: the network cannot take inputs of this size.
        """
        inputs = inputs.to(self._device)
        start = self._clock()
        try:
            logits = self._logits(inputs)
        # What networks raise for maps that are too small for a kernel, or too large for the memory.
        except (RuntimeError, ValueError, AssertionError) as error:
            height, width = inputs.shape[2:]
            raise ValueError(
                f'the network failed on an input of {height} x {width} (h, w): {error}'
            ) from error
        return Forward(logits.float(), self._clock() - start)

    def _logits(self, inputs: Tensor) -> Tensor:
        if self._is_plain:
            return self.model(inputs, mode='tensor')
        size = tuple(inputs.shape[2:])
        meta = dict(ori_shape=size, img_shape=size, pad_shape=size, padding_size=[0] * 4)
        return self.model.encode_decode(inputs, [dict(meta) for _ in inputs])

    def enlarge(self, logits: RowSource, size: tuple[int, int]) -> RowSource:
        """Logits at another size, resized as in training."""
        return ResizedRows(logits, size, align_corners=self.align_corners)

    def place(
        self, logits: RowSource, prepared: Prepared, size: tuple[int, int], *, one_step: bool
    ) -> RowSource:
        """Logits in the frame of their image.

        Args:
            logits: of the whole input, at any resolution.
            prepared: the input.
            size: (H, W) of the image.
            one_step: leave the detour over the size of the input out; only for inputs without padding.
        """
        if not one_step:
            height, width = prepared.inputs.shape[2:]
            logits = self.enlarge(logits, (height, width))
            if prepared.content != (0, 0, width, height):
                logits = CroppedRows(logits, prepared.content)
        return self.enlarge(logits, size)


def _is_plain(model: EncoderDecoder) -> bool:
    """Whether prediction is nothing but the forward pass of the head and a resizing."""
    kind, head = type(model), type(model.decode_head)
    return (
        kind.encode_decode is EncoderDecoder.encode_decode
        and issubclass(head, BaseDecodeHead)
        and head.predict is BaseDecodeHead.predict
        and head.predict_by_feat is BaseDecodeHead.predict_by_feat
    )


class CheckedRows(StoredRows):
    """Logits that are looked at when the first is asked for: what is wrong belongs to their image, not to its batch."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__(logits)
        self._is_checked = False

    def rows(self, top: int, bottom: int) -> Tensor:
        """See `RowSource`.

        Raises:
            ValueError: logits among which the greatest cannot be told.
        """
        if not self._is_checked and not self.logits.isfinite().all():
            raise ValueError(
                'the network gave logits that are infinite or no numbers, expected finite ones; look at the weights, '
                'and at their precision: float16 ends at 65504'
            )
        self._is_checked = True
        return super().rows(top, bottom)
