"""The driver layers do the same: cuda-python and PyCUDA on a libcuda written in C, and the fake of other tests."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from driver_checks import CHECKS, STUB_CHECKS
from esrgan_deploy.cuda import drivers
from esrgan_deploy.errors import BackendMissingError
from fake_cuda import FACTS, FakeDriver

HERE = Path(__file__).parent
PACKAGES = {"cuda-python": "cuda.bindings", "pycuda": "pycuda"}


def installed(package):
    try:
        return importlib.util.find_spec(package)
    except ModuleNotFoundError:
        return None


def unwritten_functions(package):
    """PyCUDA wants all functions that it knows to be there when it is loaded: those that the stub does not have."""
    extension = next(Path(installed(package).submodule_search_locations[0]).glob("_driver*.so"))
    symbols = subprocess.run(["nm", "-D", "--undefined-only", extension], capture_output=True, text=True, check=True)
    wanted = set(re.findall(r" (cu[A-Z]\w+)", symbols.stdout))
    written = set(re.findall(r"^int (cu\w+)", (HERE / "stub_cuda.c").read_text(), re.MULTILINE))
    return "".join(f"int {name}(void) {{ return 801; }}\n" for name in sorted(wanted - written))


@pytest.fixture(scope="module")
def stub_results(tmp_path_factory):
    """{check: traceback or nothing} of a layer; all checks of one layer run in one process."""
    known = {}

    def run(layer):
        if layer not in known:
            folder = tmp_path_factory.mktemp(layer)
            rest = folder / "rest.c"
            rest.write_text(unwritten_functions("pycuda") if layer == "pycuda" else "")
            command = ["gcc", "-shared", "-fPIC", "-pthread", "-Wl,-soname,libcuda.so.1"]
            subprocess.run([*command, "-o", folder / "libcuda.so.1", HERE / "stub_cuda.c", rest], check=True)
            environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
            script = [sys.executable, "-W", "error", HERE / "driver_checks.py", layer]
            done = subprocess.run(script, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert not done.stderr, done.stderr
            known[layer] = json.loads(done.stdout)
        return known[layer]

    return run


@pytest.mark.parametrize("check", [*CHECKS, *STUB_CHECKS])
@pytest.mark.parametrize("layer", PACKAGES)
def test_layer_on_the_stub(stub_results, layer, check):
    if not shutil.which("gcc"):
        pytest.skip("no gcc to compile the stand-in for libcuda with")
    if not installed(PACKAGES[layer]):
        pytest.skip(f"{layer} is not installed")
    assert not stub_results(layer)[check], stub_results(layer)[check]


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
        CHECKS["check_graphs_replay_what_was_captured"](driver)


class Opened:
    def __init__(self, facts, device):
        self.facts, self.device = facts, device


@pytest.fixture
def layers(monkeypatch):
    """Decide what is installed: `layers({"cuda-python": error or None, "pycuda": ...})`, None meaning that it works."""
    monkeypatch.setattr(drivers, "find_gpu", lambda device: FACTS)

    def decide(errors):
        class Module:
            def __init__(self, layer):
                self.layer = layer

            def __getattr__(self, name):
                def make(facts, device):
                    if errors[self.layer]:
                        raise errors[self.layer]
                    opened = Opened(facts, device)
                    opened.layer = self.layer
                    return opened

                return make

        by_module = {module: layer for layer, (module, _, _) in drivers._LAYERS.items()}
        monkeypatch.setattr(drivers, "import_module", lambda module: Module(by_module[module]))

    return decide


ABSENT = {
    "cuda-python": ModuleNotFoundError("No module named 'cuda'", name="cuda"),
    "pycuda": ModuleNotFoundError("No module named 'pycuda'", name="pycuda"),
}


def test_cuda_python_comes_first(layers):
    layers({"cuda-python": None, "pycuda": None})
    opened = drivers.open_driver(device=3)
    assert (opened.layer, opened.facts, opened.device) == ("cuda-python", FACTS, 3)


def test_pycuda_is_taken_where_cuda_python_is_missing(layers):
    layers({"cuda-python": ABSENT["cuda-python"], "pycuda": None})
    assert drivers.open_driver().layer == "pycuda"


def test_a_layer_asked_for_is_not_replaced(layers):
    layers({"cuda-python": ABSENT["cuda-python"], "pycuda": None})
    with pytest.raises(BackendMissingError, match=r"^cuda-python is not installed; .*esrgan-deploy\[tensorrt\]"):
        drivers.open_driver("cuda-python")


def test_without_both_each_reason_is_told(layers):
    broken = ImportError("undefined symbol: cuArrayCreate_v2")
    layers({"cuda-python": ABSENT["cuda-python"], "pycuda": broken})
    text = r"cuda-python is not installed and pycuda does not load \(undefined symbol: cuArrayCreate_v2\); install"
    with pytest.raises(BackendMissingError, match=text):
        drivers.open_driver()


def test_a_missing_module_of_ours_is_a_fault_of_ours(layers):
    layers({"cuda-python": ImportError("no esrgan_deploy.x", name="esrgan_deploy.x"), "pycuda": None})
    with pytest.raises(ImportError, match=r"esrgan_deploy\.x"):
        drivers.open_driver()
