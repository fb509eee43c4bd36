"""The driver is asked before TensorRT is: small shared objects stand in for NVIDIA's, in a process of their own."""

import importlib.metadata
import os
import shutil
import subprocess
import sys

import pytest

from esrgan_deploy import MachineError
from esrgan_deploy.cuda.gpu import DeviceFacts, check_driver, cuda_version, find_gpu, required_cuda
from stub_driver import compile_driver, driver_is_installed

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="the stand-in for the driver is compiled with gcc")


@pytest.fixture
def driver(tmp_path):
    """Returns a function that makes a driver, then gives what `find_gpu` of a device says of it."""

    def ask(device=0, **settings):
        compile_driver(tmp_path, **settings)
        return run_probe(tmp_path, device)

    return ask


def run_probe(folder, device=0):
    program = f"""
from esrgan_deploy import EsrganError
from esrgan_deploy.cuda.gpu import find_gpu
try:
    print(find_gpu({device}))
except EsrganError as error:
    print(type(error).__name__, error)
"""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    answer = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("\n") == 1
    return answer.stdout


@needs_gcc
@pytest.mark.parametrize(("device", "name", "minor"), [(0, "NVIDIA Test One", 9), (1, "NVIDIA Test Two", 6)])
def test_facts_of_a_device(driver, device, name, minor):
    facts = DeviceFacts(name, (8, minor), "550.54.14", 12040, 24 << 30)
    assert driver(device, devices=2) == f"{facts}\n"


@needs_gcc
def test_without_nvml_the_driver_goes_by_its_cuda(driver):
    assert "driver='for CUDA 12.4'" in driver(nvml_init=12)


@needs_gcc
@pytest.mark.parametrize(
    ("number", "remedy"),
    [(100, "--gpus all"), (803, "restart the machine"), (34, "LD_LIBRARY_PATH"), (999, "nvidia-smi")],
)
def test_a_driver_that_refuses_is_named_by_its_error(driver, number, remedy):
    answer = driver(cuda_init=number)
    assert answer.startswith("MachineError ")
    assert f"cuInit returned {number}" in answer
    assert remedy in answer


@needs_gcc
@pytest.mark.parametrize(("device", "count", "words"), [(0, 0, "no NVIDIA GPU"), (2, 2, "GPU 2"), (-1, 2, "GPU -1")])
def test_a_device_that_is_not_there(driver, device, count, words):
    answer = driver(device, devices=count)
    assert answer.startswith("MachineError ")
    assert words in answer


@pytest.mark.skipif(driver_is_installed(), reason="an NVIDIA driver is installed")
def test_no_driver_at_all(tmp_path):
    assert "no NVIDIA driver (libcuda.so.1)" in run_probe(tmp_path)


def test_a_driver_that_is_too_old_is_named_with_what_it_can_do():
    facts = DeviceFacts("NVIDIA Test", (8, 9), "550.54.14", 12040, 1)
    with pytest.raises(
        MachineError, match=r"550\.54\.14 runs CUDA up to 12\.4, but TensorRT 11\.4 is made for CUDA 13"
    ):
        check_driver(facts, 13, "TensorRT 11.4")
    check_driver(facts, 12, "TensorRT 10.1")  # 12.9's libraries run on a driver for 12.4
    check_driver(facts, None, "TensorRT of unknown origin")


@pytest.mark.parametrize(("number", "text"), [(11080, "11.8"), (12040, "12.4"), (13000, "13.0")])
def test_cuda_counts_in_thousands(number, text):
    assert cuda_version(number) == text


@pytest.mark.parametrize(
    ("installed", "module", "cuda"),
    [
        (["tensorrt_cu13", "tensorrt_cu13_libs", "numpy"], "tensorrt", 13),
        (["tensorrt", "tensorrt-cu12-bindings"], "tensorrt", 12),
        (["tensorrt_rtx_cu13"], "tensorrt", None),
        (["tensorrt_rtx_cu13"], "tensorrt_rtx", 13),
        (["tensorrt"], "tensorrt", None),
    ],
)
def test_wheels_are_named_by_their_cuda(tmp_path, monkeypatch, installed, module, cuda):
    for name in installed:
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert len(list(importlib.metadata.distributions())) == len(installed)
    assert required_cuda(module) == cuda


@pytest.mark.gpu
def test_the_driver_here_says_what_nvidia_smi_says():
    query = "--query-gpu=name,compute_cap,driver_version"
    answer = subprocess.run(["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True, check=True)
    name, capability, version = answer.stdout.splitlines()[0].split(", ")
    facts = find_gpu()
    assert (facts.name, "{}.{}".format(*facts.compute_capability), facts.driver) == (name, capability, version)
