"""Behind the page of a benchmark: which results make a line, round ticks, and labels that keep apart."""

import re
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esrgan_bench.page import axes, labels, rows
from esrgan_bench.page.canvas import clipped
from esrgan_bench.page.labels import Box, Labels, Place
from made_up_figures import GRID, NETWORKS, SIZES, result


def read(entries):
    return [rows.Row.read(entry) for entry in entries]


@pytest.mark.parametrize(
    ("file", "family"),
    [
        ("esrgan_x4_a0.80_fp16.onnx", "esrgan_x4_a0.80"),
        ("esrgan_x4_a0.80_int8.onnx", "esrgan_x4_a0.80"),
        ("compact_x2_bf16_640x360_batch.onnx", "compact_x2_640x360_batch"),
        ("net_fp32_v2.onnx", "net_v2"),
        ("net_fp3200.onnx", "net_fp3200"),
        ("plain", "plain"),
    ],
)
def test_a_network_keeps_its_name_in_every_precision(file, family):
    (row,) = read([{**GRID[0], "model": file}])
    assert row.family == family


def test_two_files_in_one_precision_are_told_apart():
    entries = [{**GRID[0], "model": f"net_{p}.onnx"} for p in ("fp16", "fp32")]
    found = rows.lines(read(entries), ("size",), "pixels")
    assert rows.name_lines(found, ("size",)) == ["openvino fp32 · net_fp16", "openvino fp32 · net_fp32"]


def test_too_many_lines_are_spread_over_plots_of_one_size_each():
    plots = rows.facets(read(GRID), ("batch", "streams"), 8)
    assert [(name, detail, len(some)) for name, detail, some in plots] == [
        (name, f"{w}x{h}", 18) for name in NETWORKS for w, h in SIZES
    ]
    assert [(detail, len(some)) for _, detail, some in rows.facets(read(GRID), ("batch", "streams"), 9)] == [
        ("", 54)
    ] * 2


def test_scaling_is_shown_for_small_frames_one_at_a_time():
    plots = rows.held(read(GRID), "batch", "batch")
    assert [title for title, _ in plots] == [f"{name} · 128x128 · 1 stream" for name in NETWORKS]
    assert {(row.size, row.streams) for _, some in plots for row in some} == {("128x128", 1)}
    assert rows.held(read(GRID), "threads", "threads") == []
    threads = [result("small_x4", ("ort", "fp32"), size, threads=n) for size in SIZES for n in (1, 2, 4)]
    ((title, some),) = rows.held(read(threads), "size", "pixels")
    assert (title, len(some)) == ("small_x4 · 4 threads", len(SIZES))


@given(st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=5))
def test_logarithmic_axes_have_round_ticks_and_room_for_all(values):
    axis = axes.logarithmic("", values)
    assert all(axes.ROOM < axis.at(value) < 1 - axes.ROOM for value in values)
    assert 2 <= len(axis.ticks) <= 2 * axes.LABELS
    assert all(a < b for a, b in pairwise(axis.ticks))
    assert axis.low <= axis.ticks[0] < axis.ticks[-1] <= axis.high
    digits = [f"{tick:.9e}".split("e")[0].rstrip("0").replace(".", "") for tick in axis.ticks]
    assert max(map(len, digits)) <= 2
    assert [float(name.replace("\u202f", "")) for name in axis.names] == pytest.approx(axis.ticks, rel=1e-12)


@given(st.floats(1e-6, 1e9))
def test_linear_axes_begin_at_zero_and_end_at_a_round_number(largest):
    axis = axes.linear("", largest)
    steps = np.diff(axis.ticks)
    assert axis.ticks[0] == axis.low == 0
    assert axis.ticks[-2] < largest <= axis.high * (1 + 1e-9)
    assert steps == pytest.approx(steps[0])
    assert f"{steps[0]:.6e}"[0] in "125"
    assert 2 <= len(axis.ticks) <= 7


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.03124, "0.0312"), (9.996, "10.00"), (3.14159, "3.14"), (314.6, "315"), (12345, "12\u202f345")],
)
def test_numbers_have_three_digits_and_no_exponent(value, text):
    assert axes.number(value) == text


def test_labels_of_lines_move_apart_as_little_as_possible():
    assert labels.stacked([50, 50, 50], 0, 100, 15) == [35, 50, 65]
    assert labels.stacked([10, 80, 40], 0, 100, 15) == [10, 80, 40]
    assert labels.stacked([2, 4], 0, 100, 10) == [0, 10]  # around 3, but for the edge
    assert labels.stacked([60, 50, 90], 0, 100, 20) == [65, 45, 90]


@given(st.lists(st.floats(0, 200), max_size=10))
def test_labels_of_lines_keep_their_order_and_distance(heights):
    placed = labels.stacked(heights, 0, 200, 20)
    ordered = [placed[i] for i in sorted(range(len(heights)), key=heights.__getitem__)]
    assert all(b - a > 20 - 1e-6 for a, b in pairwise(ordered))
    assert all(-1e-6 <= y <= 200 + 1e-6 for y in placed)


@given(st.lists(st.tuples(st.floats(0, 300), st.floats(0, 200)), max_size=12))
def test_labels_never_cover_each_other(points):
    found = Labels(Box(0, 0, 300, 200))
    placed = [found.place("label", labels.around([point])) for point in points]
    boxes = [place.box("label") for place in placed if place]
    assert not any(a.meets(b) for a, b in combinations(boxes, 2))
    assert all(found.area.holds(box) for box in boxes)


def test_a_label_avoids_lines_where_it_can():
    found = Labels(Box(0, 0, 300, 200), lines=[Box(100, 95, 300, 105)])
    right, left = Place(109, 100, "start"), Place(91, 100, "end")
    assert found.place("label", [right, left]) == left
    assert found.place("label", [right]) == right
    assert found.place("label", [right]) is None


def test_long_names_keep_both_ends():
    short = labels.shortened("RealESRGAN_x4plus_anime_6B", 100)
    assert re.fullmatch("Real.*….*6B", short)
    assert labels.text_width(short) <= 100
    assert labels.shortened("net", 100) == "net"


def test_lines_are_cut_at_the_frame():
    frame = Box(0, 0, 10, 10)
    assert clipped((-5, 5), (15, 5), frame) == ((0, 5), (10, 5))
    assert clipped((-5, -5), (5, 5), frame) == ((0, 0), (5, 5))
    assert clipped((5, 20), (20, 5), frame) is None
    assert clipped((3, -1), (3, 4), frame) == ((3, 0), (3, 4))
    assert clipped((-1, -1), (-1, 4), frame) is None
