"""The real Python bindings of several TensorRTs, without TensorRT: stubs stand in for the libraries that they link.

TensorRT is not on the Python package index, but its bindings are: a megabyte for each version, and for 8.5 within the
whole of it. They tell what each version offers, and fail to make a builder just as on a machine without a driver.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SPECIFICATIONS = HERE.parent / "data" / "tensorrt_api"
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser", "nvparsers")
PYTHON_FILES = ("__init__.py", "tensorrt.so")


@dataclass(frozen=True)
class Bindings:
    """One version, and where it comes from."""

    requirement: str
    module: str
    soname: str
    newest_python: tuple[int, int]

    @property
    def version(self) -> str:
        return self.requirement.split("==")[1]

    def interpreter(self) -> tuple[str, str]:
        """A Python that can load them, and its version, "3.10"."""
        if sys.version_info[:2] <= self.newest_python:
            return sys.executable, "{}.{}".format(*sys.version_info)
        version = "{}.{}".format(*self.newest_python)
        for candidate in (ROOT / f".venv-{version}" / "bin" / "python", shutil.which(f"python{version}")):
            if candidate and Path(candidate).exists() and subprocess.run([candidate, "-c", ""]).returncode == 0:
                return str(candidate), version
        pytest.skip(f"TensorRT {self.version} has bindings for Python up to {version}; no Python {version} is here")


OLD = Bindings("tensorrt==8.5.3.1", "tensorrt", "8", (3, 10))
NEW = (
    Bindings("tensorrt-cu13-bindings==10.13.3.9", "tensorrt_bindings", "10", (3, 13)),
    Bindings("tensorrt-cu13-bindings==10.16.1.11", "tensorrt_bindings", "10", (3, 13)),
    Bindings("tensorrt-cu13-bindings==11.4.0.106", "tensorrt_bindings", "11", (3, 14)),
)
ALL = [
    # Half a gigabyte is downloaded once, of which four megabytes are kept.
    pytest.param(OLD, id=OLD.version, marks=pytest.mark.slow),
    *(pytest.param(bindings, id=bindings.version) for bindings in NEW),
]


@functools.cache
def run(bindings: Bindings, *arguments: str | Path, path: tuple[Path, ...] = ()) -> str:
    """What a Python with these bindings prints; `path` are further folders to import from."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("the bindings are checked on Linux on x86_64")
    python, version = bindings.interpreter()
    folder = unpacked(bindings, version)
    if folder is None:
        pytest.skip(f"no package index within reach has {bindings.requirement}")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (folder, *path))),
        "LD_LIBRARY_PATH": str(stub_libraries(bindings.soname)),
    }
    done = subprocess.run([python, "-B", *arguments], env=environment, capture_output=True, text=True)
    missing = re.search(r"^ModuleNotFoundError: (.*)", done.stderr, re.MULTILINE)
    if missing and python != sys.executable:  # not the environment of the tests; it may have nothing but Python
        pytest.skip(f"{python}: {missing[1]}")
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def unpacked(bindings: Bindings, python_version: str) -> Path | None:
    """The folder that holds the module, downloaded where it is not there yet; None where there is no package index."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "esrgan-deploy-tests"
    folder = cache / f"tensorrt-{bindings.version}-python-{python_version}"
    if folder.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        wheel = download(bindings.requirement, python_version, Path(temporary))
        if wheel is None:
            return None
        kept = Path(temporary) / "kept"
        with zipfile.ZipFile(wheel) as archive:
            for name in PYTHON_FILES:
                archive.extract(f"{bindings.module}/{name}", kept)
        try:
            kept.rename(folder)
        except OSError:  # another run of the tests was faster
            assert folder.exists()
    return folder


def download(requirement: str, python_version: str, folder: Path) -> Path | None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    done = subprocess.run(
        [*pip, "--retries=1", "--python-version", python_version, "--dest", folder, requirement],
        capture_output=True,
        text=True,
    )
    # What pip says where it reaches no index. A version that vanished from an index within reach has to fail.
    if done.returncode and "(from versions: none)" in done.stderr:
        return None
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@functools.cache
def stub_libraries(soname: str) -> Path:
    """A folder with stubs for the libraries of TensorRT `soname`; it goes with this process."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler for the stubs of TensorRT's libraries")
    folder = Path(tempfile.mkdtemp(prefix="tensorrt-stubs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for library in LIBRARIES:
        name = f"lib{library}.so.{soname}"
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", folder / name, HERE / "stubs.c"]
        subprocess.run(command, check=True)
    return folder


def specification(version: str) -> dict[str, Any]:
    """What the file in the repository says of "11.4.0.106" or "rtx_1.7.1.116"."""
    return json.loads((SPECIFICATIONS / f"tensorrt_{version}.json").read_text())
