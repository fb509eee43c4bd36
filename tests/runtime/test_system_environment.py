"""Variables of the environment that would end a library are refused before it is loaded."""

import os
import subprocess
import sys

import pytest

PROGRAM = "import sys; from esrgan_deploy.cli.upscale import main; sys.exit(main(['a.png', '-o', 'b.png']))"


@pytest.mark.parametrize("value", ["x", "", "-1", "9" * 30])
def test_variables_that_would_end_opencv(value):
    """In a process of its own: OpenCV reads them while it is imported."""
    environment = {**os.environ, "OPENCV_IO_MAX_IMAGE_PIXELS": value}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "OPENCV_IO_MAX_IMAGE_PIXELS" in done.stderr
