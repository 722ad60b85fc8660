"""Shared set-up of the tests. With `tests/__init__.py` it puts the root of the checkout on the import path,
so that every test can `from tests.tiny import ...`, however pytest is started."""

import gc
import importlib
import os
import sys
from collections.abc import Callable, Iterator

import pytest

# Before any test imports mmdet: it offers the torch ops that mmdet needs where mmcv has no compiled ones.
import mmext  # noqa: F401

# What is imported while the tests are collected stays to the end. mmengine looks through all of it for garbage
# whenever a data set is built, which took 0.4 s each time and a quarter of the whole suite.
gc.disable()

# Classes of mmengine that keep their instances by name.
MANAGED = (
    ('mmengine.logging', 'MMLogger'),
    ('mmengine.logging', 'MessageHub'),
    ('mmengine.visualization', 'Visualizer'),
)


def pytest_collection_finish() -> None:
    """From here on garbage is looked for among the objects of the tests alone."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `data` need the folder that MMEXT_DATA names; where it is unset they are skipped.

    Trainings take minutes: their files come first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: not item.path.name.startswith('test_training'))
    if 'MMEXT_DATA' not in os.environ:
        for item in items:
            if item.get_closest_marker('data'):
                item.add_marker(pytest.mark.skip(reason='MMEXT_DATA is unset'))


@pytest.fixture(scope='session', autouse=True)
def yapf_format() -> Iterator[Callable]:
    """mmengine has yapf lay out every config that it writes or logs: up to a second, several times a run. Here the
    texts stay as they are before, which says the same; the fixture is yapf's own function."""
    yapf_api = importlib.import_module('yapf.yapflib.yapf_api')
    original = yapf_api.FormatCode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yapf_api, 'FormatCode', lambda text, **_: (text, False))
        yield original


@pytest.fixture(scope='module', autouse=True)
def own_default_scope() -> Iterator[None]:
    """A Runner sets mmengine's default scope for all that comes behind it; here that ends with the file."""
    yield
    if 'mmengine.registry' in sys.modules:
        sys.modules['mmengine.registry'].DefaultScope._instance_dict.clear()


@pytest.fixture(autouse=True)
def fresh_singletons() -> Iterator[None]:
    """mmengine keeps loggers, visualizers and message hubs by the name of the run, which has its second in it: of two
    runs of one name in one second, the other's test gets the first one's, with its folder and closed streams."""
    yield
    for module, name in MANAGED:
        if module in sys.modules:
            for kind in with_subclasses(getattr(sys.modules[module], name)):
                kind._instance_dict.clear()


def with_subclasses(kind: type) -> Iterator[type]:
    yield kind
    for own in kind.__subclasses__():
        yield from with_subclasses(own)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-golden` rewrites our own summaries; the commit says why they moved."""
    parser.addoption(
        '--update-golden', action='store_true', help='rewrite tests/golden/contract.json'
    )


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return request.config.getoption('--update-golden')
