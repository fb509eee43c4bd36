"""TensorRTSession on a GPU that does things in every order that CUDA allows; results against numpy and onnxruntime."""

import gc
import logging
from concurrent.futures import Future

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from onnx import helper

import fake_tensorrt
from esrgan_deploy import MachineError, ModelInfo, open_session
from esrgan_deploy.cuda.pool import Pool
from esrgan_deploy.engine.build.graph import frame_graph
from esrgan_deploy.engine.options import EngineOptions, Profile
from esrgan_deploy.engine.run.host_streams import IN_FLIGHT
from esrgan_deploy.model import load_onnx
from esrgan_deploy.models import COMPACT_CLEAN
from fake_cuda import FakeDriver
from fake_gpu import doubled, fake_machine, random_frames
from fake_tensorrt.data import open_session as open_alone
from tiny_onnx import write_onnx


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "engines"


@pytest.mark.parametrize("version", fake_tensorrt.VERSIONS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_frames_go_through_every_tensorrt(cache, unshuffle_x2, rng, version, dtype):
    with fake_machine(cache, version=version) as machine, machine.session(unshuffle_x2, batch=2) as session:
        for count in (2, 1, 5):
            frames = random_frames(rng, count, 6, 8, dtype)
            future = session.submit(frames)
            assert isinstance(future, Future)
            result = future.result()
            assert result.dtype == dtype
            np.testing.assert_array_equal(result, doubled(frames))


@pytest.mark.parametrize("frames", ["uint8", "uint16"])
def test_results_are_those_of_the_graph_bit_for_bit(cache, rng, frames):
    """The network that ships, several frames on their way at once, against the same graph run by itself."""
    batches = [random_frames(rng, 2, 20, 28, np.dtype(frames)) for _ in range(8)]
    options = EngineOptions(Profile.fixed(2, 20, 28), frames)
    alone = open_alone(frame_graph(load_onnx(COMPACT_CLEAN)[0], options))
    with fake_machine(cache) as machine, machine.session(COMPACT_CLEAN, streams=2) as session:
        results = [future.result() for future in [session.submit(batch) for batch in batches]]
    for batch, result in zip(batches, results, strict=True):
        (expected,) = alone.run(["frames_out"], {"frames_in": batch.view(np.uint8)})
        np.testing.assert_array_equal(result, expected.view(batch.dtype))


def test_results_are_those_of_the_onnx_runtime_session(cache, rng):
    """But for rounding: onnxruntime optimises its graph, which has no second output, in another way."""
    batch = random_frames(rng, 2, 20, 28)
    with fake_machine(cache) as machine, machine.session(COMPACT_CLEAN) as session:
        difference = session.run(batch).astype(int)
    with open_session(COMPACT_CLEAN, "ort") as session:
        difference -= session.run(batch)
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() < 0.001


@hypothesis_settings(max_examples=15)
@given(
    seed=st.integers(0, 10_000),
    eagerness=st.sampled_from([0.0, 0.2, 0.7]),
    streams=st.integers(1, 3),
    batch=st.integers(1, 3),
    counts=st.lists(st.integers(1, 7), min_size=1, max_size=12),
    graphs=st.booleans(),
)
def test_any_schedule_gives_the_same(tmp_path_factory, unshuffle_x2, seed, eagerness, streams, batch, counts, graphs):
    """Data races show as wrong pixels here, since the checker of races is off."""
    rng = np.random.default_rng(seed)
    batches = [random_frames(rng, count, 4, 6) for count in counts]
    options = {"seed": seed, "eagerness": eagerness, "graphs": graphs, "detect_races": False}
    folder = tmp_path_factory.getbasetemp() / "any-schedule"  # one cache: engines are built once
    with fake_machine(folder, **options) as machine:
        with machine.session(unshuffle_x2, streams=streams, batch=batch) as session:
            futures = [session.submit(frames) for frames in batches]
        results = [future.result() for future in futures]
        for frames, result in zip(batches, results, strict=True):
            np.testing.assert_array_equal(result, doubled(frames))


@pytest.mark.parametrize("seed", range(8))
def test_nothing_races(cache, unshuffle_x2, rng, seed):
    """The fake GPU raises at two accesses to the same bytes that nothing orders."""
    batches = [random_frames(rng, count, 4, 6) for count in (2, 2, 5, 1, 2, 2, 2, 2)]
    with fake_machine(cache, seed=seed) as machine, machine.session(unshuffle_x2, streams=2, batch=2) as session:
        for future in [session.submit(frames) for frames in batches]:
            future.result()


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 8), (8, 5), (1, 1), (7, 13)])
def test_sizes_that_the_network_cannot_take_are_padded_and_cropped(cache, unshuffle_x2, rng, height, width):
    frames = random_frames(rng, 3, height, width)
    with fake_machine(cache) as machine, machine.session(unshuffle_x2, batch=2) as session:
        np.testing.assert_array_equal(session.run(frames), doubled(frames))


def test_padding_repeats_the_edge(cache, tmp_path, rng):
    """What a network sees beyond the edge shows in its result: here the mean of each 2x2 block."""
    weight = np.zeros((3, 3, 2, 2), np.float32)
    for channel in range(3):
        weight[channel, channel] = 0.25
    nodes = [
        helper.make_node("Conv", ["input", "weight"], ["means"], strides=[2, 2]),
        helper.make_node("Resize", ["means", "", "scales"], ["output"], mode="nearest"),
    ]
    weights = {"weight": weight, "scales": np.array([1, 1, 4, 4], np.float32)}
    model = write_onnx(tmp_path / "means.onnx", nodes, weights, ModelInfo(scale=2, multiple_of=2))
    frames = random_frames(rng, 2, 5, 7)
    with fake_machine(cache) as machine, machine.session(model, batch=3) as session:
        result = session.run(frames)
    with open_session(model, "ort") as session:
        np.testing.assert_array_equal(result, session.run(frames))


def test_result_does_not_depend_on_the_batch(cache, rng):
    frames = random_frames(rng, 7, 12, 16)
    with fake_machine(cache) as machine, machine.session(COMPACT_CLEAN, batch=3) as session:
        together = session.run(frames)
        alone = np.concatenate([session.run(frames[index : index + 1]) for index in range(7)])
    np.testing.assert_array_equal(together, alone)


def test_batches_and_parts_of_them_come_back_in_order(cache, unshuffle_x2):
    """Each frame holds its number."""
    frames = np.arange(60, dtype=np.uint8).reshape(-1, 1, 1, 1) + np.zeros((1, 4, 4, 3), np.uint8)
    with fake_machine(cache, seed=11) as machine, machine.session(unshuffle_x2, batch=4, streams=2) as session:
        futures = [session.submit(frames[start : start + 10]) for start in range(0, 60, 10)]
        numbers = [number for future in futures for number in future.result()[:, 0, 0, 0].tolist()]
    assert numbers == list(range(60))


def test_a_steady_stream_allocates_nothing_and_copies_each_byte_once(cache, unshuffle_x2, rng):
    frames = random_frames(rng, 2, 6, 8)
    with fake_machine(cache) as machine, machine.session(unshuffle_x2, streams=2) as session:
        counters = machine.driver.counters

        def stream(count):
            waiting = []
            for _ in range(count):
                waiting.append(session.submit(frames))
                if len(waiting) == 4:
                    np.testing.assert_array_equal(waiting.pop(0).result(), doubled(frames))
            for future in waiting:
                future.result()

        stream(30)
        gc.collect()
        before = (counters.allocations, counters.pinned_allocations)
        copies = (counters.bytes_in, counters.bytes_out)
        stream(40)
        assert (counters.allocations, counters.pinned_allocations) == before
        means = 2 * 4
        assert counters.bytes_in - copies[0] == 40 * frames.nbytes
        assert counters.bytes_out - copies[1] == 40 * (4 * frames.nbytes + means)


def test_a_result_is_the_memory_that_the_gpu_wrote(cache, unshuffle_x2, rng):
    """No copy on the host on the way out, also not where the result is cropped."""
    with fake_machine(cache) as machine, machine.session(unshuffle_x2) as session:
        result = session.run(random_frames(rng, 1, 5, 7))
        machine.driver._memory.check(result.ctypes.data, 1, pinned=True)


def test_only_frames_that_exist_are_copied_out(cache, unshuffle_x2, rng):
    frames = random_frames(rng, 1, 6, 8)
    with fake_machine(cache) as machine, machine.session(unshuffle_x2, batch=4) as session:
        session.run(frames)
        assert machine.driver.counters.bytes_out == 4 * frames.nbytes + 4 * 4


def test_results_live_while_they_are_used_and_no_longer(cache, unshuffle_x2, rng):
    frames = random_frames(rng, 1, 4, 4)
    with fake_machine(cache) as machine:
        with machine.session(unshuffle_x2) as session:
            kept = session.run(frames)[:, 2:5]
            for _ in range(8):
                session.run(random_frames(rng, 1, 4, 4))
        np.testing.assert_array_equal(kept, doubled(frames)[:, 2:5])
        assert machine.driver._memory.kept() == {"pinned memory": 1}
        del kept
        gc.collect()
        assert machine.driver._memory.kept() == {}


def test_the_last_result_closes_the_driver():
    driver, closed = FakeDriver(), []
    pool = Pool(driver, lambda: closed.append(driver.close()))
    with driver.active():
        blocks = [pool.take(None, 64), pool.take(None, 64), pool.take(0x5000, 64)]
    view = blocks[0].array((4, 4), np.uint16)[1:]
    pool.close()
    del blocks
    gc.collect()
    assert not closed
    del view
    gc.collect()
    assert closed == [None]
    assert driver.leaked == {}


def test_the_pool_gives_the_smallest_block_that_is_large_enough():
    driver = FakeDriver()
    pool = Pool(driver, lambda: None)
    with driver.active():
        small, large = pool.take(None, 10), pool.take(None, 100)
        addresses = {small.address: "small", large.address: "large"}
        del small, large
        second = pool.take(None, 8)
        assert addresses[second.address] == "small"
        assert addresses[pool.take(None, 11).address] == "large"
        assert driver.counters.pinned_allocations == 2
        pool.take(None, 1000)
        assert driver._memory.kept() == {"pinned memory": 2}, "what is too small is freed before more is allocated"
    del second
    pool.close()
    driver.close()
    assert driver.leaked == {}


# --- CUDA graphs ---


def test_each_slot_is_captured_once_after_a_warm_up(cache, unshuffle_x2, rng):
    with fake_machine(cache) as machine, machine.session(unshuffle_x2, streams=2) as session:
        futures = [session.submit(random_frames(rng, 1, 4, 4)) for _ in range(30)]
        for future in futures:
            future.result()
        counters = machine.driver.counters
        assert counters.captures == 2 * IN_FLIGHT
        assert counters.executions == 30
        assert counters.launches == 30 - 2  # one warm-up in each stream


def test_a_driver_without_graphs_launches_none(cache, unshuffle_x2, rng):
    with fake_machine(cache, graphs=False) as machine, machine.session(unshuffle_x2) as session:
        for _ in range(5):
            session.run(random_frames(rng, 1, 4, 4))
        assert (machine.driver.counters.launches, machine.driver.counters.executions) == (0, 5)


class NoCapture(FakeDriver):
    """Captures begin, and never succeed."""

    def end_capture(self, stream):
        self.destroy_graph(super().end_capture(stream))
        raise MachineError("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")


def test_where_capture_fails_batches_are_launched_plainly_and_that_is_said_once(cache, unshuffle_x2, rng, caplog):
    caplog.set_level(logging.INFO, "esrgan_deploy")
    frames = random_frames(rng, 1, 4, 4)
    with fake_machine(cache, driver=NoCapture()) as machine, machine.session(unshuffle_x2) as session:
        for _ in range(8):
            np.testing.assert_array_equal(session.run(frames), doubled(frames))
        assert machine.driver.counters.captures == 1
    assert caplog.text.count("no CUDA graphs") == 1


@pytest.mark.parametrize("version", fake_tensorrt.VERSIONS)
def test_a_dynamic_engine_takes_all_its_shapes(cache, unshuffle_x2, rng, version):
    """Shapes in turn: what was captured of one must not run for another."""
    with fake_machine(cache, version=version) as machine:
        path = machine.engine(unshuffle_x2, (1, 4, 4), (2, 6, 8), (3, 8, 10))
        with machine.session(path, batch=2) as session:
            for _ in range(2):
                for height, width in ((4, 4), (8, 10), (6, 8)):
                    batches = [random_frames(rng, count, height, width) for count in (2, 2, 2, 2, 3)]
                    for frames, future in [(frames, session.submit(frames)) for frames in batches]:
                        np.testing.assert_array_equal(future.result(), doubled(frames))
            assert machine.driver.counters.launches > 0


def test_the_old_tensorrt_runs_a_dynamic_engine_in_one_lane_only(cache, unshuffle_x2, rng):
    with fake_machine(cache, version="8.5.3.1") as machine:
        path = machine.engine(unshuffle_x2, (1, 4, 4), (1, 6, 8), (1, 8, 10))
        words = "use one stream, or build it for one shape"
        with machine.session(path, streams=2) as session, pytest.raises(MachineError, match=words):
            session.run(random_frames(rng, 1, 4, 4))
