"""What callers may give as an array or stream of the GPU, and what is refused."""

import numpy as np
import pytest

from esrgan_deploy import OptionError
from esrgan_deploy.cuda import dlpack
from esrgan_deploy.cuda.arrays import LEGACY, device_array, stream_handle
from gpu_arrays import LentOnGpu, OnGpu

HERE = (dlpack.CPU, 0)


class Handle:
    def __init__(self, name, value):
        setattr(self, name, value)


class CudaCoreStream:
    def __cuda_stream__(self):
        return (0, 77)


@pytest.mark.parametrize(
    ("stream", "number"),
    [
        (None, LEGACY),
        (0, LEGACY),
        (2, 2),
        (77, 77),
        (np.int64(77), 77),
        (Handle("handle", 77), 77),
        (Handle("ptr", 77), 77),
        (Handle("cuda_stream", 77), 77),
        (Handle("cuda_stream", 0), LEGACY),
        (Handle("__cuda_stream__", (0, 77)), 77),
        (CudaCoreStream(), 77),
    ],
)
def test_streams_of_every_library_are_understood(stream, number):
    assert stream_handle(stream) == number


def test_what_is_no_stream_is_refused():
    with pytest.raises(OptionError, match="'fast' is no CUDA stream"):
        stream_handle("fast")


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (np.zeros((1, 4, 4, 3), np.uint8), r"DLPack device \(1, 0\)"),
        ([1, 2], "list is no array on a GPU"),
        (OnGpu(512, (1, 4, 4, 3), "<f4"), "received float32"),
        (OnGpu(512, (1, 4, 4, 3), ">u2"), "received >u2"),
        (OnGpu(512, (4, 4, 3)), r"received uint8 of shape \(4, 4, 3\)"),
        (OnGpu(512, (1, 4, 4, 4)), r"shape \(1, 4, 4, 4\)"),
        (OnGpu(512, (0, 4, 4, 3)), r"shape \(0, 4, 4, 3\)"),
        (OnGpu(512, (1, 4, 4, 3), strides=(48, 3, 12, 1)), "must be C-contiguous"),
        (OnGpu(512, (1, 4, 4, 3), mask=object()), "masked"),
        (OnGpu(512, (1, 4, 4, 3), "nonsense"), "version 2 or 3"),
        (LentOnGpu(512, (1, 4, 4, 3), device=(dlpack.CUDA, 1)), r"DLPack device \(2, 1\)"),
        (LentOnGpu(512, (1, 4, 4, 3), "f2"), "received float16"),
    ],
)
def test_what_is_no_batch_on_this_gpu_is_refused(frames, words):
    with pytest.raises(OptionError, match=words):
        device_array(frames, LEGACY)


def test_read_only_arrays_can_go_in_but_not_out():
    frozen = OnGpu(512, (1, 4, 4, 3), data=(512, True))
    assert device_array(frozen, LEGACY).address == 512
    with pytest.raises(OptionError, match="read-only"):
        device_array(frozen, LEGACY, role="out")


def test_strides_of_axes_of_length_one_mean_nothing():
    array = device_array(OnGpu(512, (1, 4, 4, 3), "<u2", strides=(7, 24, 6, 2)), LEGACY)
    assert (array.address, array.shape, array.dtype) == (512, (1, 4, 4, 3), np.uint16)
