"""What all tests share."""

import subprocess

import pytest

from esrgan_deploy.errors import MachineError

try:
    from hypothesis import settings
except ImportError:  # beside TensorRT, where only the tests marked `gpu` run
    pass
else:  # A slow machine must not fail a property: nothing is timed in a test.
    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")


def pytest_runtest_setup(item):
    """Tests marked `gpu` skip where the driver says that there is no GPU, and for no other reason."""
    if item.get_closest_marker("gpu"):
        from esrgan_deploy.cuda.probe import probe

        try:
            probe()
        except MachineError as error:
            pytest.skip(f"needs a GPU: {error}")


@pytest.fixture
def tiny_disk(tmp_path, request):
    """A file system of 64 kB, or of another size by indirect parametrisation: a disk that really fills up."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    size = getattr(request, "param", "64k")
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if mount.returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", folder], check=True)
