"""Counts of the values of maps."""

import numpy as np
import pytest

from mmext.structures.label_maps import count_values


@pytest.mark.parametrize('dtype', (np.uint8, np.uint16, bool), ids=lambda own: own.__name__)
def test_counts__equal_a_loop(dtype: type) -> None:
    values = np.random.default_rng(0).integers(0, 2 if dtype is bool else 256, (7, 9)).astype(dtype)
    counts = count_values(values)
    expected: dict[int, int] = {}
    for value in values.ravel().tolist():
        expected[int(value)] = expected.get(int(value), 0) + 1
    assert dict(counts) == expected
    assert count_values(values[:0]) == {}
