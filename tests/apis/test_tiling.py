"""Tiles: where they lie, how findings come into the photo's frame, and which findings are one object."""

import tracemalloc

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from mmengine.structures import InstanceData

from mmext.apis.tile_merging import merge_tiles
from mmext.apis.tiling import Tiling, Window, place

SIZE = (100, 180)
LEFT, RIGHT = Window(0, 0, 100, 100), Window(80, 0, 180, 100)
PHOTO = Window(0, 0, 180, 100)


def rectangle(box, size=SIZE):
    mask = np.zeros(size, dtype=np.uint8)
    x1, y1, x2, y2 = box
    mask[y1:y2, x1:x2] = 1
    return mask


def encode(mask):
    return coco_mask.encode(np.asfortranarray(mask))


def found(*boxes, scores=None, labels=None, masks=None, size=SIZE):
    """Findings in the photo's frame; their masks fill the boxes unless given."""
    masks = [rectangle(box, size) for box in boxes] if masks is None else masks
    return InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor(scores or [0.5] * len(boxes)),
        labels=torch.tensor(labels or [0] * len(boxes), dtype=torch.long),
        masks=[encode(mask) for mask in masks],
    )


def boxes_of(instances):
    return [tuple(map(int, box)) for box in instances.bboxes.tolist()]


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(size=0), 'tile: got 0'),
        (dict(size=64, overlap=1.0), 'overlap: got 1.0'),
        (dict(size=64, overlap=-0.1), 'overlap: got -0.1'),
        (dict(size=64, threshold=1.0), 'threshold: got 1.0'),
    ],
    ids=['size', 'overlap of all', 'gap', 'threshold'],
)
def test_tiling__a_number_outside_its_range(settings, message):
    with pytest.raises(ValueError, match=message):
        Tiling(**settings)


def test_windows__last_ones_move_inwards():
    # Steps of 80: 0, 80, and 150 instead of 160.
    windows = Tiling(100, overlap=0.2).windows((100, 250))
    assert windows == [(0, 0, 100, 100), (80, 0, 180, 100), (150, 0, 250, 100)]


@pytest.mark.parametrize('size', [(50, 60), (100, 100)], ids=['smaller', 'equal'])
def test_windows__a_photo_no_larger_than_a_tile_is_one(size):
    assert Tiling(100, whole=True).windows(size) == [(0, 0, size[1], size[0])]


def test_windows__whole_photo_comes_last():
    assert Tiling(100, whole=True).windows((90, 150))[-1] == (0, 0, 150, 90)


@pytest.mark.parametrize('overlap', [0.0, 0.2, 0.99], ids=str)
@pytest.mark.parametrize('size', [(33, 97), (64, 65), (200, 31)], ids=str)
def test_windows__see_every_pixel_and_overlap_as_asked(size, overlap):
    seen = np.zeros(size, dtype=int)
    tiling = Tiling(32, overlap=overlap)
    for x1, y1, x2, y2 in tiling.windows(size):
        assert 0 <= x1 < x2 <= size[1] and 0 <= y1 < y2 <= size[0]
        assert (x2 - x1, y2 - y1) == (min(32, size[1]), min(32, size[0]))
        seen[y1:y2, x1:x2] += 1
    assert seen.min() >= 1
    starts = sorted({window.x1 for window in tiling.windows(size)})
    # The step is a whole number of pixels, so half a pixel may be missing.
    assert all(
        b - a <= 32 * (1 - overlap) + 0.5 or b - a == 1
        for a, b in zip(starts, starts[1:], strict=False)
    )


@pytest.mark.parametrize('form', ['rle', 'bitmap', 'none'])
def test_place__box_and_mask_are_moved(form):
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 2, (3, 40, 50), dtype=np.uint8)
    masks[1] = 0
    instances = InstanceData(
        bboxes=torch.tensor([[0.0, 1.0, 50.0, 40.0]] * 3),
        scores=torch.tensor([0.3, 0.2, 0.1]),
        labels=torch.tensor([2, 1, 0]),
    )
    if form != 'none':
        instances.masks = (
            [encode(mask) for mask in masks] if form == 'rle' else torch.from_numpy(masks).bool()
        )
    moved = place(instances, Window(70, 20, 120, 60), SIZE)
    assert moved.bboxes.tolist() == [[70.0, 21.0, 120.0, 60.0]] * 3
    assert moved.labels.tolist() == [2, 1, 0]
    assert ('masks' in moved) == (form != 'none')
    for code, mask in zip(moved.get('masks', []), masks, strict=form != 'none'):
        expected = np.zeros(SIZE, dtype=np.uint8)
        expected[20:60, 70:120] = mask
        np.testing.assert_array_equal(coco_mask.decode(code), expected)


@pytest.mark.parametrize('masks', [True, False], ids=['masks', 'boxes'])
@pytest.mark.parametrize(
    ('left', 'right', 'expected'),
    [
        # Seen whole by the left, cut by the right.
        ((60, 20, 95, 40), (80, 20, 95, 40), (60, 20, 95, 40)),
        # Longer than the overlap: the pieces share 20 of 100 and 90 columns.
        ((0, 20, 100, 40), (80, 20, 170, 40), (0, 20, 170, 40)),
        # Seen whole by both.
        ((85, 20, 95, 40), (85, 20, 95, 40), (85, 20, 95, 40)),
        # A cut piece that covers little of what the other tile sees there.
        ((50, 10, 98, 50), (80, 20, 90, 30), (50, 10, 98, 50)),
    ],
    ids=['cut by one', 'cut by both', 'cut by none', 'poor piece'],
)
def test_merge__one_object(left, right, expected, masks):
    parts = [found(left, scores=[0.6]), found(right, scores=[0.8])]
    if not masks:
        for part in parts:
            del part.masks
    merged = merge_tiles(parts, [LEFT, RIGHT], SIZE)
    assert boxes_of(merged) == [expected]
    assert merged.scores.tolist() == pytest.approx([0.8])
    if masks:
        np.testing.assert_array_equal(coco_mask.decode(merged.masks[0]), rectangle(expected))


@pytest.mark.parametrize(
    ('left', 'right'),
    [
        ((60, 20, 84, 40), (84, 20, 120, 40)),
        # The left's object ends a pixel into the right's: a leak, no agreement.
        ((60, 20, 81, 40), (80, 20, 130, 40)),
        # A small one on a large one, both away from the edges of their tiles.
        ((20, 10, 97, 60), (85, 20, 95, 30)),
    ],
    ids=['side by side', 'leak', 'one on another'],
)
def test_merge__two_objects(left, right):
    merged = merge_tiles([found(left), found(right)], [LEFT, RIGHT], SIZE)
    assert sorted(boxes_of(merged)) == sorted([left, right])


def test_merge__classes_stay_apart_and_the_best_comes_first():
    box = (85, 20, 95, 40)
    parts = [found(box, box, scores=[0.3, 0.5], labels=[0, 1]), found(box, scores=[0.9])]
    merged = merge_tiles(parts, [LEFT, RIGHT], SIZE)
    assert merged.labels.tolist() == [0, 1]
    assert merged.scores.tolist() == pytest.approx([0.9, 0.5])


def test_merge__findings_of_one_tile_stay_apart():
    boxes = (10, 10, 50, 50), (10, 10, 50, 48)
    assert len(merge_tiles([found(*boxes), found()], [LEFT, RIGHT], SIZE)) == 2


def test_merge__thin_cracks_a_pixel_apart_are_one():
    crack = np.zeros(SIZE, dtype=np.uint8)
    for step in range(15):
        crack[20 + step : 22 + step, 83 + step] = 1
    box = (83, 20, 98, 36)
    lower = np.roll(crack, 1, axis=0)
    union = np.logical_or(crack, lower).sum()
    assert np.logical_and(crack, lower).sum() / union < 0.5
    parts = [found(box, masks=[crack]), found((83, 21, 98, 37), masks=[lower])]
    assert len(merge_tiles(parts, [LEFT, RIGHT], SIZE)) == 1


def test_merge__mask_of_the_smallest_window_that_sees_all():
    fine, coarse = (110, 20, 130, 40), (108, 18, 133, 43)
    parts = [found(), found(fine, scores=[0.6]), found(coarse, scores=[0.9])]
    merged = merge_tiles(parts, [LEFT, RIGHT, PHOTO], SIZE)
    assert boxes_of(merged) == [fine]
    np.testing.assert_array_equal(coco_mask.decode(merged.masks[0]), rectangle(fine))
    assert merged.scores.tolist() == pytest.approx([0.9])


def test_merge__object_larger_than_all_tiles_comes_from_the_whole_photo():
    whole = (5, 10, 175, 90)
    parts = [found((5, 10, 100, 90)), found((80, 10, 175, 90)), found(whole)]
    assert boxes_of(merge_tiles(parts, [LEFT, RIGHT, PHOTO], SIZE)) == [whole]


def test_merge__a_blob_of_the_whole_photo_does_not_swallow_small_objects():
    small = [(110, 20, 120, 30), (125, 20, 135, 30), (140, 20, 150, 30)]
    blob = (110, 20, 150, 30)
    merged = merge_tiles([found(*small), found(blob)], [RIGHT, PHOTO], SIZE)
    assert sorted(boxes_of(merged)) == sorted([*small, blob])


def test_place__boxes_end_with_their_window():
    # In the frame of the window: beyond it, at its right edge, and turned inside out.
    boxes = torch.tensor([[-5.0, 10, 120, 99], [90, -1, 101, 4], [30, 20, 10, 40]])
    inside = InstanceData(
        bboxes=boxes, scores=torch.ones(3), labels=torch.zeros(3, dtype=torch.long)
    )
    expected = [(80, 10, 180, 99), (170, 0, 180, 4), (110, 20, 110, 40)]
    assert boxes_of(place(inside, RIGHT, SIZE)) == expected
    empty = place(inside[:0], RIGHT, SIZE)
    assert empty.bboxes.shape == (0, 4)


def test_merge__shapes_join_along_more_windows_than_two():
    size, windows = (100, 340), [Window(x, 0, x + 100, 100) for x in (0, 80, 160, 240)]
    pieces = [found((max(w.x1, 10), 40, min(w.x2, 330), 60), size=size) for w in windows]
    merged = merge_tiles(pieces, windows, size)
    assert boxes_of(merged) == [(10, 40, 330, 60)]
    np.testing.assert_array_equal(
        coco_mask.decode(merged.masks[0]), rectangle((10, 40, 330, 60), size)
    )


def test_merge__nothing_found():
    merged = merge_tiles([found(), found()], [LEFT, RIGHT], SIZE)
    assert len(merged) == 0 and merged.masks == [] and merged.bboxes.shape == (0, 4)


def test_merge__masks_stay_run_lengths():
    size, windows = (4000, 4000), Tiling(1000).windows((4000, 4000))
    mask = torch.zeros(1, 1000, 1000, dtype=torch.bool)
    mask[0, 900:980, 900:980] = True
    one = InstanceData(
        bboxes=torch.tensor([[900.0, 900, 980, 980]]),
        scores=torch.tensor([0.5]),
        labels=torch.tensor([0]),
        masks=mask,
    )
    tracemalloc.start()
    merged = merge_tiles([place(one, window, size) for window in windows], windows, size)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(merged) == len(windows) == 25
    # As one array they are 400 MB; one of them is 16.
    assert peak < 16 * 2**20
