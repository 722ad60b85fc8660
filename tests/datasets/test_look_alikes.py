"""The look-alike defects: outlines and contrast of a pair are drawn from the same distributions; the relief differs."""

import cv2
import numpy as np
import pytest
from scipy.stats import ks_2samp

from mmext.datasets.synthetic import LOOK_ALIKE, DefectClass
from mmext.datasets.synthetic.surfaces import Surface

PAIRS = [LOOK_ALIKE.classes[start : start + 2] for start in (0, 2, 4)]
NUM_DRAWS = 40


def measure(defect: DefectClass, first_seed: int) -> np.ndarray:
    """Length, width, contrast and tone of defects on a plain sheet: (draws, 4)."""
    rows = []
    for seed in range(first_seed, first_seed + NUM_DRAWS):
        plain = Surface(
            np.full((128, 128, 3), 100, np.float32), np.ones((128, 128), bool), 0.0, 2.0
        )
        image, mask = defect.draw(np.random.default_rng(seed), plain)
        sides = cv2.minAreaRect(cv2.findNonZero(mask.astype(np.uint8)))[1]
        change = image[..., 0] / 100 - 1
        near = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        tone = abs(change[near].sum()) / np.abs(change[near]).sum()
        length = max(sides) + 1
        rows.append((length, mask.sum() / length, np.abs(change[mask]).mean(), tone))
    return np.array(rows)


@pytest.mark.parametrize('pair', PAIRS, ids=lambda pair: '-'.join(own.alias for own in pair))
def test_pair__overlaps_in_all_but_the_relief(pair):
    # Other seeds: from the same ones come the same outlines.
    flat, sunken = measure(pair[0], 0), measure(pair[1], 1000)
    for column in range(3):
        assert ks_2samp(flat[:, column], sunken[:, column]).pvalue > 0.01
    # What lies on the surface is lighter or darker all over; a relief is both.
    assert flat[:, 3].min() > 0.99 and sunken[:, 3].max() < 0.97


@pytest.mark.parametrize('pair', PAIRS, ids=lambda pair: '-'.join(own.alias for own in pair))
def test_pair__the_same_seed_gives_the_same_outline(pair):
    sheet = Surface(np.full((96, 96, 3), 100, np.float32), np.ones((96, 96), bool), 0.0)
    (_, first), (_, second) = (own.draw(np.random.default_rng(3), sheet) for own in pair)
    assert first.any() and (first == second).all()
