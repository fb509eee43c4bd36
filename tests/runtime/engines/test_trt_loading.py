"""Engines of a TensorRTSession: found, built, exchanged, refused, and turned to another alpha."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

import fake_tensorrt
import gain_pair
from esrgan_deploy import MachineError, ModelError, OptionError, backends
from esrgan_deploy.cuda.gpu import DeviceFacts
from esrgan_deploy.engine.build.memory import engine_memory
from esrgan_deploy.engine.options import Shape
from esrgan_deploy.engine.run.host_streams import IN_FLIGHT
from esrgan_deploy.engine.store.sidecar import open_engine
from esrgan_deploy.model import load_onnx
from esrgan_deploy.models import COMPACT_CLEAN
from fake_cuda import FACTS, FakeDriver
from fake_gpu import doubled, fake_machine, random_frames


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "engines"


def test_one_engine_at_a_time(cache, unshuffle_x2, rng):
    with fake_machine(cache) as machine, machine.session(unshuffle_x2) as session:
        batches = [random_frames(rng, 1, side, side) for side in (4, 4, 6, 6, 4, 8)]
        for frames, future in [(frames, session.submit(frames)) for frames in batches]:
            np.testing.assert_array_equal(future.result(), doubled(frames))
            assert machine.driver._memory.kept().get("engine", 0) <= 1
        assert len(machine.cache.entries()) == 3


def test_prepare_decides_the_batch(cache, unshuffle_x2, rng):
    with fake_machine(cache) as machine, machine.session(unshuffle_x2) as session:
        session.prepare((4, 5, 8), "uint8")
        assert machine.driver._memory.kept()["engine"] == 1, "the engine is there before the first frame"
        frames = random_frames(rng, 1, 5, 8)
        np.testing.assert_array_equal(session.run(frames), doubled(frames))
    (entry,) = machine.cache.entries()
    assert str(entry.engine.sidecar.options.profile) == "4x6x8"


def test_an_engine_in_the_cache_is_found(cache, unshuffle_x2, rng):
    steps = []
    with fake_machine(cache) as machine:
        machine.engine(unshuffle_x2, (1, 4, 4), (2, 8, 8), (3, 16, 16))
        with machine.session(unshuffle_x2, batch=2, progress=lambda *step: steps.append(step)) as session:
            session.run(random_frames(rng, 2, 6, 10))
    assert not steps
    assert len(machine.cache.entries()) == 1


def test_an_engine_that_tensorrt_refuses_is_built_again(cache, unshuffle_x2, rng, caplog):
    from fake_tensorrt.builder import read_plan, write_plan

    frames = random_frames(rng, 1, 4, 4)
    with fake_machine(cache) as machine:
        path = machine.engine(unshuffle_x2, (1, 4, 4))
        header, model = read_plan(path.read_bytes())
        plan = write_plan({**header, "version": "9.9.9"}, model)
        rewrite(path, plan)
        with machine.session(unshuffle_x2) as session:
            np.testing.assert_array_equal(session.run(frames), doubled(frames))
        with machine.session(path) as session:
            np.testing.assert_array_equal(session.run(frames), doubled(frames))
    assert "please rebuild.; build it again" in caplog.text


def rewrite(path, plan):
    """Another plan under a sidecar that fits it."""
    import dataclasses
    import hashlib

    from esrgan_deploy.engine.store.sidecar import write_sidecar

    sidecar = open_engine(path).sidecar
    path.write_bytes(plan)
    digest = hashlib.sha256(plan).hexdigest()
    write_sidecar(path, dataclasses.replace(sidecar, plan_sha256=digest, plan_bytes=len(plan)))


def test_an_engine_file_that_tensorrt_refuses_is_an_error_with_its_words(cache, unshuffle_x2, rng):
    from fake_tensorrt.builder import read_plan, write_plan

    with fake_machine(cache) as machine:
        path = machine.engine(unshuffle_x2, (1, 4, 4))
        header, model = read_plan(path.read_bytes())
        rewrite(path, write_plan({**header, "version": "9.9.9"}, model))
        with machine.session(path) as session, pytest.raises(ModelError, match=r"got 9\.9\.9") as caught:
            session.run(random_frames(rng, 1, 4, 4))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_engine_never_reaches_tensorrt(cache, unshuffle_x2, rng):
    with fake_machine(cache) as machine:
        path = machine.engine(unshuffle_x2, (1, 4, 4))
        path.write_bytes(path.read_bytes()[:-1])
        with machine.session(path) as session, pytest.raises(ModelError, match="truncated"):
            session.run(random_frames(rng, 1, 4, 4))


def test_an_engine_of_another_machine_is_refused_at_once(cache, unshuffle_x2):
    with fake_machine(cache) as machine:
        path = machine.engine(unshuffle_x2, (1, 4, 4))
    other = FakeDriver(DeviceFacts("Other GPU", (8, 9), "580.0", 13000, 1 << 30))
    with fake_machine(cache, driver=other) as machine, pytest.raises(ModelError, match=r"Fake GPU.*Other GPU"):
        machine.session(path)


@pytest.mark.parametrize(
    ("count", "height", "width", "dtype", "words"),
    [
        (1, 18, 8, np.uint8, "uint8 frames of 1x4x4-1x6x8-2x16x16 .* uint8 frames of 1x18x8"),
        (1, 6, 8, np.uint16, "uint8 frames of 1x4x4-1x6x8-2x16x16 .* uint16 frames of 1x6x8"),
    ],
)
def test_what_an_engine_does_not_take_is_refused_and_the_session_goes_on(
    cache, unshuffle_x2, rng, count, height, width, dtype, words
):
    with fake_machine(cache) as machine:
        path = machine.engine(unshuffle_x2, (1, 4, 4), (1, 6, 8), (2, 16, 16))
        with machine.session(path) as session:
            good = random_frames(rng, 1, 6, 8)
            before = session.submit(good)
            with pytest.raises(OptionError, match=words) as caught:
                session.run(random_frames(rng, count, height, width, dtype))
            assert str(path) in str(caught.value)
            np.testing.assert_array_equal(session.run(good), doubled(good))
            np.testing.assert_array_equal(before.result(), doubled(good))


def test_too_little_memory_at_load_names_the_numbers_and_the_remedy(cache, unshuffle_x2, rng):
    with fake_machine(cache) as machine:
        path = machine.engine(unshuffle_x2, (1, 256, 256))
    small = FakeDriver(DeviceFacts(FACTS.name, FACTS.compute_capability, FACTS.driver, FACTS.cuda, 4 << 20))
    with fake_machine(cache, driver=small) as machine, machine.session(path, streams=2) as session:
        with pytest.raises(MachineError, match=r"needs (\d+) MiB .* and 4 of 4 MiB are free") as caught:
            session.run(random_frames(rng, 1, 256, 256))
        assert int(re.search(r"needs (\d+) MiB", str(caught.value))[1]) > 4
        assert "smaller --tile or --batch, or fewer streams" in str(caught.value)
        assert small._memory.kept() == {}


class OutOfMemory(FakeDriver):
    """Allocates no more pinned memory after so many times."""

    left = 1000

    def allocate_pinned(self, nbytes):
        self.left -= 1
        if self.left < 0:
            raise MachineError(f"CUDA_ERROR_OUT_OF_MEMORY: {nbytes} bytes of page-locked memory wanted")
        return super().allocate_pinned(nbytes)


@pytest.mark.parametrize("left", range(2 * IN_FLIGHT))
def test_too_little_pinned_memory_at_load_leaves_nothing_behind(cache, unshuffle_x2, rng, left):
    with fake_machine(cache, driver=OutOfMemory()) as machine, machine.session(unshuffle_x2) as session:
        machine.driver.left = left
        with pytest.raises(MachineError, match="page-locked"):
            session.run(random_frames(rng, 1, 4, 4))
        assert machine.driver._memory.kept() == {}
        machine.driver.left = 1000
        frames = random_frames(rng, 1, 4, 4)
        np.testing.assert_array_equal(session.run(frames), doubled(frames))


def test_a_result_without_memory_is_an_error_of_its_own(cache, unshuffle_x2, rng):
    with fake_machine(cache, driver=OutOfMemory()) as machine, machine.session(unshuffle_x2, batch=1) as session:
        frames = random_frames(rng, 1, 4, 4)
        kept = session.run(frames)
        machine.driver.left = 0
        with pytest.raises(MachineError, match="page-locked"):
            session.run(random_frames(rng, 5, 4, 4))
        del kept
        np.testing.assert_array_equal(session.run(frames), doubled(frames))


# --- alpha ---


def assert_turned(result, frames, alpha):
    """Half-way cases may round either way in float32."""
    assert np.abs(result.astype(int) - gain_pair.expected(frames, alpha)).max() <= 1


@pytest.mark.parametrize("version", fake_tensorrt.VERSIONS)
def test_alpha_changes_between_batches(cache, tmp_path, version):
    """What was submitted before keeps the alpha that held then; graphs of the old weights are gone."""
    model = gain_pair.write_model(tmp_path / "pair.onnx", 0.8)
    with fake_machine(cache, version=version) as machine, machine.session(model, refit=True, streams=2) as session:
        file = session.model_sha256
        futures = [(0.8, session.submit(gain_pair.GREY)) for _ in range(9)]
        for alpha in (0.35, 0.0, 1.0):
            session.set_alpha(alpha)
            assert session.info.alpha == alpha
            assert session.model_sha256 == f"{file}@{alpha!r}"
            futures += [(alpha, session.submit(gain_pair.GREY)) for _ in range(9)]
        for alpha, future in futures:
            assert_turned(future.result(), gain_pair.GREY, alpha)
        session.set_alpha(0.8)
        assert session.model_sha256 == file


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_where_the_conversion_of_frames_was_combined_with_weights(cache, tmp_path, monkeypatch, dtype):
    """Then the engine asks for the numbers of the conversion again: here it asks for everything."""
    monkeypatch.setattr(fake_tensorrt.data, "weight_groups", lambda model: [set(fake_tensorrt.data.weights(model))])
    model = gain_pair.write_model(tmp_path / "pair.onnx", 0.8)
    frames = gain_pair.GREY.astype(dtype)
    with fake_machine(cache) as machine, machine.session(model, refit=True) as session:
        session.set_alpha(0.35)
        assert_turned(session.run(frames), frames, 0.35)


def test_alpha_holds_for_engines_that_are_loaded_later(cache, tmp_path):
    model = gain_pair.write_model(tmp_path / "pair.onnx", 0.8)
    with fake_machine(cache) as machine, machine.session(model, refit=True) as session:
        session.set_alpha(0.35)
        assert_turned(session.run(gain_pair.GREY), gain_pair.GREY, 0.35)
        smaller = gain_pair.GREY[:, :6]
        assert_turned(session.run(smaller), smaller, 0.35)
    (path, _) = sorted(entry.path for entry in machine.cache.entries())
    with fake_machine(cache) as machine, machine.session(path) as session:
        session.set_alpha(0.0)
        frames = gain_pair.GREY if "10x24" in path.name else smaller
        assert_turned(session.run(frames), frames, 0.0)


def test_alpha_that_cannot_be_set_is_refused(cache, tmp_path):
    model = gain_pair.write_model(tmp_path / "pair.onnx", 0.8)
    bare = gain_pair.write_model(tmp_path / "bare.onnx", 0.8, with_endpoints=False)
    with fake_machine(cache) as machine:
        with machine.session(model) as session, pytest.raises(OptionError, match="refit"):
            session.set_alpha(0.5)
        with machine.session(model, refit=True) as session, pytest.raises(OptionError, match=r"1\.5"):
            session.set_alpha(1.5)
        with pytest.raises(OptionError, match=r"bare\.ends\.safetensors"):
            machine.session(bare, refit=True)


def test_alpha_stays_what_it_was_where_the_ends_are_damaged(cache, tmp_path):
    model = gain_pair.write_model(tmp_path / "pair.onnx", 0.8)
    with fake_machine(cache) as machine:
        path = machine.engine(model, (1, 10, 24), refit=True)
        with machine.session(path) as session:
            session.run(gain_pair.GREY)
            open_engine(path).endpoints.write_bytes(b"nothing")
            with pytest.raises(ModelError, match=r"ends\.safetensors"):
                session.set_alpha(0.1)
            assert session.info.alpha == 0.8
            assert_turned(session.run(gain_pair.GREY), gain_pair.GREY, 0.8)


# --- which frames need no tiles, and which backend "auto" is ---


def test_what_fits_into_half_of_the_memory_needs_no_tiles(cache):
    model, _ = load_onnx(COMPACT_CLEAN)
    with fake_machine(cache) as machine, machine.session(COMPACT_CLEAN) as session:
        side = math.isqrt(session.largest_untiled)
        room = machine.driver.facts.total_memory // 2
        shapes = {size: Shape(1, size, size) for size in (side, side + 2)}
        need = {size: engine_memory(model, shape, "uint16").at(shape) for size, shape in shapes.items()}
    assert session.largest_untiled == side**2
    assert need[side] <= room < need[side + 2]


def test_an_engine_takes_no_larger_frames_than_it_was_built_for(cache, unshuffle_x2):
    with fake_machine(cache) as machine:
        path = machine.engine(unshuffle_x2, (1, 4, 4), (2, 8, 8), (3, 16, 20))
        with machine.session(path) as session:
            assert session.largest_untiled == 16 * 20


@pytest.mark.parametrize(
    ("name", "installed", "gpu", "chosen"),
    [
        ("net.onnx", True, True, True),
        ("net.onnx", True, False, False),
        ("net.onnx", False, True, False),
        ("net.engine", False, False, True),
        ("net.plan", False, False, True),
    ],
)
def test_auto_is_tensorrt_where_it_is_installed_beside_a_gpu(monkeypatch, name, installed, gpu, chosen):
    def find_gpu():
        if not gpu:
            raise MachineError("no driver")

    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if installed and name == "tensorrt" else None)
    monkeypatch.setattr("esrgan_deploy.cuda.gpu.find_gpu", find_gpu)
    assert backends._prefers_tensorrt(Path(name)) == chosen
