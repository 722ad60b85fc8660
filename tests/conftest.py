"""Shared set-up of the tests. With `tests/__init__.py` it puts the root of the checkout on the import path,
so that every test can `from tests.tiny import ...`, however pytest is started."""

# Before any test imports mmdet: it offers the torch ops that mmdet needs where mmcv has no compiled ones.
import mmext  # noqa: F401
