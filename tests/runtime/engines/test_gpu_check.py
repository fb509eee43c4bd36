"""The study gpu_check.py before there is a GPU: its TensorRT part on the fakes, its verdict on rows made by hand."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from fake_gpu import fake_machine
from gain_pair import expected, write_model

BENCHMARKS = Path(__file__).parents[3] / "benchmarks" / "studies"


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_check
    import gpu_tensorrt

    yield gpu_check, gpu_tensorrt
    for name in ("gpu_check", "gpu_tensorrt", "side_by_side"):
        sys.modules.pop(name, None)


def write_networks(folder, name, alpha):
    """What gpu_networks.py writes, of a network whose result is known exactly."""
    for share in (1.0, alpha):
        write_model(folder / f"{name}_a{share:g}_fp16.onnx", share)
    photo = np.random.default_rng(3).integers(0, 256, (9, 14, 3)).astype(np.uint8)
    np.savez(folder / "photos.npz", one=photo)
    reference = expected(photo[None].astype(np.uint16) * 257, 1.0)[0] / 65535
    np.savez(folder / "references.npz", one=reference.astype(np.float32))


def test_the_tests_that_it_runs_are_there(benchmarks):
    check, _ = benchmarks
    for name in (*check.TENSORRT_TESTS, *check.OTHER_TESTS):
        assert (check.TESTS / name).is_file(), name


def test_the_rows_of_tensorrt(benchmarks, tmp_path, monkeypatch):
    check, part = benchmarks
    monkeypatch.setattr(part, "WARM_UP_S", 0.02)
    monkeypatch.setattr(part, "SECONDS", 0.05)
    write_networks(tmp_path, check.NAME, check.ALPHA)
    with fake_machine(tmp_path / "engines") as machine:
        bench = part.Bench(machine.trt, machine.driver, tmp_path, machine.cache)
        found = list(part.rows(bench, [(8, 12), (6, 10)]))
    speed = ["build", "engine", "submit", "submit, 2 streams"]
    assert [(row["row"], row["shape"]) for row in found] == [
        *((name, shape) for shape in ("12x8", "10x6") for name in speed),
        *((name, "12x8") for name in ("fidelity", "device", "refit")),
    ]
    rows = {row["row"]: row for row in reversed(found)}
    assert min(rows["engine"]["ms"]) > 0
    assert rows["engine"]["tflops"] == pytest.approx(8 * 12 * 18 / np.median(rows["engine"]["ms"]) / 1e9)
    assert rows["submit"]["fps"] > 0
    assert rows["device"] == {**rows["device"], "host_copies": 0, "same_as_submit": True}
    assert rows["refit"]["most_different"] == 0
    assert rows["fidelity"]["db"] > 110  # float32, rounded to 16 bits


def test_what_fails_is_a_row_and_the_others_go_on(benchmarks, tmp_path, monkeypatch):
    check, part = benchmarks
    monkeypatch.setattr(part, "WARM_UP_S", 0.0)
    monkeypatch.setattr(part, "SECONDS", 0.01)
    write_networks(tmp_path, check.NAME, check.ALPHA)
    (tmp_path / f"{check.NAME}_a1_fp16.ends.safetensors").unlink()
    with fake_machine(tmp_path / "engines") as machine:
        bench = part.Bench(machine.trt, machine.driver, tmp_path, machine.cache)
        *others, last = part.rows(bench, [(8, 12)])
    assert (last["row"], last["shape"]) == ("failed: refit", "12x8")
    assert "ends.safetensors" in last["error"]
    assert len(others) == 6
    assert check.judge([*others, last])


def test_host_copies_are_counted(benchmarks, tmp_path):
    _, part = benchmarks
    with fake_machine(tmp_path) as machine, machine.driver.active():
        driver = machine.driver
        stream, device, host = driver.create_stream(), driver.allocate(64), driver.allocate_pinned(64)
        with part.counted_host_copies(driver) as copies:
            driver.copy_in(device, host, 64, stream)
            driver.copy_out(host, device, 32, stream)
        driver.copy_in(device, host, 64, stream)
        assert copies == [64, 32]
        driver.synchronize_stream(stream)
        driver.free(device)
        driver.free_pinned(host)
        driver.destroy_stream(stream)


def test_targets_are_judged_from_the_right_side(benchmarks):
    check, _ = benchmarks
    rows = [
        {"row": "torch GEMM fp16", "shape": "8192x8192", "tflops": 800.0},
        {"row": "torch eager fp16 channels_last", "shape": "320x180", "ms": [12.0, 11.0, 13.0]},
        {"row": "torch compile fp16 channels_last", "shape": "320x180", "ms": [9.0, 8.0, 7.0]},
        {"row": "torch compile fp16 channels_last", "shape": "640x360", "ms": [1.0]},
        {"row": "engine", "shape": "320x180", "ms": [5.0, 4.0, 6.0], "tflops": 400.0},
        {"row": "submit", "shape": "320x180", "fps": 180.0, "engine_fps": 200.0},
        {"row": "submit, 2 streams", "shape": "320x180", "fps": 250.0, "engine_fps": 200.0},
        {"row": "device", "shape": "320x180", "fps": 190.0, "host_copies": 1},
        {"row": "refit", "shape": "320x180", "seconds": 4.0, "build_seconds": 80.0},
        {"row": "fidelity", "shape": "320x180", "db": 49.0},
    ]
    verdict = {line["target"].rpartition(", ")[0]: (line["value"], line["met"]) for line in check.judge(rows)}
    assert verdict == {
        "share of the GEMM peak, engine alone": (0.5, True),
        "engine over the better of eager and torch.compile": (1.6, True),
        "submit over engine alone, uint8 host frames": (0.9, False),
        "host copies of run_device": (1, False),
        "refit over build": (0.05, True),
        "PSNR of the engine to fp32, least photo": (49.0, False),
    }


def test_a_part_that_dies_or_hangs_keeps_its_rows(benchmarks):
    check, _ = benchmarks
    row = '{"row": "engine", "shape": "8x8"}'
    dies = check.Part("dies", [sys.executable, "-c", f"print('{row}'); print('why'); raise SystemExit(7)"], 60)
    hangs = [sys.executable, "-u", "-c", f"import time; print('{row}'); time.sleep(60)"]
    hangs = check.Part("hangs", hangs, 3)
    for part in (dies, hangs):
        check.execute(part, part.limit_s)
        assert part.rows == [{"row": "engine", "shape": "8x8"}]
    assert (dies.outcome, dies.log) == ("exit code 7", "why")
    assert hangs.outcome == "stopped after 3 s"


@pytest.mark.unix("runs a shell script")
def test_the_clock_is_watched_while_a_part_runs(benchmarks, tmp_path, monkeypatch):
    """With a program in the place of nvidia-smi that prints what it prints, and one line that it was cut in."""
    check, _ = benchmarks
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nprintf '1980, 300.50\\n1000, 100.00\\n1500, 690.00\\n15'\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    part = check.Part("short", [sys.executable, "-c", "import time; time.sleep(1)"], 60)
    check.execute(part, part.limit_s)
    assert (part.outcome, part.sm_mhz, part.watts) == ("done", 1500, 300.5)


def test_without_a_gpu_it_says_so(benchmarks, capsys, monkeypatch):
    check, _ = benchmarks
    from esrgan_deploy.errors import MachineError

    def none():
        raise MachineError("no NVIDIA driver")

    monkeypatch.setattr(check, "find_gpu", none)
    monkeypatch.setattr(sys, "argv", ["gpu_check.py"])
    with pytest.raises(SystemExit) as stop:
        check.main()
    assert stop.value.code == "gpu_check: no NVIDIA driver"
