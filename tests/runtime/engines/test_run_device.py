"""`run_device`: frames stay on the GPU, in the order of the caller's streams."""

import ctypes
import gc
import weakref

import numpy as np
import pytest
from onnx import helper

from esrgan_deploy import ClosedError, MachineError, ModelInfo, OptionError
from esrgan_deploy.cuda import dlpack
from esrgan_deploy.cuda.arrays import LEGACY
from fake_cuda import FakeDriver
from fake_gpu import doubled, fake_machine, random_frames
from gpu_arrays import LentOnGpu, OnGpu
from tiny_onnx import write_onnx

HERE = (dlpack.CPU, 0)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "engines"


def on_gpu(driver, frames, kind=OnGpu, **changes):
    return kind(driver.upload(frames), frames.shape, frames.dtype.str, **changes)


def download(driver, result, stream):
    with driver.active():
        driver.synchronize_stream(stream)
    return driver.download(result.address, result.shape, result.dtype)


class Gpu(FakeDriver):
    """Remembers what callers have made, so that it can be given back."""

    def __init__(self, **options):
        super().__init__(**options)
        self.uploads = set()
        self.foreign = []

    def upload(self, array):
        address = super().upload(array)
        self.uploads.add(address)
        return address

    def caller_stream(self):
        with self.active():
            self.foreign.append(self.create_stream())
        return self.foreign[-1]

    def clean(self):
        with self.active():
            self.synchronize_stream(LEGACY)
            for stream in self.foreign:
                self.destroy_stream(stream)
            for address in self.uploads:
                self.free(address)


@pytest.fixture
def machine(cache, request):
    driver = Gpu(seed=getattr(request, "param", 0))
    with fake_machine(cache, driver=driver) as machine:
        yield machine
        driver.clean()


@pytest.mark.parametrize("machine", range(5), indirect=True)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", [OnGpu, LentOnGpu])
def test_frames_stay_on_the_gpu(machine, unshuffle_x2, rng, dtype, kind):
    driver = machine.driver
    stream = driver.caller_stream()
    with machine.session(unshuffle_x2) as session:
        batches = [random_frames(rng, 2, 6, 8, dtype) for _ in range(6)]
        results = [session.run_device(on_gpu(driver, frames, kind), stream=stream) for frames in batches]
        for frames, result in zip(batches, results, strict=True):
            np.testing.assert_array_equal(download(driver, result, stream), doubled(frames))
    assert (driver.counters.copies_in, driver.counters.copies_out) == (0, 0)


def test_nothing_is_waited_for(machine, unshuffle_x2, rng):
    driver = machine.driver
    driver._eagerness = 0.0  # work runs when somebody waits, and not before
    stream = driver.caller_stream()
    with machine.session(unshuffle_x2) as session:
        frames = random_frames(rng, 1, 4, 4)
        session.prepare((1, 4, 4), "uint8")
        result = session.run_device(on_gpu(driver, frames), stream=stream)
        assert driver.counters.executions == 0
        np.testing.assert_array_equal(download(driver, result, stream), doubled(frames))


def test_the_default_stream_is_ordered_too(machine, unshuffle_x2, rng):
    driver = machine.driver
    with machine.session(unshuffle_x2) as session:
        for _ in range(3):
            frames = random_frames(rng, 1, 4, 4)
            result = session.run_device(on_gpu(driver, frames))
            assert result.stream == LEGACY
            np.testing.assert_array_equal(download(driver, result, LEGACY), doubled(frames))


@pytest.mark.parametrize("machine", range(10), indirect=True)
def test_calls_on_different_streams_do_not_disturb_each_other(machine, unshuffle_x2, rng):
    """They share one execution context; the fake GPU raises where nothing orders them."""
    driver = machine.driver
    streams = [driver.caller_stream(), driver.caller_stream(), LEGACY]
    with machine.session(unshuffle_x2) as session:
        batches = [(random_frames(rng, 1, 4, 4), streams[index % 3]) for index in range(9)]
        results = [session.run_device(on_gpu(driver, frames), stream=stream) for frames, stream in batches]
        for (frames, stream), result in zip(batches, results, strict=True):
            np.testing.assert_array_equal(download(driver, result, stream), doubled(frames))


@pytest.mark.parametrize("machine", range(5), indirect=True)
def test_host_and_device_frames_in_turn(machine, unshuffle_x2, rng):
    driver = machine.driver
    stream = driver.caller_stream()
    with machine.session(unshuffle_x2, streams=2) as session:
        for _ in range(4):
            host, device = random_frames(rng, 1, 4, 4), random_frames(rng, 1, 4, 4)
            future = session.submit(host)
            result = session.run_device(on_gpu(driver, device), stream=stream)
            np.testing.assert_array_equal(future.result(), doubled(host))
            np.testing.assert_array_equal(download(driver, result, stream), doubled(device))
            larger = random_frames(rng, 1, 8, 6)  # another engine
            np.testing.assert_array_equal(session.run(larger), doubled(larger))


@pytest.mark.parametrize("machine", range(10), indirect=True)
def test_the_stream_of_the_producer_is_waited_for(machine, unshuffle_x2, rng):
    driver = machine.driver
    producing, stream = driver.caller_stream(), driver.caller_stream()
    frames = random_frames(rng, 1, 4, 4)
    with driver.active():
        pinned = driver.allocate_pinned(frames.nbytes)
        (ctypes.c_uint8 * frames.nbytes).from_address(pinned)[:] = frames.tobytes()
    with machine.session(unshuffle_x2) as session:
        session.prepare((1, 4, 4), "uint8")
        source = on_gpu(driver, np.zeros_like(frames), stream=producing)
        with driver.active():
            driver.copy_in(source.__cuda_array_interface__["data"][0], pinned, frames.nbytes, producing)
        result = session.run_device(source, stream=stream)
        np.testing.assert_array_equal(download(driver, result, stream), doubled(frames))
    with driver.active():
        driver.free_pinned(pinned)


def test_a_dlpack_producer_is_told_the_stream(machine, unshuffle_x2, rng):
    stream = machine.driver.caller_stream()
    with machine.session(unshuffle_x2) as session:
        source = on_gpu(machine.driver, random_frames(rng, 1, 4, 4), LentOnGpu)
        session.run_device(source, stream=stream)
        session.run_device(source)
    assert source.streams == [stream, LEGACY]


def test_a_producer_whose_interface_names_no_stream_orders_itself(machine, unshuffle_x2, rng):
    """torch: version 2 of the CUDA Array Interface, and DLPack."""
    stream = machine.driver.caller_stream()
    with machine.session(unshuffle_x2) as session:
        frames = random_frames(rng, 1, 4, 4)
        source = on_gpu(machine.driver, frames, LentOnGpu)
        source.__cuda_array_interface__ = OnGpu(source.view.address, frames.shape).__cuda_array_interface__
        session.run_device(source, stream=stream)
        source.__cuda_array_interface__["stream"] = stream
        session.run_device(source, stream=stream)
    assert source.streams == [stream]


def test_the_result_goes_where_the_caller_wants_it(machine, unshuffle_x2, rng):
    driver = machine.driver
    stream = driver.caller_stream()
    frames = random_frames(rng, 2, 4, 4, np.uint16)
    target = on_gpu(driver, np.zeros((2, 8, 8, 3), np.uint16))
    with machine.session(unshuffle_x2) as session:
        result = session.run_device(on_gpu(driver, frames), target, stream=stream)
        assert result.address == target.__cuda_array_interface__["data"][0]
        np.testing.assert_array_equal(download(driver, result, stream), doubled(frames))
        for shape, dtype in (((2, 8, 8, 3), np.uint8), ((1, 8, 8, 3), np.uint16)):
            with pytest.raises(OptionError, match=r"out: is .* the result is uint16 of shape \(2, 8, 8, 3\)"):
                session.run_device(on_gpu(driver, frames), on_gpu(driver, np.zeros(shape, dtype)), stream=stream)


@pytest.mark.parametrize("own", [True, False])
def test_a_result_that_is_passed_back_in_piles_up_nothing(machine, unshuffle_x2, rng, own):
    driver = machine.driver
    stream = driver.caller_stream()
    frames = random_frames(rng, 1, 4, 4)
    with machine.session(unshuffle_x2) as session:
        source = on_gpu(driver, frames)
        target = None if own else on_gpu(driver, np.zeros((1, 8, 8, 3), np.uint8))
        result = session.run_device(source, target, stream=stream)
        first = weakref.ref(result)
        for _ in range(3):
            result = session.run_device(source, out=result, stream=stream)
        before = driver.counters.allocations
        for _ in range(5):
            result = session.run_device(source, out=result, stream=stream)
        assert first() is None
        assert driver.counters.allocations == before
        np.testing.assert_array_equal(download(driver, result, stream), doubled(frames))


def test_memory_of_results_is_used_again_on_the_same_stream_only(machine, unshuffle_x2, rng):
    driver = machine.driver
    one, other = driver.caller_stream(), driver.caller_stream()
    source = on_gpu(driver, random_frames(rng, 1, 4, 4))
    with machine.session(unshuffle_x2) as session:
        first = session.run_device(source, stream=one).address
        assert session.run_device(source, stream=other).address != first
        assert session.run_device(source, stream=one).address == first
        before = driver.counters.allocations
        for _ in range(5):
            session.run_device(source, stream=one)
        assert driver.counters.allocations == before


def test_results_outlive_the_session_and_whoever_took_them(machine, unshuffle_x2, rng):
    driver = machine.driver
    frames = random_frames(rng, 1, 4, 4)
    with machine.session(unshuffle_x2) as session:
        result = session.run_device(on_gpu(driver, frames))
    borrowed = dlpack.ImportedArray(result.__dlpack__(stream=None))
    assert result.__dlpack_device__() == borrowed.view.device == (dlpack.CUDA, 0)
    assert borrowed.view.shape == (1, 8, 8, 3)
    del result
    gc.collect()
    np.testing.assert_array_equal(driver.download(borrowed.view.address, (1, 8, 8, 3), np.uint8), doubled(frames))
    del borrowed
    gc.collect()
    assert driver._memory.kept() == {"device memory": 1}, "the uploaded frames alone"


@pytest.mark.parametrize("machine", range(10), indirect=True)
def test_consumers_by_dlpack_are_ordered_after_the_result(machine, unshuffle_x2, rng):
    driver = machine.driver
    stream, consuming = driver.caller_stream(), driver.caller_stream()
    frames = random_frames(rng, 1, 4, 4)
    with driver.active():
        pinned = driver.allocate_pinned(4 * frames.nbytes)
    with machine.session(unshuffle_x2) as session:
        result = session.run_device(on_gpu(driver, frames), stream=stream)
        assert result.__cuda_array_interface__["stream"] == stream
        borrowed = dlpack.ImportedArray(result.__dlpack__(stream=consuming))
        with driver.active():
            driver.copy_out(pinned, borrowed.view.address, 4 * frames.nbytes, consuming)
            driver.synchronize_stream(consuming)
        seen = np.frombuffer(ctypes.string_at(pinned, 4 * frames.nbytes), np.uint8).reshape(1, 8, 8, 3)
        np.testing.assert_array_equal(seen, doubled(frames))
    with driver.active():
        driver.free_pinned(pinned)


def test_a_copy_or_another_device_is_not_to_be_had(machine, unshuffle_x2, rng):
    with machine.session(unshuffle_x2) as session:
        result = session.run_device(on_gpu(machine.driver, random_frames(rng, 1, 4, 4)))
        for asked in ({"copy": True}, {"dl_device": (dlpack.CPU, 0)}):
            with pytest.raises(BufferError):
                result.__dlpack__(**asked)


def test_batches_larger_than_the_engines_are_split_where_they_lie(machine, unshuffle_x2, rng):
    """32 x 32 frames, since each batch must begin at a multiple of 256 bytes; the last one overlaps."""
    driver = machine.driver
    stream = driver.caller_stream()
    with machine.session(unshuffle_x2, batch=2) as session:
        for count in (2, 4, 5):
            frames = random_frames(rng, count, 32, 32)
            result = session.run_device(on_gpu(driver, frames), stream=stream)
            np.testing.assert_array_equal(download(driver, result, stream), doubled(frames))
        with pytest.raises(OptionError, match="batches of 2 frames, and 1 came"):
            session.run_device(on_gpu(driver, random_frames(rng, 1, 32, 32)), stream=stream)
        with pytest.raises(OptionError, match="multiple of 256 bytes"):
            session.run_device(on_gpu(driver, random_frames(rng, 4, 4, 6)), stream=stream)


def test_a_dynamic_engine_takes_fewer_frames(machine, unshuffle_x2, rng):
    driver = machine.driver
    stream = driver.caller_stream()
    path = machine.engine(unshuffle_x2, (1, 4, 4), (2, 8, 8), (4, 16, 16))
    with machine.session(path, batch=4) as session:
        for count, height in ((4, 8), (3, 8), (1, 4)):
            frames = random_frames(rng, count, height, 8)
            result = session.run_device(on_gpu(driver, frames), stream=stream)
            np.testing.assert_array_equal(download(driver, result, stream), doubled(frames))


def test_memory_that_tensorrt_does_not_take_is_refused(machine, unshuffle_x2, rng):
    driver = machine.driver
    address = driver.upload(np.zeros(1000, np.uint8))
    with machine.session(unshuffle_x2) as session, pytest.raises(OptionError, match=r"frames: .* multiple of 256"):
        session.run_device(OnGpu(address + 64, (1, 4, 4, 3)))


def test_sizes_that_need_padding_are_refused(machine, unshuffle_x2, rng):
    with machine.session(unshuffle_x2) as session, pytest.raises(OptionError, match="multiples of 2, not 5x4"):
        session.run_device(on_gpu(machine.driver, random_frames(rng, 1, 4, 5)))


def test_frames_of_a_network_that_overflowed_are_found_when_asked(machine, tmp_path, rng):
    nodes = [
        helper.make_node("Div", ["input", "input"], ["ones"]),
        helper.make_node("Mul", ["ones", "input"], ["same"]),
        helper.make_node("Clip", ["same", "zero", "one"], ["output"]),
    ]
    limits = {"zero": np.float32(0), "one": np.float32(1)}
    model = write_onnx(tmp_path / "nan.onnx", nodes, limits, ModelInfo(1))
    good = rng.integers(1, 256, (2, 16, 16, 3)).astype(np.uint8)
    bad = good.copy()
    bad[1, 2, 3, 0] = 0
    with machine.session(model, batch=1) as session:
        session.run_device(on_gpu(machine.driver, good)).check()
        result = session.run_device(on_gpu(machine.driver, bad))
        with pytest.raises(MachineError, match="--bf16"):
            result.check()
    with pytest.raises(ClosedError, match="closed"):
        result.check()


def test_a_closed_session_runs_nothing(machine, unshuffle_x2, rng):
    session = machine.session(unshuffle_x2)
    session.close()
    with pytest.raises(ClosedError, match="closed"):
        session.run_device(on_gpu(machine.driver, random_frames(rng, 1, 4, 4)))


def test_alpha_waits_for_frames_on_the_device(machine, tmp_path):
    import gain_pair

    model = gain_pair.write_model(tmp_path / "pair.onnx", 0.8)
    driver = machine.driver
    stream = driver.caller_stream()
    with machine.session(model, refit=True) as session:
        before = session.run_device(on_gpu(driver, gain_pair.GREY), stream=stream)
        session.set_alpha(0.0)
        after = session.run_device(on_gpu(driver, gain_pair.GREY), stream=stream)
        for result, alpha in ((before, 0.8), (after, 0.0)):
            difference = download(driver, result, stream).astype(int) - gain_pair.expected(gain_pair.GREY, alpha)
            assert np.abs(difference).max() <= 1
