"""What stands still is computed once, and nobody can tell from the pixels."""

import weakref
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esrgan_deploy import MachineError, ModelInfo, OptionError, Upscaler, open_session
from esrgan_deploy.backends.reference import ReferenceSession
from esrgan_deploy.tile_reuse import Counts


class CountingBlur(ReferenceSession):
    """A 5x5 box blur with zero padding, then nearest x2, in integers. It remembers what it was asked for."""

    def __init__(self, overlap=4, multiple_of=1):
        super().__init__(ModelInfo(scale=2, overlap=overlap, multiple_of=multiple_of))
        self.tiles = []
        self.batches = []

    def submit(self, batch):
        self.batches.append(len(batch))
        return super().submit(batch)

    def _infer(self, frame):
        self.tiles.append(frame[0].copy())
        height, width = frame.shape[1:3]
        padded = np.pad(frame.astype(np.int64), ((0, 0), (2, 2), (2, 2), (0, 0)))
        total = sum(padded[:, y : y + height, x : x + width] for y in range(5) for x in range(5))
        return super()._infer((total // 25).astype(frame.dtype))


def upscale_alone(frame, **options):
    """The full computation: this frame and no other."""
    with Upscaler(CountingBlur(), **options) as upscaler:
        return upscaler.upscale(frame)


def noise(rng, shape, dtype=np.uint8):
    return rng.integers(0, np.iinfo(dtype).max + 1, (*shape, 3)).astype(dtype)


def altered(frame, where, change=1):
    """A copy in which one value differs."""
    copy = frame.copy()
    copy[where] += np.asarray(change, frame.dtype)  # wraps around
    return copy


@st.composite
def clips(draw):
    """Frames that repeat, change in a few pixels, change as a whole, or have another size or type."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    side = st.integers(1, 40)
    frames = [noise(rng, (draw(side), draw(side)), draw(st.sampled_from([np.uint8, np.uint16])))]
    for change in draw(st.lists(st.sampled_from(["none", "copy", "pixel", "all", "back", "size", "type"]), max_size=9)):
        last = frames[-1]
        if change == "none":
            frames.append(last)
        elif change == "copy":
            frames.append(last.copy())
        elif change == "pixel":
            y, x = draw(st.integers(0, last.shape[0] - 1)), draw(st.integers(0, last.shape[1] - 1))
            frames.append(altered(last, (y, x, draw(st.integers(0, 2)))))
        elif change == "all":
            frames.append(noise(rng, last.shape[:2], last.dtype))
        elif change == "back":
            frames.append(frames[max(0, len(frames) - 2)])
        elif change == "size":
            frames.append(noise(rng, (draw(side), draw(side)), last.dtype))
        else:
            frames.append(last.astype(np.uint16 if last.dtype == np.uint8 else np.uint8))
    return frames


@given(
    clips(),
    st.sampled_from([(0, 0), (8, 0), (9, 2), (12, 4), (16, 1)]),
    st.integers(1, 5),
    st.sampled_from([1, 2]),
    st.sampled_from([None, 1.5]),
)
def test_a_clip_comes_out_as_if_each_frame_were_alone(clip, tiling, batch, multiple_of, outscale):
    tile, overlap = tiling
    options = {"tile": tile, "overlap": overlap, "outscale": outscale}
    with Upscaler(CountingBlur(multiple_of=multiple_of), batch=batch, **options) as upscaler:
        results = list(upscaler.map(iter(clip)))
        counts = upscaler.counts
        assert len(upscaler.session.tiles) == counts.tiles - counts.tiles_reused
        assert all(size <= batch for size in upscaler.session.batches)
    assert len(results) == len(clip) == counts.frames
    with Upscaler(CountingBlur(multiple_of=multiple_of), **options) as alone:
        for frame, result in zip(clip, results, strict=True):
            expected = alone.upscale(frame)
            assert result.dtype == expected.dtype
            np.testing.assert_array_equal(result, expected)
    for (before, now), (result_before, result_now) in zip(pairwise(clip), pairwise(results), strict=True):
        still = now.dtype == before.dtype and np.array_equal(now, before)
        assert (result_now is result_before) == still


@pytest.mark.parametrize("backend", ["openvino", "ort"])
def test_a_real_network_s_clip_comes_out_the_same(blur_x2, rng, backend):
    first = noise(rng, (20, 31))
    clip = [first, first.copy(), altered(first, (3, 3, 0)), altered(first, (19, 30, 2)), first]
    with Upscaler(open_session(blur_x2, backend), tile=12, batch=2) as upscaler:
        for frame, result in zip(clip, upscaler.map(clip), strict=True):
            np.testing.assert_array_equal(result, upscaler.upscale(frame))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("column", "tiles"),
    [(0, 1), (11, 1), (12, 2), (15, 2), (16, 2), (19, 2), (20, 1), (31, 1)],
)
def test_a_pixel_concerns_every_tile_in_whose_overlap_it_lies(rng, dtype, column, tiles):
    """Tiles of 20 with an overlap of 4 on 32 columns: [0, 20) and [12, 32). One row of them."""
    frame = noise(rng, (8, 32), dtype)
    clip = [frame, altered(frame, (5, column, 1))]
    with Upscaler(CountingBlur(overlap=4), tile=20) as upscaler:
        results = list(upscaler.map(clip))
        computed = upscaler.session.tiles
    assert len(computed) == 2 + tiles
    np.testing.assert_array_equal(results[1], upscale_alone(clip[1], tile=20))
    if column < 20:
        np.testing.assert_array_equal(computed[2], clip[1][:, :20])
    if column >= 12:
        np.testing.assert_array_equal(computed[-1], clip[1][:, 12:])


@pytest.mark.parametrize("row", range(20))
def test_every_row_counts(rng, row):
    """The first look takes some rows only; a change in any other one must be found by the second."""
    frame = noise(rng, (20, 6))
    with Upscaler(CountingBlur(), tile=0) as upscaler:
        first, second = upscaler.map([frame, altered(frame, (row, 5, 2))])
    assert first is not second
    assert upscaler.counts.frames_reused == 0


@pytest.mark.parametrize(
    "view", [lambda f: f[::-1], lambda f: f[:, ::-1], lambda f: f[..., ::-1], lambda f: f[::2, ::2]]
)
def test_frames_may_be_views_of_any_kind(rng, view):
    frame = noise(rng, (9, 10))
    with Upscaler(CountingBlur(), tile=0) as upscaler:
        first, second, third = upscaler.map([view(frame), view(frame.copy()), view(altered(frame, (4, 4, 1)))])
    assert first is second
    np.testing.assert_array_equal(first, upscale_alone(view(frame), tile=0))
    np.testing.assert_array_equal(third, upscale_alone(view(altered(frame, (4, 4, 1))), tile=0))


def test_counts_and_what_is_computed(rng):
    """Four tiles; what comes is: new, equal, one tile new, the first again, which is no longer the frame before."""
    frame = noise(rng, (32, 32))
    corner = altered(frame, (0, 0, 0))
    with Upscaler(CountingBlur(overlap=4), tile=20) as upscaler:
        list(upscaler.map([frame, frame.copy(), corner, frame]))
        counts = upscaler.counts
        assert (counts.frames, counts.frames_reused, counts.tiles, counts.tiles_reused) == (4, 1, 16, 4 + 3 + 3)
        assert len(upscaler.session.tiles) == 4 + 0 + 1 + 1
        list(upscaler.map([frame]))
        assert len(upscaler.session.tiles) == 10, "each call starts with nothing kept"
        assert (counts.frames, counts.frames_reused, counts.tiles, counts.tiles_reused) == (5, 1, 20, 10)


def test_upscale_alone_reuses_nothing(rng):
    frame = noise(rng, (8, 8))
    with Upscaler(CountingBlur()) as upscaler:
        assert upscaler.upscale(frame) is not upscaler.upscale(frame)
        assert len(upscaler.session.tiles) == 2


def test_another_size_or_type_starts_anew(rng):
    """Zeros all: of the pixels alone nothing would be new."""
    kinds = [((4, 6), np.uint8), ((6, 4), np.uint8), ((6, 4), np.uint16), ((4, 6), np.uint16)]
    clip = [np.zeros((*shape, 3), dtype) for shape, dtype in kinds for _ in range(2)]
    with Upscaler(CountingBlur(), batch=4) as upscaler:
        results = list(upscaler.map(clip))
        assert upscaler.counts.frames_reused == 4
        assert upscaler.session.batches == [1, 1, 1, 1]
    assert [(r.shape, r.dtype) for r in results] == [
        ((h * 2, w * 2, 3), f.dtype) for f in clip for h, w, _ in [f.shape]
    ]


@pytest.mark.parametrize(("dtype", "unit"), [(np.uint8, 1), (np.uint16, 257)])
def test_tolerance_is_measured_from_what_was_computed(dtype, unit):
    """Brighter by one from frame to frame: the fourth is three away from the first, the eighth from the fifth."""
    clip = [np.full((6, 6, 3), (10 + i) * unit, dtype) for i in range(8)]
    with Upscaler(CountingBlur(), tolerance=3) as upscaler:
        results = list(upscaler.map(clip))
        computed = upscaler.session.tiles
    assert [int(tile.max()) for tile in computed] == [10 * unit, 14 * unit]
    assert [results[0] is result for result in results] == [True] * 4 + [False] * 4
    assert [results[4] is result for result in results] == [False] * 4 + [True] * 4
    assert upscaler.counts.frames_reused == 6


@pytest.mark.parametrize(("dtype", "step", "passes"), [(np.uint8, 2, True), (np.uint8, 3, False)])
@pytest.mark.parametrize("sign", [1, -1])
def test_tolerance_counts_both_ways_and_includes_its_value(dtype, step, passes, sign):
    frame = np.full((40, 5, 3), 100, dtype)
    with Upscaler(CountingBlur(), tolerance=2) as upscaler:
        list(upscaler.map([frame, altered(frame, (33, 4, 0), (sign * step) % 256)]))
    assert (upscaler.counts.frames_reused == 1) == passes


def test_tolerance_of_16_bits_is_in_8_bit_steps():
    frame = np.full((4, 4, 3), 1000, np.uint16)
    with Upscaler(CountingBlur(), tolerance=1) as upscaler:
        list(upscaler.map([frame, frame + np.uint16(257)]))
        list(upscaler.map([frame, frame + np.uint16(258)]))
    assert upscaler.counts.frames_reused == 1


def test_without_tolerance_the_least_change_counts():
    frame = np.zeros((4, 4, 3), np.uint16)
    with Upscaler(CountingBlur()) as upscaler:
        list(upscaler.map([frame, altered(frame, (3, 3, 2))]))
    assert upscaler.counts.frames_reused == 0


def test_new_tiles_of_several_frames_share_a_batch(rng):
    """One of four tiles moves. Batches of two: four tiles of the first frame, then one tile each of two frames."""
    frame = noise(rng, (32, 32))
    clip = [altered(frame, (0, 0, 0), i) for i in range(5)]
    with Upscaler(CountingBlur(overlap=4), tile=20, batch=2) as upscaler:
        results = list(upscaler.map(clip))
        assert upscaler.session.batches == [2, 2, 2, 2]
    for moving, result in zip(clip, results, strict=True):
        np.testing.assert_array_equal(result, upscale_alone(moving, tile=20))


@pytest.mark.parametrize("tile", [0, 20])
def test_batches_are_full_where_all_is_new(rng, tile):
    with Upscaler(CountingBlur(), tile=tile, batch=4) as upscaler:
        list(upscaler.map(noise(rng, (32, 32)) for _ in range(20)))
        assert set(upscaler.session.batches) == {4}


def test_a_repeated_frame_keeps_the_next_new_one_in_flight(rng):
    """Drawn on threes: when a result is waited for, the next drawing has been submitted, so the device never idles."""
    drawings = [noise(rng, (4, 4)) for _ in range(4)]
    with Upscaler(CountingBlur()) as upscaler:
        results = upscaler.map(drawing for drawing in drawings for _ in range(3))
        next(results)
        assert len(upscaler.session.batches) == 3
        list(results)
        assert len(upscaler.session.tiles) == 4


class Watched(np.ndarray):
    """An array that a WeakSet takes: it has a hash, and views keep it alive."""

    __hash__ = object.__hash__


CORNERS = [(0, 0, 0), (0, 31, 0), (31, 0, 0), (31, 31, 0)]
"""One pixel in each of the four tiles that 32x32 has with `tile=20` and an overlap of 4, and in no other."""


@pytest.mark.parametrize("tolerance", [0, 1])
def test_old_frames_are_let_go(rng, tolerance):
    """Tiles that last changed at different times must not keep a frame each."""
    alive = weakref.WeakSet()

    def clip():
        current = noise(rng, (32, 32))
        for i in range(40):
            current = altered(current, CORNERS[i // 8 % 4], 50)
            watched = current.view(Watched).copy()
            alive.add(watched)
            yield watched

    with Upscaler(CountingBlur(overlap=4), tile=20, tolerance=tolerance) as upscaler:
        held = [len(alive) for _ in upscaler.map(clip())]
    assert max(held) <= 3 + 1, "three in flight, and the one before"


def test_old_batches_are_let_go(rng):
    """Of the first batch one tile stays as it is, of the second one another, and so on: no batch is kept for them."""
    alive = weakref.WeakSet()

    class WatchedBlur(CountingBlur):
        def _run_padded(self, batch):
            result = super()._run_padded(batch).view(Watched).copy()
            alive.add(result)
            return result

    clip = [noise(rng, (32, 32))]
    for k in range(1, 4):
        clip.append(clip[-1].copy())
        for corner in CORNERS[k:]:
            clip[-1][corner] += np.uint8(1)
    with Upscaler(WatchedBlur(overlap=4), tile=20, batch=4) as upscaler:
        results = upscaler.map(clip + [clip[-1]] * 60)
        for _ in range(20):
            next(results)
        assert upscaler.session.batches == [4, 4, 2]
        assert len(alive) == 0


def test_what_the_session_raises_reaches_the_caller(rng):
    class Broken(CountingBlur):
        def _infer(self, frame):
            if len(self.tiles) == 2:
                raise MachineError("out of memory")
            return super()._infer(frame)

    clip = [noise(rng, (4, 4)) for _ in range(2)] + [noise(rng, (4, 4))] * 3
    with Upscaler(Broken()) as upscaler:
        results = upscaler.map(clip)
        assert len([next(results), next(results)]) == 2
        with pytest.raises(MachineError, match="out of memory"):
            next(results)


@pytest.mark.parametrize("tolerance", [-1, 256])
def test_impossible_tolerance_is_refused(tolerance):
    with open_session(None, "reference") as session, pytest.raises(OptionError, match=f"tolerance {tolerance} is"):
        Upscaler(session, tolerance=tolerance)


def test_counts_of_a_run_among_others():
    counts = Counts()
    counts.add(tiles=4, reused=1)
    before = replace(counts)
    counts.add(tiles=4, reused=4)
    counts.add(tiles=1, reused=0)
    run = counts.since(before)
    assert run == Counts(frames=2, frames_reused=1, tiles=5, tiles_reused=4)
    assert run.share_reused == 0.8
    assert before + run == counts
    assert counts.since(counts).share_reused == 0
