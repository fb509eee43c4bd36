"""Plots of a benchmark with matplotlib: throughput, latency and share of the peak, over what was varied."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from esrgan_bench.table import Result
from esrgan_deploy.cli.terminal import html_text

Kind = tuple[str, str]
"""Backend and precision: what has a colour and a mark of its own."""
LOOKS = tuple(zip(("#0072b2", "#d55e00", "#00855f", "#b05c99", "#7f7f7f", "#8c6d00"), "os^DvP", strict=True))
"""Colours of Okabe and Ito 2008, some darker: each has a contrast of 3 or more with a white page and with a dark one.
Marks for those who cannot tell the colours apart."""
INK = "#010203"
"""The colour of words and axes while they are drawn. In the page they have the colour of its text, light or dark."""
STYLE = {
    **{"svg.hashsalt": "esrgan-bench", "svg.fonttype": "none", "text.parse_math": False},
    **{"font.size": 9, "font.sans-serif": ["DejaVu Sans"], "axes.titlelocation": "left", "axes.titlesize": 9},
    **{"axes.titleweight": "bold", "axes.titlepad": 9, "legend.frameon": False, "axes.axisbelow": True},
    **{"figure.facecolor": "none", "axes.facecolor": "none", "grid.color": INK, "grid.alpha": 0.15},
    **{"text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK},
    **{"xtick.major.size": 0, "ytick.major.size": 0, "ytick.minor.size": 0},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False},
}


class Metric(NamedTuple):
    """A figure of a result that is plotted."""

    title: str
    value: Callable[[Result], float | None]
    text: Callable[[float], str]
    most_is_best: bool = True


def short(value: float) -> str:
    """Three significant digits, but whole from 100 on."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _time(seconds: float) -> str:
    return f"{short(seconds)} s" if seconds >= 1 else f"{short(seconds * 1e3)} ms"


FRAMES = Metric("Throughput, frames per second", lambda r: r["fps"], short)
PIXELS = Metric("Throughput, megapixels per second", lambda r: r["fps"] * r["width"] * r["height"] / 1e6, short)
LATENCY = Metric("Latency, median to 99th percentile", lambda r: r["latency_ms"]["p50"] / 1e3, _time, False)
SHARE = Metric("Share of the peak", lambda r: r["share_of_peak"], lambda share: f"{share:.0%}")
OPTIONS = {"size": "frame", "batch": "frames in a batch", "streams": "batches at a time", "threads": "threads"}


def kinds_of(results: Iterable[Result]) -> list[Kind]:
    """Every backend and precision, in the order in which they come."""
    return list(dict.fromkeys((r["backend"], r["precision"]) for r in results))


def draw_network(results: Sequence[Result], kinds: Sequence[Kind]) -> list[list[Figure]]:
    """The plots of one network: a row over the size of the frames, then one over each other option that was varied.

    Batch, streams and threads are plotted for the smallest frame, where they matter most.

    Args:
        results: of one network, at least one.
        kinds: of the whole page, so that a kind looks the same in all plots.
    """
    sizes = sorted({_place(r, "size") for r in results})
    smallest = [r for r in results if _place(r, "size") == sizes[0]]
    metrics = [FRAMES if len(sizes) == 1 else PIXELS, LATENCY, SHARE]
    known = [metric for metric in metrics if any(metric.value(r) is not None for r in results)]
    rows = [[draw(results, metric, "size", kinds) for metric in known]]
    for option in ("batch", "streams", "threads"):
        if len({r[option] for r in smallest}) > 1:
            rows.append([draw(smallest, metric, option, kinds) for metric in (FRAMES, LATENCY)])
    return rows


def draw(results: Sequence[Result], metric: Metric, option: str, kinds: Sequence[Kind]) -> Figure:
    """One plot: a line for each kind over the values of an option, or bars where it has one value only.

    A mark or bar is the best of the results that differ in other options: the most throughput, the least latency.
    """
    known = [r for r in results if metric.value(r) is not None]
    places = sorted({_place(r, option) for r in known})
    best: dict[Kind, dict[int, Result]] = {}
    for r in sorted(
        known, key=lambda r: metric.value(r) or 0.0, reverse=not metric.most_is_best
    ):  # the best comes last
        best.setdefault((r["backend"], r["precision"]), {})[places.index(_place(r, option))] = r
    shown = {kind: sorted(best[kind].items()) for kind in kinds if kind in best}
    with matplotlib.rc_context(STYLE):
        height = 3.1 if len(places) > 1 else 0.7 + 0.34 * len(shown)
        figure = Figure((4.1, height), layout="constrained")
        axes = figure.add_subplot(title=metric.title, xlabel=OPTIONS[option])
        for kind, points in shown.items():
            at, values, tails = zip(*((at, metric.value(r), _tail(r, metric)) for at, r in points), strict=True)
            colour, mark = LOOKS[kinds.index(kind) % len(LOOKS)]
            if len(places) > 1:
                axes.plot(at, values, color=colour, marker=mark, markersize=5, label=" ".join(kind))
                axes.vlines(at, values, [v + tail for v, tail in zip(values, tails, strict=True)], color=colour)
            else:
                error: dict[str, Any] = {"xerr": [[0], tails], "ecolor": INK, "capsize": 3} if any(tails) else {}
                bar = axes.barh(" ".join(kind), values, 0.62, color=colour, **error)
                axes.bar_label(bar, [metric.text(values[0])], padding=4)
        if len(places) > 1:
            _finish_lines(axes, metric, [name for _, name in places])
            figure.legend(loc="outside lower left", ncols=3, handlelength=1.6, columnspacing=1.2)
        else:
            axes.set(xlabel=f"{OPTIONS[option]} {places[0][1]}", xticks=[], ylim=(len(shown) - 0.5, -0.5))
            axes.margins(x=0.2)
            axes.spines.bottom.set_visible(False)
    return figure


def to_svg(figure: Figure, label: str) -> str:
    """The plot as an SVG element for HTML, the same text for the same figures; screen readers say `label`."""
    file = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg)  # the names would be the same in all plots of a page
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html_text(label)}" ', 1)


def _place(result: Result, option: str) -> tuple[int, str]:
    """Where a result stands along an option, and the words for it."""
    if option == "size":
        return result["width"] * result["height"], f"{result['width']}x{result['height']}"
    return result[option], str(result[option])


def _tail(result: Result, metric: Metric) -> float:
    """From the median of the latency to its 99th percentile, in seconds."""
    latency = result["latency_ms"]
    return (latency["p99"] - latency["p50"]) / 1e3 if metric is LATENCY else 0.0


def _finish_lines(axes: Axes, metric: Metric, names: Sequence[str]) -> None:
    tilted: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if len(names) > 4 else {}
    axes.set_xticks(range(len(names)), names, **tilted)
    axes.margins(x=0.1)
    if metric is LATENCY:
        axes.set_yscale("log")
        least, most = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if most < 100 * least else (1,)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: metric.text(value))
    axes.grid(axis="y")
