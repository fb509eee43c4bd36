"""`Driver` on cuda-python and a libcuda written in C; the fake driver of other tests does the same."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from driver_checks import CHECKS, CONTEXT_CHECKS, STUB_CHECKS
from esrgan_deploy.cuda import driver as cuda_driver
from esrgan_deploy.errors import BackendMissingError, MachineError
from fake_cuda import FACTS, FakeDriver

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def stub_results(tmp_path_factory):
    """{check: traceback or nothing}; all checks run in one process."""
    if not shutil.which("gcc"):
        pytest.skip("no gcc to compile the stand-in for libcuda with")
    if not importlib.util.find_spec("cuda"):
        pytest.skip("cuda-python is not installed")
    folder = tmp_path_factory.mktemp("stub")
    command = ["gcc", "-shared", "-fPIC", "-pthread", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([*command, "-o", folder / "libcuda.so.1", HERE / "stub_cuda.c"], check=True)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    script = [sys.executable, "-W", "error", HERE / "driver_checks.py"]
    done = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("check", [*CHECKS, *STUB_CHECKS, *CONTEXT_CHECKS])
def test_on_the_stub(stub_results, check):
    assert not stub_results[check], stub_results[check]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("check", CHECKS)
def test_fake(check, seed):
    driver = FakeDriver(seed=seed)
    with driver.active():
        CHECKS[check](driver)
    driver.close()
    assert not driver.leaked


def test_fake_without_graphs():
    driver = FakeDriver(graphs=False)
    with driver.active():
        stream = driver.create_stream()
        with pytest.raises(MachineError, match="graphs"):
            driver.begin_capture(stream)


def test_the_fake_has_every_method():
    names = {name for name in vars(cuda_driver.Driver) if not name.startswith("_")}
    assert names <= set(vars(FakeDriver))


def refused(monkeypatch, error, cuda=13000):
    def refuse(facts, device):
        raise error

    monkeypatch.setattr(cuda_driver, "find_gpu", lambda device: replace(FACTS, cuda=cuda))
    monkeypatch.setattr(cuda_driver, "Driver", refuse)
    with pytest.raises(BackendMissingError) as caught:
        cuda_driver.open_driver()
    return str(caught.value)


def test_a_missing_package_is_named_with_the_extra(monkeypatch):
    text = refused(monkeypatch, ModuleNotFoundError("No module named 'cuda'", name="cuda"))
    assert text == "cuda-python is not installed; install it with: pip install 'esrgan-deploy[tensorrt]'"


@pytest.mark.parametrize(("cuda", "wanted"), [(13000, ">=12.9.1"), (12000, ">=12.9.1"), (11080, ">=12.9.1,<=12.9.6")])
def test_a_driver_for_cuda_11_wants_an_older_package(monkeypatch, cuda, wanted):
    """12.9.1 to 12.9.6 run on a libcuda without cuGetProcAddress_v2, which came with CUDA 12; 12.9.10 does not."""
    text = refused(monkeypatch, ImportError("Failed to get cuGetProcAddress_v2"), cuda)
    assert text.startswith("cuda-python does not load (Failed to get cuGetProcAddress_v2); ")
    assert text.endswith(f"pip install 'cuda-python{wanted}'")


def test_a_missing_module_of_ours_is_a_fault_of_ours(monkeypatch):
    error = ModuleNotFoundError("no esrgan_deploy.x", name="esrgan_deploy.x")
    monkeypatch.setattr(cuda_driver, "find_gpu", lambda device: FACTS)
    monkeypatch.setattr(cuda_driver, "Driver", lambda facts, device: (_ for _ in ()).throw(error))
    with pytest.raises(ModuleNotFoundError, match=r"esrgan_deploy\.x"):
        cuda_driver.open_driver()
