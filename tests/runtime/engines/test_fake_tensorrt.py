"""The fake TensorRT computes what the graph says, in stream order, and fails where the real one does."""

import contextlib
import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto

import fake_tensorrt
from esrgan_deploy.errors import MachineError
from fake_cuda import FACTS, FakeDriver
from fake_cuda_memory import CudaBug
from fake_process import DYNAMIC, NEWEST, RANGE, Trt, expected, graph
from fake_tensorrt import SegmentationFault, make

every_version = pytest.mark.parametrize("version", fake_tensorrt.VERSIONS)


@pytest.fixture
def frames(rng):
    return rng.integers(0, 200, (1, 4, 6, 3), np.uint8)


@every_version
@pytest.mark.parametrize("size", [(1, 4, 6), DYNAMIC])
def test_results_are_those_of_the_graph(version, size, frames):
    trt = Trt(version)
    engine = trt.engine(graph(size), *([] if size[0] == 1 else RANGE))
    with trt.driver.active():
        context = engine.create_execution_context()
    np.testing.assert_array_equal(trt.run(context, frames), expected(frames))
    assert trt.driver.counters.executions == 1


def test_half_precision_runs_where_the_graph_says_so(frames):
    trt = Trt()
    with trt.driver.active():
        context = trt.engine(graph(element=TensorProto.FLOAT16)).create_execution_context()
    np.testing.assert_allclose(trt.run(context, frames), expected(frames), atol=1)


def test_shapes_outside_of_the_profile_and_missing_addresses_are_refused(frames):
    trt = Trt()
    engine = trt.engine(graph(DYNAMIC), *RANGE)
    with trt.driver.active():
        context, stream = engine.create_execution_context(), trt.driver.create_stream()
        assert context.infer_shapes() == ["frames_in"]
        assert not context.execute_async_v3(stream)
        for shape in ((1, 9, 4, 3), (3, 4, 4, 3), (1, 1, 4, 3), (1, 4, 4)):
            assert not context.set_input_shape("frames_in", shape)
        assert not context.set_tensor_address("nothing", 1)
        assert context.set_input_shape("frames_in", (2, 8, 8, 3))
        assert tuple(context.get_tensor_shape("frames_out")) == (2, 16, 16, 3)
        assert not context.execute_async_v3(stream)
        assert "address" in trt.logger.lines[-1]
        context.set_tensor_address("frames_in", trt.driver.allocate(2 * 8 * 8 * 3 - 1))
        context.set_tensor_address("frames_out", trt.driver.allocate(2 * 16 * 16 * 3))
        with pytest.raises(CudaBug, match="do not fit"):
            context.execute_async_v3(stream)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_context_on_two_streams_needs_an_event(frames, ordered):
    trt = Trt()
    engine = trt.engine(graph())
    with trt.driver.active():
        context = engine.create_execution_context()
        one, other, event = trt.driver.create_stream(), trt.driver.create_stream(), trt.driver.create_event()
        trt.bind(context, frames)
        context.execute_async_v3(one)
        trt.bind(context, frames)
        if ordered:
            trt.driver.record(event, one)
            trt.driver.wait(other, event)
            assert context.execute_async_v3(other)
        else:
            with pytest.raises(CudaBug, match="nothing orders"):
                context.execute_async_v3(other)


def test_contexts_with_memory_of_their_own_run_at_once_and_with_shared_memory_do_not(frames):
    trt = Trt()
    engine = trt.engine(graph())
    with trt.driver.active():
        streams = [trt.driver.create_stream() for _ in range(4)]
        for stream in streams[:2]:
            context = engine.create_execution_context()
            trt.bind(context, frames)
            assert context.execute_async_v3(stream)
            trt.driver.synchronize_stream(stream)
        shared = trt.driver.allocate(engine.device_memory_size_v2)
        strategy = trt.api.ExecutionContextAllocationStrategy.USER_MANAGED
        contexts = [engine.create_execution_context(strategy) for _ in range(2)]
        for number, context in enumerate(contexts):
            trt.bind(context, frames)
            assert not context.execute_async_v3(streams[2 + number])
            context.set_device_memory(shared, engine.device_memory_size_v2)
        assert contexts[0].execute_async_v3(streams[2])
        with pytest.raises(CudaBug, match="nothing orders"):
            contexts[1].execute_async_v3(streams[3])


def test_a_context_with_other_memory_is_still_one_context(frames):
    trt = Trt()
    engine = trt.engine(graph())
    with trt.driver.active():
        context = engine.create_execution_context(trt.api.ExecutionContextAllocationStrategy.USER_MANAGED)
        for expectation in (contextlib.nullcontext(), pytest.raises(CudaBug, match="nothing orders")):
            trt.bind(context, frames)
            context.set_device_memory(trt.driver.allocate(4096), 4096)
            with expectation:
                assert context.execute_async_v3(trt.driver.create_stream())


def test_the_first_execution_of_a_shape_cannot_be_captured(frames):
    trt = Trt()
    engine = trt.engine(graph())
    with trt.driver.active():
        context, stream = engine.create_execution_context(), trt.driver.create_stream()
        result, shape = trt.bind(context, frames)
        trt.driver.begin_capture(stream)
        assert not context.execute_async_v3(stream)
        with pytest.raises(MachineError, match="INVALIDATED"):
            trt.driver.end_capture(stream)
        assert context.execute_async_v3(stream)
        trt.driver.begin_capture(stream)
        assert context.execute_async_v3(stream)
        graph_of_it = trt.driver.end_capture(stream)
        elsewhere, _ = trt.bind(context, frames)  # the graph keeps the addresses that it was recorded with
        trt.driver.launch(graph_of_it, stream)
        trt.driver.synchronize_stream(stream)
        np.testing.assert_array_equal(trt.driver.download(result, shape, np.uint8), expected(frames))
        assert not trt.driver.download(elsewhere, shape, np.uint8).any()
        del context
        trt.driver.launch(graph_of_it, stream)
        with pytest.raises(CudaBug, match="given back"):
            trt.driver.synchronize_stream(stream)


def test_device_memory_of_contexts_is_taken_and_given_back():
    trt = Trt()
    engine = trt.engine(graph())
    with trt.driver.active():
        before = trt.driver.memory()[0]
        context = engine.create_execution_context()
        assert trt.driver.memory()[0] == before - engine.device_memory_size_v2
        gone = weakref.ref(context)
        del context
        gc.collect()
        assert gone() is None
        assert trt.driver.memory()[0] == before


def test_contexts_of_the_old_version_do_not_share_a_profile():
    trt = Trt("8.5.3.1")
    engine = trt.engine(graph(DYNAMIC), *RANGE)
    with trt.driver.active():
        stream = trt.driver.create_stream()
        first, second = engine.create_execution_context(), engine.create_execution_context()
        assert first.set_optimization_profile_async(0, stream)
        with pytest.raises(RuntimeError):
            second.set_optimization_profile_async(0, stream)
        assert "chosen by another" in trt.logger.lines[-1]
        assert not second.set_input_shape("frames_in", RANGE[0])


# What cannot be built or loaded


@every_version
def test_without_a_gpu_nothing_is_made(version):
    module = make(version)
    for kind in (module.Builder, module.Runtime):
        with pytest.raises(TypeError, match="factory function returned nullptr"):
            kind(module.Logger())


@pytest.mark.parametrize(
    ("version", "model", "flags", "typed", "text"),
    [
        ("8.5.3.1", graph(element=TensorProto.FLOAT16), [], None, "fp16 precision has been set"),
        ("10.13.3.9", graph(element=TensorProto.FLOAT16), [], 0, "fp16 precision has been set"),
        ("10.13.3.9", graph(element=TensorProto.FLOAT16), ["FP16"], None, "must not be set"),
        (NEWEST, graph(operator="Relu", size=(1, 4000, 4000)), [], None, "out of memory"),
    ],
)
def test_what_cannot_be_built_says_why(version, model, flags, typed, text):
    trt = Trt(version)
    assert trt.build(model, flags=flags, typed=typed) is None
    assert trt.logger.lines[-1].startswith("ERROR IBuilder::buildSerializedNetwork")
    assert text in trt.logger.lines[-1]


@pytest.mark.parametrize(
    ("version", "model", "flags", "text"),
    [
        ("8.5.3.1", graph(), 0, "explicit batch"),
        ("8.5.3.1", graph(element=TensorProto.BFLOAT16), None, "BFLOAT16"),
        (NEWEST, b"not ONNX at all", None, "Failed to parse"),
    ],
)
def test_what_cannot_be_parsed_says_why(version, model, flags, text):
    trt = Trt(version)
    assert not trt.parse(model, flags)
    assert text in trt.parser.get_error(0).desc()


def test_plans_belong_to_a_version_and_a_kind_of_gpu():
    plan = Trt().build(graph())
    assert Trt("10.16.1.11").load(plan) is None
    other = Trt(driver=FakeDriver(replace(FACTS, compute_capability=(8, 6))))
    assert other.load(plan) is None
    assert "incompatible device" in other.logger.lines[-1]
    full = Trt(driver=FakeDriver(replace(FACTS, total_memory=30)))
    assert full.load(plan) is None
    assert "OutOfMemory" in full.logger.lines[-1]


@pytest.mark.parametrize("damage", [lambda plan: plan[:-1], lambda plan: b"vtrt" + plan[4:], lambda plan: b"text"])
def test_damaged_plans_end_the_process(damage):
    trt = Trt()
    plan = trt.build(graph())
    with pytest.raises(SegmentationFault):
        trt.load(damage(plan))
    with pytest.raises(SegmentationFault, match="before this"):
        trt.load(plan)
    assert not issubclass(SegmentationFault, Exception)


def test_timing_caches_are_filled_bound_to_a_machine_and_deadly_when_damaged():
    trt = Trt()
    cache = trt.config.create_timing_cache(b"")
    assert trt.config.set_timing_cache(cache, ignore_mismatch=False)
    empty = bytes(cache.serialize())
    trt.build(graph())
    filled = bytes(trt.config.get_timing_cache().serialize())
    assert len(filled) > len(empty)
    elsewhere = Trt(driver=FakeDriver(replace(FACTS, name="Other GPU")))
    assert not elsewhere.config.set_timing_cache(elsewhere.config.create_timing_cache(filled), ignore_mismatch=False)
    with pytest.raises(SegmentationFault):
        trt.config.create_timing_cache(filled[:-1])


# Refit


@pytest.fixture
def refit():
    """(trt, engine, context, refitter) of an engine that can be refitted."""
    trt = Trt()
    engine = trt.engine(graph(), flags=["REFIT"])
    with trt.driver.active():
        yield trt, engine, engine.create_execution_context(), trt.api.Refitter(engine, trt.logger)


def test_refit_changes_results(refit, frames):
    trt, _, context, refitter = refit
    np.testing.assert_array_equal(trt.run(context, frames), expected(frames))
    assert sorted(refitter.get_all_weights()) == ["bias", "kernel"]
    kernel, bias = np.full((3, 3, 1, 1), 1 / 3, np.float32), np.full(3, 20, np.float32)
    assert refitter.set_named_weights("bias", bias)
    assert refitter.get_missing_weights() == ["kernel"]
    assert not refitter.refit_cuda_engine()
    assert refitter.set_named_weights("kernel", kernel)
    bias[:] = 30  # read when the engine is refitted, not before
    assert refitter.refit_cuda_engine()
    np.testing.assert_array_equal(trt.run(context, frames), expected(frames, bias=30))


def test_refit_refuses_other_names_types_and_sizes(refit):
    trt, _, _, refitter = refit
    assert not refitter.set_named_weights("scales", np.zeros(4, np.float32))
    assert not refitter.set_named_weights("bias", np.zeros(3, np.float16))
    assert not refitter.set_named_weights("bias", np.zeros(4, np.float32))
    with pytest.raises(TypeError, match="nullptr"):
        trt.api.Refitter(Trt().engine(graph()), trt.logger)


def test_refit_reads_weights_that_must_still_be_there(refit):
    _, _, _, refitter = refit
    refitter.set_named_weights("bias", np.zeros(3, np.float32))
    refitter.set_named_weights("kernel", np.zeros((3, 3, 1, 1), np.float32))
    with pytest.raises(SegmentationFault, match="given back"):
        refitter.refit_cuda_engine()


def test_refit_waits_for_no_one(refit, frames):
    trt, _, context, refitter = refit
    trt.driver._scheduler._eagerness = 0
    trt.bind(context, frames)
    context.execute_async_v3(trt.driver.create_stream())
    weights = {"bias": np.zeros(3, np.float32), "kernel": np.zeros((3, 3, 1, 1), np.float32)}
    for name, array in weights.items():
        refitter.set_named_weights(name, array)
    with pytest.raises(CudaBug, match="refitted while 'execution' in flight"):
        refitter.refit_cuda_engine()
