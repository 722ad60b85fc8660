"""What the promises of `tests/test_contract.py` mean for each kind of task: its samples, and what to ask of its results."""

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

Size = tuple[int, int]


def square_masks(height: int, width: int, num_objects: int) -> tuple[list[int], np.ndarray]:
    """Left upper corners of squares of 20 px along the diagonal, and their masks (n, H, W) uint8."""
    starts = torch.linspace(2, min(height, width) - 24, num_objects).round().int().tolist()
    masks = np.zeros((num_objects, height, width), dtype=np.uint8)
    for mask, start in zip(masks, starts, strict=True):
        mask[start : start + 20, start : start + 20] = 1
    return starts, masks


def plain_meta(height: int, width: int) -> dict:
    return dict(img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0))


class Instances:
    """Detection and instance segmentation: `gt_instances` in, `pred_instances` out.

    Args:
        clips: whether boxes end at the border of the image.
        max_objects: what an image can have at most; None for any number.
    """

    def __init__(self, *, clips: bool = True, max_objects: int | None = None) -> None:
        self.clips = clips
        self.max_objects = max_objects

    def sample(self, height: int, width: int, num_objects: int) -> DetDataSample:
        """`num_objects` squares, or as many as an image can have, classes in turn."""
        if self.max_objects is not None:
            num_objects = min(num_objects, self.max_objects)
        starts, masks = square_masks(height, width, num_objects)
        corners = torch.tensor(starts, dtype=torch.float32)
        result = DetDataSample(metainfo=plain_meta(height, width))
        result.gt_instances = InstanceData(
            bboxes=torch.stack([corners, corners, corners + 20, corners + 20], dim=1),
            labels=torch.arange(num_objects) % 3,
            masks=BitmapMasks(masks, height, width),
        )
        return result

    def check_result(self, sample: DetDataSample, size: Size) -> None:
        """Something is found, in an image of that size, and all of it finite."""
        found = sample.pred_instances
        assert len(found) > 0
        assert torch.isfinite(found.bboxes).all() and torch.isfinite(found.scores).all()
        assert 'masks' not in found or found.masks.shape[1:] == size
        if self.clips:
            assert (found.bboxes >= 0).all() and (found.bboxes[:, 2] <= size[1]).all()
            assert (found.bboxes[:, 3] <= size[0]).all()

    def check_enlarged(self, plain: DetDataSample, large: DetDataSample) -> None:
        """The same findings, in an image of twice the size."""
        torch.testing.assert_close(large.pred_instances.bboxes, plain.pred_instances.bboxes * 2)

    def check_same(self, one: DetDataSample, other: DetDataSample) -> None:
        """The same findings, but for rounding."""
        first, second = one.pred_instances, other.pred_instances
        torch.testing.assert_close(first.bboxes, second.bboxes, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(first.scores, second.scores, atol=1e-5, rtol=1e-4)
        assert (first.labels == second.labels).all()
        if 'masks' in first:  # a pixel on the edge of a mask may fall either way
            assert (first.masks != second.masks).float().mean() < 1e-3


class MaskInstances(Instances):
    """Instances whose boxes are drawn around their masks, and end at whole pixels."""

    def check_enlarged(self, plain: DetDataSample, large: DetDataSample) -> None:
        """The same masks at twice the size, but for the pixels on their edges."""
        masks = plain.pred_instances.masks
        doubled = masks.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
        assert (large.pred_instances.masks != doubled).float().mean() < 0.05
        assert (large.pred_instances.labels == plain.pred_instances.labels).all()


class Mattes:
    """Soft mattes: `gt_alpha` in, `pred_alpha` out."""

    def sample(self, height: int, width: int, num_objects: int) -> SegDataSample:
        """Squares of alpha 1 along the diagonal, with soft right halves."""
        _, masks = square_masks(height, width, num_objects)
        alpha = torch.from_numpy(masks).sum(0, keepdim=True).clamp(max=1).float()
        alpha[..., width // 2 :] *= 0.6
        result = SegDataSample(metainfo=plain_meta(height, width))
        result.gt_alpha = PixelData(data=alpha)
        return result

    def check_result(self, sample: SegDataSample, size: Size) -> None:
        """Alpha of that size, between 0 and 1, and raw logits that go with it."""
        alpha: Tensor = sample.pred_alpha.data
        assert alpha.shape == (1, *size) and alpha.dtype == torch.float32
        assert ((alpha >= 0) & (alpha <= 1)).all() and alpha.std() > 0
        assert sample.seg_logits.data.shape[1:] == size
        assert (sample.pred_sem_seg.data == (alpha > 0.5)).all()

    def check_enlarged(self, plain: SegDataSample, large: SegDataSample) -> None:
        """The same matte at twice the size: logits bilinear, alpha their sigmoid."""
        logits = torch.nn.functional.interpolate(
            plain.seg_logits.data[None], scale_factor=2, mode='bilinear'
        )[0]
        torch.testing.assert_close(large.seg_logits.data, logits)

    def check_same(self, one: SegDataSample, other: SegDataSample) -> None:
        """The same matte, but for rounding."""
        torch.testing.assert_close(one.pred_alpha.data, other.pred_alpha.data, atol=1e-5, rtol=0)


class Semantics:
    """A class for each pixel: `gt_sem_seg` in, `pred_sem_seg` and the logits out."""

    def sample(self, height: int, width: int, num_objects: int) -> SegDataSample:
        """Squares of the classes 1 and 2 in turn along the diagonal, on class 0, and a corner without truth."""
        _, masks = square_masks(height, width, num_objects)
        labels = np.zeros((1, height, width), dtype=np.int64)
        for index, mask in enumerate(masks):
            labels[0, mask > 0] = 1 + index % 2
        labels[0, -4:, -4:] = 255
        result = SegDataSample(metainfo=plain_meta(height, width))
        result.gt_sem_seg = PixelData(data=torch.from_numpy(labels))
        return result

    def check_result(self, sample: SegDataSample, size: Size) -> None:
        """Logits of that size that differ from place to place, and the classes that go with them."""
        logits: Tensor = sample.seg_logits.data
        assert logits.shape == (3, *size) and torch.isfinite(logits).all()
        assert logits.flatten(1).std(dim=1).min() > 0
        assert (sample.pred_sem_seg.data[0] == logits.argmax(0)).all()

    def check_enlarged(self, plain: SegDataSample, large: SegDataSample) -> None:
        """The same logits at twice the size."""
        logits = torch.nn.functional.interpolate(
            plain.seg_logits.data[None], scale_factor=2, mode='bilinear'
        )[0]
        torch.testing.assert_close(large.seg_logits.data, logits)

    def check_same(self, one: SegDataSample, other: SegDataSample) -> None:
        """The same logits, but for rounding."""
        torch.testing.assert_close(one.seg_logits.data, other.seg_logits.data, atol=1e-4, rtol=1e-4)


KINDS = {
    # Which does not clip, as the published models do not.
    'mmext.DEIM': Instances(clips=False),
    'mmext.DEIMMultimodal': Instances(clips=False),
    'mmext.MatteEncoderDecoder': Mattes(),
    'mmext.SingleObjectLocalizer': Instances(max_objects=1),
    'mmseg.EncoderDecoder': Semantics(),
    'mmdet.Mask2Former': MaskInstances(),
}


def kind_of(config: dict) -> Instances | Mattes | Semantics:
    """The kind of a system, by the type of its model."""
    return KINDS.get(config['type'], Instances())
