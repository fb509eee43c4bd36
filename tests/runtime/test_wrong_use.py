"""The public API, used wrongly: closed, in a forked child, with values of a wrong type. All of it is an EsrganError."""

import os
import subprocess
import sys

import numpy as np
import pytest

from esrgan_deploy import ClosedError, EsrganError, Upscaler, open_session
from esrgan_deploy.models import COMPACT_CLEAN

FRAME = np.zeros((8, 8, 3), np.uint8)
BACKENDS = ("reference", "ort", "openvino")
FORKED = """
import os, signal, sys, warnings
import numpy as np
from esrgan_deploy import ClosedError, Upscaler, open_session
from esrgan_deploy.models import COMPACT_CLEAN

warnings.simplefilter("ignore")  # Python warns of forks beside threads, which is what this is about
frame = np.zeros((8, 8, 3), np.uint8)
session = open_session(COMPACT_CLEAN, sys.argv[1])
upscaler = Upscaler(session)
upscaler.upscale(frame)
child = os.fork()
if child == 0:
    signal.alarm(30)  # a child that hangs is killed
    for use in (
        lambda: session.submit(frame[None]),
        lambda: session.run(frame[None]),
        lambda: upscaler.upscale(frame),
        lambda: list(upscaler.map([frame])),
    ):
        try:
            use()
        except ClosedError as error:
            assert "spawn" in str(error)
        else:
            os._exit(1)
    with open_session(COMPACT_CLEAN, "reference") as own:  # what the message advises
        own.run(frame[None])
    upscaler.close()
    os._exit(0)
status = os.waitpid(child, 0)[1]
upscaler.upscale(frame)  # the parent's goes on
upscaler.close()
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.unix("forks")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_session_in_a_forked_child_says_so_and_does_not_hang(backend):
    ended = subprocess.run([sys.executable, "-c", FORKED, backend], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("backend", BACKENDS)
def test_use_after_close(backend):
    session = open_session(COMPACT_CLEAN, backend)
    upscaler = Upscaler(session)
    for _ in range(2):
        upscaler.close()
        session.close()
    for use in (
        lambda: session.submit(FRAME[None]),
        lambda: session.run(FRAME[None]),
        lambda: upscaler.upscale(FRAME),
        lambda: upscaler.map([FRAME]),
    ):
        with pytest.raises(ClosedError):
            use()
    if backend != "reference":
        with pytest.raises(ClosedError):
            session.set_alpha(0.8)


@pytest.mark.parametrize("value", [1.5, "two", b"x", [], object(), float("nan"), -1])
@pytest.mark.parametrize("name", ["tile", "overlap", "batch", "outscale", "tolerance"])
def test_wrong_values_of_an_upscaler(name, value):
    if name == "outscale" and value == 1.5:
        pytest.skip("a right value")
    with open_session(None, "reference") as session, pytest.raises(EsrganError):
        Upscaler(session, **{name: value})


@pytest.mark.parametrize("model", [None, 1, 1.5, b"x.onnx", "", "missing.onnx", "a\0b", [], object(), os.curdir])
def test_wrong_models(model):
    with pytest.raises(EsrganError):
        open_session(model, "ort")


@pytest.mark.parametrize("options", [{"threads": "2"}, {"threads": 0}, {"streams": 1.5}, {"cache": 3}])
def test_wrong_options_of_a_session(options):
    with pytest.raises(EsrganError):
        open_session(COMPACT_CLEAN, "openvino", **options)


@pytest.mark.parametrize(
    "frame", [None, 1, "x", [FRAME], FRAME[..., :1], FRAME.astype(np.float32), FRAME[:0], FRAME[0]]
)
def test_wrong_frames(frame):
    with Upscaler(open_session(None, "reference")) as upscaler:
        for use in (upscaler.upscale, lambda frame: list(upscaler.map([frame])), upscaler.session.run):
            with pytest.raises(EsrganError):
                use(frame)


@pytest.mark.parametrize("alpha", [None, "x", float("nan"), -0.1, 2, []])
def test_wrong_alphas(alpha):
    with open_session(COMPACT_CLEAN, "ort") as session, pytest.raises(EsrganError):
        session.set_alpha(alpha)
