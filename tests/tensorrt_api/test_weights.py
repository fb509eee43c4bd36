"""`Weights`, by which a refit hands over arrays: some bindings were made for numpy 1, but numpy 2 is what we have."""

import json

import pytest

from real_bindings import ALL, HERE, run

TYPES = {"float32": ("FLOAT", 4), "float16": ("HALF", 2), "int32": ("INT32", 4), "int8": ("INT8", 1)}
MADE_FOR_NUMPY_1 = ("8.5.3.1", "10.13.3.9")


@pytest.fixture(params=ALL)
def bindings(request):
    return request.param


@pytest.fixture
def report(bindings):
    return json.loads(run(bindings, HERE / "report_weights.py", bindings.module))


def test_arrays_arrive_whole(report):
    for dtype, (name, itemsize) in TYPES.items():
        assert report[dtype]["type"] == f"DataType.{name}"
        assert (report[dtype]["size"], report[dtype]["nbytes"]) == (8, 8 * itemsize)
        assert report[dtype]["same memory"]


def test_what_is_read_back_is_wrong_where_numpy_is_too_new(bindings, report):
    """Why nothing of ours calls `Weights.numpy()`: there it repeats the first number."""
    too_new = bindings.version in MADE_FOR_NUMPY_1 and not report["numpy"].startswith("1.")
    assert [report[dtype]["read back"] for dtype in TYPES] == [not too_new] * len(TYPES)
