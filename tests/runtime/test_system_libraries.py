"""What native libraries are called on each system."""

import pytest

from esrgan_deploy.system.libraries import driver_names, library_name, load, provider_name, version_in


@pytest.mark.parametrize(
    ("system", "cuda", "nvinfer", "cudart", "provider"),
    [
        ("linux", "libcuda.so.1", "libnvinfer.so.10", "libcudart.so.13", "libonnxruntime_providers_cuda.so"),
        ("win32", "nvcuda.dll", "nvinfer_10.dll", "cudart64_13.dll", "onnxruntime_providers_cuda.dll"),
        ("darwin", None, "libnvinfer.10.dylib", "libcudart.13.dylib", "libonnxruntime_providers_cuda.dylib"),
    ],
)
def test_names(system, cuda, nvinfer, cudart, provider):
    if cuda:
        assert driver_names("cuda", system)[0] == cuda
    assert library_name("nvinfer", 10, system) == nvinfer
    assert library_name("cudart", 13, system) == cudart
    assert provider_name("cuda", system) == provider


def test_the_driver_is_also_looked_for_where_windows_puts_it_into_its_linux():
    assert driver_names("nvidia-ml", "linux") == ("libnvidia-ml.so.1", "/usr/lib/wsl/lib/libnvidia-ml.so.1")
    assert driver_names("nvidia-ml", "win32") == ("nvml.dll",)


def test_versions_are_read_from_names():
    assert version_in("libcudart.so.12", "cudart") == 12
    assert version_in("libcudart.so.11.0", "cudart") == 11
    assert version_in("cudart64_13.dll", "cudart") == 13
    assert version_in("libcublas.so.12", "cudart") is None


def test_the_first_library_that_is_there_is_loaded():
    assert load("no-such-library.so.1") is None
    assert load() is None


@pytest.mark.linux("loads the C library")
def test_a_library_is_loaded():
    assert load("no-such-library.so.1", "libc.so.6").getpid()
