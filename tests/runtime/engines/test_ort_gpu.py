"""ONNX Runtime on a GPU, as far as it can be run without one.

The path of a batch is the same on every device: here its buffers are in main memory and the CPU provider computes. What
keeps a session from quietly being one on the CPU is tested with the real onnxruntime-gpu, in processes of their own.
"""

import json
import multiprocessing
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxruntime_gpu
from esrgan_deploy import BackendMissingError, MachineError, ModelError, ModelInfo, OptionError, Upscaler, open_session
from esrgan_deploy.backends import ort_gpu
from esrgan_deploy.backends.ort import OrtSession
from esrgan_deploy.backends.ort_engines import EngineFolder, machine_key, network_key
from esrgan_deploy.backends.ort_gpu import KEPT_SHAPES, OrtGpuSession, tensorrt_options
from esrgan_deploy.backends.ort_libraries import needed
from esrgan_deploy.cuda.gpu import DeviceFacts
from esrgan_deploy.models import COMPACT_CLEAN
from gain_pair import GREY, expected, write_model
from tiny_onnx import blur_x2_in_numpy, write_onnx

BACKENDS = ("ort-cuda", "ort-tensorrt")  # they differ in how 16-bit frames go in: whole, or as pairs of bytes
PAGE = Path(__file__).parents[3] / "docs" / "onnxruntime_gpu.md"


@pytest.fixture(scope="module")
def batches_x2(tmp_path_factory):
    """Nearest x2 that takes any number of frames at once."""
    nodes = [helper.make_node("Resize", ["input", "", "scales"], ["output"], mode="nearest")]
    weights = {"scales": np.array([1, 1, 2, 2], np.float32)}
    path = tmp_path_factory.mktemp("onnx") / "batches.onnx"
    return write_onnx(path, nodes, weights, ModelInfo(scale=2, overlap=0), shape=("N", 3, "H", "W"))


def frames_of(rng, shape, dtype=np.uint8):
    return rng.integers(0, np.iinfo(dtype).max + 1, (*shape, 3)).astype(dtype)


# --- the path of a batch ---


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("dtype", "largest"), [(np.uint8, 255), (np.uint16, 65535)])
def test_frames_go_through_the_network(blur_x2, rng, backend, dtype, largest):
    batch = frames_of(rng, (3, 17, 22), dtype)
    with OrtGpuSession(blur_x2, backend, device="cpu") as session:
        result = session.run(batch)
    difference = np.abs(
        result.astype(int) - np.stack([blur_x2_in_numpy(frame, largest) for frame in batch]).astype(int)
    )
    assert (result.dtype, result.shape) == (dtype, (3, 34, 44, 3))
    assert difference.max() <= 1  # half-way cases may round either way in float32
    assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_value_of_a_sample_survives(batches_x2, backend, dtype):
    values = np.resize(np.arange(np.iinfo(dtype).max + 1).astype(dtype), (1, 64, 342, 3))
    with OrtGpuSession(batches_x2, backend, device="cpu") as session:
        np.testing.assert_array_equal(session.run(values), values.repeat(2, 1).repeat(2, 2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_results_survive_the_next_run(batches_x2, rng, backend):
    first, second = frames_of(rng, (2, 1, 8, 8))
    with OrtGpuSession(batches_x2, backend, device="cpu") as session:
        result = session.run(first)
        session.run(second)
    np.testing.assert_array_equal(result, first.repeat(2, 1).repeat(2, 2))


def test_buffers_stay_where_they_are_and_are_what_the_network_writes_to(batches_x2, rng):
    def addresses():
        (bound,) = session._loaded.values()
        (written,) = bound._binding.get_outputs()
        assert written.data_ptr() == bound._output.data_ptr()
        return bound._input.data_ptr(), bound._output.data_ptr()

    with OrtGpuSession(batches_x2, device="cpu") as session:
        session.run(frames_of(rng, (2, 8, 8)))
        before = addresses()
        for _ in range(3):
            session.run(frames_of(rng, (2, 8, 8)))
        assert addresses() == before


def test_announced_batches_are_filled_up(batches_x2, rng, monkeypatch):
    ran = []
    run = ort_gpu._BoundSession.run
    monkeypatch.setattr(
        ort_gpu._BoundSession, "run", lambda bound, frames: ran.append(len(frames)) or run(bound, frames)
    )
    batch = frames_of(rng, (10, 6, 8))
    with OrtGpuSession(batches_x2, device="cpu") as session:
        session.prepare((4, 6, 8), "uint8")
        assert [key.frames for key in session._loaded] == [4]  # made before the first frame
        np.testing.assert_array_equal(session.run(batch), batch.repeat(2, 1).repeat(2, 2))
        np.testing.assert_array_equal(session.run(batch[:1]), batch[:1].repeat(2, 1).repeat(2, 2))
        assert [key.frames for key in session._loaded] == [4]
    assert ran == [4, 4, 2, 1]


def test_a_model_of_single_frames_gets_them_one_by_one(blur_x2, rng):
    batch = frames_of(rng, (3, 6, 8))
    with OrtGpuSession(blur_x2, device="cpu") as session:
        session.prepare((3, 6, 8), "uint8")
        together = session.run(batch)
        assert [key.frames for key in session._loaded] == [1]
        np.testing.assert_array_equal(together, np.concatenate([session.run(frame[None]) for frame in batch]))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 8), (1, 5)])
def test_sizes_that_the_network_cannot_take_are_padded_and_cropped(unshuffle_x2, rng, height, width):
    batch = frames_of(rng, (2, height, width))
    with OrtGpuSession(unshuffle_x2, device="cpu") as session:
        session.prepare((2, height, width), "uint8")
        np.testing.assert_array_equal(session.run(batch), batch.repeat(2, 1).repeat(2, 2))
        assert len(session._loaded) == 1


def test_the_shape_unused_for_longest_gives_its_memory_back(batches_x2, rng):
    sizes = [(4, 4 + width) for width in range(KEPT_SHAPES + 1)]
    with OrtGpuSession(batches_x2, device="cpu") as session:
        for size in (*sizes[:-1], sizes[0], sizes[-1], *sizes):
            batch = frames_of(rng, (1, *size))
            np.testing.assert_array_equal(session.run(batch), batch.repeat(2, 1).repeat(2, 2))
            assert len(session._loaded) <= KEPT_SHAPES
            if size == sizes[-1]:
                assert {(key.height, key.width) for key in session._loaded} == {sizes[0], *sizes[2:]}
                break


def test_an_upscaler_gives_what_the_plain_session_gives(rng):
    # 40 columns are two tiles of 24 exactly; others would be cut evenly for a session that takes any shape.
    frames = [frames_of(rng, (20, 40)) for _ in range(3)]
    results = []
    for session in (OrtGpuSession(COMPACT_CLEAN, device="cpu"), OrtSession(COMPACT_CLEAN)):
        with Upscaler(session, tile=24, overlap=4, batch=2) as upscaler:
            results.append(np.stack(list(upscaler.map(frames))))
    # A network of fixed sizes is optimised differently, and half-way cases may round either way.
    assert np.abs(results[0].astype(int) - results[1].astype(int)).max() <= 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_alpha_is_a_dial(tmp_path, backend):
    deep = GREY.astype(np.uint16) * 257
    with OrtGpuSession(write_model(tmp_path / "gain.onnx", 0.8), backend, device="cpu") as session:
        for alpha in (0.8, 0.25, 1, 0.8):
            before = session.submit(GREY)
            previous = session.info.alpha
            session.set_alpha(alpha)
            assert session.info.alpha == alpha
            for frames, wanted in (
                (before.result(), expected(GREY, previous)),
                (session.run(GREY), expected(GREY, alpha)),
            ):
                assert np.abs(frames.astype(int) - wanted.astype(int)).max() <= 1
            assert np.abs(session.run(deep).astype(int) - expected(deep, alpha).astype(int)).max() <= 1


# --- what cannot be run ---


def test_a_model_of_a_fixed_size_refuses_others_without_building_for_them(tmp_path, rng):
    nodes = [helper.make_node("Resize", ["input", "", "scales"], ["output"], mode="nearest")]
    weights = {"scales": np.array([1, 1, 2, 2], np.float32)}
    path = write_onnx(tmp_path / "fixed.onnx", nodes, weights, ModelInfo(scale=2), shape=(1, 3, 6, 8))
    with Upscaler(OrtGpuSession(path, device="cpu")) as upscaler:
        assert upscaler.upscale(frames_of(rng, (6, 8))).shape == (12, 16, 3)
        with pytest.raises(OptionError, match="8x6 only, this one has 8x7"):
            upscaler.upscale(frames_of(rng, (7, 8)))
        assert len(upscaler.session._loaded) == 1


@pytest.mark.parametrize("words", ["CUDA Graph", "graph capture"])  # of ONNX Runtime 1.20, and of 1.31
def test_a_network_that_cannot_be_captured_runs_without_graphs(batches_x2, rng, monkeypatch, words):
    asked = []
    create = OrtGpuSession._create

    def refuse(session, data, providers):
        if providers and "graphs" in providers[0][1]:
            asked.append(providers.pop()[1]["graphs"])
            if asked[-1]:
                raise RuntimeError(f"This session cannot use the {words} feature as requested by the user as all ...")
            providers.append((session._provider, {}))
        return create(session, data, providers)

    monkeypatch.setattr(OrtGpuSession, "_create", refuse)
    monkeypatch.setattr(OrtGpuSession, "_options", lambda session, data: _given(session._provider))
    batch = frames_of(rng, (1, 6, 8))
    with OrtGpuSession(batches_x2, device="cpu") as session:
        np.testing.assert_array_equal(session.run(batch), batch.repeat(2, 1).repeat(2, 2))
    assert asked == [True, False]


class _given:  # noqa: N801
    """A context manager that gives the options of a provider, as `_options` does."""

    def __init__(self, provider):
        self.provider = provider

    def __enter__(self):
        return lambda graphs: [(self.provider, {"graphs": graphs})]

    def __exit__(self, *error):
        return False


def test_a_network_that_the_provider_does_not_know_is_a_fault_of_the_model(tmp_path):
    path = tmp_path / "unknown.onnx"
    write_onnx(path, [helper.make_node("Identity", ["input"], ["output"])], {}, ModelInfo(scale=1))
    model = onnx.load(path)
    model.graph.node[0].op_type = "Gelu"  # newer than the version of the operators that the file names
    path.write_bytes(model.SerializeToString())
    with OrtGpuSession(path, device="cpu") as session, pytest.raises(ModelError, match=r"unknown\.onnx.*Gelu") as e:
        session.run(np.zeros((1, 4, 4, 3), np.uint8))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_onnxruntime_for_the_cpu_alone_is_named(blur_x2, backend):
    with pytest.raises((BackendMissingError, MachineError)) as caught:
        open_session(blur_x2, backend)
    assert "esrgan-deploy[gpu]" in str(caught.value)


def test_a_session_on_another_provider_than_asked_for_is_refused(batches_x2):
    with OrtGpuSession(batches_x2, device="cpu") as session:
        session._provider = "CUDAExecutionProvider"
        with pytest.raises(MachineError, match=r"CUDAExecutionProvider cannot be used here.*fell back to CPUExecution"):
            session._create(batches_x2.read_bytes(), [("CPUExecutionProvider", {})])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cpu_session_is_had_by_asking_only_and_says_what_it_is(blur_x2, backend):
    with open_session(blur_x2, backend, allow_cpu_fallback=True) as session:
        assert (session.backend, session.precision) == ("ort", "fp32")


def test_the_needed_libraries_are_those_that_readelf_names():
    if not shutil.which("readelf"):
        pytest.skip("readelf is not here")
    import onnxruntime

    for library in Path(onnxruntime.__file__).parent.glob("capi/*.so*"):
        said = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
        assert list(needed(library)) == re.findall(r"\(NEEDED\).*\[(.*)\]", said), library
        assert needed(library)


# --- engines of the TensorRT provider ---

FACTS = DeviceFacts("NVIDIA Test", (8, 9), "550.54.14", 12040, 24 << 30)


def nobody():
    raise AssertionError("nobody else holds it")


def write_engine(folder, content=b"plan"):
    with folder.opened(nobody) as path:
        (path / "esrgan_1_0.engine").write_bytes(content)
        (path / "x_sm89.timing").write_bytes(b"timed " + content)
    return folder.path


def files_of(path):
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != "sums.json"}


def test_an_engine_is_found_again(tmp_path):
    folder = EngineFolder(tmp_path, "sm89-0", "net")
    written = files_of(write_engine(folder))
    with folder.opened(nobody) as path:
        assert path == folder.path
        assert files_of(path) == written == {"esrgan_1_0.engine": b"plan", "x_sm89.timing": b"timed plan"}


@pytest.mark.parametrize("damage", ["truncated", "other content", "one more file", "gone", "no sums", "damaged sums"])
def test_a_damaged_engine_is_never_given_to_the_provider(tmp_path, damage):
    folder = EngineFolder(tmp_path, "sm89-0", "net")
    path = write_engine(folder)
    engine, sums = path / "esrgan_1_0.engine", path / "sums.json"
    if damage == "truncated":
        engine.write_bytes(b"pla")
    elif damage == "other content":
        engine.write_bytes(b"plam")
    elif damage == "one more file":
        (path / "another.engine").write_bytes(b"")
    elif damage == "gone":
        engine.unlink()
    elif damage == "no sums":
        sums.unlink()
    else:
        sums.write_text("{")
    with folder.opened(nobody) as empty:
        assert list(empty.iterdir()) == []
        (empty / "new.engine").write_bytes(b"new")
    assert files_of(folder.path) == {"new.engine": b"new"}


def test_a_build_that_fails_leaves_nothing(tmp_path):
    folder = EngineFolder(tmp_path, "sm89-0", "net")
    with pytest.raises(RuntimeError), folder.opened(nobody) as path:
        (path / "half.engine").write_bytes(b"ha")
        raise RuntimeError
    assert list(folder.path.parent.iterdir()) == []


@pytest.mark.unix("sends SIGKILL")
def test_what_a_killed_build_left_is_removed_by_the_next(tmp_path):
    folder = EngineFolder(tmp_path, "sm89-0", "net")
    program = f"""
import os, signal
from pathlib import Path
from esrgan_deploy.backends.ort_engines import EngineFolder
with EngineFolder(Path({str(tmp_path)!r}), "sm89-0", "net").opened(None) as path:
    (path / "half.engine").write_bytes(b"ha")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == -9
    assert list(folder.path.parent.glob("*/half.engine"))
    with folder.opened(nobody) as path:
        assert list(path.iterdir()) == []
        (path / "whole.engine").write_bytes(b"whole")
    assert [file.name for file in folder.path.parent.iterdir()] == ["net"]


def test_a_second_process_waits_and_finds_the_engine(tmp_path):
    folder = EngineFolder(tmp_path, "sm89-0", "net")
    context = multiprocessing.get_context("spawn")
    heard, queue = context.Event(), context.Queue()
    with folder.opened(nobody) as path:
        other = context.Process(target=_second, args=(folder, heard, queue))
        other.start()
        assert heard.wait(60)
        (path / "built.engine").write_bytes(b"by the first")
    assert queue.get(timeout=60) == {"built.engine": b"by the first"}
    other.join()


def _second(folder, heard, queue):
    with folder.opened(heard.set) as path:
        queue.put(files_of(path))


def test_a_build_starts_with_what_the_last_one_timed_on_this_machine(tmp_path):
    write_engine(EngineFolder(tmp_path, "sm89-0", "first"), b"first")
    write_engine(EngineFolder(tmp_path, "sm90-1", "other machine"), b"other")
    with EngineFolder(tmp_path, "sm89-0", "second").opened(nobody) as path:
        assert files_of(path) == {"x_sm89.timing": b"timed first"}
        (path / "second.engine").write_bytes(b"")


def test_a_damaged_timing_cache_is_not_passed_on(tmp_path):
    path = write_engine(EngineFolder(tmp_path, "sm89-0", "first"))
    (path / "x_sm89.timing").write_bytes(b"")
    with EngineFolder(tmp_path, "sm89-0", "second").opened(nobody) as second:
        assert list(second.iterdir()) == []


def test_keys_tell_everything_apart_that_an_engine_depends_on(tmp_path):
    graphs = [write_model(tmp_path / f"{alpha}.onnx", alpha, with_endpoints=False).read_bytes() for alpha in (0.5, 0.8)]
    assert network_key(graphs[0]) != network_key(graphs[1])
    machines = [
        (FACTS, "1.31.1"),
        (FACTS, "1.30.0"),
        (DeviceFacts("NVIDIA Other", (8, 9), "550.54.14", 12040, 24 << 30), "1.31.1"),
        (DeviceFacts("NVIDIA Test", (9, 0), "550.54.14", 12040, 24 << 30), "1.31.1"),
        (DeviceFacts("NVIDIA Test", (8, 9), "580.65.06", 13000, 24 << 30), "1.31.1"),
    ]
    keys = [machine_key(*machine) for machine in machines]
    assert len(set(keys)) == len(keys)
    assert keys[0].startswith("sm89-")


# --- the real onnxruntime-gpu ---

OPEN = """
import sys
from esrgan_deploy.cli.upscale import main
sys.exit(main(sys.argv[1:]))
"""
CUDA = """
#include <string.h>
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = DRIVER; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *handle, int number) { *handle = number; return 0; }
int cuDeviceGetName(char *name, int size, int handle) { strcpy(name, "NVIDIA Test"); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int handle) { *value = 8; return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int handle) { *bytes = (size_t)24 << 30; return 0; }
"""


def upscale(tmp_path, backend, libraries=None):
    """Run the command with onnxruntime-gpu; the one line that it ends with."""
    photo = tmp_path / "photo.png"
    import cv2

    cv2.imwrite(str(photo), np.zeros((8, 8, 3), np.uint8))
    out = tmp_path / "out.png"
    done = onnxruntime_gpu.run(tmp_path, OPEN, photo, "-o", out, "-b", backend, libraries=libraries)
    assert done.returncode == 3, done.stderr
    assert not out.exists()
    return done


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_without_a_driver_there_is_one_line_and_no_cpu_session(tmp_path, backend):
    done = upscale(tmp_path, backend)
    assert done.stderr.count("\n") == 1
    assert "no NVIDIA driver" in done.stderr
    assert done.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_missing_library_is_named_with_the_line_that_brings_it(tmp_path, backend):
    cuda = int(onnxruntime_gpu.VERSION == "1.31.1") + 12
    done = upscale(tmp_path, backend, onnxruntime_gpu.stub(tmp_path / "lib", "libcuda.so.1", driver_for(cuda)))
    assert done.stderr.count("\n") == 1
    assert f"libcublas.so.{cuda}" in done.stderr
    assert "libcudnn.so.9" in done.stderr
    assert f"pip install 'onnxruntime-gpu[cuda,cudnn]=={onnxruntime_gpu.VERSION}'" in done.stderr
    assert ("libnvinfer.so.10" in done.stderr) == (backend == "ort-tensorrt")
    assert (f"pip install 'tensorrt-cu{cuda}>=10,<11'" in done.stderr) == (backend == "ort-tensorrt")
    assert done.stdout == ""


@pytest.mark.slow
def test_a_driver_that_is_too_old_is_named(tmp_path):
    done = upscale(tmp_path, "ort-cuda", onnxruntime_gpu.stub(tmp_path / "lib", "libcuda.so.1", driver_for(11)))
    assert done.stderr.count("\n") == 1
    assert "runs CUDA up to 11.0" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_provider_that_does_not_come_up_is_never_replaced_by_the_cpu(tmp_path, backend):
    """All libraries are there by name, and empty: only what ONNX Runtime then does can show that."""
    for provider in ("cuda", "tensorrt"):
        for name in (*needed(onnxruntime_gpu.provider_library(provider)), "libcudnn.so.9"):
            if re.match(r"lib(cu|nv)", name):
                source = driver_for(13) if name == "libcuda.so.1" else NVINFER if name == "libnvinfer.so.10" else ""
                onnxruntime_gpu.stub(tmp_path / "lib", name, source)
    done = upscale(tmp_path, backend, tmp_path / "lib")
    ours = [line for line in done.stderr.splitlines() if line.startswith("esrgan-upscale: ")]
    assert len(ours) == 1
    assert "cannot be used here" in ours[0]
    if backend == "ort-cuda":  # it says so where it was told not to fall back, and falls back where it was not
        assert "fallback to CPU EP has been explicitly disabled" in ours[0]


NVINFER = "int getInferLibVersion(void) { return 101303; }"


def driver_for(cuda):
    return CUDA.replace("DRIVER", str(cuda * 1000))


@pytest.mark.slow
def test_cpu_sessions_of_onnxruntime_gpu_are_the_same(tmp_path):
    """The IO binding of the real package, and `auto` where it finds no GPU."""
    program = """
import sys
from pathlib import Path
import numpy as np
import onnxruntime
from esrgan_deploy import open_session
from esrgan_deploy.backends.ort import OrtSession
from esrgan_deploy.backends.ort_gpu import OrtGpuSession
model = Path(sys.argv[1])
frames = np.random.default_rng(0).integers(0, 256, (2, 12, 16, 3)).astype(np.uint8)
with OrtGpuSession(model, "ort-tensorrt", device="cpu") as bound, OrtSession(model) as plain:
    print(onnxruntime.__version__, np.abs(bound.run(frames).astype(int) - plain.run(frames)).max() <= 1)
with open_session(model, "auto") as session:
    print(session.backend)
"""
    done = onnxruntime_gpu.run(tmp_path, program, COMPACT_CLEAN)
    assert done.stdout.split() == [onnxruntime_gpu.VERSION, "True", "openvino"], done.stderr


@pytest.mark.slow
def test_the_providers_know_every_option_that_they_are_given():
    """A provider refuses options that it does not know, but only where it loads; their names are strings in it."""
    given = {
        "cuda": {*ort_gpu._CUDA_OPTIONS, "enable_cuda_graph"},
        "tensorrt": set(tensorrt_options(Path("/cache"), True)),
    }
    for provider, names in given.items():
        content = onnxruntime_gpu.provider_library(provider).read_bytes()
        assert {name for name in names if b"\0" + name.encode() + b"\0" not in content} == set()


@pytest.mark.slow
def test_the_table_of_versions_is_true_of_the_wheel_that_is_here():
    (row,) = (line for line in PAGE.read_text().splitlines() if line.startswith(f"| {onnxruntime_gpu.VERSION} "))
    columns = [column.strip().strip("`") for column in row.strip("|").split("|")]
    names = {p: needed(onnxruntime_gpu.provider_library(p)) for p in ("cuda", "tensorrt")}
    assert f"libcudart.so.{columns[2]}" in names["cuda"]
    assert ("libcudnn.so.9" in names["cuda"]) == (columns[3] == "9")
    assert f"libnvinfer.so.{columns[4]}" in names["tensorrt"]


# --- with a GPU ---


@pytest.fixture(params=BACKENDS)
def on_gpu(request, blur_x2, tmp_path):
    try:
        session = open_session(blur_x2, request.param, cache=tmp_path)
    except (BackendMissingError, MachineError) as error:
        # The driver is here. What may be missing are packages, and nothing else.
        if "pip " not in str(error):
            raise
        pytest.skip(str(error))
    with session:
        yield session


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "largest"), [(np.uint8, 255), (np.uint16, 65535)])
def test_frames_go_through_the_network_on_the_gpu(on_gpu, rng, dtype, largest):
    for _ in range(4):  # warm-up, capture, replay
        frame = frames_of(rng, (1, 32, 48), dtype)
        result = on_gpu.run(frame)
        allowed = 1 if on_gpu.precision == "fp32" else largest >> 9  # TF32 has ten bits
        assert np.abs(result[0].astype(int) - blur_x2_in_numpy(frame[0], largest).astype(int)).max() <= allowed


@pytest.mark.gpu
def test_results_on_the_gpu_are_the_same_each_time(on_gpu, rng):
    frames = [frames_of(rng, (1, 24, 32)) for _ in range(3)]
    first = [on_gpu.run(frame) for frame in frames]
    for frame, result in zip(frames, first, strict=True):
        np.testing.assert_array_equal(on_gpu.run(frame), result)


@pytest.mark.gpu
def test_the_engine_is_kept_on_the_gpu(on_gpu, tmp_path, blur_x2, rng):
    if on_gpu.backend == "ort-cuda":
        pytest.skip("the CUDA provider has no engines")
    frame = frames_of(rng, (1, 32, 48))
    result = on_gpu.run(frame)
    (sums,) = tmp_path.glob("*/*/sums.json")
    before = json.loads(sums.read_text()), sums.stat().st_mtime_ns
    with open_session(blur_x2, "ort-tensorrt", cache=tmp_path) as again:
        np.testing.assert_array_equal(again.run(frame), result)
    assert (json.loads(sums.read_text()), sums.stat().st_mtime_ns) == before
