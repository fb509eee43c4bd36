"""The plots of a benchmark: latency against throughput, roofline, and scaling along each axis that was varied."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esrgan_bench.page.axes import Axis, linear, listed, logarithmic, number
from esrgan_bench.page.canvas import Canvas, Point, Size, clipped, colour
from esrgan_bench.page.labels import Anchor, Place, along, around, shortened, stacked, text_width
from esrgan_bench.page.rows import SPLIT_BY, Kind, Row, distinct, lines, name_lines

MOST_LINES = 8
"""In one plot; more are spread over several, see `rows.facets`."""
IN_FLIGHT = ("batch", "streams")
"""The axes along which latency is given for throughput."""
Colours = Mapping[Kind, int]
Peaks = Sequence[Mapping[str, Any]]
"""As in the JSON."""


@dataclass(frozen=True)
class Drawing:
    """A plot, and the lines and marks in it that had no room for a label."""

    svg: str
    unlabelled: list[tuple[int, str]]
    """Their series and their name, for a legend."""


@dataclass(frozen=True)
class Scaling:
    """How one axis is plotted."""

    axis: str
    heading: str
    explained: str
    x: str
    """The attribute of a row."""
    x_title: str
    y_title: str
    figure: Callable[[Row, Row], float]
    """What a row has on the y axis; the second row is the first one of its line."""
    proportional: bool = False
    """Whether the best that can be is throughput that grows with x."""


def _relative(row: Row, first: Row) -> float:
    return row.fps / first.fps


def _cost(row: Row, _: Row) -> float:
    return 1e6 / (row.fps * row.pixels)


SCALINGS = (
    Scaling(
        "size",
        "Pixels",
        "time for each pixel of the frame that goes in; level where no size costs more than another.",
        *("pixels", "frame, in pixels", "µs per pixel", _cost),
    ),
    Scaling(
        "batch",
        "Batch",
        "throughput against that of the smallest batch.",
        *("batch", "frames in a batch", "times the throughput", _relative),
    ),
    Scaling(
        "streams",
        "Streams",
        "throughput against that with the fewest batches submitted at the same time.",
        *("streams", "batches at the same time", "times the throughput", _relative),
    ),
    Scaling(
        "threads",
        "Threads",
        "throughput against that with the fewest threads; dashed: as many times as there are threads.",
        *("threads", "threads", "times the throughput", _relative, True),
    ),
)


def latency_throughput(title: str, rows: Sequence[Row], colours: Colours, size: Size, classes: str = "") -> Drawing:
    """Latency over throughput, both logarithmic; a whisker reaches from the median to the 99th percentile.

    Lines join what differs in batch and streams only. By Little's law, frames in flight = throughput x latency: each
    number of frames in flight has a diagonal, on which its marks lie as long as nothing waits.
    """
    unit, ms = ("s", 1e-3) if min(row.p50_ms for row in rows) >= 1e3 else ("ms", 1.0)
    x_axis = logarithmic("frames per second", [row.fps for row in rows])
    times = [time * ms for row in rows for time in (row.p50_ms, row.p99_ms)]
    canvas = Canvas(size, x_axis, logarithmic(f"{unit} from submit to result", times))
    guides = [(count, _diagonal(canvas, x_axis, count * 1e3 * ms)) for count in sorted({r.in_flight for r in rows})]
    for _, ends in guides:
        if ends:
            canvas.line(ends, "guide")
    named = [
        (name, colours[line[0].kind], line, [(canvas.x(row.fps), canvas.y(row.p50_ms * ms)) for row in line])
        for name, line in _named(lines(rows, IN_FLIGHT, "in_flight"), IN_FLIGHT)
    ]
    for _, series, line, points in named:
        canvas.line(points, colour(series))
        for row, (x, y) in zip(line, points, strict=True):
            canvas.line([(x, y), (x, canvas.y(row.p99_ms * ms))], f"whisker {colour(series)}")
            canvas.mark(x, y, series, _says(row))
    missing = []
    for name, series, _, points in named:
        missing += _label(canvas, name, series, around([points[-1], *points[:-1]]))
    for count, ends in guides:
        if ends and (place := canvas.labels.place(text := f"{count} in flight", along(_between(*ends)))):
            canvas.write(place, text, "note")
    return Drawing(canvas.svg(f"Latency against throughput, {title}", classes), missing)


def roofline(
    title: str,
    rows: Sequence[Row],
    peaks: Peaks,
    bandwidth: float | None,
    colours: Colours,
    size: Size,
    classes: str = "",
) -> Drawing:
    """GFLOPS over operations per byte (Williams, Waterman and Patterson 2009), both logarithmic.

    Roofs are the measured peaks of arithmetic and the measured bandwidth of memory in GB/s. `rows` have both figures.
    """
    ridges = [peak["gflops"] / bandwidth for peak in peaks] if bandwidth else []
    intensities = [row.intensity for row in rows if row.intensity]
    speeds = [row.gflops for row in rows if row.gflops]
    x_axis = logarithmic("operations per byte", [*(x * factor for x in intensities for factor in (1 / 4, 4)), *ridges])
    y_axis = logarithmic("GFLOPS", [*speeds, *(peak["gflops"] for peak in peaks)])
    canvas = Canvas(size, x_axis, y_axis)
    for peak in peaks:
        knee = canvas.x(peak["gflops"] / bandwidth) if bandwidth else canvas.frame.left
        height = canvas.y(peak["gflops"])
        canvas.line([(knee, height), (canvas.frame.right, height)], f"roof {_peak_colour(peak, colours)}")
    highest = max((peak["gflops"] for peak in peaks), default=max(speeds))
    slope = _memory_roof(canvas, x_axis, bandwidth, highest) if bandwidth else None
    if slope:
        canvas.line(slope, "roof slope")
    for row in rows:
        if row.intensity and row.gflops:
            canvas.mark(canvas.x(row.intensity), canvas.y(row.gflops), colours[row.kind], _says(row))
    _name_roofs(canvas, peaks, colours)
    if slope and bandwidth:
        text = f"memory, {number(bandwidth)} GB/s"
        if place := canvas.labels.place(text, _beside(slope)):
            canvas.write(place, text, "note")
    missing = _name_marks(canvas, rows, colours)
    return Drawing(canvas.svg(f"Roofline, {title}", classes), missing)


def scaling(plan: Scaling, title: str, rows: Sequence[Row], colours: Colours, size: Size, classes: str = "") -> Drawing:
    """One line for all that differs along one axis only; names stand at the right end of the lines."""
    named = _named(lines(rows, (plan.axis,), plan.x), (plan.axis,))
    values = {getattr(row, plan.x): row for _, line in named for row in line}
    names = [values[value].size if plan.axis == "size" else str(value) for value in sorted(values)]
    x_axis = listed(plan.x_title, sorted(values), names)
    y_axis = linear(plan.y_title, max(plan.figure(row, line[0]) for _, line in named for row in line))
    right = min(size.width * 0.4, 22 + max(text_width(name) for name, _ in named))
    canvas = Canvas(size, x_axis, y_axis, right)
    if plan.proportional:
        _draw_proportion(canvas, x_axis, y_axis)
    ends = []
    for _, line in named:
        series = colours[line[0].kind]
        points = [(canvas.x(getattr(row, plan.x)), canvas.y(plan.figure(row, line[0]))) for row in line]
        canvas.line(points, colour(series))
        for row, (x, y) in zip(line, points, strict=True):
            canvas.mark(x, y, series, _says(row))
        ends.append(points[-1])
    _name_ends(canvas, [(name, colour(colours[line[0].kind])) for name, line in named], ends, right - 12)
    return Drawing(canvas.svg(f"{plan.heading}: {title}", classes), [])


def _named(found: Sequence[list[Row]], free: Sequence[str]) -> list[tuple[str, list[Row]]]:
    return list(zip(name_lines(found, free), found, strict=True))


def _says(row: Row) -> str:
    """Under the pointer."""
    what = " · ".join([row.model, " ".join(row.kind), *(row.says(axis) for axis in SPLIT_BY)])
    speed = "" if row.gflops is None else f", {number(row.gflops)} GFLOPS"
    return f"{what}: {number(row.fps)} fps, p50 {number(row.p50_ms)} ms, p99 {number(row.p99_ms)} ms{speed}"


def _label(canvas: Canvas, name: str, series: int, wishes: list[Place]) -> list[tuple[int, str]]:
    """Write a name at the first free place; returns it where there is none."""
    room = (canvas.frame.right - canvas.frame.left) * 0.6
    if place := canvas.labels.place(text := shortened(name, room), wishes):
        canvas.write(place, text, f"label {colour(series)}")
        return []
    return [(series, name)]


def _diagonal(canvas: Canvas, x_axis: Axis, product: float) -> tuple[Point, Point] | None:
    """Where throughput x latency is this: from the left edge of the plot to the right one."""
    a, b = ((canvas.x(fps), canvas.y(product / fps)) for fps in (x_axis.low, x_axis.high))
    return clipped(a, b, canvas.frame)


def _between(a: Point, b: Point) -> list[Point]:
    """Points from one end to the other, where a name could stand."""
    return [(a[0] + (b[0] - a[0]) * i / 24, a[1] + (b[1] - a[1]) * i / 24) for i in range(25)]


def _kind(peak: Mapping[str, Any]) -> Kind:
    return peak["backend"], peak["precision"]


def _peak_colour(peak: Mapping[str, Any], colours: Colours) -> str:
    """That of the marks which it limits; none of its own where there are none."""
    return colour(colours[_kind(peak)]) if _kind(peak) in colours else "other"


def _memory_roof(canvas: Canvas, x_axis: Axis, bandwidth: float, highest: float) -> tuple[Point, Point] | None:
    """The slope up to the highest peak, beyond which memory limits nothing."""
    a, b = ((canvas.x(x), canvas.y(bandwidth * x)) for x in (x_axis.low, highest / bandwidth))
    return clipped(a, b, canvas.frame)


def _beside(slope: tuple[Point, Point]) -> list[Place]:
    """On either side of a rising line."""
    sides: tuple[tuple[float, float, Anchor], ...] = ((-8, -6, "end"), (8, 8, "start"))
    return [Place(x + dx, y + dy, anchor) for dx, dy, anchor in sides for x, y in _between(*slope)]


def _name_marks(canvas: Canvas, rows: Sequence[Row], colours: Colours) -> list[tuple[int, str]]:
    """One name for all marks of a backend and precision, beside the fastest of them that has room for it."""
    missing = []
    for kind in distinct(rows, "kind"):
        members = sorted((row for row in rows if row.kind == kind), key=lambda row: -(row.gflops or 0))
        places = [(canvas.x(row.intensity), canvas.y(row.gflops)) for row in members if row.intensity and row.gflops]
        missing += _label(canvas, " ".join(kind), colours[kind], around(places))
    return missing


def _name_roofs(canvas: Canvas, peaks: Peaks, colours: Colours) -> None:
    """At the right end of each roof, above it, else below."""
    for peak in sorted(peaks, key=lambda peak: -peak["gflops"]):
        text = f"peak {' '.join(_kind(peak))}, {number(peak['gflops'])}"
        height = canvas.y(peak["gflops"])
        rights = [canvas.frame.right - 4 - step * 24 for step in range(20)]
        wishes = [Place(x, height + dy, "end") for dy in (-11, 12) for x in rights]
        if place := canvas.labels.place(text, wishes):
            canvas.write(place, text, f"note {_peak_colour(peak, colours)}")


def _name_ends(canvas: Canvas, names: Sequence[tuple[str, str]], ends: Sequence[Point], room: float) -> None:
    """Names, given with their colours, to the right of the frame, each as close to the end of its line as fits."""
    start = canvas.frame.right + 10
    heights = stacked([y for _, y in ends], canvas.frame.top, canvas.frame.bottom)
    for (name, class_), (x, y), height in zip(names, ends, heights, strict=True):
        if x < start - 16 or abs(height - y) > 3:
            canvas.line([(x + 6, y), (start - 2, height)], f"leader {class_}", avoided=False)
        canvas.write(Place(start, height, "start"), shortened(name, room), f"label {class_}")


def _draw_proportion(canvas: Canvas, x_axis: Axis, y_axis: Axis) -> None:
    """Throughput that grows with x, as far as the plot reaches. On a logarithmic x axis this is no straight line."""
    least = x_axis.ticks[0]
    most = min(x_axis.ticks[-1], least * y_axis.high)
    values = [least * (most / least) ** (i / 32) for i in range(33)]
    canvas.line([(canvas.x(value), canvas.y(value / least)) for value in values], "guide", avoided=False)
