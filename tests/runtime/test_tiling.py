"""Tiling: what goes in comes out, whatever the sizes; and the context that the module promises is really there."""

import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esrgan_deploy import OptionError, tiling


@st.composite
def plans(draw):
    multiple = draw(st.sampled_from([1, 2, 4]))
    overlap = draw(st.integers(0, 20))
    tile = draw(st.integers(2 * overlap + multiple, 2 * overlap + 70).map(lambda t: t + -t % multiple))
    height, width = (draw(st.integers(1, 60)) * multiple for _ in range(2))
    return height, width, tile, overlap, multiple


@given(plans(), st.sampled_from([1, 2, 3, 4]), st.sampled_from([np.uint8, np.uint16, np.float32]))
def test_enlarged_tiles_join_to_the_enlarged_frame(case, scale, dtype):
    height, width, tile, overlap, multiple = case
    frame = (np.random.default_rng(height * width).random((height, width, 3)) * 255).astype(dtype)
    grid = tiling.square_tiles(height, width, tile, overlap, multiple)
    tiles = [part.repeat(scale, 0).repeat(scale, 1) for part in grid.cut(frame)]
    joined = grid.join(tiles, scale)
    assert joined.dtype == dtype
    np.testing.assert_array_equal(joined, frame.repeat(scale, 0).repeat(scale, 1))


@given(plans())
def test_tiles_have_one_size_and_aligned_starts(case):
    height, width, tile, overlap, multiple = case
    grid = tiling.square_tiles(height, width, tile, overlap, multiple)
    frame = np.zeros((height, width, 3), np.uint8)
    assert {part.shape for part in grid.cut(frame)} == {(min(tile, height), min(tile, width), 3)}
    assert all(start % multiple == 0 for axis in (grid.rows, grid.columns) for start in axis.starts)
    for axis in (grid.rows, grid.columns):
        shared = [a + axis.tile - b for a, b in zip(axis.starts, axis.starts[1:], strict=False)]
        assert all(s >= 2 * overlap for s in shared)


@given(plans())
def test_pixels_near_an_inner_border_of_a_tile_are_never_used(case):
    """Poison each tile's margin of overlap / 2 on its inner sides: the result must not change."""
    height, width, tile, overlap, multiple = case
    grid = tiling.square_tiles(height, width, tile, overlap, multiple)
    frame = np.arange(height * width * 3, dtype=np.float32).reshape(height, width, 3)
    margin = overlap // 2
    poisoned = []
    for i, part in enumerate(grid.cut(frame)):
        row, column = divmod(i, len(grid.columns.starts))
        part = part.copy()
        top, left = grid.rows.starts[row], grid.columns.starts[column]
        if margin and top > 0:
            part[:margin] = np.nan
        if margin and top + part.shape[0] < height:
            part[-margin:] = np.nan
        if margin and left > 0:
            part[:, :margin] = np.nan
        if margin and left + part.shape[1] < width:
            part[:, -margin:] = np.nan
        poisoned.append(part)
    np.testing.assert_array_equal(grid.join(poisoned, 1), frame)


def test_seam_is_a_gradual_transition():
    """Two tiles that disagree by 100 meet in steps of 100 / overlap, not in a jump."""
    grid = tiling.square_tiles(8, 60, 40, 10)
    assert len(grid) == 2
    left, right = (np.full((8, 40, 3), value, np.float32) for value in (0.0, 100.0))
    row = grid.join([left, right], 1)[0, :, 0]
    assert np.diff(row).max() == pytest.approx(10.0)
    assert (np.diff(row) >= 0).all()
    assert row[0] == 0
    assert row[-1] == 100
    assert row.mean() == pytest.approx(50.0)


@pytest.mark.parametrize(("tile", "overlap"), [(8, 16), (32, 16), (0, 1), (16, -1)])
def test_tile_that_is_all_overlap_is_refused(tile, overlap):
    with pytest.raises(OptionError, match="overlap"):
        tiling.square_tiles(100, 100, tile, overlap)


@given(plans())
def test_even_tiles_are_as_few_and_never_larger(case):
    height, width, tile, overlap, multiple = case
    square = tiling.square_tiles(height, width, tile, overlap, multiple)
    even = tiling.square_tiles(height, width, tile, overlap, multiple, even=True)
    assert even.overhead <= square.overhead
    for before, after in ((square.rows, even.rows), (square.columns, even.columns)):
        assert len(after.starts) == len(before.starts)
        assert after.tile <= before.tile
        assert after.tile % multiple == 0 or after.tile == after.size
        shared = [a + after.tile - b for a, b in zip(after.starts, after.starts[1:], strict=False)]
        assert all(2 * overlap <= s for s in shared)


def test_no_tile_is_cut_for_a_rest_of_a_few_rows():
    """400 rows: twice 216, of which 2 * 16 are shared, not twice 384."""
    grid = tiling.square_tiles(400, 300, 384, 16, even=True)
    assert (grid.rows.tile, grid.rows.starts) == (216, (0, 184))
    assert (grid.columns.tile, grid.columns.starts) == (300, (0,))
    assert grid.overhead == pytest.approx(2 * 216 / 400)


def least_computed(height, width, most_pixels, overlap):
    """By trying every shape of tile there is, with the number of tiles counted out."""

    def number(size, tile):
        tiles, covered = 1, tile
        while covered < size:
            tiles, covered = tiles + 1, covered + tile - 2 * overlap
        return tiles

    sides = range(4 * overlap + 1, max(height, width) + 1)
    shapes = [(min(h, height), min(w, width)) for h in sides for w in sides]
    return min(h * w * number(height, h) * number(width, w) for h, w in shapes if h * w <= most_pixels)


@pytest.mark.parametrize(
    ("height", "width", "most_pixels", "overlap"), [(90, 120, 2500, 4), (64, 64, 3000, 8), (33, 150, 1800, 6)]
)
def test_no_other_shape_computes_less(height, width, most_pixels, overlap):
    grid = tiling.fitted_tiles(height, width, most_pixels, overlap)
    assert grid.rows.tile * grid.columns.tile <= most_pixels
    assert grid.overhead * height * width == pytest.approx(least_computed(height, width, most_pixels, overlap))


@given(plans(), st.integers(0, 20000))
def test_fitted_tiles_fit_and_join(case, most_pixels):
    height, width, _, overlap, multiple = case
    grid = tiling.fitted_tiles(height, width, most_pixels, overlap, multiple)
    least = max(multiple, 2 * (2 * overlap + -2 * overlap % multiple)) ** 2
    assert grid.rows.tile * grid.columns.tile <= max(most_pixels, least)
    frame = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    np.testing.assert_array_equal(grid.join(grid.cut(frame), 1), frame)


def test_what_fits_is_not_cut():
    assert len(tiling.fitted_tiles(300, 200, 300 * 200, 16)) == 1
    assert len(tiling.fitted_tiles(300, 200, 300 * 200 - 1, 16)) == 2


def test_tiles_are_let_go_as_soon_as_they_are_joined():
    """The memory of joining: the frame and a tile, however many there are."""
    grid = tiling.square_tiles(100, 80, 24, 2)
    given_out = []

    def tiles():
        for part in grid.cut(np.zeros((100, 80, 3), np.uint8)):
            tile = part.copy()
            given_out.append(weakref.ref(tile))
            yield tile
            del tile
            assert sum(tile() is not None for tile in given_out) <= 1  # the one before is still in hand

    grid.join(tiles(), 1)
    assert len(given_out) == len(grid) >= 20
