"""Paste instances: mirrored ones of the same image, or those of another image.

Pasted pixels cover what lies beneath: masks are cut, boxes follow the masks. A paste that would
take too much of another object's mask is not done.
"""

# mmcv and mmengine seed numpy's global generator in every worker; a generator of our own would
# escape the seed.
# ruff: noqa: NPY002

from collections.abc import Iterator, Sequence, Sized
from typing import NamedTuple

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import avoid_cache_randomness

from mmext.datasets.checks import checked_fraction, checked_range
from mmext.datasets.transforms.mixing import draw_partners, take_partners
from mmext.datasets.transforms.objects import (
    PER_OBJECT_KEYS,
    Objects,
    follow_masks,
    mask_areas,
    mask_extents,
    read_objects,
    write_objects,
)
from mmext.registry import TRANSFORMS

# Pixels around an instance from which the brightness of its surroundings is taken.
RING = 6
# Brightness is matched within these factors; beyond them the instance would be burnt out or drown
# in noise.
GAIN_LIMITS = (0.4, 2.5)
# Places that are tried for one instance.
MAX_TRIES = 5


class Patch(NamedTuple):
    """A cut-out instance with its surroundings.

    Attributes:
        image: (h, w, c) uint8.
        mask: (h, w) uint8 in {0, 1}.
    """

    image: np.ndarray
    mask: np.ndarray


class Canvas:
    """An image that instances are pasted into, and the masks of all that is in it.

    A paste costs what lies beneath it, not what is in the image: the masks are one array each, so that none
    moves when another comes, and those out of reach are not looked at.

    Args:
        image: (h, w, c) uint8; copied.
        objects: Its objects, with masks; copied.
    """

    def __init__(self, image: np.ndarray, objects: Objects) -> None:
        assert objects.masks is not None
        self.image = image.copy()
        self.boxes = objects.boxes
        self.masks = list(objects.masks.copy())
        self.areas = mask_areas(self.masks).tolist()
        # As far as each mask can reach: pasting makes them smaller only.
        self.extents = mask_extents(objects.masks).tolist()
        self.sources: list[int] = []

    def largest_cover(self, mask: np.ndarray, left: int, top: int) -> float:
        """Largest fraction of any object's mask that a mask pasted at (left, top) would take."""
        rows, columns = _window(mask, left, top)
        return max(
            (
                cv2.countNonZero(self.masks[i][rows, columns] & mask) / max(self.areas[i], 1)
                for i in self._beneath(rows, columns)
            ),
            default=0.0,
        )

    def paste(self, patch: Patch, left: int, top: int, source: int) -> None:
        """Paste a patch and remember which object of the source it is."""
        rows, columns = _window(patch.mask, left, top)
        self._blend(patch, self.image[rows, columns])
        for i in self._beneath(rows, columns):
            beneath = self.masks[i][rows, columns]
            self.areas[i] -= cv2.countNonZero(beneath & patch.mask)
            beneath &= 1 - patch.mask
        new = np.zeros(self.image.shape[:2], dtype=np.uint8)
        new[rows, columns] = patch.mask
        self.masks.append(new)
        self.areas.append(cv2.countNonZero(patch.mask))
        self.extents.append([columns.start, rows.start, columns.stop, rows.stop])
        self.sources.append(source)

    def write(self, results: dict, source_results: dict) -> None:
        """Put image and objects into `results`; `source_results` has the pasted ones' labels."""
        if not self.sources:
            return
        for key in PER_OBJECT_KEYS:
            if key in results:
                pasted = source_results[key][self.sources]
                results[key] = np.concatenate([results[key], pasted])
        results['img'] = self.image
        # They get their boxes from their masks.
        new_boxes = np.zeros((len(self.sources), 4), dtype=np.float32)
        boxes = np.concatenate([self.boxes, new_boxes])
        write_objects(results, follow_masks(Objects(boxes, np.stack(self.masks))))

    def _beneath(self, rows: slice, columns: slice) -> Iterator[int]:
        """The objects whose masks may have pixels in a window."""
        for i, (x1, y1, x2, y2) in enumerate(self.extents):
            if x1 < columns.stop and columns.start < x2 and y1 < rows.stop and rows.start < y2:
                yield i

    @staticmethod
    def _blend(patch: Patch, beneath: np.ndarray) -> None:
        """Change a window (h, w, c) of the image to what it shows with the patch."""
        gain = _brightness(beneath, patch.mask) / max(_brightness(patch.image, patch.mask), 1.0)
        # Opaque within the mask, then out within two pixels: what is annotated is the instance's
        # own.
        opacity = cv2.GaussianBlur(patch.mask.astype(np.float32), (0, 0), 1.0)
        opacity = np.maximum(opacity, patch.mask)[..., None]
        matched = patch.image * np.clip(gain, *GAIN_LIMITS)
        blended = beneath + opacity * (matched - beneath)
        beneath[:] = np.clip(np.round(blended), 0, 255).astype(np.uint8)


@avoid_cache_randomness
@TRANSFORMS.register_module()
class FlipPaste(BaseTransform):
    """Paste mirror images of the image's own instances at their mirrored places.

    Args:
        prob: Probability that an instance is pasted.
        max_cover: No object may lose this fraction of its mask, or more, to one paste.
    """

    def __init__(self, *, prob: float = 0.3, max_cover: float = 0.3) -> None:
        self.prob = checked_fraction(prob, 'prob')
        self.max_cover = max_cover

    def transform(self, results: dict) -> dict:
        """Paste into one sample."""
        objects = _objects_with_masks(results, 'FlipPaste')
        if objects is None or objects.masks is None:
            return results
        canvas = Canvas(results['img'], objects)
        width = results['img'].shape[1]
        for i in np.flatnonzero(np.random.uniform(size=len(objects.boxes)) < self.prob):
            if not objects.masks[i].any():
                continue
            patch, left, top = cut_patch(results['img'], objects.masks[i])
            mirrored = Patch(patch.image[:, ::-1], np.ascontiguousarray(patch.mask[:, ::-1]))
            left = width - left - patch.mask.shape[1]
            if canvas.largest_cover(mirrored.mask, left, top) < self.max_cover:
                canvas.paste(mirrored, left, top, int(i))
        canvas.write(results, dict(results))
        return results


@avoid_cache_randomness
@TRANSFORMS.register_module()
class PasteInstances(BaseTransform):
    """Paste instances of another image at random places, varied and matched in brightness.

    mmdet's CopyPaste needs images of one size, leaves each instance at its place and returns int64
    images. Here an instance is multiplied so that its surroundings are as bright as those of its
    new place, and fades out beyond its mask, so that the cut cannot be learnt instead of the
    defect.

    Args:
        prob: Probability that another image is used at all.
        max_instances: Up to this many are pasted, drawn from 1 to the number there are.
        scale_range: (low, high) of the scale.
        labels: Only these classes (indices) are pasted; None is all. Defects that exist only at
            edges, for example, look wrong elsewhere.
        max_cover: No object may lose this fraction of its mask, or more, to one paste.
    """

    def __init__(
        self,
        *,
        prob: float = 0.5,
        max_instances: int = 3,
        scale_range: tuple[float, float] = (0.8, 1.25),
        labels: Sequence[int] | None = None,
        max_cover: float = 0.3,
    ) -> None:
        if max_instances < 1:
            raise ValueError(f'got max_instances={max_instances}; expected 1 or more')
        self.prob = checked_fraction(prob, 'prob')
        self.max_instances = max_instances
        self.scale_range = checked_range(scale_range, 'scale_range')
        self.labels = labels
        self.max_cover = max_cover

    def get_indexes(self, dataset: Sized) -> list[int]:
        """Draw one other image, or none."""
        return draw_partners(dataset, 1, self.prob)

    def transform(self, results: dict) -> dict:
        """Paste into one sample."""
        partners = take_partners(results, 'PasteInstances')
        if not partners:
            return results
        own = _objects_with_masks(results, 'PasteInstances')
        source = _objects_with_masks(partners[0], 'PasteInstances')
        if own is None or source is None or source.masks is None:
            return results
        canvas = Canvas(results['img'], own)
        for i in self._choose(partners[0]['gt_bboxes_labels'], source.masks):
            patch = self._vary(cut_patch(partners[0]['img'], source.masks[i])[0])
            place = self._find_place(patch, canvas)
            if place is not None:
                canvas.paste(patch, *place, int(i))
        canvas.write(results, partners[0])
        return results

    def _choose(self, labels: np.ndarray, masks: np.ndarray) -> np.ndarray:
        usable = mask_areas(masks) > 0
        if self.labels is not None:
            usable &= np.isin(labels, self.labels)
        candidates = np.flatnonzero(usable)
        if len(candidates) == 0:
            return candidates
        count = np.random.randint(1, min(self.max_instances, len(candidates)) + 1)
        return np.random.choice(candidates, count, replace=False)

    def _vary(self, patch: Patch) -> Patch:
        """Scale a patch and turn it over, left to right and upside down."""
        ratio = np.random.uniform(*self.scale_range)
        step_x, step_y = np.random.choice([-1, 1], 2)
        height, width = patch.mask.shape
        size = (max(round(width * ratio), 1), max(round(height * ratio), 1))
        image = cv2.resize(patch.image, size, interpolation=cv2.INTER_LINEAR)
        mask = cv2.resize(patch.mask, size, interpolation=cv2.INTER_NEAREST_EXACT)
        return Patch(image[::step_y, ::step_x], np.ascontiguousarray(mask[::step_y, ::step_x]))

    def _find_place(self, patch: Patch, canvas: Canvas) -> tuple[int, int] | None:
        """Draw a place (left, top) where the patch fits and covers no other object too much."""
        room_y, room_x = np.subtract(canvas.image.shape[:2], patch.mask.shape)
        if min(room_y, room_x) < 0 or not patch.mask.any():
            return None
        for _ in range(MAX_TRIES):
            left, top = np.random.randint(0, room_x + 1), np.random.randint(0, room_y + 1)
            if canvas.largest_cover(patch.mask, left, top) < self.max_cover:
                return left, top
        return None


def cut_patch(image: np.ndarray, mask: np.ndarray) -> tuple[Patch, int, int]:
    """Cut out an instance with its surroundings, as far as the image reaches.

    Args:
        image: (h, w, c) uint8.
        mask: (h, w) uint8, not empty.

    Returns:
        The patch, and the column and row of its top left corner.
    """
    height, width = mask.shape
    x1, y1, x2, y2 = mask_extents(mask[None])[0]
    left, top = max(x1 - RING, 0), max(y1 - RING, 0)
    right, bottom = min(x2 + RING, width), min(y2 + RING, height)
    return Patch(image[top:bottom, left:right], mask[top:bottom, left:right]), left, top


def _window(mask: np.ndarray, left: int, top: int) -> tuple[slice, slice]:
    """Rows and columns of a mask (h, w) whose top left corner is at (left, top)."""
    return slice(top, top + mask.shape[0]), slice(left, left + mask.shape[1])


def _brightness(image: np.ndarray, mask: np.ndarray) -> float:
    """Mean of an image beside a mask; of all of it where the mask leaves nothing."""
    beside = mask == 0
    return float(image[beside].mean()) if beside.any() else float(image.mean())


def _objects_with_masks(results: dict, name: str) -> Objects | None:
    objects = read_objects(results)
    if objects is not None and objects.masks is None:
        raise ValueError(
            f'got objects without masks; {name} cuts along masks. Load with with_mask=True'
        )
    return objects
