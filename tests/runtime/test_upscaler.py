"""Upscaler: order, laziness, tiles, sizes."""

import hashlib
import os
import tracemalloc
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest

from esrgan_deploy import MachineError, OptionError, Upscaler, budget, open_session
from esrgan_deploy.backends.reference import ReferenceSession
from tiny_onnx import blur_x2_in_numpy


@pytest.mark.parametrize(("tile", "batch"), [(0, 1), (16, 1), (16, 4), (11, 3)])
def test_tiled_equals_untiled_when_the_overlap_covers_the_network(blur_x2, rng, tile, batch):
    """The blur reaches one pixel, the overlap is two: half of it is always context, so tiling must be exact."""
    frame = rng.integers(0, 256, (37, 50, 3)).astype(np.uint8)
    with Upscaler(open_session(blur_x2, "ort"), tile=tile, batch=batch) as upscaler:
        assert upscaler.overlap == 2
        result = upscaler.upscale(frame)
    difference = np.abs(result.astype(int) - blur_x2_in_numpy(frame).astype(int))
    assert difference.max() <= 1
    with Upscaler(open_session(blur_x2, "ort"), tile=0) as untiled:
        np.testing.assert_array_equal(result, untiled.upscale(frame))


@pytest.fixture
def little_memory():
    budget.set_memory_limit(64 << 20)
    yield
    budget.set_memory_limit(None)


def test_a_result_or_batches_that_do_not_fit_into_memory_are_refused_before_work(rng, little_memory):
    frame = np.zeros((100, 100, 3), np.uint8)
    with (
        Upscaler(open_session(None, "reference"), outscale=64) as upscaler,
        pytest.raises(MachineError, match="the result of 6400x6400 needs 118 MiB"),
    ):
        upscaler.upscale(frame)
    with Upscaler(open_session(None, "reference"), batch=10**9) as upscaler:
        assert upscaler.upscale(frame).shape == (400, 400, 3)  # one frame is no batch
        with pytest.raises(MachineError, match="batches of 1000000000 for 100x100"):
            next(upscaler.map([frame]))
    with Upscaler(open_session(None, "reference"), batch=10**9, tile=10, overlap=0) as upscaler:
        assert upscaler.upscale(frame).shape == (400, 400, 3)  # a hundred tiles are


def test_more_tiles_than_a_million_are_refused():
    with Upscaler(open_session(None, "reference"), tile=1, overlap=0) as upscaler:
        with pytest.raises(OptionError, match="into 1002001 tiles; choose a larger one"):
            upscaler.upscale(np.zeros((1001, 1001, 3), np.uint8))
        assert upscaler.upscale(np.zeros((20, 20, 3), np.uint8)).shape == (80, 80, 3)


@pytest.mark.parametrize("option", ["threads", "streams"])
def test_threads_and_streams_that_no_machine_has_are_refused(option):
    most = max(64, 4 * os.cpu_count())
    open_session(None, "reference", **{option: most}).close()
    with pytest.raises(OptionError, match=f"{option} {most + 1} are too many"):
        open_session(None, "reference", **{option: most + 1})


def test_too_little_overlap_shows(blur_x2, rng):
    """The counter-test: without context the border of each tile is wrong, so the test above can fail."""
    frame = rng.integers(0, 256, (32, 48, 3)).astype(np.uint8)
    with Upscaler(open_session(blur_x2, "ort"), tile=16, overlap=0) as upscaler:
        difference = np.abs(upscaler.upscale(frame).astype(int) - blur_x2_in_numpy(frame).astype(int))
    assert difference.max() > 10


def test_tiles_respect_the_network_s_multiple(unshuffle_x2, rng):
    frame = rng.integers(0, 256, (33, 47, 3)).astype(np.uint8)
    with Upscaler(open_session(unshuffle_x2, "ort"), tile=17, overlap=3) as upscaler:
        np.testing.assert_array_equal(upscaler.upscale(frame), frame.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_map_keeps_order_across_sizes_types_and_short_batches(rng, batch):
    shapes = [(4, 6), (4, 6), (4, 6), (5, 5), (4, 6), (4, 6)]
    frames = [rng.integers(0, 256, (*shape, 3)).astype(np.uint8) for shape in shapes]
    frames[2] = frames[2].astype(np.uint16)
    with Upscaler(open_session(None, "reference"), batch=batch) as upscaler:
        results = list(upscaler.map(iter(frames)))
    assert len(results) == len(frames)
    for frame, result in zip(frames, results, strict=True):
        assert result.dtype == frame.dtype
        np.testing.assert_array_equal(result, frame.repeat(4, 0).repeat(4, 1))


@pytest.mark.parametrize(
    ("still_until", "results", "most_ahead"), [(0, 20, 3 * 2), (1000, 20, 12 * 2), (30, 36, 3 * 2)]
)
def test_map_is_lazy_and_bounded(still_until, results, most_ahead):
    """A clip must never be held whole: at most three batches are taken in before a result is out, or repetitions."""
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield np.full((2, 2, 3), max(0, taken - still_until) % 256, np.uint8)

    with Upscaler(open_session(None, "reference"), batch=2) as upscaler:
        upscaled = upscaler.map(endless())
        assert taken == 0
        for _ in range(results):
            next(upscaled)
        assert results + 2 <= taken < results + most_ahead


@pytest.mark.parametrize(("outscale", "size"), [(2.0, (20, 30)), (3.5, (35, 52)), (6, (60, 90)), (0.5, (5, 8))])
def test_outscale_resamples_to_the_size_asked_for(outscale, size):
    with Upscaler(open_session(None, "reference"), outscale=outscale) as upscaler:
        result = upscaler.upscale(np.full((10, 15, 3), 77, np.uint8))
        assert upscaler.output_size(10, 15) == size
    assert result.shape == (*size, 3)
    assert (result == 77).all()


@pytest.mark.parametrize(
    "options", [{"tile": -1}, {"overlap": -2}, {"batch": 0}, {"tile": 8, "overlap": 9}, {"outscale": 0}]
)
def test_impossible_options_are_refused_before_any_frame(options):
    with open_session(None, "reference") as session, pytest.raises(OptionError):
        Upscaler(session, **options)


def test_identity_tells_what_decides_the_result(blur_x2):
    with Upscaler(open_session(blur_x2, "ort"), tile=64, outscale=1.5, tolerance=2) as upscaler:
        assert upscaler.identity() == {
            "model_sha256": hashlib.sha256(blur_x2.read_bytes()).hexdigest(),
            "backend": "ort",
            "precision": "fp32",
            "scale": 2,
            "outscale": 1.5,
            "tile": 64,
            "overlap": 2,
            "tolerance": 2,
        }


def test_identity_is_the_same_where_the_result_is():
    """Neither the batch, nor a value that is given but is what would be taken anyway, makes a difference."""
    with open_session(None, "reference") as session:
        plain = Upscaler(session).identity()
        assert Upscaler(session, batch=4, overlap=0, outscale=4).identity() == plain
        assert plain["model_sha256"] is None
        others = [{"tile": 0}, {"tile": 64}, {"overlap": 8}, {"outscale": 3}, {"tolerance": 1}]
        assert all(Upscaler(session, **options).identity() != plain for options in others)


@pytest.mark.parametrize("backend", ["openvino", "ort", "reference"])
def test_sessions_know_the_file_they_were_made_from(unshuffle_x2, backend):
    with open_session(unshuffle_x2, backend) as session:
        assert session.model_sha256 == hashlib.sha256(unshuffle_x2.read_bytes()).hexdigest()


class Announced(ReferenceSession):
    """Writes down what it is told and given."""

    def __init__(self):
        super().__init__()
        self.told = []

    def prepare(self, shape, frame_type):
        self.told.append(("prepare", shape, frame_type))

    def submit(self, batch):
        self.told.append(("submit", batch.shape[:3], batch.dtype.name))
        return super().submit(batch)


def test_the_largest_batch_is_announced_before_it_comes():
    """Once for each shape and type, also where the first batch that comes is a short one."""
    session = Announced()
    small = [np.full((4, 6, 3), value, np.uint8) for value in range(5)]
    frames = [*small, np.zeros((8, 20, 3), np.uint16)]
    with Upscaler(session, tile=12, overlap=1, batch=3) as upscaler:
        list(upscaler.map(frames))
    assert session.told == [
        ("prepare", (3, 4, 6), "uint8"),
        ("submit", (3, 4, 6), "uint8"),
        ("submit", (2, 4, 6), "uint8"),
        ("prepare", (3, 8, 12), "uint16"),
        ("submit", (2, 8, 12), "uint16"),
    ]


def test_the_session_says_what_needs_no_tiles():
    session = Announced()
    session.largest_untiled = 500 * 500
    with Upscaler(session, overlap=8) as upscaler:
        upscaler.upscale(np.zeros((500, 500, 3), np.uint8))
        upscaler.upscale(np.zeros((500, 501, 3), np.uint8))
    sizes = [shape[1:] for what, shape, _ in session.told if what == "submit"]
    assert sizes[0] == (500, 500)
    assert len(sizes) == 1 + 4
    assert set(sizes[1:]) == {(384, 384)}


def test_tiles_take_the_shape_that_wastes_least_where_any_will_do():
    """300x500 in at most 16384 pixels: 300 rows as 2 * 166 with 32 shared. Squares of 128 would be 3 * 5 of them."""
    session = Announced()
    session.any_shape, session.largest_untiled = True, 128 * 128
    with Upscaler(session, overlap=16) as upscaler:
        tiles = upscaler.tiles_of(300, 500)
        upscaler.upscale(np.zeros((300, 500, 3), np.uint8))
        assert upscaler.tiles_of(128, 128) is None
    assert tiles is not None
    assert tiles.overhead < 15 * 128 * 128 / (300 * 500)
    sizes = {shape[1:] for what, shape, _ in session.told if what == "submit"}
    assert sizes == {(tiles.rows.tile, tiles.columns.tile)}
    assert tiles.rows.tile * tiles.columns.tile <= 128 * 128


@pytest.mark.parametrize(
    ("any_shape", "fixed", "side"), [(True, None, 116), (False, None, 128), (True, (128, 128), 128)]
)
def test_a_side_that_is_asked_for_is_the_longest_unless_shapes_matter(any_shape, fixed, side):
    session = Announced()
    session.any_shape, session.info = any_shape, replace(session.info, fixed_size=fixed)
    with Upscaler(session, tile=128, overlap=16) as upscaler:
        tiles = upscaler.tiles_of(200, 200)
    assert (tiles.rows.tile, tiles.columns.tile) == (side, side)


def test_the_memory_that_tiles_may_take_is_part_of_the_identity():
    session = Announced()
    session.any_shape = True
    with Upscaler(session) as upscaler:
        before = upscaler.identity()["tile"]
        session.largest_untiled //= 2
        assert upscaler.identity()["tile"] != before
        assert Upscaler(session, tile=64).identity()["tile"] == 64


@pytest.mark.parametrize(
    ("here", "there", "height", "width", "alike"),
    [
        (4000, 1000, 90, 90, True),  # smaller tiles than there is memory for
        (1000, 4000, 30, 30, True),  # a frame that needs none, here or there
        (1000, 4000, 90, 90, False),
    ],
)
def test_machines_tile_alike_as_far_as_their_memory_allows(here, there, height, width, alike):
    upscalers = []
    for pixels in (here, there):
        session = Announced()
        session.any_shape, session.largest_untiled = True, pixels
        upscalers.append(Upscaler(session, overlap=4))
    one, other = upscalers
    one.follow(other.identity(), height, width)
    assert (one.identity() == other.identity()) == alike
    assert (one.tiles_of(height, width) == other.tiles_of(height, width)) == alike
    one.follow({"tile": f"auto, up to {here} pixels"}, height, width)
    assert one.session.largest_untiled == here


class WhenAsked(Future):
    """A result that is computed when it is asked for, so that none waits in memory before."""

    def __init__(self, compute):
        super().__init__()
        self.compute = compute

    def result(self, timeout=None):
        return self.compute()


class OneByOne(ReferenceSession):
    """Computes a tile when its result is asked for."""

    def submit(self, batch):
        return WhenAsked(lambda: batch.repeat(4, 1).repeat(4, 2))


def test_upscaling_a_picture_holds_it_once_and_a_row_of_tiles():
    """Sixteen rows of tiles: with all of them, and the rows joined first, it would be three pictures."""
    frame = np.random.default_rng(0).integers(0, 256, (512, 256, 3), np.uint8)
    with Upscaler(OneByOne(), tile=40, overlap=4) as upscaler:
        tracemalloc.start()
        try:
            large = upscaler.upscale(frame)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    np.testing.assert_array_equal(large, frame.repeat(4, 0).repeat(4, 1))
    assert most < 1.5 * large.nbytes
