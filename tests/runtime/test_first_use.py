"""Several threads enter a native package for the first time at the same moment, each time in a fresh process."""

import os
import subprocess
import sys

import pytest

from esrgan_deploy.models import COMPACT_CLEAN

LIMIT_S = 60
"""For a process that takes two seconds; one that hangs would take for ever."""

TOGETHER = """
import sys, threading
import numpy as np
sys.setswitchinterval(1e-5)

def spin():
    while True:
        pass

def together(work, count=8):
    barrier, errors = threading.Barrier(count), []
    def enter(index):
        barrier.wait()
        try:
            work(index)
        except BaseException as error:
            errors.append(error)
    threads = [threading.Thread(target=enter, args=[index]) for index in range(count)]
    for thread in [threading.Thread(target=spin, daemon=True) for _ in range(2)] + threads:
        thread.start()  # somebody always wants the GIL, so that it changes hands wherever it can
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
"""

TWO_STREAMS = f"""
import sys
import numpy as np
from esrgan_deploy import open_session
with open_session({str(COMPACT_CLEAN)!r}, "openvino", streams=2) as session:
    frames = [np.full((1, 72, 96, 3), value, sys.argv[1]) for value in range(4)]
    results = [future.result() for future in [session.submit(frame) for frame in frames]]
print([result.shape[1] for result in results])
"""

OPENED = f"""
import openvino
from esrgan_deploy import open_session
session = open_session({str(COMPACT_CLEAN)!r}, "openvino", threads=1)

def work(index):
    openvino.Type.u16.to_dtype()
    openvino.Tensor(np.zeros(4, np.uint16), shared_memory=True).data.copy()

together(work)
session.close()
"""

SESSIONS = """
from esrgan_deploy import open_session
frame = np.zeros((1, 8, 8, 3), np.uint16)

def work(index):
    with open_session(sys.argv[1], sys.argv[2], threads=1) as session:
        session.run(frame)

together(work, 4)
"""

RELATIVES = {
    "onnxruntime": """
import onnxruntime
from onnxruntime import OrtValue

def work(index):
    OrtValue.ortvalue_from_numpy(np.zeros(4, np.uint8)).numpy()
""",
    "tensorrt_rtx": """
import tensorrt_rtx

def work(index):
    tensorrt_rtx.Weights(np.zeros(4, np.float32)).numpy()
""",
    "cv2": """
def work(index):
    import cv2
    cv2.resize(np.zeros((64, 64, 3), np.uint8), (32, 32), interpolation=cv2.INTER_AREA)
""",
    "av": """
from fractions import Fraction

def work(index):
    import av
    frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24").reformat(format="yuv420p")
    frame.to_ndarray()
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 64, 64, "yuv420p", Fraction(1, 25)
    encoder.encode(frame)
    encoder.encode(None)
""",
    "onnx": """
def work(index):
    import onnx.inliner
    from onnx import helper, numpy_helper
    numpy_helper.to_array(numpy_helper.from_array(np.zeros(3, np.float32)))
""",
    "cuda.bindings": """
def work(index):
    from cuda.bindings import driver
    driver.CUdevice(0)
""",
}


def fresh(program: str, *arguments: object) -> str:
    """Run `program` in a process of its own; one that hangs fails the test."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("dtype", ["uint16", "uint8"])
def test_two_streams_get_their_first_frames_at_once(dtype):
    for _ in range(3):
        assert fresh(TWO_STREAMS, dtype) == "[288, 288, 288, 288]\n"


def test_whoever_uses_openvino_beside_an_open_session_does_not_hang():
    """Without the first use in one thread, 8 processes of 8 hang here."""
    for _ in range(3):
        fresh(TOGETHER + OPENED)


@pytest.mark.parametrize("backend", ["openvino", "ort", "reference"])
def test_sessions_are_opened_and_used_in_several_threads_at_once(blur_x2, backend):
    fresh(TOGETHER + SESSIONS, blur_x2, backend)


@pytest.mark.parametrize("package", RELATIVES)
def test_other_packages_stand_threads_that_enter_them_at_once(package):
    pytest.importorskip(package)
    fresh(TOGETHER + RELATIVES[package] + "\ntogether(work)\n")


FREED_ELSEWHERE = f"""
import signal, threading
from esrgan_deploy import open_session

sessions = [open_session({str(COMPACT_CLEAN)!r}, "openvino")]
sessions[0].close()
thread = threading.Thread(target=sessions.clear)
thread.start()
thread.join()
signal.signal(signal.SIGINT, signal.default_int_handler)  # some shells start processes that ignore it
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_arrives_after_another_thread_has_freed_the_session():
    """OpenVINO then unmaps the stack that signal handlers of the first thread run on; see `openvino_core`."""
    pytest.importorskip("openvino")
    assert fresh(FREED_ELSEWHERE) == "interrupted\n"


CONNECTIONS = f"""
import sys
sys.addaudithook(lambda event, arguments: event == "socket.getaddrinfo" and print("asked for", arguments[0]))
from esrgan_deploy import open_session
with open_session({str(COMPACT_CLEAN)!r}, "openvino", threads=1):
    import threading
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(10)
print("opened")
"""


def test_openvino_tells_nobody_that_it_is_used(tmp_path):
    pytest.importorskip("openvino")
    environment = {**os.environ, "HOME": str(tmp_path)}  # without the answer of this user to OpenVINO's question
    environment.pop("CI", None)
    done = subprocess.run(
        [sys.executable, "-c", CONNECTIONS], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:-1] == ["opened"]


@pytest.mark.parametrize("package", ["esrgan_deploy", "esrgan_export"])
def test_onnx_runtime_tells_nobody_that_it_is_used(package, tmp_path):
    """Its telemetry begins with a file for the process, in the temporary folder, and one for the machine, at home."""
    pytest.importorskip("onnxruntime")
    places = {name: str(tmp_path) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
    environment = {**os.environ, **places}
    for name in ("CI", "ORT_DISABLE_TELEMETRY"):
        environment.pop(name, None)
    code = f"import {package}, onnxruntime; onnxruntime.InferenceSession({str(COMPACT_CLEAN)!r})"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert not list(tmp_path.rglob("*"))
