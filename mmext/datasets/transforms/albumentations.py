"""Augmentations of the library albumentations 2.0.8 (MIT), with mattes, boxes and instance masks in step.

Later releases of that library have another licence (AGPL); 2.0.8 is its last under MIT. It is optional:
`pip install 'mmext[app]'`.
"""

# mmcv and mmengine seed numpy's global generator in every worker; a generator of our own would
# escape the seed.
# ruff: noqa: NPY002

import difflib
import importlib.metadata
import os
import random
import warnings
from types import ModuleType
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from numpy.typing import NDArray

from mmext.datasets.checks import checked_fraction
from mmext.datasets.transforms.color import checked_bgr
from mmext.datasets.transforms.objects import (
    Objects,
    clip_boxes,
    follow_masks,
    mask_areas,
    read_objects,
    select_objects,
    write_objects,
)
from mmext.registry import TRANSFORMS

VERSION = '2.0.8'
# Of masks that are interpolated as grey images: above it a pixel belongs to the object.
HALF = 127


@TRANSFORMS.register_module()
class Albumentations(BaseTransform):
    """Run transforms of albumentations on the image and everything that lies on it.

    - `img`, (h, w, 3) uint8 BGR, is handed over as RGB, which its colour transforms expect; so is `foreground`.
    - `gt_alpha` is interpolated bilinearly. What comes in from outside has alpha 0 with a constant border (the
      default of its transforms), and is False in `gt_valid`, which is added then.
    - `gt_masks` are interpolated as grey images and cut at one half; they stay BitmapMasks.
    - `gt_bboxes` (HorizontalBoxes or (n, 4)) follow their masks where they have any; otherwise they are the upright
      hulls of the moved boxes, clipped to the image. Objects of which too little is left are dropped with their
      masks, labels and ignore flags.

    Everything random comes from one number of numpy's global generator a sample, so that mmengine's seeds of the
    workers hold; the library's own `seed` and state are not used.

    Args:
        transforms: Settings as for mmengine's registries: `type` is a class of albumentations, the rest its
            arguments; `OneOf`, `SomeOf`, `Sequential` take `transforms` of the same kind.
        min_visibility: A box is dropped if one transform leaves less than this share of its area in the image.
        keep_objects: Draw again, up to 10 times, if an object would be dropped, and leave the sample as it is after
            that: for images of which each has exactly one object.

    Raises:
        ImportError: The library is missing, or of another version.
        ValueError: A transform or argument that it does not know; a sample with a box of no area, or with a
            semantic map.
    """

    def __init__(
        self,
        transforms: list[dict],
        *,
        min_visibility: float = 0.1,
        keep_objects: bool = False,
    ) -> None:
        library = import_albumentations()
        if not transforms:
            raise ValueError(
                'got no transforms; expected a list such as [dict(type="HorizontalFlip")]'
            )
        self.settings = transforms
        self.max_tries = 10 if keep_objects else 1
        self.keep_objects = keep_objects
        with warnings.catch_warnings():
            # Where only colours change.
            warnings.filterwarnings('ignore', message='Got processor for bboxes')
            self.compose = library.Compose(
                [_build(library, settings) for settings in transforms],
                bbox_params=library.BboxParams(
                    'pascal_voc',
                    min_visibility=checked_fraction(min_visibility, 'min_visibility'),
                ),
                additional_targets={'valid': 'mask', 'foreground': 'image'},
                mask_interpolation=cv2.INTER_LINEAR,
            )

    @cache_randomness
    def draw_seeds(self) -> list[int]:
        """Draw the seed of each try."""
        return np.random.randint(2**31, size=self.max_tries).tolist()

    def transform(self, results: dict) -> dict:
        """See the class."""
        objects = read_objects(results)
        data = _collect(results, objects)
        for seed in self.draw_seeds():
            self.compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
            output = self.compose(**data)
            if objects is None:
                _write_planes(results, output)
                return results
            moved, kept = _moved(objects, output)
            if kept.all() or not self.keep_objects:
                _write_planes(results, output)
                write_objects(results, select_objects(results, moved, kept))
                return results
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(transforms={self.settings})'


def import_albumentations() -> ModuleType:
    """The library, without its question at the network for a newer version.

    Raises:
        ImportError: It is missing, or of another version.
    """
    remedy = f"pip install 'mmext[app]', or: pip install albumentations=={VERSION}"
    try:
        version = importlib.metadata.version('albumentations')
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError(
            f'mmext.Albumentations needs albumentations {VERSION}, which is not installed. {remedy}'
        ) from error
    if version != VERSION:
        raise ImportError(
            f'mmext.Albumentations needs albumentations {VERSION}, found {version}, whose transforms and licence may '
            f'differ. {remedy}'
        )
    os.environ.setdefault('NO_ALBUMENTATIONS_UPDATE', '1')
    return importlib.import_module('albumentations')


def _build(library: ModuleType, settings: dict) -> Any:
    """One transform from its settings."""
    arguments = dict(settings)
    name = arguments.pop('type', None)
    known = [
        key
        for key, value in vars(library).items()
        if isinstance(value, type)
        and issubclass(value, library.BasicTransform | library.BaseCompose)
    ]
    if name not in known:
        nearest = difflib.get_close_matches(str(name), known, n=3)
        raise ValueError(
            f'got the transform {name!r} in {settings}; expected the name of a class of albumentations {VERSION}'
            + (f', such as {", ".join(nearest)}' if nearest else '')
        )
    if issubclass(getattr(library, name), library.BaseCompose):
        arguments['transforms'] = [_build(library, inner) for inner in arguments['transforms']]
    try:
        transform = getattr(library, name)(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f'albumentations.{name} does not take {arguments}: {error}') from error
    # The library warns about these, and goes on with its defaults.
    if getattr(transform, 'invalid_args', None):
        raise ValueError(
            f'albumentations.{name} knows no argument {", ".join(transform.invalid_args)}, got {settings}'
        )
    return transform


def _collect(results: dict, objects: Objects | None) -> dict[str, NDArray]:
    """What the library is given: RGB images, mattes and masks as grey images, boxes with their numbers."""
    data = {'image': cv2.cvtColor(checked_bgr(results['img']), cv2.COLOR_BGR2RGB)}
    height, width = results['img'].shape[:2]
    if 'foreground' in results:
        data['foreground'] = cv2.cvtColor(results['foreground'], cv2.COLOR_BGR2RGB)
    if 'gt_alpha' in results:
        data['mask'] = results['gt_alpha']
        valid = results.get('gt_valid')
        data['valid'] = (
            np.full((height, width), 255, np.uint8) if valid is None else 255 * valid.view(np.uint8)
        )
    if objects is not None and len(objects.boxes):
        boxes = clip_boxes(objects.boxes, (width, height))
        empty = (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
        if empty.any():
            raise ValueError(
                f'{results.get("img_path")}: got the box {objects.boxes[empty][0].tolist()} (x1, y1, x2, y2), of which '
                f'nothing lies in the image of {width} x {height}. Mend the annotation, or leave the object out.'
            )
        data['bboxes'] = np.column_stack([boxes, np.arange(len(boxes))]).astype(np.float32)
        if objects.masks is not None:
            data['masks'] = objects.masks * np.uint8(255)
    return data


def _write_planes(results: dict, output: dict) -> None:
    """Put images and mattes back."""
    results['img'] = cv2.cvtColor(output['image'], cv2.COLOR_RGB2BGR)
    results['img_shape'] = results['img'].shape[:2]
    if 'foreground' in results:
        results['foreground'] = cv2.cvtColor(output['foreground'], cv2.COLOR_RGB2BGR)
    if 'gt_alpha' in results:
        # Weights of an interpolation add up to 1 but for rounding.
        results['gt_alpha'] = np.clip(output['mask'], 0, 1)
        # A pixel is valid if all that it was made of is.
        valid = output['valid'] == 255
        if 'gt_valid' in results or not valid.all():
            results['gt_valid'] = valid
            results['alpha_fields'] = list(dict.fromkeys([*results['alpha_fields'], 'gt_valid']))


def _moved(objects: Objects, output: dict) -> tuple[Objects, NDArray[np.bool_]]:
    """The objects after the transforms, dropped ones with any values, and which of them are kept (n,)."""
    count = len(objects.boxes)
    kept = np.zeros(count, bool)
    boxes = np.zeros((count, 4), np.float32)
    rows = np.asarray(output['bboxes'], np.float32) if count else np.zeros((0, 5), np.float32)
    if len(rows):
        numbers = rows[:, 4].round().astype(int)
        kept[numbers], boxes[numbers] = True, rows[:, :4]
    if objects.masks is None:
        return Objects(boxes, None), kept
    shape = output['image'].shape[:2]
    masks = (np.asarray(output['masks']) > HALF) if count else np.zeros((0, *shape), bool)
    moved = follow_masks(Objects(boxes, masks.view(np.uint8)))
    # An object whose mask has left the picture; one that never had a mask goes by its box.
    gone = ~masks.any(axis=(1, 2)) & (mask_areas(objects.masks) > 0)
    return moved, kept & ~gone
