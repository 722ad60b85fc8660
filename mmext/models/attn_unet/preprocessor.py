"""What happens to a batch of photos and soft mattes before the network.

Shapes: N batch, H x W the common size of the batch.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.structures import PixelData
from mmseg.models.data_preprocessor import SegDataPreProcessor
from mmseg.structures import SegDataSample
from torch import Tensor
from torch.nn import functional

from mmext.registry import MODELS


@MODELS.register_module()
class MattePreprocessor(SegDataPreProcessor):
    """Normalises and pads photos, and pads alpha with them.

    mmseg's own knows label maps only. In training alpha is padded with 0 and `gt_valid` is False in the padding; in
    tests the truth has the size of the photo file and stays as it is. Photos of a batch may differ in size in both.

    Args:
        mean: of the RGB channels, of values from 0 to 255.
        std: deviation of them.
        size: (h, w) of every padded training image; None pads to the largest of the batch.
        size_divisor: what both sides of a batch are multiples of; in training only where `size` is None.
        pad_val: value of the padding, after normalisation.
        bgr_to_rgb: whether the photos come as BGR, as OpenCV reads them; False if they are RGB already.

    Raises:
        ValueError: an argument is out of range; in use, if a photo is larger than `size`, or its alpha has another
            size.
    """

    def __init__(
        self,
        mean: Sequence[float] = (123.675, 116.28, 103.53),
        std: Sequence[float] = (58.395, 57.12, 57.375),
        *,
        size: tuple[int, int] | None = None,
        size_divisor: int = 32,
        pad_val: float = 0.0,
        bgr_to_rgb: bool = True,
    ) -> None:
        if size_divisor < 1:
            raise ValueError(
                f'MattePreprocessor: got size_divisor={size_divisor}, expected 1 or more'
            )
        super().__init__(
            mean=mean, std=std, size=size, size_divisor=size_divisor, pad_val=pad_val,
            bgr_to_rgb=bgr_to_rgb,
        )  # fmt: skip

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Prepare a batch.

        Args:
            data: `inputs`, N tensors (3, h, w) or one (N, 3, h, w), 0 to 255; `data_samples`, N of them, or absent. In
                training they have `gt_alpha` (1, h, w) in [0, 1] and, where a part is unknown, `gt_valid` (1, h, w)
                bool.
            training: whether to pad the truth too.

        Returns:
            `inputs` (N, 3, H, W), normalised; `data_samples` with `img_shape`, `pad_shape` and `padding_size` (left,
            right, top, bottom) set, in training with `gt_alpha` and `gt_valid` (1, H, W).
        """
        data = self.cast_data(data)
        images = [self._normalised(image) for image in data['inputs']]
        samples: list[SegDataSample] | None = data.get('data_samples')
        height, width = self._common_size(images, training)
        paddings = [(0, width - image.shape[2], 0, height - image.shape[1]) for image in images]
        for image, sample, padding in zip(images, samples or (), paddings, strict=False):
            sample.set_metainfo(
                dict(
                    img_shape=tuple(image.shape[1:]),
                    pad_shape=(height, width),
                    padding_size=padding,
                )
            )
            if training:
                _pad_truth(sample, padding)
        inputs = [
            functional.pad(image, padding, value=self.pad_val)
            for image, padding in zip(images, paddings, strict=True)
        ]
        return dict(inputs=torch.stack(inputs), data_samples=samples)

    def restore(self, inputs: Tensor) -> Tensor:
        """What `forward` made of photos, (N, 3, H, W), as RGB in [0, 1]; the padding is the mean colour."""
        return ((inputs.float() * self.std + self.mean) / 255).clamp(0, 1)

    def _normalised(self, image: Tensor) -> Tensor:
        image = image.flip(0) if self._channel_conversion else image
        return (image.float() - self.mean) / self.std

    def _common_size(self, images: Sequence[Tensor], training: bool) -> tuple[int, int]:
        largest = [max(image.shape[axis] for image in images) for axis in (1, 2)]
        if training and self.size is not None:
            height, width = self.size
            if largest[0] > height or largest[1] > width:
                raise ValueError(
                    f'MattePreprocessor: got a photo of up to {tuple(largest)} (h, w) pixels, expected at most '
                    f'size={(height, width)}. Crop or resize photos to it in the pipeline, or set size=None.'
                )
            return height, width
        divisor = self.size_divisor
        height, width = (-(-side // divisor) * divisor for side in largest)
        return height, width


def _pad_truth(sample: SegDataSample, padding: tuple[int, int, int, int]) -> None:
    """Pad the alpha of a sample with 0, and mark the padding as invalid."""
    if 'gt_alpha' not in sample:
        raise ValueError(
            f'MattePreprocessor: got a training sample with {sorted(sample.keys())} and no gt_alpha '
            f"({sample.metainfo.get('img_path', 'no img_path')}), expected dict(type='mmext.LoadAlpha') and "
            "dict(type='mmext.PackMatteInputs') in the training pipeline"
        )
    alpha = sample.gt_alpha.data
    size = (1, *sample.img_shape)
    valid = (
        sample.gt_valid.data if 'gt_valid' in sample else torch.ones_like(alpha, dtype=torch.bool)
    )
    for name, data in (('gt_alpha', alpha), ('gt_valid', valid)):
        if tuple(data.shape) != size:
            raise ValueError(
                f'MattePreprocessor: got {name} of {tuple(data.shape)} for a photo of {size[1:]} (h, w) '
                f'({sample.metainfo.get("img_path", "no img_path")}), expected {size}. In training, load alpha before '
                'anything changes the size of the photo.'
            )
    sample.gt_alpha = PixelData(data=functional.pad(alpha.float(), padding))
    sample.gt_valid = PixelData(data=functional.pad(valid.bool(), padding))
