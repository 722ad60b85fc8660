"""Objects planted into the raw outputs of a YOLO head, so that post-processing can be measured without training.

How long post-processing takes depends on how many objects there are and how large they are. The outputs of untrained
weights have none that would stay, and trained ones have as many as the photo happens to show.

Shape letters: B images, C classes, R bins of a side's distance distribution, h w the size of a level.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

# Sides of planted boxes in pixels of the network input, spread evenly over the octaves: COCO's objects at 640 px, about.
SIDES = (16.0, 256.0)
# Planted boxes overlap no more than this: suppression keeps all of them.
MAX_IOU = 0.3
ATTEMPTS_PER_BOX = 200
OBJECT_LOGIT, NEIGHBOUR_LOGIT, BACKGROUND_LOGIT = 3.0, 2.0, -12.0


FIELDS = {'cls_scores', 'bbox_dists', 'mask_coeffs', 'prototypes'}
# Prototype pixels between two independent values: outlines are about as busy as those of real objects.
BLOB_SIZE = 16


class Cell(NamedTuple):
    """A place of the head's grids."""

    level: int
    row: int
    column: int


class PlantedObject(NamedTuple):
    """A box and the cell that finds it.

    Attributes:
        box: (4,) xyxy in pixels of the network input.
        cell: the cell that holds its centre, on the finest level whose distances reach its sides.
    """

    box: np.ndarray
    cell: Cell


@contextmanager
def planted_outputs(
    model: nn.Module, num_objects: int, *, area: Sequence[float], input_size: tuple[int, int]
) -> Iterator[None]:
    """While open, every module of the model that gives `SegmentOutputs` finds exactly these objects.

    Known by its fields: a named tuple that has those of `SegmentOutputs`. Such a module has `strides`, as `Segment` does;
    levels do not tell them: of an input of 96 pixels, the level of stride 64 has two cells, and not one and a half. Other
    models are left alone.

    Args:
        model: a detector.
        num_objects: objects in each image.
        area: x1, y1, x2, y2 of the photo in the network input.
        input_size: (height, width) of the network input.

    Raises:
        ValueError: so many boxes have no room.
    """

    def replace(module: nn.Module, inputs: tuple, outputs: Any) -> Any:
        if not FIELDS <= set(getattr(outputs, '_fields', ())):
            return outputs
        strides: Any = module.strides
        num_bins = outputs.bbox_dists[0].shape[1] // 4
        objects = draw_objects(num_objects, area=area, strides=strides, num_bins=num_bins)
        # Without suppression nothing would remove the neighbours, and a trained head has none.
        suppresses = getattr(module, 'one_to_one', None) is None
        rings = RINGS if suppresses else RINGS[-1:]
        cls_scores, bbox_dists = plant(
            objects, outputs.cls_scores, outputs.bbox_dists, strides=strides, rings=rings
        )
        coeffs, prototypes = plant_masks(outputs.mask_coeffs, outputs.prototypes)
        return outputs._replace(
            cls_scores=cls_scores,
            bbox_dists=bbox_dists,
            mask_coeffs=coeffs,
            prototypes=prototypes,
        )

    handles = [module.register_forward_hook(replace) for module in model.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def plant(
    objects: Sequence[PlantedObject],
    cls_scores: Sequence[Tensor],
    bbox_dists: Sequence[Tensor],
    *,
    strides: Sequence[int],
    rings: Sequence['Ring'],
) -> tuple[list[Tensor], list[Tensor]]:
    """Raw outputs that hold these objects and nothing else.

    Args:
        objects: of `draw_objects`; the i-th is of class i modulo C.
        cls_scores: (B, C, h, w) of each level, the finest first; their sizes count, not their values.
        bbox_dists: (B, 4 R, h, w) of each level.
        strides: pixels of the network input per cell of each level.
        rings: cells that find an object, and how surely; of two for one cell, the later stands.

    Returns:
        New scores and distances of the same shapes.
    """
    scores = [torch.full_like(level, BACKGROUND_LOGIT) for level in cls_scores]
    dists = [torch.zeros_like(level) for level in bbox_dists]
    num_classes, num_bins = cls_scores[0].shape[1], bbox_dists[0].shape[1] // 4
    for logit, find_cells in rings:
        for index, (box, own) in enumerate(objects):
            for cell in find_cells(own):
                sides = _distances(box, cell, strides[own.level])
                if (
                    _is_inside(cell, scores[own.level])
                    and 0 <= sides.min() <= sides.max() <= num_bins - 1
                ):
                    place = (slice(None), slice(None), cell.row, cell.column)
                    scores[own.level][place] = BACKGROUND_LOGIT
                    # Slightly falling scores: no ties for the sorting to break.
                    value = logit - index / len(objects) / 2
                    scores[own.level][:, index % num_classes, cell.row, cell.column] = value
                    dists[own.level][place] = _distribution(sides, num_bins).to(dists[own.level])
    return scores, dists


def plant_masks(mask_coeffs: Sequence[Tensor], prototypes: Tensor) -> tuple[list[Tensor], Tensor]:
    """Coefficients and prototypes whose masks are blobs that fill about half of a box.

    Untrained ones mostly have one sign all over, and a mask without an outline is too cheap to encode.

    Args:
        mask_coeffs: (B, K, h, w) of each level; their sizes count, not their values.
        prototypes: (B, K, h, w).
    """
    generator = torch.Generator().manual_seed(0)
    height, width = prototypes.shape[2:]
    grid = (math.ceil(height / BLOB_SIZE) + 1, math.ceil(width / BLOB_SIZE) + 1)
    noise = torch.randn(*prototypes.shape[:2], *grid, generator=generator)
    blobs = functional.interpolate(noise, (height, width), mode='bicubic', align_corners=True)
    coeffs = [torch.randn(level.shape, generator=generator).to(level) for level in mask_coeffs]
    return coeffs, blobs.to(prototypes)


def draw_objects(
    num_objects: int, *, area: Sequence[float], strides: Sequence[int], num_bins: int
) -> list[PlantedObject]:
    """Boxes at random places, always the same ones for the same arguments.

    Args:
        num_objects: how many.
        area: x1, y1, x2, y2 in pixels of the network input.
        strides: of the levels, the finest first.
        num_bins: R.

    Raises:
        ValueError: so many have no room.
    """
    rng = np.random.default_rng(0)
    low, high = np.array(area[:2], dtype=float), np.array(area[2:], dtype=float)
    longest = min(SIDES[1], (num_bins - 1) * strides[-1])
    # The longest box whose sides a level's distances reach from its middle.
    reach = (num_bins - 1) * np.array(strides)
    objects: list[PlantedObject] = []
    attempts = 0
    while len(objects) < num_objects and attempts < ATTEMPTS_PER_BOX:
        attempts += 1
        sides = np.exp(rng.uniform(math.log(SIDES[0]), math.log(longest), 2))
        sides = np.minimum(sides, high - low)
        corner = rng.uniform(low, high - sides)
        box = np.concatenate([corner, corner + sides])
        level = int(np.argmax(reach >= sides.max()))
        column, row = (int(value) for value in (box[:2] + box[2:]) / 2 // strides[level])
        cell = Cell(level, row, column)
        if all(own.cell != cell and _iou(own.box, box) <= MAX_IOU for own in objects):
            objects.append(PlantedObject(box, cell))
            attempts = 0
    if len(objects) < num_objects:
        raise ValueError(
            f'got {num_objects} detections to plant, and there is room for {len(objects)} boxes in '
            f'{high[0] - low[0]:.0f} x {high[1] - low[1]:.0f} pixels of the network input. Ask for fewer, or for a '
            'larger --size.'
        )
    return objects


def _only(cell: Cell) -> list[Cell]:
    return [cell]


def _neighbours(cell: Cell) -> list[Cell]:
    """The eight cells around one."""
    offsets = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if row or column]
    return [Cell(cell.level, cell.row + row, cell.column + column) for row, column in offsets]


class Ring(NamedTuple):
    """Cells that find an object.

    Attributes:
        logit: of its class.
        find_cells: those of an object whose own cell is given.
    """

    logit: float
    find_cells: Callable[[Cell], list[Cell]]


# As in a trained head the cells around an object's find it too, a little less surely, for the suppression to remove. They
# come first: where two objects meet, the object's own cell stands.
RINGS = (Ring(NEIGHBOUR_LOGIT, _neighbours), Ring(OBJECT_LOGIT, _only))


def _is_inside(cell: Cell, level: Tensor) -> bool:
    return 0 <= cell.row < level.shape[2] and 0 <= cell.column < level.shape[3]


def _distances(box: np.ndarray, cell: Cell, stride: int) -> np.ndarray:
    """Left, top, right, bottom from a cell's centre to the sides of a box, in cells: (4,)."""
    centre = np.array([cell.column + 0.5, cell.row + 0.5])
    return np.concatenate([centre - box[:2] / stride, box[2:] / stride - centre])


def _distribution(sides: np.ndarray, num_bins: int) -> Tensor:
    """Logits (4 R,) whose softmax has these means: all weight on the two nearest bins."""
    weight = 1 - np.abs(sides[:, None] - np.arange(num_bins))
    return torch.from_numpy(np.log(weight.clip(1e-6)).ravel())


def _iou(box: np.ndarray, other: np.ndarray) -> float:
    common = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    shared = common.clip(0).prod()
    return shared / ((box[2:] - box[:2]).prod() + (other[2:] - other[:2]).prod() - shared)
