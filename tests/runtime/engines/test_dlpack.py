"""DLPack by ctypes: numpy is the other side, of both directions."""

import ctypes
import gc
import subprocess
import sys
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esrgan_deploy.cuda import dlpack

HERE = (dlpack.CPU, 0)


class Producer:
    """What numpy.from_dlpack takes."""

    def __init__(self, view, owner):
        self.view, self.owner = view, owner

    def __dlpack__(self, **_):
        return dlpack.export_capsule(self.view, self.owner)

    def __dlpack_device__(self):
        return self.view.device


class Owner:
    """Something to see whether it is still alive."""

    def __init__(self, array):
        self.array = array


def producer_of(array, *, strides=True):
    owner = Owner(array)
    view = dlpack.ArrayView(array.ctypes.data, array.shape, array.dtype, array.strides if strides else None, HERE)
    return Producer(view, owner), weakref.ref(owner)


SHAPES = st.lists(st.integers(1, 4), min_size=0, max_size=5).map(tuple)
TYPES = st.sampled_from(["u1", "u2", "i4", "i8", "f2", "f4", "f8"])


@given(SHAPES, TYPES, st.booleans(), st.randoms(use_true_random=False))
def test_numpy_reads_what_is_lent(shape, dtype, strides, random):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    if strides and shape:
        array = array.transpose(random.sample(range(array.ndim), array.ndim))[..., :: random.choice([1, 2])]
    producer, _ = producer_of(array, strides=strides)
    taken = np.from_dlpack(producer)
    assert (taken.dtype, taken.shape, taken.ctypes.data) == (array.dtype, array.shape, array.ctypes.data)
    np.testing.assert_array_equal(taken, array)


@given(SHAPES, TYPES, st.randoms(use_true_random=False))
def test_what_numpy_lends_is_read(shape, dtype, random):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    array = array.transpose(random.sample(range(array.ndim), array.ndim))
    view = dlpack.ImportedArray(array.__dlpack__()).view
    assert (view.address, view.shape, view.dtype, view.device) == (array.ctypes.data, array.shape, array.dtype, HERE)
    if view.strides is None:  # as older versions of numpy say it
        assert array.flags.c_contiguous
        return
    effective = [(n, stride) for n, stride in zip(array.shape, array.strides, strict=True) if n > 1]
    assert [(n, stride) for n, stride in zip(view.shape, view.strides, strict=True) if n > 1] == effective


def test_a_slice_begins_at_its_own_address():
    array = np.arange(24, dtype=np.uint16).reshape(4, 6)
    assert dlpack.ImportedArray(array[2:, 1:].__dlpack__()).view.address == array[2:, 1:].ctypes.data


def test_memory_lives_as_long_as_its_last_consumer():
    producer, alive = producer_of(np.arange(5, dtype=np.uint8))
    taken = np.from_dlpack(producer)
    second = taken[1:3]
    del producer, taken
    gc.collect()
    assert alive() is not None
    assert second.tolist() == [1, 2]
    del second
    gc.collect()
    assert alive() is None


def test_a_capsule_that_nobody_takes_gives_back_what_it_holds():
    producer, alive = producer_of(np.arange(5, dtype=np.uint8))
    capsule = producer.__dlpack__()
    del producer
    assert alive() is not None
    del capsule
    gc.collect()
    assert alive() is None


def test_what_is_borrowed_is_given_back_once():
    """The deleter of a producer in C is called when the borrower dies, and not again with the capsule."""
    calls = []
    deleter = dlpack._Deleter(lambda managed: calls.append(ctypes.addressof(managed.contents)))
    data, shape = (ctypes.c_uint8 * 6)(), (ctypes.c_int64 * 2)(2, 3)
    managed = dlpack._Managed()
    managed.tensor = dlpack._Tensor(ctypes.addressof(data), 1, 0, 2, dlpack.UNSIGNED, 8, 1, shape, None, 2)
    managed.deleter = deleter
    capsule = dlpack._new(ctypes.addressof(managed), dlpack.FRESH, None)
    borrowed = dlpack.ImportedArray(capsule)
    assert borrowed.view == dlpack.ArrayView(ctypes.addressof(data) + 2, (2, 3), np.dtype("u1"), None, HERE)
    with pytest.raises(ValueError, match="unused"):
        dlpack.ImportedArray(capsule)
    del capsule
    assert calls == []
    del borrowed
    assert calls == [ctypes.addressof(managed)]


@pytest.mark.parametrize("what", [object(), np.zeros(3, complex).__dlpack__()])
def test_what_is_no_capsule_of_ordinary_elements_is_refused(what):
    with pytest.raises(ValueError, match=r"unused DLPack capsule|elements of DLPack type 5"):
        dlpack.ImportedArray(what)


def test_what_is_given_back_when_the_interpreter_ends_disturbs_nothing():
    """Modules that were imported earlier are cleared later: then neither ours nor ctypes have their names any more."""
    program = """
import threading
import numpy as np
from esrgan_deploy.cuda import dlpack
pixels = np.zeros(8, np.uint8)
view = dlpack.ArrayView(pixels.ctypes.data, pixels.shape, pixels.dtype, None, (dlpack.CPU, 0))
threading.kept = [dlpack.ImportedArray(dlpack.export_capsule(view, pixels)), dlpack.export_capsule(view, pixels)]
threading.Thread.kept = [dlpack.ImportedArray(dlpack.export_capsule(view, pixels)), dlpack.export_capsule(view, pixels)]
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stderr == ""
