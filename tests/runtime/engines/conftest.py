"""What tests of engines share."""

import gc

import pytest


@pytest.fixture(scope="session", autouse=True)
def small_heap():
    """These tests collect garbage to see what is left; that of whole libraries takes long, and is of no concern."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
