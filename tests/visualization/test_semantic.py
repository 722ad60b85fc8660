"""Pictures of class maps by hand arithmetic, and what a legend says."""

import numpy as np
import pytest
from PIL import Image

from mmext.visualization.semantic import (
    class_palette,
    class_picture,
    draw_legend,
    draw_overlay,
    legend_rows,
    outline_classes,
    paint_classes,
)

PALETTE = np.array([[200, 0, 0], [0, 100, 0], [0, 0, 50]], np.uint8)


def test_paint_classes__mixes_photo_and_colour() -> None:
    image = np.full((1, 3, 3), 100, np.uint8)
    found = paint_classes(image, np.array([[0, 1, 2]], np.uint8), PALETTE, 0.5)
    assert found.tolist() == [[[150, 50, 50], [50, 100, 50], [50, 50, 75]]]
    assert (paint_classes(image, np.zeros((1, 3), np.uint8), PALETTE, 0.0) == image).all()


def test_outline_classes__changes_both_sides_of_a_border_only() -> None:
    image = np.full((5, 6, 3), 9, np.uint8)
    class_map = np.zeros((5, 6), np.uint8)
    class_map[:, 4:] = 1
    found = outline_classes(image, class_map, PALETTE)
    assert (found[:, 3] == PALETTE[0]).all() and (found[:, 4] == PALETTE[1]).all()
    assert (found[:, [0, 1, 2, 5]] == 9).all()
    assert (image == 9).all()
    assert (outline_classes(image, np.zeros((5, 6), np.uint8), PALETTE) == 9).all()


def test_legend_rows__largest_first_and_the_smallest_together() -> None:
    shares = np.array([0.1, 0.0, 0.9])
    rows = legend_rows(['a', 'b', 'c'], PALETTE, shares)
    assert [(row.name, row.share) for row in rows] == [('c', 0.9), ('a', 0.1)]
    assert rows[0].color == (0, 0, 50)
    many = np.full(150, 1 / 150)
    rows = legend_rows([str(i) for i in range(150)], np.zeros((150, 3), np.uint8), many)
    assert len(rows) == 24 and rows[-1].name == '127 more' and rows[-1].color is None
    assert sum(row.share for row in rows) == pytest.approx(1)


def test_draw_overlay__small_photos_keep_their_size_beside_a_readable_legend() -> None:
    rows = legend_rows(['Straße', 'b', 'c'], PALETTE, np.array([0.5, 0.3, 0.2]))
    image = np.full((8, 5, 3), 77, np.uint8)
    class_map = np.zeros((8, 5), np.uint8)
    found = draw_overlay(image, class_map, rows, PALETTE)
    legend = draw_legend(rows, 8)
    assert found.shape == (legend.shape[0], 5 + legend.shape[1], 3)
    assert (found[:8, :5] == paint_classes(image, class_map, PALETTE)).all()
    assert (found[8:, :5] == 255).all() and (found[:, 5:] == legend).all()
    # Three lines of 12 pixels with gaps; the colours stand in the order of the shares.
    assert legend.shape[0] >= 3 * 12
    colors = [tuple(color) for color in legend[:, 12].tolist()]
    places = [colors.index(tuple(color)) for color in PALETTE.tolist()]
    assert places == sorted(places)
    assert draw_legend(rows, 2000).shape[0] > 2 * legend.shape[0]


def test_class_palette__given_colours_come_first_and_all_differ() -> None:
    found = class_palette([[1, 2, 3], [250, 0, 0]], 60)
    assert found[:2].tolist() == [[1, 2, 3], [250, 0, 0]]
    apart = np.abs(found[:, None].astype(int) - found).max(-1) + 999 * np.eye(60, dtype=int)
    assert apart.min() >= 20
    assert len(np.unique(class_palette(None, 256), axis=0)) == 256
    assert class_palette([[1, 2, 3], [4, 5, 6]], 1).tolist() == [[1, 2, 3]]
    assert (class_palette(found[:2], 60) == found).all()


@pytest.mark.parametrize(
    'palette', [[[1, 2]], [[0, 0, 300]], [1, 2, 3]], ids=['two', '300', 'flat']
)
def test_class_palette__mistakes(palette: list) -> None:
    with pytest.raises(ValueError, match='palette: got'):
        class_palette(palette, 2)


@pytest.mark.parametrize(
    ('class_map', 'message'),
    [(np.zeros((2, 3), np.uint8), 'class map of'), (np.full((2, 2), 3, np.uint8), 'the label 3')],
    ids=['size', 'label'],
)
def test_paint_classes__mistakes(class_map: np.ndarray, message: str) -> None:
    for paint in (paint_classes, outline_classes):
        with pytest.raises(ValueError, match=message):
            paint(np.zeros((2, 2, 3), np.uint8), class_map, PALETTE)


@pytest.mark.parametrize(('dtype', 'mode'), [(np.uint8, 'P'), (np.uint16, 'I;16')])
def test_class_picture__values_are_the_labels(dtype: type, mode: str, tmp_path) -> None:
    class_map = np.array([[0, 1], [2, 2]], dtype)
    class_picture(class_map, PALETTE).save(tmp_path / 'a.png')
    with Image.open(tmp_path / 'a.png') as found:
        assert found.mode == mode
        assert (np.asarray(found) == class_map).all()
        if mode == 'P':
            assert found.convert('RGB').getpixel((1, 0)) == (0, 100, 0)
