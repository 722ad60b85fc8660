"""Drops objects that cropping and resizing have left too small to learn from."""

import numpy as np
from mmcv.transforms import BaseTransform

from mmext.datasets.transforms.objects import (
    Objects,
    clip_boxes,
    read_objects,
    select_objects,
    write_objects,
)
from mmext.registry import TRANSFORMS


@TRANSFORMS.register_module()
class DropSmallObjects(BaseTransform):
    """Clip the boxes to the image and drop those with a short side, their labels, flags and masks with them.

    A sample that loses all objects stays, as background. mmdet's FilterAnnotations also drops sides of exactly the
    limit, and looks at the box beyond the image, too.

    Args:
        min_side: Boxes with a side below this many pixels of the present image are dropped.
    """

    def __init__(self, *, min_side: float = 1) -> None:
        if min_side <= 0:
            raise ValueError(f'got min_side={min_side}; expected a number of pixels above 0')
        self.min_side = min_side

    def transform(self, results: dict) -> dict:
        """Clean up one sample."""
        objects = read_objects(results)
        if objects is None:
            return results
        boxes = clip_boxes(objects.boxes, results['img'].shape[1::-1])
        keep = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) >= self.min_side
        clipped = Objects(boxes, objects.masks)
        write_objects(results, select_objects(results, clipped, keep))
        return results
