"""The real onnxruntime-gpu in a process of its own, beside the onnxruntime that the tests run with; no GPU needed.

Its wheel holds a quarter of a gigabyte, so whatever uses this is slow. It is unpacked once, into the cache of the user.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
VERSION = "1.31.1" if sys.version_info >= (3, 11) else "1.23.2"  # the last one for Python 3.10


def unpacked():
    """The folder with the wheel's content."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("onnxruntime-gpu is checked on Linux on x86_64")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "esrgan-deploy-tests"
    folder = cache / f"onnxruntime-gpu-{VERSION}-{sys.implementation.cache_tag}"
    if folder.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
        requirement = f"onnxruntime-gpu=={VERSION}"
        done = subprocess.run([*pip, "--dest", temporary, requirement], capture_output=True, text=True)
        # What pip says where it reaches no index; a version that vanished from a reachable one has to fail.
        if done.returncode and "(from versions: none)" in done.stderr:
            pytest.skip(f"no package index with {requirement}")
        assert done.returncode == 0, done.stderr
        with zipfile.ZipFile(next(Path(temporary).glob("*.whl"))) as archive:
            archive.extractall(Path(temporary) / "kept")
        (Path(temporary) / "kept").rename(folder)
    return folder


def provider_library(provider):
    """The file of "cuda" or "tensorrt"."""
    return unpacked() / "onnxruntime" / "capi" / f"libonnxruntime_providers_{provider}.so"


def run(tmp_path, program, *arguments, libraries=None):
    """Run a Python program that sees onnxruntime-gpu as the one ONNX Runtime; `libraries` is a folder with more."""
    others = tmp_path / "site-packages"
    others.mkdir()
    for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not re.match(r"onnxruntime|.*\.pth$", path.name):
            (others / path.name).symlink_to(path)
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("LD_LIBRARY_PATH", "PYTHONHOME")},
        "PYTHONPATH": os.pathsep.join(map(str, (unpacked(), ROOT, others))),
        "HOME": str(tmp_path),
        **({"LD_LIBRARY_PATH": str(libraries)} if libraries else {}),
    }
    # Without site, which would put the folder with the other onnxruntime on the path.
    command = [sys.executable, "-S", "-B", "-c", program, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def stub(folder, name, source=""):
    """Compile a shared library that has this name and nothing but what `source` defines."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("the stand-ins for NVIDIA's libraries are compiled with gcc")
    folder.mkdir(exist_ok=True)
    command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-x", "c", "-", "-o", folder / name]
    subprocess.run(command, input=source, text=True, check=True)
    return folder
