"""The torch ops return what mmcv's compiled ones did: outputs and derivatives."""

import numpy as np
import pytest

from tests.ops.op_cases import CASES
from tests.ops.record_golden import GOLDEN


@pytest.fixture(scope='module')
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as recorded:
        return dict(recorded)


def test_golden__every_case_is_recorded(golden):
    assert {name.split('/')[0] for name in golden} == set(CASES)


@pytest.mark.parametrize('name', CASES)
def test_golden__op_matches_the_compiled_one(name, golden, torch_ops):
    for key, array in CASES[name]().items():
        expected = golden[f'{name}/{key}']
        assert array.shape == expected.shape
        if 'index' in key or key in ('ious', 'sizes'):
            np.testing.assert_array_equal(array, expected, err_msg=key)
        else:
            np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-5, err_msg=key)
