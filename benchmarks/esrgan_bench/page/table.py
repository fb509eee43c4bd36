"""The figures of a benchmark as an HTML table; what is the same in all rows stands above it, once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from esrgan_bench.page.axes import number
from esrgan_bench.page.canvas import swatch
from esrgan_bench.page.rows import SETTINGS, Kind, Row, distinct, varying

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A figure that is measured."""

    title: str
    unit: str
    value: Callable[[Result], float | None]
    say: Callable[[float], str] = number
    best: Callable[[Sequence[float]], float] | None = None
    """Which value among rows of one network and size is set in bold."""


COLUMNS = (
    Column("fps", "", lambda r: r["fps"], best=max),
    Column("GFLOPS", "", lambda r: r["gflops"]),
    Column("of peak", "", lambda r: r["share_of_peak"], lambda share: f"{share:.1%}"),
    Column("p50", "ms", lambda r: r["latency_ms"]["p50"], best=min),
    Column("p90", "ms", lambda r: r["latency_ms"]["p90"]),
    Column("p99", "ms", lambda r: r["latency_ms"]["p99"]),
    Column("spread", "ms", lambda r: r["spread_ms"]),
    Column("runs", "", lambda r: r["runs"], str),
    Column("memory", "MiB", lambda r: r["rss_mib"]["now"]),
    Column("at most", "MiB", lambda r: r["rss_mib"]["peak"]),
    Column("energy", "J/frame", lambda r: r["joules_per_frame"]),
)
NOTES = (
    "GFLOPS count two operations for each multiply-accumulate; <i>of peak</i> compares them with the fastest matrix "
    "product in the same backend and precision. p50, p90 and p99 are percentiles of the latency of a batch, spread is "
    "its median absolute deviation. Memory is that of the whole process. Bold: the best of a network at that size."
)


def figures_table(rows: Sequence[Row], colours: Mapping[Kind, int]) -> list[str]:
    """All figures, as lines of HTML, by file; figures that no row has get no column."""
    axes = [axis for axis in SETTINGS if axis in varying(rows)]
    same = ", ".join(rows[0].says(axis) for axis in SETTINGS if axis not in axes)
    columns = [column for column in COLUMNS if any(column.value(row.result) is not None for row in rows)]
    best = _best(rows, columns)
    heads = ['<th class="words">backend', *(f"<th>{axis}" for axis in axes), *map(_head, columns)]
    lines = [f'<p class="quiet">In all rows: {escape(same)}.</p>'] if same else []
    lines.append('<div class="scroll" tabindex="0" role="region" aria-label="All figures"><table>')
    lines.append(f"<thead><tr>{''.join(heads)}</thead>")
    for model in distinct(rows, "model"):
        lines.append(f'<tbody><tr><th colspan="{len(heads)}"><span>{escape(model)}</span>')
        for row in sorted(rows, key=lambda row: (list(colours).index(row.kind), row.order)):
            if row.model == model:
                cells = [f'<td class="words">{swatch(colours[row.kind])}{escape(" ".join(row.kind))}']
                cells += [f"<td>{getattr(row, axis)}" for axis in axes]
                cells += [_cell(column, row, best[row.family, row.size, column.title]) for column in columns]
                lines.append(f"<tr>{''.join(cells)}")
        lines.append("</tbody>")
    return [*lines, "</table></div>", f'<p class="quiet">{NOTES}</p>']


def peaks_table(peaks: Sequence[Mapping[str, Any]], colours: Mapping[Kind, int]) -> list[str]:
    """The measured peaks, as lines of HTML."""
    if not peaks:
        return []
    lines = ['<div class="scroll"><table>']
    lines.append('<thead><tr><th class="words">fastest matrix product<th>GFLOPS<th>side<th>in a row</thead><tbody>')
    for peak in peaks:
        kind = (peak["backend"], peak["precision"])
        mark = swatch(colours[kind]) if kind in colours else ""
        name = f'<td class="words">{mark}{escape(" ".join(kind))}'
        lines.append(f"<tr>{name}<td>{number(peak['gflops'])}<td>{peak['side']}<td>{peak['chain']}")
    lines.append("</tbody></table></div>")
    return lines


def _head(column: Column) -> str:
    return f"<th>{column.title}" + (f"<small>{column.unit}</small>" if column.unit else "")


def _best(rows: Sequence[Row], columns: Sequence[Column]) -> dict[tuple[str, str, str], float | None]:
    """The value to be set in bold for each (family, size, title of a column); None: none."""
    found: dict[tuple[str, str, str], float | None] = {}
    for column in columns:
        groups: dict[tuple[str, str], list[float]] = {}
        for row in rows:
            value = column.value(row.result)
            groups.setdefault((row.family, row.size), []).extend([] if value is None else [value])
        for key, values in groups.items():
            found[(*key, column.title)] = column.best(values) if column.best and len(values) > 1 else None
    return found


def _cell(column: Column, row: Row, best: float | None) -> str:
    value = column.value(row.result)
    if value is None:
        return "<td>&ndash;"
    mark = ' class="best"' if value == best else ""
    return f"<td{mark}>{column.say(value)}"
