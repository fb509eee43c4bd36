"""Real builds by TensorRT-RTX on the CPU, and what only other versions do, by the fake TensorRT."""

import dataclasses
import signal
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from engine_onnx import one_line, write_fp8, write_half, write_quantised
from esrgan_deploy import MachineError, ModelError, ModelInfo, OptionError, OutputError
from esrgan_deploy.engine.adapter import TensorRT
from esrgan_deploy.engine.build.memory import engine_memory
from esrgan_deploy.engine.build.plan import build_plan
from esrgan_deploy.engine.build.progress import BuildMonitor
from esrgan_deploy.engine.options import EngineOptions, Profile, Shape
from esrgan_deploy.engine.store import timing_cache
from esrgan_deploy.model import load_onnx
from fake_cuda import FACTS, FakeDriver
from fake_tensorrt import make
from tiny_onnx import write_onnx

STATIC = Profile.fixed(2, 24, 32)
DYNAMIC = Profile(Shape(1, 16, 16), Shape(2, 24, 32), Shape(4, 48, 64))
IN_PLAN = b"frames_in"


def build(trt, path, options=None, progress=lambda phase, done, total: None, **named):
    model, info = load_onnx(path)
    options = options or EngineOptions(STATIC)
    return build_plan(trt, model, info, path, options, **{"free_memory": None, **named}, progress=progress)


@pytest.fixture(scope="module")
def rtx():
    return TensorRT(pytest.importorskip("tensorrt_rtx", reason="needs the wheels of TensorRT-RTX"))


# --- builds ---


@pytest.mark.parametrize("frame_type", ["uint8", "uint16"])
@pytest.mark.parametrize("profile", [STATIC, DYNAMIC], ids=["static", "dynamic"])
def test_plan_is_built_without_a_gpu(rtx, blur_x2, frame_type, profile):
    options = EngineOptions(profile, frame_type)
    plan = build(rtx, blur_x2, options)
    assert plan.data[:4] == b"vtrt"
    assert IN_PLAN in plan.data
    assert plan.options == options
    assert plan.notes == ()
    assert plan.seconds > 0
    assert plan.timing_cache == b"", "TensorRT-RTX has none"


def test_settings_reach_the_builder(rtx, blur_x2):
    options = EngineOptions(STATIC, optimization_level=1, tiling="moderate", aux_streams=2, workspace_mib=64)
    module = rtx.module
    builder = rtx.create_builder()
    config = rtx.configure(builder, options)
    assert config.builder_optimization_level == 1
    assert config.tiling_optimization_level == module.TilingOptimizationLevel.MODERATE
    assert config.max_aux_streams == 2
    assert config.get_memory_pool_limit(module.MemoryPoolType.WORKSPACE) == 64 << 20
    assert not config.get_flag(module.BuilderFlag.TF32)
    assert not config.get_flag(module.BuilderFlag.REFIT)
    assert rtx.configure(builder, EngineOptions(STATIC, refit=True)).get_flag(module.BuilderFlag.REFIT)
    assert build(rtx, blur_x2, options).options == options


@pytest.mark.parametrize("write", [write_half, write_quantised, write_fp8])
def test_types_of_the_graph_pass_through(rtx, tmp_path, write):
    assert build(rtx, write(tmp_path / "m.onnx")).data[:4] == b"vtrt"


def test_progress_covers_the_build_and_comes_to_its_end(rtx, blur_x2):
    seen = []
    build(rtx, blur_x2, progress=lambda *state: seen.append(state))
    assert seen[0][:2] == ("Building engine", 0)
    total = seen[0][2]
    assert [done for phase, done, _ in seen if phase == "Building engine"] == list(range(total + 1))
    assert len({phase for phase, _, _ in seen}) > 3
    assert all(0 <= done <= total for _, done, total in seen)


def test_build_in_another_thread(rtx, blur_x2):
    """Signals belong to the main thread: nothing is done with them elsewhere."""
    plans = []
    thread = threading.Thread(target=lambda: plans.append(build(rtx, blur_x2)))
    thread.start()
    thread.join()
    assert plans[0].data[:4] == b"vtrt"


# --- stopping ---


@pytest.fixture
def ctrl_c():
    """Python's own handler: a shell that starts tests in the background has them ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_stops_the_build_at_the_next_step(rtx, blur_x2, ctrl_c):
    seen = []

    def press(phase, done, total):
        seen.append(phase)
        if len(seen) == 5:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build(rtx, blur_x2, progress=press)
    assert len(seen) < 10, "the build went on"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert build(rtx, blur_x2).data, "the next build works"


def test_ctrl_c_within_tensorrts_own_code_waits_for_its_end(rtx, ctrl_c):
    """Raised at once, the exception would pass through C++."""
    done = []
    config = rtx.configure(rtx.create_builder(), EngineOptions(STATIC))
    with pytest.raises(KeyboardInterrupt), BuildMonitor(rtx, config, lambda phase, done, total: None):
        signal.raise_signal(signal.SIGINT)
        done.append(not config.progress_monitor.step_complete("Building engine", 0))
    assert done == [True]


def test_what_progress_raises_stops_the_build(rtx, blur_x2):
    calls = []

    def fail(phase, done, total):
        calls.append(phase)
        raise BrokenPipeError("nobody reads")

    with pytest.raises(BrokenPipeError, match="nobody reads"):
        build(rtx, blur_x2, progress=fail)
    assert len(calls) < 5


def test_handler_of_the_program_stays_in_place(rtx, blur_x2):
    pressed = []
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(1))
    try:
        build(rtx, blur_x2, progress=lambda phase, done, total: pressed or signal.raise_signal(signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, before)
    assert pressed == [1]


# --- what does not fit ---


def test_unknown_operator_is_named_with_its_layer(rtx, tmp_path):
    path = write_onnx(tmp_path / "odd.onnx", [helper.make_node("Identity", ["input"], ["output"])], {}, ModelInfo(1))
    model, info = load_onnx(path)
    model.graph.node[0].CopyFrom(helper.make_node("FlowWarp", ["input"], ["output"], name="align", domain="mmcv"))
    model.opset_import.append(helper.make_opsetid("mmcv", 1))
    with pytest.raises(ModelError) as caught:
        build_plan(rtx, model, info, path, EngineOptions(STATIC), free_memory=None, progress=lambda *_: None)
    one_line(caught, str(path), str(rtx), "'align'", "FlowWarp", "-b ort")


@pytest.fixture
def static_only(tmp_path):
    """An operator that TensorRT has for literal sizes only, and a 24x32 picture that is added."""
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["plane"], axes=[0, 1], keepdims=0),
        helper.make_node("EyeLike", ["plane"], ["diagonal"], dtype=TensorProto.FLOAT, name="diagonal"),
        helper.make_node("Add", ["input", "diagonal"], ["sum"]),
        helper.make_node("Add", ["sum", "picture"], ["output"], name="picture"),
    ]
    return write_onnx(tmp_path / "m.onnx", nodes, {"picture": np.zeros((1, 3, 24, 32), np.float32)}, ModelInfo(1))


def test_dynamic_profile_that_cannot_be_built_becomes_static(rtx, static_only):
    plan = build(rtx, static_only, EngineOptions(DYNAMIC))
    assert plan.data[:4] == b"vtrt"
    assert plan.options == EngineOptions(STATIC)
    (note,) = plan.notes
    assert f"{DYNAMIC} cannot be built, so this is for 2x24x32 alone" in note
    assert "EyeLike" in note
    assert "\n" not in note


def test_dynamic_profile_too_large_for_the_gpu_becomes_static(blur_x2):
    """The builder itself runs out of memory; nobody said beforehand how much there is."""
    facts = dataclasses.replace(FACTS, total_memory=4_000_000)
    trt = TensorRT(make("10.13.3.9", FakeDriver(facts)))
    profile = Profile(Shape(1, 16, 16), Shape(1, 32, 32), Shape(8, 400, 400))
    plan = build(trt, blur_x2, EngineOptions(profile))
    assert plan.options.profile == Profile.fixed(1, 32, 32)
    assert "out of memory" in plan.notes[0]
    with pytest.raises(MachineError) as caught:
        build(trt, blur_x2, EngineOptions(Profile.fixed(8, 400, 400)))
    one_line(caught, str(blur_x2), "8x400x400", "out of memory", "smaller shape or batch")


def test_what_cannot_be_built_statically_either_is_an_error_in_tensorrts_words(rtx, static_only):
    with pytest.raises(ModelError) as caught:
        build(rtx, static_only, EngineOptions(Profile.fixed(1, 40, 40)))
    message = one_line(caught, str(static_only), str(rtx), "layer 'picture' (Add)", "-b openvino")
    assert "/_src/" not in message


def test_refittable_engine_needs_a_gpu_also_with_rtx(rtx, blur_x2):
    begun = []
    with pytest.raises(MachineError) as caught:
        build(rtx, blur_x2, EngineOptions(DYNAMIC, refit=True), lambda *state: begun.append(state[:2]))
    one_line(caught, "TensorRT-RTX", "--refit", "GPU")
    assert begun.count(("Building engine", 0)) == 1, "a static profile would not help"


@pytest.mark.parametrize("profile", [Profile.fixed(1, 24, 33), Profile(Shape(1, 2, 2), Shape(1, 4, 4), Shape(1, 9, 8))])
def test_sizes_that_the_network_cannot_take_are_refused(rtx, unshuffle_x2, profile):
    with pytest.raises(OptionError) as caught:
        build(rtx, unshuffle_x2, EngineOptions(profile))
    one_line(caught, str(unshuffle_x2), "multiples of 2")


def test_network_of_one_size_gets_that_profile_only(rtx, tmp_path):
    nodes = [helper.make_node("Resize", ["input", "", "scales"], ["output"], mode="nearest")]
    scales = {"scales": np.array([1, 1, 2, 2], np.float32)}
    path = write_onnx(tmp_path / "fixed.onnx", nodes, scales, ModelInfo(scale=2), shape=(1, 3, 24, 32))
    assert build(rtx, path).data
    with pytest.raises(OptionError) as caught:
        build(rtx, path, EngineOptions(DYNAMIC))
    one_line(caught, "32x24 only", "16x16")


# --- memory ---


def estimate(model, shape):
    return engine_memory(model, shape).at(shape)


def test_estimate_is_what_lives_at_the_same_time(blur_x2):
    """By hand, in bytes for each input pixel: frames of 3 in and of 4 * 3 out, all the time. What lives longest are
    three pictures of 4 * 3 floats each, while the result is transposed: 'output', which the mean still needs, the
    rounded one and the transposed one."""
    model, _ = load_onnx(blur_x2)
    weights = 4 * (3 * 3 * 3 * 3 + 4)
    for shape in (Shape(1, 64, 64), Shape(4, 32, 80)):
        pixels = shape.batch * shape.height * shape.width
        assert estimate(model, shape) == pytest.approx(pixels * (15 + 3 * 48) + weights, rel=1e-3)


def test_estimate_counts_an_activation_with_its_convolution(tmp_path):
    """TensorRT computes them together: 30 channels of float32 live once, not twice, beside the 3 of the result."""
    weights = {"w": np.zeros((30, 3, 1, 1), np.float32), "v": np.zeros((3, 30, 1, 1), np.float32)}
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["a"]),
        helper.make_node("LeakyRelu", ["a"], ["b"], alpha=0.2),
        helper.make_node("Conv", ["b", "v"], ["output"]),
    ]
    model, _ = load_onnx(write_onnx(tmp_path / "m.onnx", nodes, weights, ModelInfo(1)))
    assert estimate(model, Shape(1, 100, 100)) == pytest.approx(10000 * (6 + 120 + 12), rel=0.01)


def test_estimate_counts_what_is_concatenated(tmp_path):
    """12 bytes a pixel of 'input' and 24 of 'a' together are as much as their concatenation: 72, all alive at once."""
    kernel = np.zeros((6, 3, 1, 1), np.float32)
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["a"]),
        helper.make_node("Concat", ["input", "a"], ["b"], axis=1),
        helper.make_node("Split", ["b"], ["output", "c", "d"], axis=1),
    ]
    model, _ = load_onnx(write_onnx(tmp_path / "m.onnx", nodes, {"w": kernel}, ModelInfo(1)))
    assert estimate(model, Shape(1, 100, 100)) == pytest.approx(10000 * (6 + 72), rel=0.01)


def test_static_shape_that_does_not_fit_is_refused_with_one_that_does(rtx, blur_x2):
    free = 20_000_000
    model, _ = load_onnx(blur_x2)
    with pytest.raises(MachineError) as caught:
        build(rtx, blur_x2, EngineOptions(Profile.fixed(8, 200, 300)), free_memory=free)
    batch = int(one_line(caught, str(blur_x2), "8 frame(s) of 300x200").partition("--batch ")[2])
    assert estimate(model, Shape(batch, 200, 300)) <= free < estimate(model, Shape(batch + 1, 200, 300))
    with pytest.raises(MachineError) as caught:
        build(rtx, blur_x2, EngineOptions(Profile.fixed(1, 2000, 3000)), free_memory=free)
    tile = int(one_line(caught, "--tile").partition("--tile ")[2].split()[0])
    assert estimate(model, Shape(1, tile, tile)) <= free < estimate(model, Shape(1, tile + 2, tile + 2))
    with pytest.raises(MachineError, match="weights alone"):
        build(rtx, blur_x2, free_memory=100)
    assert build(rtx, blur_x2, free_memory=free).notes == ()


@pytest.mark.parametrize("top", [Shape(64, 48, 64), Shape(2, 2400, 3200)], ids=["batch", "size"])
def test_maximum_of_a_dynamic_profile_shrinks_to_what_fits(rtx, blur_x2, top):
    free = 10_000_000
    model, _ = load_onnx(blur_x2)
    plan = build(rtx, blur_x2, EngineOptions(Profile(Shape(1, 16, 16), Shape(2, 24, 32), top)), free_memory=free)
    built = plan.options.profile
    assert (built.min, built.opt) == (Shape(1, 16, 16), Shape(2, 24, 32))
    assert free / 2 < estimate(model, built.max) <= free
    (note,) = plan.notes
    assert str(top) in note
    assert str(built.max) in note


# --- other versions ---


@pytest.mark.parametrize("version", ["8.5.3.1", "10.13.3.9", "10.16.1.11", "11.4.0.106"])
@pytest.mark.parametrize("frame_type", ["uint8", "uint16"])
@pytest.mark.parametrize("profile", [STATIC, DYNAMIC], ids=["static", "dynamic"])
def test_every_version_builds(blur_x2, version, frame_type, profile):
    trt = TensorRT(make(version, FakeDriver()))
    assert str(trt) == f"TensorRT {version}"
    assert trt.strongly_typed is (version > "8.9" or version.startswith("1"))
    assert not trt.portable
    seen = []
    plan = build(trt, blur_x2, EngineOptions(profile, frame_type, refit=True), progress=lambda *s: seen.append(s))
    assert plan.options.profile == profile
    assert {(done, total) for phase, done, total in seen if phase == "Building engine"} >= {(0, seen[0][2])}
    assert seen[-1][1] == seen[-1][2]
    assert plan.timing_cache
    again = build(trt, blur_x2, timing_cache=plan.timing_cache)
    assert again.timing_cache == plan.timing_cache


def test_timing_cache_of_another_gpu_is_not_used(blur_x2):
    other = dataclasses.replace(FACTS, name="Other GPU")
    here, there = (TensorRT(make("10.13.3.9", FakeDriver(facts))) for facts in (FACTS, other))
    foreign = build(there, blur_x2).timing_cache
    own = build(here, blur_x2).timing_cache
    assert foreign != own
    assert build(here, blur_x2, timing_cache=foreign).timing_cache == own


# --- files of the timing cache ---


def test_timing_cache_is_kept_in_a_file(tmp_path):
    path = tmp_path / "timing_cache.cache"
    assert timing_cache.read(path) == b""
    timing_cache.write(path, b"measured" * 1000)
    assert timing_cache.read(path) == b"measured" * 1000
    with pytest.raises(OutputError, match="does not exist"):
        timing_cache.write(tmp_path / "nowhere" / "timing_cache.cache", b"")


@given(st.binary(max_size=60), st.data())
def test_damaged_timing_cache_is_no_timing_cache(tmp_path_factory, content, data):
    """One byte changed, or cut short at any place: TensorRT would take the process down with it."""
    path = tmp_path_factory.getbasetemp() / "damaged.cache"
    timing_cache.write(path, content)
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[at] ^= data.draw(st.integers(1, 255))
    for damaged in (bytes(changed), whole[:at], whole + b"x"):
        path.write_bytes(damaged)
        assert timing_cache.read(path) == b""
