"""What C libraries print is heard; what others print meanwhile reaches the stream."""

import os
import re
import subprocess
import sys

import pytest

from esrgan_deploy.system.overheard import overheard

THEIRS = re.compile("lib: ")


def test_lines_of_libraries_are_collected_and_others_printed(capfd):
    def work():
        os.write(2, b"lib: one\nours\nlib: two\n")
        return 7

    assert overheard(work, THEIRS) == (7, ["lib: one", "lib: two"])
    assert capfd.readouterr().err == "ours\n"


def test_the_stream_is_whole_again_after_an_error(capfd):
    def work():
        os.write(2, b"before\n")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        overheard(work, THEIRS)
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "before\nafter\n"


def test_nothing_is_heard_where_there_is_no_stream():
    program = (
        "import os, re, sys; os.close(2); from esrgan_deploy.system.overheard import overheard; "
        "sys.exit(overheard(lambda: 5, re.compile('x'))[0])"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 5
