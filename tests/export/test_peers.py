"""The benchmark of peers: real processes that upscale frames, and figures that are worked out by hand.

Nothing is timed, and nothing is installed: what vs-mlrt, framelift-video and pnnx do shows when the benchmark runs.
"""

import math
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

for needed in ("openvino", "onnxruntime"):
    pytest.importorskip(needed, reason="they are among the contenders")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks" / "studies"
sys.path.append(str(BENCHMARKS))

import peers  # noqa: E402  # the benchmarks are scripts beside each other, no package
import peers_child  # noqa: E402
import peers_setup  # noqa: E402
import peers_table  # noqa: E402
from esrgan_deploy.model import ModelInfo  # noqa: E402
from esrgan_export.checkpoint import save_checkpoint  # noqa: E402
from esrgan_export.networks import RRDBNet  # noqa: E402
from esrgan_export.to_onnx import export_onnx  # noqa: E402
from peers_messages import Frame, Ready, Upscaled  # noqa: E402
from peers_process import Contender, UnavailableError  # noqa: E402

pytestmark = pytest.mark.linux("stops and watches processes as the benchmark does, which runs on Linux alone")
SIZE = (5, 7)
PIXELS = np.arange(105, dtype=np.uint8).reshape(5, 7, 3) * 2


def nearest(arguments=None):
    """A contender without a network: each pixel becomes four by four."""
    return Contender("session", arguments or {"model": None, "backend": "reference"}, SIZE)


def state(pid):
    """As the kernel has it: T is stopped, Z ended and not yet buried; empty where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


def becomes(pid, states):
    """Whether the process reaches one of these states; a signal takes a moment to arrive."""
    deadline = time.monotonic() + 10
    while (now := state(pid)) not in states and time.monotonic() < deadline:
        time.sleep(0.002)
    return now in states


def test_contender_answers_with_the_enlarged_frame_and_is_stopped_between_frames():
    with nearest() as contender:
        assert contender.wait_until_ready(60).precision == "integer"
        assert becomes(contender._process.pid, ["T"])
        for pixels in (PIXELS, 255 - PIXELS):
            answer = contender.upscale(pixels)
            np.testing.assert_array_equal(answer.frame.pixels(), pixels.repeat(4, 0).repeat(4, 1))
            assert answer.seconds > 0
            assert becomes(contender._process.pid, ["T"])
        assert 10 < contender.peak_rss_mib < 2000
    assert state(contender._process.pid) == ""


def test_who_cannot_start_or_dies_on_the_way_is_named_with_the_reason():
    with ExitStack() as stack:
        everybody = {
            "well": nearest,
            "ill": nearest,
            "lost": lambda: nearest({"model": "no/such.onnx"}),
            "dead": lambda: Contender("session", {}, SIZE, python="/bin/false"),
        }
        contenders, ready, missing = peers.start(everybody, stack)
        assert list(ready) == ["well", "ill"]
        assert missing["lost"] == "ModelError: no/such.onnx: cannot be read: No such file or directory"
        assert missing["dead"] == "its process ended with status 1"
        os.kill(contenders["ill"]._process.pid, signal.SIGKILL)
        answers = peers.race(contenders, [PIXELS, 255 - PIXELS], 3, missing)
    assert missing["ill"] == "its process ended by SIGKILL"
    means = [answer.frame.pixels().mean() for answer in answers.pop("well")]
    assert means == pytest.approx([104, 151, 104])  # the photos take turns
    assert not answers


def test_reason_is_the_last_line_that_a_process_printed(tmp_path):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho first >&2\necho 'no such instruction' >&2\nexit 3\n")
    script.chmod(0o755)
    with (
        Contender("session", {}, SIZE, python=str(script)) as contender,
        pytest.raises(UnavailableError, match=r"^its process ended with status 3: no such instruction$"),
    ):
        contender.wait_until_ready(60)


def test_conversions_round_half_to_even_clamp_and_keep_every_value():
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    planes = peers_child.to_planes(values)
    assert planes.shape == (1, 3, 16, 16)
    assert planes.dtype == np.float32
    np.testing.assert_array_equal(peers_child.to_pixels(planes), values)
    odd = np.array([-1, 0.5 / 255, 1.5 / 255, 2], np.float32).reshape(1, 1, 1, 4).repeat(3, 1)
    assert peers_child.to_pixels(odd)[0, :, 1].tolist() == [0, 0, 2, 255]
    assert odd[0, 0, 0].tolist() == pytest.approx([-1, 0.5 / 255, 1.5 / 255, 2])  # the network's memory stays as it is


def test_libraries_called_directly_agree_with_the_network(tmp_path):
    network = RRDBNet(channels=8, growth=4, blocks=1)
    network.conv_last.weight.data *= 10  # else the picture of random weights is black
    network.conv_last.bias.data.fill_(0.5)
    model, checkpoint = tmp_path / "network.onnx", tmp_path / "network.safetensors"
    save_checkpoint(network, checkpoint)
    model.write_bytes(export_onnx(network, ModelInfo(scale=4)).SerializeToString())
    photo = np.random.default_rng(0).integers(0, 256, (16, 12, 3), np.uint8)
    expected = peers_child.load_pytorch(str(checkpoint)).upscale(photo)
    assert expected.std() > 1
    shape = {"precision": "fp32", "height": 16, "width": 12}
    for loaded in (
        peers_child.load_onnxruntime(str(model)),
        peers_child.load_openvino(str(model), **shape),
        peers_child.load_session(str(model)),
    ):
        assert np.abs(loaded.upscale(photo).astype(int) - expected).max() <= 1, loaded.version


def upscaled(seconds, level=0):
    return Upscaled(seconds, 1.5 * seconds, Frame.of(np.full((2, 2, 3), level, np.uint8)))


def rows(answers):
    ready, memory = dict.fromkeys(answers, Ready("1.0", "fp32")), dict.fromkeys(answers, 7.0)
    return peers_table.describe(answers, ready, memory, flops=6 * 10**9)


def test_figures_of_a_row():
    default, int8, reference = rows(
        {
            "esrgan-deploy": [upscaled(2), upscaled(4), upscaled(1)],
            "esrgan-deploy int8": [upscaled(1, 1), upscaled(1, 2), upscaled(1)],
            "PyTorch eager": [upscaled(2), upscaled(16), upscaled(8)],
        }
    )
    assert (default["median_s"], default["gflops"], default["fps"], default["cores_busy"]) == (2, 3, 0.5, 1.5)
    assert reference["default_is_faster_by"] == 4  # of 1, 4 and 8
    assert reference["int8_is_faster_by"] == 8  # of 2, 16 and 8
    off_by_one, off_by_two = 20 * math.log10(255), 20 * math.log10(255 / 2)
    assert int8["psnr_db"]["worst"] == pytest.approx(off_by_two)
    assert int8["psnr_db"]["mean"] == pytest.approx((off_by_one + off_by_two + 100) / 3)  # equal frames count 100
    assert (default["own"], int8["own"], reference["own"]) == (True, True, False)


def test_targets_are_judged_by_the_fastest_peer_of_full_fidelity():
    answers = {
        "esrgan-deploy": [upscaled(2.0)],
        "esrgan-deploy int8": [upscaled(1.0, 2)],
        "PyTorch eager": [upscaled(5.0)],
        "ONNX Runtime": [upscaled(3.0)],
        "vs-mlrt OV": [upscaled(1.9, 1)],
        "ncnn": [upscaled(0.5, 9)],  # 29 dB: fast, and not the same picture
    }
    targets = peers_table.judge("rrdbnet", rows(answers))
    verdict = {target["claim"]: (target["measured"], target["met"]) for target in targets}
    assert verdict["default beside the fastest peer (vs-mlrt OV)"] == (0.95, False)
    assert verdict["INT8 beside the fastest peer (vs-mlrt OV)"] == (1.9, True)
    assert verdict["INT8 beside ONNX Runtime in fp32"] == (3.0, False)
    assert verdict["INT8, mean PSNR to fp32"] == (pytest.approx(20 * math.log10(255 / 2)), True)
    del answers["esrgan-deploy int8"]
    assert [target["met"] for target in peers_table.judge("compact", rows(answers))] == [False, True, None, None]


def test_table_lines_up_and_shows_what_is_missing_as_a_dash():
    table = peers_table.markdown(rows({"esrgan-deploy": [upscaled(2.0)], "ncnn": [upscaled(0.5)]})).splitlines()
    assert len({len(line) for line in table}) == 1
    cells = [cell.strip() for cell in table[3].split("|")]
    assert cells == ["", "ncnn", "fp32", "0.500", "12", "1.5", "7", "0.25", "-", "-", "-", ""]


def test_half_made_folders_are_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def fail(folder):
        (folder / "half").touch()
        raise UnavailableError("no network")

    with pytest.raises(UnavailableError):
        peers_setup.made_once("thing", fail)
    folder = peers_setup.made_once("thing", lambda folder: (folder / "whole").touch())
    assert not (folder / "half").exists()
    assert peers_setup.made_once("thing", fail) == folder
    assert (folder / "whole").exists()


def test_the_first_python_that_runs_and_is_new_enough_is_taken():
    assert peers_setup.find_python(["/no/python", "/bin/false", sys.executable], (3, 10)) == sys.executable
    with pytest.raises(UnavailableError, match=r"no Python 3\.99 or later"):
        peers_setup.find_python([sys.executable], (3, 99))


def test_without_an_int8_file_or_pictures_to_make_one(tmp_path):
    with pytest.raises(UnavailableError, match="--calibrate DIR"):
        peers_setup.int8_file([], None, tmp_path)


def test_contenders_die_with_a_benchmark_that_is_killed():
    program = (
        "from peers_process import Contender\n"
        f"contender = Contender('session', {{'model': None, 'backend': 'reference'}}, {SIZE})\n"
        "contender.wait_until_ready(60)\n"
        "print(contender._process.pid, flush=True)\n"
        "input()\n"
    )
    benchmark = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(BENCHMARKS)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with benchmark:
        contender = int(benchmark.stdout.readline())
        benchmark.kill()
    assert becomes(contender, ["", "Z"])
