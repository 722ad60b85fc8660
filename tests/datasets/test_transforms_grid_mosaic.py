"""GridMosaic: four images where arithmetic says, and the warp pixel by pixel."""

import numpy as np
import pytest
from mmdet.structures.bbox import HorizontalBoxes
from PIL import Image

from mmext.datasets.transforms import GridMosaic, UnlessMosaic
from tests.datasets.ellipses import Ellipse, assert_in_step, draw, make_sample

# (width, height); with a short side of 30 they become 60 x 30, 30 x 43, 45 x 30, 30 x 30.
SIZES = [(80, 40), (42, 61), (60, 40), (20, 20)]
RESIZED = [(60, 30), (30, 43), (45, 30), (30, 30)]


def _samples() -> dict:
    rng = np.random.default_rng(0)
    samples = []
    for index, (width, height) in enumerate(SIZES):
        box = np.float32([[0.1 * width, 0.2 * height, 0.6 * width, 0.9 * height]])
        samples.append(
            {
                'img': rng.integers(0, 255, (height, width, 3), dtype=np.uint8),
                'img_shape': (height, width),
                'gt_bboxes': HorizontalBoxes(box),
                'gt_bboxes_labels': np.array([index]),
                'gt_ignore_flags': np.array([index == 2]),
            }
        )
    return {**samples[0], 'mix_results': samples[1:]}


def _grid(samples: dict) -> np.ndarray:
    """Cells of 60 x 43, each image in the top left of its cell, resized by PIL."""
    canvas = np.zeros((86, 120, 3), np.uint8)
    images = [samples['img'], *[sample['img'] for sample in samples['mix_results']]]
    for index, (image, size) in enumerate(zip(images, RESIZED, strict=True)):
        small = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
        top, left = 43 * (index // 2), 60 * (index % 2)
        canvas[top : top + size[1], left : left + size[0]] = np.asarray(small)
    return canvas


def test_grid_mosaic__each_image_in_its_cell():
    transform = GridMosaic(30)
    transform.draw_matrix = lambda size: np.eye(3)
    samples = _samples()
    expected = _grid(samples)
    results = transform(samples)
    assert results['img_shape'] == (86, 120)
    assert (results['img'] == expected).all()
    corners = [(0, 0), (60, 0), (0, 43), (60, 43)]
    boxes = [
        [x + 0.1 * w, y + 0.2 * h, x + 0.6 * w, y + 0.9 * h]
        for (x, y), (w, h) in zip(corners, RESIZED, strict=True)
    ]
    assert results['gt_bboxes'].tensor.numpy() == pytest.approx(np.array(boxes), abs=1e-4)
    assert results['gt_bboxes_labels'].tolist() == [0, 1, 2, 3]
    assert results['gt_ignore_flags'].tolist() == [False, False, True, False]


def test_grid_mosaic__nearest_pixel_of_the_warped_canvas():
    transform = GridMosaic(30)
    cos, sin = 1.3 * np.cos(0.1), 1.3 * np.sin(0.1)
    matrix = np.array([[cos, -sin, -7.3], [sin, cos, 4.6], [0, 0, 1]])
    transform.draw_matrix = lambda size: matrix
    samples = _samples()
    grid = _grid(samples)
    results = transform(samples)
    y, x = np.mgrid[:86, :120] + 0.5
    back = np.linalg.inv(matrix)
    column = np.floor(back[0, 0] * x + back[0, 1] * y + back[0, 2]).astype(int)
    row = np.floor(back[1, 0] * x + back[1, 1] * y + back[1, 2]).astype(int)
    inside = (column >= 0) & (column < 120) & (row >= 0) & (row < 86)
    expected = np.where(inside[..., None], grid[row.clip(0, 85), column.clip(0, 119)], 0)
    # Where the point lies between two pixels OpenCV may round the other way.
    assert np.mean((results['img'] == expected).all(axis=-1)) > 0.98
    # The upright hull of the turned box of the first image, cut at the canvas.
    corners = np.array([(6, 6, 1), (36, 6, 1), (6, 27, 1), (36, 27, 1)]) @ matrix.T
    hull = [*corners[:, :2].min(axis=0), *corners[:, :2].max(axis=0)]
    hull = np.clip(hull, 0, (120, 86, 120, 86))
    assert results['gt_bboxes'].tensor[0].numpy() == pytest.approx(hull, abs=1e-3)


def test_grid_mosaic__objects_beyond_the_canvas_are_dropped():
    transform = GridMosaic(30)
    transform.draw_matrix = lambda size: np.array([[1, 0, 40], [0, 1, 50], [0, 0, 1.0]])
    results = transform(_samples())
    # The boxes begin at x = 6, 63, 4.5, 63 and y = 6, 8.6, 49, 49.
    assert results['gt_bboxes_labels'].tolist() == [0, 1]
    assert len(results['gt_ignore_flags']) == 2


def test_grid_mosaic__masks_in_step():
    ellipse = Ellipse(50, 60, 30, 20, 0.3)
    samples = [make_sample(120, 120, (ellipse,)) for _ in range(4)]
    transform = GridMosaic(90)
    matrix = np.array([[0.8, -0.2, 30], [0.2, 0.8, -10], [0, 0, 1]])
    transform.draw_matrix = lambda size: matrix
    results = transform({**samples[0], 'mix_results': samples[1:]})
    back = np.linalg.inv(matrix)

    def to_input(left: int, top: int):
        def lead(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            u = back[0, 0] * x + back[0, 1] * y + back[0, 2]
            v = back[1, 0] * x + back[1, 1] * y + back[1, 2]
            return (u - left) / 0.75, (v - top) / 0.75

        return lead

    expected = [draw(ellipse, 180, 180, to_input(90 * (i % 2), 90 * (i // 2))) for i in range(4)]
    assert_in_step(results, expected, 0.93)


def test_grid_mosaic__draws_the_documented_ranges():
    np.random.seed(0)  # noqa: NPY002
    transform = GridMosaic(30)
    matrices = np.array([transform.draw_matrix((200, 100)) for _ in range(1000)])
    scale = np.sqrt(np.linalg.det(matrices[:, :2, :2]))
    angle = np.rad2deg(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    centre = matrices[:, :2] @ (100, 50, 1)
    for values, low, high in [
        (scale, 0.5, 1.5),
        (angle, -10, 10),
        (centre[:, 0], 80, 120),
        (centre[:, 1], 40, 60),
    ]:
        margin = 0.03 * (high - low)
        assert low - 1e-6 <= values.min() < low + margin
        assert high - margin < values.max() <= high + 1e-6


def test_grid_mosaic__without_partners_nothing_happens():
    sample = make_sample()
    image = sample['img'].copy()
    results = GridMosaic(30, prob=0)({**sample, 'mix_results': []})
    assert (results['img'] == image).all() and 'is_mosaic' not in results
    assert GridMosaic(30, prob=0).get_indexes(range(9)) == []
    assert len(GridMosaic(30, prob=1).get_indexes(range(9))) == 3


def test_unless_mosaic__leaves_mosaics_alone():
    skipped = UnlessMosaic([lambda results: {**results, 'touched': True}])
    transform = GridMosaic(30)
    assert 'touched' not in skipped(transform(_samples()))
    assert skipped(transform({**_samples(), 'mix_results': []}))['touched']


def test_grid_mosaic__wrong_settings():
    with pytest.raises(ValueError, match='short_side'):
        GridMosaic(0)
    with pytest.raises(ValueError, match='MultiImageMixDataset'):
        GridMosaic(30)(make_sample())
