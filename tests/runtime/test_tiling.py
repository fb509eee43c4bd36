"""Tiling: what goes in comes out, whatever the sizes; and the context that the module promises is really there."""

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
    plan = tiling.plan(height, width, tile, overlap, multiple)
    tiles = [part.repeat(scale, 0).repeat(scale, 1) for part in plan.cut(frame)]
    joined = plan.join(tiles, scale)
    assert joined.dtype == dtype
    np.testing.assert_array_equal(joined, frame.repeat(scale, 0).repeat(scale, 1))


@given(plans())
def test_tiles_have_one_size_and_aligned_starts(case):
    height, width, tile, overlap, multiple = case
    plan = tiling.plan(height, width, tile, overlap, multiple)
    frame = np.zeros((height, width, 3), np.uint8)
    assert {part.shape for part in plan.cut(frame)} == {(min(tile, height), min(tile, width), 3)}
    assert all(start % multiple == 0 for axis in (plan.rows, plan.columns) for start in axis.starts)
    for axis in (plan.rows, plan.columns):
        shared = [a + axis.tile - b for a, b in zip(axis.starts, axis.starts[1:], strict=False)]
        assert all(s >= 2 * overlap for s in shared)


@given(plans())
def test_pixels_near_an_inner_border_of_a_tile_are_never_used(case):
    """Poison each tile's margin of overlap / 2 on its inner sides: the result must not change."""
    height, width, tile, overlap, multiple = case
    plan = tiling.plan(height, width, tile, overlap, multiple)
    frame = np.arange(height * width * 3, dtype=np.float32).reshape(height, width, 3)
    margin = overlap // 2
    poisoned = []
    for i, part in enumerate(plan.cut(frame)):
        row, column = divmod(i, len(plan.columns.starts))
        part = part.copy()
        top, left = plan.rows.starts[row], plan.columns.starts[column]
        if margin and top > 0:
            part[:margin] = np.nan
        if margin and top + part.shape[0] < height:
            part[-margin:] = np.nan
        if margin and left > 0:
            part[:, :margin] = np.nan
        if margin and left + part.shape[1] < width:
            part[:, -margin:] = np.nan
        poisoned.append(part)
    np.testing.assert_array_equal(plan.join(poisoned, 1), frame)


def test_seam_is_a_gradual_transition():
    """Two tiles that disagree by 100 meet in steps of 100 / overlap, not in a jump."""
    plan = tiling.plan(8, 60, 40, 10)
    assert len(plan) == 2
    left, right = (np.full((8, 40, 3), value, np.float32) for value in (0.0, 100.0))
    row = plan.join([left, right], 1)[0, :, 0]
    assert np.diff(row).max() == pytest.approx(10.0)
    assert (np.diff(row) >= 0).all()
    assert row[0] == 0
    assert row[-1] == 100
    assert row.mean() == pytest.approx(50.0)


@pytest.mark.parametrize(("tile", "overlap"), [(8, 16), (32, 16), (0, 1), (16, -1)])
def test_tile_that_is_all_overlap_is_refused(tile, overlap):
    with pytest.raises(OptionError, match="overlap"):
        tiling.plan(100, 100, tile, overlap)
