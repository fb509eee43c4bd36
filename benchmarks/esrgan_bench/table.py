"""The figures of a benchmark as a table of text: a row for each result, as it comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from esrgan_bench.measure import Benchmark
from esrgan_bench.report import TIMED
from esrgan_deploy.cli.terminal import printable

Result = Mapping[str, Any]
"""An entry of `results` in the JSON, see report.py."""


class Column(NamedTuple):
    """A column after the name of the model."""

    title: str
    width: int
    cell: Callable[[Result], str]


COLUMNS = (
    Column("backend", 9, lambda r: str(r["backend"])),
    Column("type", 5, lambda r: str(r["precision"])),
    Column("size", 9, lambda r: f"{r['width']}x{r['height']}"),
    Column("batch", 5, lambda r: str(r["batch"])),
    Column("streams", 7, lambda r: str(r["streams"])),
    Column("threads", 7, lambda r: str(r["threads"])),
    Column("runs", 5, lambda r: str(r["runs"])),
    Column("p50 ms", 9, lambda r: f"{r['latency_ms']['p50']:.1f}"),
    Column("p90 ms", 9, lambda r: f"{r['latency_ms']['p90']:.1f}"),
    Column("p99 ms", 9, lambda r: f"{r['latency_ms']['p99']:.1f}"),
    Column("+-ms", 7, lambda r: f"{r['spread_ms']:.1f}"),
    Column("fps", 8, lambda r: format_fps(r["fps"])),
    Column("GFLOPS", 8, lambda r: format_known(r["gflops"], ".1f")),
    Column("of peak", 7, lambda r: format_known(r["share_of_peak"], ".1%")),
    Column("RSS MiB", 7, lambda r: f"{r['rss_mib']['now']:.0f}"),
    Column("at most", 7, lambda r: f"{r['rss_mib']['peak']:.0f}"),
    Column("J/frame", 7, lambda r: format_known(r["joules_per_frame"], ".1f")),
)


def table_head(models: Sequence[Path]) -> str:
    """Names of the columns; `models` are all that will have a row."""
    return _line("model", [column.title for column in COLUMNS], models)


def table_row(result: Result, models: Sequence[Path]) -> str:
    """The figures of one result under `table_head`."""
    return _line(result["model"], [column.cell(result) for column in COLUMNS], models)


def table_foot(benchmark: Benchmark) -> str:
    """What the times include, what 'of peak' compares with, and where the energy comes from."""
    lines = [
        f"Times: {TIMED}. +-: median absolute deviation. fps: over all runs.",
        *(
            f"Peak of {p.backend} in {p.precision}: {p.gflops:.1f} GFLOPS, product of {p.side}x{p.side}, "
            f"{p.chain} in a row, fastest run, all cores."
            for p in benchmark.peaks.found
        ),
    ]
    if benchmark.bandwidth_gb_s:
        lines.append(f"Main memory: {benchmark.bandwidth_gb_s:.1f} GB/s, read and written by a large copy.")
    return "\n".join([*lines, f"J/frame: {benchmark.about_energy}."])


def format_fps(fps: float) -> str:
    """Frames per second with at least three significant digits: a frame may take minutes."""
    return f"{fps:.3f}" if fps >= 1 else f"{fps:.3g}"


def format_known(value: float | None, spec: str) -> str:
    """The value in a format; a dash where it is not known."""
    return "-" if value is None else format(value, spec)


def _line(name: str, cells: Sequence[str], models: Sequence[Path]) -> str:
    name_width = max(5, *(len(printable(path.name)) for path in models))
    padded = (cell.rjust(column.width) for cell, column in zip(cells, COLUMNS, strict=True))
    return " ".join([printable(name).ljust(name_width), *padded])
