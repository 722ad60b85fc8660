"""A model without weights that finds bright objects exactly: connected bright pixels are one object."""

import numpy as np
import pycocotools.mask as coco_mask
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData
from scipy import ndimage
from torch import nn

# Blue of an object of class 0 and of class 1; the ground is black.
BLUES = (255, 128)
PIPELINE = [dict(type='mmext.LoadImage'), dict(type='mmdet.PackDetInputs')]


def find_objects(image: np.ndarray) -> list[tuple[list[int], int, np.ndarray]]:
    """Box xyxy, class and (H, W) bool mask of each object in a BGR image."""
    found = []
    for label, blue in enumerate(BLUES):
        numbers, _ = ndimage.label(image[..., 0] == blue)
        for number, (rows, columns) in enumerate(ndimage.find_objects(numbers), start=1):
            bbox = [columns.start, rows.start, columns.stop, rows.stop]
            found.append((bbox, label, numbers == number))
    return found


class SquareFinder(nn.Module):
    """`test_step` as a detector's: batches of (3, H, W) uint8 BGR images, results in their frames.

    Args:
        mask_format: 'bitmap', 'rle' or 'none'.
        pipeline: the test pipeline of its config.
    """

    def __init__(self, mask_format: str = 'rle', pipeline: list[dict] | None = None) -> None:
        super().__init__()
        self.mask_format = mask_format
        self.dataset_meta = dict(classes=('square', 'bar'))
        dataset = dict(pipeline=PIPELINE if pipeline is None else pipeline)
        self.cfg = Config(dict(default_scope='mmdet', test_dataloader=dict(dataset=dataset)))
        self.batch_sizes: list[int] = []

    def test_step(self, data: dict) -> list[DetDataSample]:
        self.batch_sizes.append(len(data['inputs']))
        for image, sample in zip(data['inputs'], data['data_samples'], strict=True):
            sample.pred_instances = self._find(image.permute(1, 2, 0).numpy())
        return data['data_samples']

    def _find(self, image: np.ndarray) -> InstanceData:
        found = find_objects(image)
        instances = InstanceData(
            bboxes=torch.tensor([bbox for bbox, _, _ in found], dtype=torch.float32).reshape(-1, 4),
            # Larger parts are surer.
            scores=torch.tensor(
                [0.5 + mask.mean() / 2 for _, _, mask in found], dtype=torch.float32
            ),
            labels=torch.tensor([label for _, label, _ in found], dtype=torch.long),
        )
        masks = [mask for _, _, mask in found]
        if self.mask_format == 'bitmap':
            shape = (len(masks), *image.shape[:2])
            instances.masks = torch.from_numpy(np.array(masks, dtype=bool).reshape(shape))
        elif self.mask_format == 'rle':
            instances.masks = [
                coco_mask.encode(np.asfortranarray(m.astype(np.uint8))) for m in masks
            ]
        return instances


def draw_objects(
    size: tuple[int, int], boxes: list[tuple[int, int, int, int]], labels: list[int]
) -> np.ndarray:
    """A BGR image (h, w, 3) with filled boxes xyxy."""
    image = np.zeros((*size, 3), dtype=np.uint8)
    for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True):
        image[y1:y2, x1:x2, 0] = BLUES[label]
    return image
