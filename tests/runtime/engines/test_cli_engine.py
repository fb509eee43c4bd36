"""esrgan-engine, from its arguments to its files; engines are built by TensorRT-RTX, which needs no GPU."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from onnx import helper

from children import popen
from esrgan_deploy import ModelInfo
from esrgan_deploy.cli.engine import TILINGS, main
from esrgan_deploy.engine import options
from esrgan_deploy.engine.adapter import TensorRT
from esrgan_deploy.models import COMPACT_CLEAN
from fake_cuda import FACTS, FakeDriver
from fake_tensorrt import make
from planted_engines import DYNAMIC, H200, names, plant, truncate
from stub_driver import compile_driver, driver_is_installed
from tiny_onnx import write_onnx

PROGRAM = "import sys; from esrgan_deploy.cli.engine import main; sys.exit(main())"


@pytest.fixture
def rtx():
    return pytest.importorskip("tensorrt_rtx", reason="needs the wheels of TensorRT-RTX")


def does(capsys, *arguments):
    """The lines that the command prints on stdout and stderr."""
    code = main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    assert code == 0, err
    return out.splitlines(), err.splitlines()


def fails(capsys, arguments, code):
    """The one line that the command fails with."""
    try:
        result = main(list(map(str, arguments)))
    except SystemExit as error:
        result = error.code
    out, err = capsys.readouterr()
    assert (result, out, err.count("\n")) == (code, "", 1), err
    assert err.startswith("esrgan-engine: ")
    return err


def sidecar(cache):
    (path,) = cache.glob("*.json")
    return json.loads(path.read_text())


def test_a_model_becomes_an_engine_and_is_found_the_next_time(rtx, blur_x2, tmp_path, capsys):
    out, err = does(capsys, blur_x2, "--cache", tmp_path)
    (engine,) = tmp_path.glob("*.engine")
    assert len(out) == 1
    assert out[0].startswith(f"{engine}: 1x360x640 uint8, ")
    assert f"any GPU, TensorRT-RTX {rtx.__version__}" in out[0]
    assert err == ["Building engine: step 0 of 6"]
    written = engine.stat().st_mtime_ns
    again, err = does(capsys, blur_x2, "--cache", tmp_path)
    assert (again, err) == (out, [])
    assert engine.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("arguments", "built"),
    [
        (["--shape", "24x16", "--batch", "2"], {"profile": "2x16x24"}),
        (["--shape", "24x16", "--batch", "1:4"], {"profile": "1x16x24-4x16x24-4x16x24"}),
        (["--min", "8x8", "--opt", "24x16", "--max", "32x40"], {"profile": "1x8x8-1x16x24-1x40x32"}),
        (["--shape", "24x16", "--frames", "uint16"], {"frames": "uint16"}),
        (
            ["--shape", "8x8", "--optimization", "0", "--workspace", "64"],
            {"optimization_level": 0, "workspace_mib": 64},
        ),
        (["--shape", "8x8", "--tiling", "fast", "--aux-streams", "0"], {"tiling": "fast", "aux_streams": 0}),
    ],
)
def test_arguments_decide_what_is_built(rtx, blur_x2, tmp_path, capsys, arguments, built):
    does(capsys, blur_x2, "--cache", tmp_path, *arguments)
    content = sidecar(tmp_path)["options"]
    assert {name: content[name] for name in built} == built


def test_the_default_shape_is_one_that_the_model_takes(rtx, tmp_path, capsys):
    nodes = [helper.make_node("Relu", ["input"], ["output"])]
    fixed = write_onnx(tmp_path / "fixed.onnx", nodes, {}, ModelInfo(scale=1), shape=(1, 3, 12, 20))
    does(capsys, fixed, "--cache", tmp_path / "fixed")
    assert sidecar(tmp_path / "fixed")["options"]["profile"] == "1x12x20"
    picky = write_onnx(tmp_path / "picky.onnx", nodes, {}, ModelInfo(scale=1, multiple_of=7))
    does(capsys, picky, "--cache", tmp_path / "picky")
    assert sidecar(tmp_path / "picky")["options"]["profile"] == "1x364x644"


def test_what_was_wrong_with_the_former_file_is_said_on_stderr(rtx, blur_x2, tmp_path, capsys):
    does(capsys, blur_x2, "--cache", tmp_path)
    (engine,) = tmp_path.glob("*.engine")
    engine.write_text("a text file")
    _, err = does(capsys, blur_x2, "--cache", tmp_path)
    assert [line for line in err if "is no TensorRT engine" in line]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "give one thing to do"),
        (["{model}", "--list"], 2, "give one thing to do"),
        (["{tmp}/none.onnx"], 2, "none.onnx: cannot be read"),
        (["{tmp}"], 2, "is a folder; name a file"),
        (["{tmp}/text.onnx"], 2, "not an ONNX file"),
        (["{model}", "--shape", "360p"], 2, "'360p' is not WIDTHxHEIGHT"),
        (["{model}", "--shape", "0x8"], 2, "'0x8' is not WIDTHxHEIGHT"),
        (["{model}", "--batch", "0"], 2, "'0' is not a number of frames"),
        (["{model}", "--batch", "4:1"], 2, "grow from min over opt to max"),
        (["{model}", "--min", "8x8", "--max", "32x32"], 2, "--min, --opt and --max, all three"),
        (["{model}", "--shape", "8x8", "--min", "8x8", "--opt", "8x8", "--max", "9x9"], 2, "no --shape"),
        (["{model}", "--min", "9x9", "--opt", "8x8", "--max", "32x32"], 2, "must be 1 or more and grow"),
        (["{model}", "--optimization", "6"], 2, "optimization level 6"),
        (["{model}", "--workspace", "0"], 2, "workspace 0"),
        (["{model}", "--aux-streams", "-1"], 2, "aux-streams -1"),
        (["{model}", "--refit"], 2, "--refit"),
        (["{model}", "--tiling", "some"], 2, "'some'"),
        (["{model}", "--frames", "float"], 2, "'float'"),
        (["{model}", "--shape", "8x8", "--cache", "{tmp}/text.onnx"], 2, "text.onnx: cannot be"),
        (["--list", "--cache", "{tmp}/text.onnx"], 2, "text.onnx: cannot be read: Not a directory"),
        (["--prune", "some"], 2, "'some'"),
    ],
)
def test_bad_arguments_get_one_line_and_leave_nothing(rtx, blur_x2, tmp_path, capsys, arguments, code, words):
    (tmp_path / "text.onnx").write_text("")
    arguments = [argument.format(model=blur_x2, tmp=tmp_path) for argument in arguments]
    if "--cache" not in arguments:
        arguments += ["--cache", str(tmp_path / "cache")]
    assert words in fails(capsys, arguments, code)
    assert not list((tmp_path / "cache").glob("*"))


# What is kept


@pytest.fixture
def crowded(tmp_path):
    plant(tmp_path)
    plant(tmp_path, machine=dataclasses.replace(H200, driver="570.1"), refit=True, frames="uint16")
    truncate(plant(tmp_path, profile=DYNAMIC))
    (tmp_path / "mine.engine").write_text("not ours")
    return tmp_path


def test_engines_are_listed_with_what_fits_here(rtx, blur_x2, crowded, capsys):
    does(capsys, blur_x2, "--cache", crowded, "--shape", "32x16")
    out, err = does(capsys, "--list", "--cache", crowded)
    rows = [re.split(r"  +", line) for line in out]
    assert rows[0] == ["file", "model", "profile", "frames", "machine", "MiB", "built (UTC)", "here"]
    cells = {row[0].split(".")[0] + "." + row[0].split(".")[1]: row[1:] for row in rows[1:]}
    assert cells["blur.u8_1x16x32"][:3] == ["blur.onnx", "1x16x32", "uint8"]
    assert cells["blur.u8_1x16x32"][-1] == "yes"
    theirs = "NVIDIA H200 (sm90), driver 580.159.03, TensorRT 10.13.3.9"
    assert cells["net.u8_1x16x24"] == ["net.onnx", "1x16x24", "uint8", theirs, "0.0", "2026-11-01 12:00", "no"]
    assert cells["net.u16_1x16x24_refit"][2] == "uint16 refit"
    assert cells["net.u8_1x8x8-1x16x24-1x32x32"][-1] == "broken"
    assert len(rows) == 5
    assert len(err) == 1
    assert "truncated" in err[0]


def test_pruning_says_what_went_and_how_much(rtx, crowded, capsys):
    out, _ = does(capsys, "--prune", "--cache", crowded)
    assert names(crowded) == ["mine.engine"], "all others are for another machine, or broken"
    assert len(out) == 8
    assert sum("built for NVIDIA H200" in line for line in out) == 5
    assert out[-1] == f"{crowded}: removed 7 files, 0.0 MiB"


def test_prune_all_takes_what_would_run_here_too(rtx, blur_x2, tmp_path, capsys):
    does(capsys, blur_x2, "--cache", tmp_path)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert does(capsys, "--prune", "--cache", tmp_path)[0] == [f"{tmp_path}: removed 0 files, 0.0 MiB"]
    out, _ = does(capsys, "--prune", "all", "--cache", tmp_path)
    assert names(tmp_path) == []
    assert out[-1] == f"{tmp_path}: removed 2 files, {size / 2**20:.1f} MiB"


def test_an_empty_cache_is_said(tmp_path, capsys):
    assert does(capsys, "--list", "--cache", tmp_path / "none")[0] == [f"{tmp_path / 'none'}: no engines"]


# Machines that cannot


def run(*arguments, **variables):
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)


@pytest.fixture
def without_tensorrt(tmp_path):
    """A PYTHONPATH on which modules of TensorRT's names do not load."""
    folder = tmp_path / "path"
    folder.mkdir()
    for name in ("tensorrt", "tensorrt_rtx"):
        (folder / f"{name}.py").write_text(f"raise ModuleNotFoundError('No module', name={name!r})\n")
    return str(folder)


def test_without_tensorrt_the_extra_is_named_and_the_cache_is_still_shown(blur_x2, tmp_path, without_tensorrt):
    answer = run(blur_x2, "--cache", tmp_path / "cache", PYTHONPATH=without_tensorrt)
    assert (answer.returncode, answer.stdout, answer.stderr.count("\n")) == (3, "", 1)
    assert "pip install 'esrgan-deploy[tensorrt]'" in answer.stderr
    cache = tmp_path / "cache"
    plant(cache)
    truncate(plant(cache, profile=DYNAMIC))
    listed = run("--list", "--cache", cache, PYTHONPATH=without_tensorrt)
    assert listed.returncode == 0
    assert sorted(line.split()[-1] for line in listed.stdout.splitlines()[1:]) == ["?", "broken"]
    pruned = run("--prune", "--cache", cache, PYTHONPATH=without_tensorrt)
    assert pruned.returncode == 0
    assert "engines of other machines are not removed" in pruned.stderr
    assert len(names(cache)) == 2


@pytest.fixture
def full_tensorrt(tmp_path):
    """A PYTHONPATH on which `tensorrt` is the fake for one GPU, installed as a wheel for CUDA 13."""
    folder = tmp_path / "path"
    (folder / "tensorrt_cu13-10.13.3.9.dist-info").mkdir(parents=True)
    (folder / "tensorrt_cu13-10.13.3.9.dist-info" / "METADATA").write_text("Name: tensorrt-cu13\nVersion: 10.13.3.9\n")
    program = "import sys, fake_tensorrt\nsys.modules['tensorrt'] = fake_tensorrt.make('10.13.3.9')\n"
    (folder / "tensorrt.py").write_text(program)
    return os.pathsep.join((str(folder), str(Path(__file__).parent)))


@pytest.mark.skipif(driver_is_installed(), reason="an NVIDIA driver is installed")
def test_without_a_driver_an_engine_for_one_gpu_is_not_tried(blur_x2, tmp_path, full_tensorrt):
    answer = run(blur_x2, "--cache", tmp_path / "cache", PYTHONPATH=full_tensorrt)
    assert (answer.returncode, answer.stdout, answer.stderr.count("\n")) == (3, "", 1)
    assert "no NVIDIA driver (libcuda.so.1)" in answer.stderr
    assert "has to be built on the machine that will run it" in answer.stderr
    assert not (tmp_path / "cache").exists()


@pytest.mark.skipif(shutil.which("gcc") is None, reason="the stand-in for the driver is compiled with gcc")
def test_a_driver_that_is_too_old_for_the_installed_tensorrt_is_said(blur_x2, tmp_path, full_tensorrt):
    compile_driver(tmp_path)
    answer = run(blur_x2, "--cache", tmp_path / "cache", PYTHONPATH=full_tensorrt, LD_LIBRARY_PATH=str(tmp_path))
    assert (answer.returncode, answer.stdout, answer.stderr.count("\n")) == (3, "", 1)
    assert "driver 550.54.14 runs CUDA up to 12.4, but TensorRT 10.13.3.9 is made for CUDA 13" in answer.stderr


@pytest.fixture
def gpu(monkeypatch):
    """Returns a function that puts the fake TensorRT and the fake GPU in place, with so many bytes of memory."""

    def install(memory):
        facts = dataclasses.replace(FACTS, total_memory=memory)
        trt = TensorRT(make("10.13.3.9", FakeDriver(facts)))
        monkeypatch.setattr("esrgan_deploy.engine.machine.load_tensorrt", lambda: trt)
        monkeypatch.setattr("esrgan_deploy.engine.machine.find_gpu", lambda: facts)
        monkeypatch.setattr("esrgan_deploy.engine.machine.open_driver", lambda: FakeDriver(facts))

    return install


def test_on_a_gpu_an_engine_is_built_for_it_and_for_its_memory(gpu, blur_x2, tmp_path, capsys):
    arguments = [blur_x2, "--cache", tmp_path, "--min", "8x8", "--opt", "16x16", "--max", "4096x4096"]
    gpu(64 << 20)
    out, err = does(capsys, *arguments)
    content = sidecar(tmp_path)
    assert content["machine"]["gpu"] == "Fake GPU"
    assert ".trt10.13.3.9.sm90." in out[0]
    assert content["options"]["profile"] != "1x8x8-1x16x16-1x4096x4096"
    assert content["notes"] == err[1:]
    assert does(capsys, *arguments) == (out, content["notes"]), "what was made smaller is said each time"
    assert does(capsys, "--list", "--cache", tmp_path)[0][1].endswith("  yes")
    assert "device memory" in fails(capsys, [blur_x2, "--cache", tmp_path, "--shape", "8192x8192"], 3)


@pytest.mark.unix("sends signals to another process")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_leaves_nothing(rtx, tmp_path, sent):
    command = [sys.executable, "-c", PROGRAM, str(COMPACT_CLEAN), "--cache", str(tmp_path)]
    with popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr.readline() == "Building engine: step 0 of 6\n"
        process.send_signal(sent)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + sent, error
    assert error == "esrgan-engine: interrupted; nothing was left half-written\n"
    assert names(tmp_path) == []


def test_help_loads_nothing_heavy():
    heavy = "{'onnx', 'onnxruntime', 'cv2', 'av', 'tqdm', 'tensorrt', 'tensorrt_rtx', 'safetensors'}"
    program = f"import atexit; atexit.register(lambda: print('LOADED', {heavy} & set(sys.modules))); {PROGRAM}"
    answer = subprocess.run([sys.executable, "-c", program, "--help"], capture_output=True, text=True, check=True)
    assert answer.stdout.endswith("LOADED set()\n")


def test_lists_of_the_command_agree_with_the_modules():
    """The command keeps its own copies, so that --help loads little."""
    assert options.TILINGS == TILINGS
    assert set(options.SHORT) == {"uint8", "uint16"}
