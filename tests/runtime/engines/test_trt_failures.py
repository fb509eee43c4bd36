"""A TensorRTSession whose device fails midway, whose network overflows, or that is closed with work in flight."""

import threading
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
from onnx import helper

from esrgan_deploy import ClosedError, MachineError, ModelInfo, OptionError
from esrgan_deploy.engine.run.workers import Workers
from fake_cuda import FakeDriver
from fake_gpu import doubled, fake_machine, random_frames
from tiny_onnx import write_onnx


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "engines"


@pytest.mark.parametrize("streams", [1, 2])
def test_a_network_that_overflows_stops_the_run_with_the_remedy(cache, tmp_path, rng, streams):
    """0 / 0 where a frame is black; a Clip turns the NaN into an ordinary value."""
    nodes = [
        helper.make_node("Div", ["input", "input"], ["ones"]),
        helper.make_node("Mul", ["ones", "input"], ["same"]),
        helper.make_node("Clip", ["same", "zero", "one"], ["output"]),
    ]
    model = write_onnx(
        tmp_path / "nan.onnx", nodes, {"zero": np.float32(0), "one": np.float32(1)}, ModelInfo(1, "fp32")
    )
    good = rng.integers(1, 256, (2, 4, 4, 3)).astype(np.uint8)
    with fake_machine(cache) as machine, machine.session(model, streams=streams) as session:
        np.testing.assert_array_equal(session.run(good), good)
        bad = good.copy()
        bad[1, 2, 3, 0] = 0
        with pytest.raises(MachineError, match="NaN or infinite") as caught:
            session.run(np.concatenate([good, bad]))
        assert "--bf16" in str(caught.value)
        assert "nan" in str(caught.value)
        with pytest.raises(MachineError, match="NaN or infinite"):
            session.run(bad[1:])


class Failing(FakeDriver):
    """From the n-th call of one method on, that method fails."""

    def __init__(self, method, after, **options):
        super().__init__(**options)
        self.calls = 0
        whole = getattr(super(), method)

        def failing(*arguments):
            self.calls += 1
            if self.calls > after:
                raise MachineError("CUDA_ERROR_ILLEGAL_ADDRESS")
            return whole(*arguments)

        setattr(self, method, failing)


@pytest.mark.parametrize("method", ["copy_in", "copy_out", "record", "wait", "launch"])
@pytest.mark.parametrize("after", [0, 5, 12])
def test_a_failure_midway_reaches_the_futures_and_close_returns(cache, unshuffle_x2, rng, method, after):
    frames = random_frames(rng, 3, 4, 4)
    with fake_machine(cache, driver=Failing(method, after)) as machine:
        with machine.session(unshuffle_x2, batch=1, streams=2) as session:
            futures = [session.submit(frames) for _ in range(20)]
            outcomes = [future.exception() for future in futures]
            with pytest.raises(MachineError, match="failed before: CUDA_ERROR_ILLEGAL_ADDRESS"):
                session.run(frames)
        assert outcomes[-1] is not None
        first = next(index for index, outcome in enumerate(outcomes) if outcome)
        assert isinstance(outcomes[first], MachineError)
        for future in futures[:first]:
            np.testing.assert_array_equal(future.result(), doubled(frames))


@pytest.mark.parametrize("after", [0, 3])
def test_a_failure_while_waiting_reaches_the_future(cache, unshuffle_x2, rng, after):
    frames = random_frames(rng, 1, 4, 4)
    driver = Failing("synchronize", after)
    with fake_machine(cache, driver=driver) as machine, machine.session(unshuffle_x2) as session:
        outcomes = [future.exception() for future in [session.submit(frames) for _ in range(8)]]
    assert [outcome is None for outcome in outcomes] == [index < after for index in range(8)]
    assert all(isinstance(outcome, MachineError) for outcome in outcomes[after:])


def test_tensorrt_that_fails_to_enqueue_says_why(cache, unshuffle_x2, rng, monkeypatch):
    from esrgan_deploy.engine.run import execution

    monkeypatch.setattr(execution, "MEAN", execution.INPUT)  # so that the address of the means is missing
    with fake_machine(cache) as machine:
        path = machine.engine(unshuffle_x2, (1, 4, 4))
        monkeypatch.setattr(execution.Engine, "_check_tensors", lambda engine: None)
        words = r"failed on a batch of 1x4x4: .*mean.*setTensorAddress"
        with machine.session(path) as session, pytest.raises(MachineError, match=words):
            session.run(random_frames(rng, 1, 4, 4))


def test_close_finishes_what_was_submitted(cache, unshuffle_x2, rng):
    batches = [random_frames(rng, 3, 4, 4) for _ in range(12)]
    with fake_machine(cache, eagerness=0.0) as machine:
        session = machine.session(unshuffle_x2, batch=2, streams=2)
        futures = [session.submit(frames) for frames in batches]
        session.close()
        assert all(future.done() for future in futures)
        for frames, future in zip(batches, futures, strict=True):
            np.testing.assert_array_equal(future.result(), doubled(frames))
        session.close()
        for use in (lambda: session.submit(batches[0]), lambda: session.prepare((1, 4, 4), "uint8")):
            with pytest.raises(ClosedError, match="closed"):
                use()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("esrgan-tensorrt")]


@pytest.mark.parametrize("refused", ["push", "pop"])
def test_work_is_taken_even_where_the_context_is_refused(refused):
    """Or futures would never be done: CUDA may report what failed before at these calls too."""

    class Broken:
        @contextmanager
        def active(self):
            if refused == "push":
                raise MachineError("cuCtxPushCurrent failed")
            yield
            raise MachineError("cuCtxPopCurrent failed")

    taken = []
    workers = Workers(Broken())
    for step in range(2):
        workers.feed(partial(taken.append, step))
    assert workers.close()
    assert taken == [0, 1]


def test_an_unused_session_closes_and_has_built_nothing(cache, unshuffle_x2):
    with fake_machine(cache) as machine:
        with machine.session(unshuffle_x2):
            pass
        assert machine.cache.entries() == []


def test_a_cancelled_batch_is_not_computed(cache, unshuffle_x2, rng):
    frames = random_frames(rng, 1, 4, 4)
    with fake_machine(cache) as machine, machine.session(unshuffle_x2) as session:
        with session._lock:  # the feeder waits
            first, second = session.submit(frames), session.submit(frames)
            assert second.cancel()
        np.testing.assert_array_equal(first.result(), doubled(frames))
        session.prepare((1, 4, 4), "uint8")
        assert machine.driver.counters.executions == 1


@pytest.mark.parametrize(("name", "value"), [("batch", 0), ("streams", 0), ("optimization_level", 6)])
def test_numbers_out_of_range_are_refused(cache, unshuffle_x2, name, value):
    with fake_machine(cache) as machine, pytest.raises(OptionError, match=str(value)):
        machine.session(unshuffle_x2, **{name: value})


def test_what_is_no_batch_is_refused(cache, unshuffle_x2):
    with fake_machine(cache) as machine, machine.session(unshuffle_x2) as session:
        refused = pytest.raises(OptionError, match="uint8 or uint16")
        with refused:
            session.submit(np.zeros((4, 4, 3), np.uint8))
