"""Heat maps of queries, painted by hand."""

import numpy as np
import pytest

from mmext.visualization.heat_maps import draw_heat_maps, grid_shape, heat_maps

NAN = float('nan')


def test_heat_maps__weighted_mean_of_what_covers_a_cell():
    boxes = np.array([[0, 0, 2, 1], [1, 0, 3, 1]])
    values = np.array([[1.0, 0.0], [-1.0, 0.5]])
    maps = heat_maps(boxes, np.array([0.75, 0.25]), values, (2, 4))
    first = [[1.0, 0.5, -1.0, NAN], [NAN] * 4]
    second = [[0.0, 0.125, 0.5, NAN], [NAN] * 4]
    np.testing.assert_allclose(maps.values, [first, second])
    np.testing.assert_allclose(maps.cover, [[0.75, 0.75, 0.25, 0], [0] * 4])


@pytest.mark.parametrize(
    ('box', 'covered'),
    [
        ([-5, -5, 99, 99], [[1, 1], [1, 1]]),
        # A cell is covered where its middle is.
        ([0.4, 0, 1.4, 0.6], [[1, 0], [0, 0]]),
        ([0.6, 0, 1.6, 0.4], [[0, 0], [0, 0]]),
        ([2, 2, 0, 0], [[0, 0], [0, 0]]),
        ([0, 0, NAN, 2], [[0, 0], [0, 0]]),
        ([50, 50, 60, 60], [[0, 0], [0, 0]]),
    ],
    ids=['beyond', 'half a cell', 'no middle', 'inverted', 'not finite', 'outside'],
)
def test_heat_maps__what_a_box_covers(box, covered):
    maps = heat_maps(np.array([box]), np.ones(1), np.full((1, 1), 0.5), (2, 2))
    assert maps.cover.tolist() == covered
    assert np.isnan(maps.values[0]).tolist() == (np.array(covered) == 0).tolist()


@pytest.mark.parametrize(
    ('image', 'grid'),
    [((100, 50), (100, 50)), ((512, 1024), (128, 256)), ((1, 4000), (1, 256))],
    ids=['small', 'large', 'a line'],
)
def test_grid_shape__no_finer_than_the_image(image, grid):
    assert grid_shape(image) == grid


@pytest.mark.parametrize('names', [['a'], ['a', 'b', 'c', 'd', 'e']], ids=['one', 'two rows'])
@pytest.mark.parametrize('weight', [0.0, 1.0], ids=['no query is sure', 'sure'])
def test_draw_heat_maps__a_panel_for_each_class(names, weight):
    photo = np.full((8, 12, 3), 128, np.uint8)
    values = np.linspace(-1, 1, len(names))[None]
    maps = heat_maps(np.array([[0, 0, 6, 8]]), np.full(1, weight), values, (8, 12))
    figure = draw_heat_maps(photo, photo, maps, names, 'photo.png')
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[: len(names) + 1] == ['truth', *names]
    images = [axes.images[0].get_array() for axes in figure.axes[1 : len(names) + 1]]
    for image in images:
        assert (image[:, 6:] == 128).all()
    if len(names) > 1:
        # Below the mean blue, above it red; without weight nothing is painted.
        blue, red = (
            image[0, 0, 2].item() - image[0, 0, 0].item() for image in images[:: len(names) - 1]
        )
        assert (blue > 50 and red < -50) if weight else (blue == red == 0)
