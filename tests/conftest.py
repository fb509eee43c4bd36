"""What all tests share."""

import shutil
import subprocess
import sys

import pytest

from esrgan_deploy.errors import MachineError

try:
    from hypothesis import settings
except ImportError:  # beside TensorRT, where only the tests marked `gpu` run
    pass
else:  # A slow machine must not fail a property: nothing is timed in a test.
    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")


SYSTEMS = {"linux": ("linux",), "unix": ("linux", "darwin")}
"""Where tests with these marks run, by `sys.platform`."""


def pytest_runtest_setup(item):
    """Tests marked `gpu` skip where the driver says that there is no GPU, and for no other reason."""
    for name, platforms in SYSTEMS.items():
        for marker in item.iter_markers(name):
            if sys.platform not in platforms:
                pytest.skip(f"runs on {' and '.join(platforms)} only: it {marker.args[0]}")
    if item.get_closest_marker("gpu"):
        from esrgan_deploy.cuda.gpu import find_gpu

        try:
            find_gpu()
        except MachineError as error:
            pytest.skip(f"needs a GPU: {error}")


@pytest.fixture(autouse=True)
def no_internal_error(request, tmp_path_factory, monkeypatch):
    """No command may end with "internal error", not even one that a test starts as a process of its own.

    Tests marked `internal_error` make one.
    """
    tracebacks = tmp_path_factory.getbasetemp() / "internal_errors"
    wanted = bool(request.node.get_closest_marker("internal_error"))
    monkeypatch.setenv("ESRGAN_TRACEBACKS", str(tracebacks))
    yield
    text = tracebacks.read_text(encoding="utf-8") if tracebacks.exists() else ""
    tracebacks.unlink(missing_ok=True)
    if bool(text) != wanted:
        pytest.fail(text or "no command ended with an internal error", pytrace=False)


@pytest.fixture
def tiny_disk(tmp_path, request):
    """A file system of 64 kB, or of another size by indirect parametrisation: a disk that really fills up."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    size = getattr(request, "param", "64k")
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", folder]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", folder], check=True)
