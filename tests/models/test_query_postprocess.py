"""From queries to objects: masks at the output's resolution, and the three modes on scenes worked out by hand."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn import functional

from mmext.models.yolo.assembly import OutputFrame, assemble_bitmaps
from mmext.models.yolo.postprocess import Detections, ImageDetections, TestSettings
from mmext.models.yolo.query_masks import MASK_FORMATS, bound_masks, summarise_masks
from mmext.models.yolo.query_postprocess import (
    ImageOutputs,
    Instances,
    MatchedMode,
    QueriesMode,
    SeededMode,
    match_pairs,
    split_test_config,
)

INPUT = (64, 96)
STRIDE = 4
LOGIT = 3.0
# What the mean foreground probability is, wherever a mask has the logit above at every pixel.
SURE = 1 / (1 + math.exp(-LOGIT))
# Rectangles x1 y1 x2 y2 in pixels of the network input, on the grid of mask pixels; the last is empty.
RECTANGLES = ((8, 8, 32, 24), (40, 8, 80, 48), (8, 36, 24, 60), (0, 0, 0, 0))

every_format = pytest.mark.parametrize('mask_format', MASK_FORMATS)


def rectangle_features(rectangles: Sequence[Sequence[int]] = RECTANGLES) -> Tensor:
    """One channel for each rectangle: `LOGIT` inside, minus that outside."""
    features = torch.full(
        (len(rectangles), INPUT[0] // STRIDE, INPUT[1] // STRIDE), -LOGIT, dtype=torch.float32
    )
    for channel, (x1, y1, x2, y2) in zip(features, rectangles, strict=True):
        channel[y1 // STRIDE : y2 // STRIDE, x1 // STRIDE : x2 // STRIDE] = LOGIT
    return features


def class_logits(*probabilities: Sequence[float]) -> Tensor:
    """Logits whose softmax is each query's probabilities of the classes and, last, of no object."""
    return torch.tensor(probabilities).log()


def detections(*rows: tuple[Sequence[float], float, int]) -> ImageDetections:
    """(box, score, label) of each, whose prototype masks fill the image."""
    found = Detections(
        torch.tensor([row[0] for row in rows], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([row[1] for row in rows]),
        torch.tensor([row[2] for row in rows], dtype=torch.long),
        torch.arange(len(rows)),
    )
    return ImageDetections(found, torch.ones(len(rows), 1), torch.ones(1, 16, 24))


def scene(
    logits: Tensor,
    shown: Sequence[int],
    *,
    detected: ImageDetections | None = None,
    seeds: Detections | None = None,
) -> ImageOutputs:
    """Queries that show some of the rectangles."""
    features = rectangle_features()
    return ImageOutputs(logits, torch.eye(len(features))[list(shown)], features, detected, seeds)


def bitmaps(found: Instances) -> np.ndarray:
    if isinstance(found.masks, Tensor):
        return found.masks.numpy()
    empty = np.zeros((0, *INPUT), dtype=bool)
    return np.stack([*empty, *(coco_mask.decode(rle) for rle in found.masks)] or empty).astype(bool)


def mask_of(rectangle: Sequence[int]) -> np.ndarray:
    mask = np.zeros(INPUT, dtype=bool)
    x1, y1, x2, y2 = rectangle
    mask[y1:y2, x1:x2] = True
    return mask


def query_mask(rectangle: Sequence[int]) -> np.ndarray:
    """A rectangle as bilinear sampling shows it.

    Pixels at the edges lie 1/8 of a mask pixel inside and are 5/8 in, those at the corners 5/8 of 5/8: less than half.
    """
    mask = mask_of(rectangle)
    x1, y1, x2, y2 = rectangle
    mask[[y1, y1, y2 - 1, y2 - 1], [x1, x2 - 1, x1, x2 - 1]] = False
    return mask


def plain_frame() -> OutputFrame:
    return OutputFrame(INPUT, INPUT)


# Masks -------------------------------------------------------------------------------------------------------


def test_summary__equals_a_loop_over_the_pixels(monkeypatch):
    monkeypatch.setattr('mmext.models.yolo.query_masks.MAX_CHUNK_VALUES', 2 * 16 * 24)
    torch.manual_seed(0)
    embeddings, features = torch.randn(5, 3), torch.randn(3, 16, 24)
    embeddings[2] = 0  # probability 0.5 everywhere, not above the threshold
    found = summarise_masks(embeddings, features, input_size=INPUT, threshold=0.6)
    for embedding, foreground, box in zip(embeddings, found.foreground, found.bboxes, strict=True):
        inside = {
            (x, y): p
            for y in range(16)
            for x in range(24)
            if (p := float((embedding @ features[:, y, x]).sigmoid())) > 0.6
        }
        if not inside:
            assert foreground == 0 and box.tolist() == [0] * 4
            continue
        assert foreground == pytest.approx(sum(inside.values()) / len(inside), abs=1e-5)
        xs, ys = zip(*inside, strict=True)
        assert box.tolist() == [4 * min(xs), 4 * min(ys), 4 * max(xs) + 4, 4 * max(ys) + 4]
    assert found.foreground[2] == 0


@pytest.mark.parametrize('scale', [0.25, 0.5, 1.0, 2.0, 8.0])
def test_assembly__no_pixel_is_lost_at_any_resolution(scale):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(1, 6, 5, 7, generator=generator)
    features = functional.interpolate(features, (16, 24), mode='bicubic')[0]
    embeddings = torch.randn(40, 6, generator=generator)
    # Most masks are small: that is where a pixel at the edge can get lost.
    embeddings[:, 0] -= 1.5
    features[0] += 1.5
    frame = OutputFrame((int(64 / scale), int(96 / scale)), INPUT, scale, scale)
    summary = summarise_masks(embeddings, features, input_size=INPUT, threshold=0.5)
    bounds = bound_masks(summary.bboxes, features, frame)
    found = assemble_bitmaps(embeddings, features, bounds, frame=frame)
    logits = torch.tensordot(embeddings, features, dims=1)
    whole = functional.interpolate(logits[None], frame.size, mode='bilinear')[0]
    clear = whole.abs() > 1e-4  # rounding may go either way at 0
    assert 0 < (whole > 0).float().mean() < 0.5
    assert ((whole > 0) == found)[clear].all()


@every_format
def test_boxes__are_tight_and_zero_for_an_empty_mask(mask_format):
    features = rectangle_features()
    summary = summarise_masks(torch.eye(4), features, input_size=INPUT, threshold=0.5)
    bounds = bound_masks(summary.bboxes, features, plain_frame())
    form = MASK_FORMATS[mask_format]
    masks = form.assemble(torch.eye(4), features, bounds, frame=plain_frame())
    assert form.boxes(masks, bounds).tolist() == [list(map(float, box)) for box in RECTANGLES]
    nothing = form.take(masks, masks[:0], torch.zeros(0, dtype=torch.long))
    assert form.boxes(nothing, bounds[:0]).shape == (0, 4)


# Queries -----------------------------------------------------------------------------------------------------


@every_format
def test_queries__scores_boxes_and_masks_by_hand(mask_format):
    logits = class_logits((0.1, 0.6, 0.3), (0.8, 0.05, 0.15), (0.04, 0.06, 0.9), (0.5, 0.4, 0.1))
    settings = TestSettings(score_thr=0.05, mask_format=mask_format, multi_label=False)
    found = QueriesMode()(scene(logits, (0, 1, 2, 3)), plain_frame(), settings)
    # The fourth is sure of its class but shows nothing.
    np.testing.assert_allclose(found.scores, SURE * np.array([0.8, 0.6, 0.06]), rtol=1e-5)
    assert found.labels.tolist() == [0, 1, 1]
    shown = [RECTANGLES[1], RECTANGLES[0], RECTANGLES[2]]
    assert found.bboxes.tolist() == [list(map(float, box)) for box in shown]
    np.testing.assert_array_equal(bitmaps(found), [query_mask(box) for box in shown])


@every_format
def test_queries__one_stands_for_several_classes(mask_format):
    logits = class_logits((0.2, 0.5, 0.3), (0.4, 0.1, 0.5))
    settings = TestSettings(score_thr=0.15, mask_format=mask_format, max_per_img=3)
    found = QueriesMode()(scene(logits, (0, 1)), plain_frame(), settings)
    np.testing.assert_allclose(found.scores, SURE * np.array([0.5, 0.4, 0.2]), rtol=1e-5)
    assert found.labels.tolist() == [1, 0, 0]
    assert found.bboxes[:, 0].tolist() == [8, 40, 8]
    np.testing.assert_array_equal(bitmaps(found), [query_mask(RECTANGLES[i]) for i in (0, 1, 0)])
    if mask_format == 'rle':
        assert found.masks[0] is not found.masks[2]


def test_queries__in_the_frame_of_a_padded_enlarged_photo():
    # A photo of 160 x 112, halved to 80 x 56, with 8 columns of padding at the left and 4 rows above.
    frame = OutputFrame((112, 160), INPUT, 0.5, 0.5, left=8, top=4)
    logits = class_logits((0.9, 0.1), (0.8, 0.2))
    found = QueriesMode()(scene(logits, (0, 1)), frame, TestSettings())
    expected = [[0.0, 8.0, 48.0, 40.0], [64.0, 8.0, 144.0, 88.0]]
    # A corner of a rectangle is where logits of both signs meet; the mask's edge is within a pixel of it.
    np.testing.assert_allclose(found.bboxes, expected, atol=1)
    assert found.masks.shape == (2, 112, 160)


# Matched -----------------------------------------------------------------------------------------------------

AGREEING = ([8, 8, 32, 26], 0.9, 0)  # overlaps rectangle 0 with 16 / 18
OTHER_CLASS = ([40, 8, 80, 48], 0.8, 1)
ELSEWHERE = ([60, 40, 90, 60], 0.7, 0)


@every_format
@pytest.mark.parametrize('unmatched', ['prototype', 'drop'])
def test_matched__agreement_takes_the_mask_of_the_query(mask_format, unmatched):
    logits = class_logits((0.5, 0.2, 0.3), (0.6, 0.3, 0.1))
    image = scene(logits, (0, 1), detected=detections(AGREEING, OTHER_CLASS, ELSEWHERE))
    settings = TestSettings(mask_format=mask_format)
    found = MatchedMode(unmatched=unmatched)(image, plain_frame(), settings)
    joint = math.sqrt(0.9 * 0.5 * SURE)
    expected = [
        (OTHER_CLASS, 0.8, mask_of(OTHER_CLASS[0])),
        (ELSEWHERE, 0.7, mask_of(ELSEWHERE[0])),
        (AGREEING, joint, query_mask(RECTANGLES[0])),
    ]
    if unmatched == 'drop':
        expected = expected[2:]
    assert found.bboxes.tolist() == [row[0][0] for row in expected]
    assert found.labels.tolist() == [row[0][2] for row in expected]
    np.testing.assert_allclose(found.scores, [row[1] for row in expected], rtol=1e-5)
    np.testing.assert_array_equal(bitmaps(found), [row[2] for row in expected])


def test_matched__pairs_of_less_overlap_than_asked_for_are_none():
    image = scene(class_logits((0.5, 0.5)), (0,), detected=detections(AGREEING))
    for min_iou, is_matched in ((0.88, True), (0.9, False)):  # the overlap is 16 / 18
        found = MatchedMode(min_iou=min_iou, unmatched='drop')(image, plain_frame(), TestSettings())
        assert len(found.scores) == is_matched


def test_match_pairs__the_total_counts_and_not_the_best_pair():
    gain = torch.tensor([[0.9, 0.8], [0.85, 0.0], [0.0, 0.0]])
    rows, columns = match_pairs(gain)
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 1), (1, 0)]


# Seeded ------------------------------------------------------------------------------------------------------


@every_format
def test_seeded__the_query_is_that_of_its_detection(mask_format):
    # The queries prefer other classes: the index alone counts.
    boxes = [*map(list, RECTANGLES[1:3]), [50, 50, 60, 60]]
    rows = ((boxes[0], 0.4, 0), (boxes[1], 0.9, 1), (boxes[2], 0.2, 0))
    logits = class_logits((0.3, 0.6, 0.1), (0.7, 0.2, 0.1), (0.9, 0.05, 0.05))
    image = scene(logits, (1, 2, 3), seeds=detections(*rows).found)
    found = SeededMode()(image, plain_frame(), TestSettings(mask_format=mask_format))
    expected = [math.sqrt(0.9 * 0.2 * SURE), math.sqrt(0.4 * 0.3 * SURE)]  # the third shows nothing
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5)
    assert found.labels.tolist() == [1, 0]
    assert found.bboxes.tolist() == [rows[1][0], rows[0][0]]
    np.testing.assert_array_equal(bitmaps(found), [query_mask(RECTANGLES[i]) for i in (2, 1)])


@every_format
@pytest.mark.parametrize(
    ('expand', 'last_column'), [(0.0, 24), (0.25, 26), (1.0, 32)], ids=['box', 'margin', 'all']
)
@pytest.mark.parametrize('kind', [MatchedMode, SeededMode])
def test_crop__a_mask_ends_with_the_longer_box(kind, expand, last_column, mask_format):
    # Two thirds of rectangle 0, whose last columns are 24 to 31.
    detected = detections(([8, 8, 24, 24], 0.9, 0))
    image = scene(class_logits((0.5, 0.5)), (0,), detected=detected, seeds=detected.found)
    settings = TestSettings(mask_format=mask_format)
    found = kind(query_box_expand=expand)(image, plain_frame(), settings)
    expected = query_mask(RECTANGLES[0])
    expected[:, last_column:] = False
    np.testing.assert_array_equal(bitmaps(found), expected[None])
    assert found.bboxes.tolist() == [[8.0, 8.0, 24.0, 24.0]]
    np.testing.assert_allclose(found.scores, math.sqrt(0.9 * 0.5 * SURE), rtol=1e-5)


def test_crop__equals_a_loop_over_whole_masks():
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(1, 6, 5, 7, generator=generator)
    features = functional.interpolate(features, (16, 24), mode='bicubic')[0]
    embeddings = torch.randn(30, 6, generator=generator)
    # A photo of 112 x 160, halved, with padding around it; boxes reach over its edges.
    frame = OutputFrame((112, 160), INPUT, 0.5, 0.5, left=8, top=4)
    corners = torch.rand(30, 2, 2, generator=generator) * torch.tensor([100.0, 70.0]) - 3
    boxes = torch.cat([corners.amin(1), corners.amax(1)], dim=1)
    seeds = Detections(boxes, torch.full((30,), 0.25), torch.zeros(30).long(), torch.arange(30))
    image = ImageOutputs(torch.zeros(30, 2), embeddings, features, seeds=seeds)
    found = SeededMode(0.5)(image, frame, TestSettings(score_thr=-1.0))

    logits = torch.tensordot(embeddings, features, dims=1)
    everywhere = torch.tensor([[0.0, 0.0, 160.0, 112.0]]).expand(30, 4)
    whole = assemble_bitmaps(embeddings, features, everywhere, frame=frame).numpy()
    expected = {}
    for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        margin_x, margin_y = (x2 - x1) / 4, (y2 - y1) / 4
        x1, y1, x2, y2 = x1 - margin_x, y1 - margin_y, x2 + margin_x, y2 + margin_y
        inside = [
            float(logits[i, y, x].sigmoid())
            for y in range(16)
            for x in range(24)
            if logits[i, y, x] > 0
            and x1 < 4 * x + 4
            and 4 * x < x2
            and y1 < 4 * y + 4
            and 4 * y < y2
        ]
        score = math.sqrt(0.25 * 0.5 * sum(inside) / max(len(inside), 1))
        columns, rows = 0.5 * np.arange(160) + 8, 0.5 * np.arange(112)[:, None] + 4
        near = (columns >= x1) & (columns < x2) & (rows >= y1) & (rows < y2)
        expected[score] = whole[i] & near
    scores = sorted(expected, reverse=True)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-4)
    assert len(scores) == 30 and 0.1 < np.mean([mask.any() for mask in expected.values()]) < 1
    np.testing.assert_array_equal(found.masks, [expected[score] for score in scores])


# Every mode --------------------------------------------------------------------------------------------------


@every_format
@pytest.mark.parametrize('mode', [QueriesMode(), MatchedMode(), SeededMode()], ids=type)
def test_modes__nothing_found_keeps_its_shapes(mode, mask_format):
    nothing = detections()
    settings = TestSettings(mask_format=mask_format)
    for shown in ((), (3,)):  # no query; one without a mask
        logits = torch.zeros(len(shown), 3)
        seeds = nothing.found if not shown else detections(AGREEING).found
        image = scene(logits, shown, detected=nothing, seeds=seeds)
        found = mode(image, plain_frame(), settings)
        assert found.bboxes.shape == (0, 4) and found.scores.shape == found.labels.shape == (0,)
        assert found.masks == [] if mask_format == 'rle' else found.masks.shape == (0, *INPUT)


@pytest.mark.parametrize(
    ('config', 'is_seeded', 'expected', 'rest'),
    [
        (None, False, QueriesMode(), {}),
        (None, True, SeededMode(), {}),
        (dict(mode='queries', score_thr=0.1), True, QueriesMode(), dict(score_thr=0.1)),
        (
            dict(mode='matched', min_iou=0.7, unmatched='drop', max_per_img=5),
            False,
            MatchedMode(0.7, 'drop'),
            dict(max_per_img=5),
        ),
    ],
    ids=['learned', 'seeded', 'queries-of-seeds', 'matched'],
)
def test_test_config__mode_and_the_rest(config, is_seeded, expected, rest):
    assert split_test_config(config, is_seeded=is_seeded) == (expected, rest)


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (
            dict(mode='query'),
            r"got mode='query', expected one of \['queries', 'matched', 'seeded'\]",
        ),
        (dict(mode='seeded'), r"mode='seeded' for learned queries.*num_seeds"),
        (
            dict(mode='queries', min_iou=0.5),
            r"got \['min_iou'\], which mode='queries' does not know",
        ),
        (dict(mode='matched', min_iou=0), r'got min_iou=0, expected a number in \(0, 1\]'),
        (dict(mode='matched', unmatched='keep'), r"got unmatched='keep', expected one of"),
        (dict(mode='matched', query_box_expand=-0.1), 'got query_box_expand=-0.1, expected 0 or'),
    ],
    ids=['unknown-mode', 'not-seeded', 'of-another-mode', 'range', 'unknown-choice', 'shrunk-box'],
)
def test_test_config__mistakes_are_named(config, message):
    with pytest.raises(ValueError, match=message):
        split_test_config(config, is_seeded=False)
