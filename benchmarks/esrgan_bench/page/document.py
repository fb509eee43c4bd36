"""The page, from its head to the machine at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from esrgan_bench.page.axes import number
from esrgan_bench.page.canvas import Size, swatch
from esrgan_bench.page.plots import (
    IN_FLIGHT,
    MOST_LINES,
    SCALINGS,
    Colours,
    Drawing,
    latency_throughput,
    roofline,
    scaling,
)
from esrgan_bench.page.rows import Row, distinct, facets, held
from esrgan_bench.page.table import figures_table, peaks_table
from esrgan_deploy.system.files import replacing

NARROW = Size(358, 320)
"""A plot beside another one, or on a phone: 390 pixels without the margins of the page."""
WIDE = Size(736, 420)
"""A plot alone: the width of the text."""
WIDE_AND_LOW = Size(736, 300)
"""The same for a few lines that hardly rise."""
INITIALS = ("cpu", "gpu", "os", "ram")
UNITS = {"mib": "MiB", "mhz": "MHz", "kib": "KiB"}
"""How words in the names of facts are written."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The browser holds the page to it: nothing is loaded, nothing runs."""


@dataclass(frozen=True)
class Panel:
    """A plot with its title."""

    title: str
    detail: str
    draw: Callable[[Size, str], Drawing]
    """For a size and with a class in style.css."""


def write_page(path: Path, content: Mapping[str, Any]) -> None:
    """Write the page; nothing is loaded from elsewhere, and nothing runs in it.

    Args:
        path: the HTML file.
        content: a benchmark's JSON in format 2, interrupted ones included.

    Raises:
        OutputError: `path` cannot be written.
    """
    rows = [Row.read(result) for result in content["results"]]
    colours = {kind: series for series, kind in enumerate(dict.fromkeys(row.kind for row in rows))}
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>esrgan-bench: {escape(_processor(content))}</title>",
        f"<style>\n{_style()}</style>",
        *_header(content, rows),
        *_latency_section(rows, colours),
        *_roofline_section(content, rows, colours),
        *_scaling_section(rows, colours),
        *_figures_section(rows, colours),
        *_machine_section(content, colours),
        "</html>\n",
    ]
    with replacing(path) as partial:
        partial.write_text("\n".join(parts), encoding="utf-8")


def _style() -> str:
    return (resources.files("esrgan_bench.page") / "style.css").read_text(encoding="utf-8")


def _processor(content: Mapping[str, Any]) -> str:
    """The processor without its trade marks."""
    return str(content["machine"].get("cpu", "this machine")).replace("(R)", "").replace("(TM)", "")


def _header(content: Mapping[str, Any], rows: Sequence[Row]) -> list[str]:
    machine = content["machine"]
    cores = machine.get("cores_usable")
    facts = [
        f"{_said(cores)} core{'s' * (cores != 1)}" if cores else "",
        f"{machine['ram_mib'] / 1024:.0f} GiB of memory" if machine.get("ram_mib") else "",
        str(machine.get("os", "")),
        str(content["date"]).replace("T", " ").replace("+00:00", " UTC"),
    ]
    parts = [
        f"<h1>Super-resolution on {escape(_processor(content))}</h1>",
        f'<p class="quiet">{escape(" · ".join(fact for fact in facts if fact))}</p>',
    ]
    if not content["complete"]:
        parts.append('<p class="notice">This benchmark was interrupted. The page has what was measured until then.</p>')
    if not rows:
        return [*parts, '<p class="notice">Nothing was measured.</p>']
    cards = "\n".join(_card(family, rows) for family in distinct(rows, "family"))
    return [*parts, f'<div class="cards">\n{cards}\n</div>']


def _card(family: str, rows: Sequence[Row]) -> str:
    """The row of a network that computes most pixels in a second."""
    best = max((row for row in rows if row.family == family), key=lambda row: row.fps * row.pixels)
    share = f" · {best.share_of_peak:.0%} of peak" if best.share_of_peak is not None else ""
    how = f"{' '.join(best.kind)}, {best.says('batch')}, {best.says('streams')}, {best.says('threads')}"
    return "\n".join(
        [
            f'<div class="card"><h2>{escape(family)}</h2>',
            f'<p class="figure">{number(best.fps)} <small>fps at {best.size}</small></p>',
            f'<p class="quiet">most pixels per second: {escape(how)}{share}</p></div>',
        ]
    )


def _latency_section(rows: Sequence[Row], colours: Colours) -> list[str]:
    if not rows:
        return []
    panels = [
        Panel(title, detail, partial(latency_throughput, " · ".join(filter(None, [title, detail])), some, colours))
        for title, detail, some in facets(rows, IN_FLIGHT, MOST_LINES)
    ]
    return [
        "<h2>Latency against throughput</h2>",
        '<p class="quiet">Each mark is the median of one configuration; its whisker reaches up to the 99th percentile. '
        "Right is more frames, low is less waiting. Along a dashed line the same number of frames is being computed "
        "at any time: batch times streams.</p>",
        _panels(panels),
    ]


def _roofline_section(content: Mapping[str, Any], rows: Sequence[Row], colours: Colours) -> list[str]:
    known = [row for row in rows if row.gflops and row.intensity]
    if not known:
        return []
    remark = f" Rows whose arithmetic or traffic is not known are not shown: {len(rows) - len(known)} of {len(rows)}."
    panels = []
    for family in distinct(known, "family"):
        some = [row for row in known if row.family == family]
        draw = partial(roofline, family, some, content["peaks"], content["bandwidth_gb_s"], colours)
        panels.append(Panel(family, "", draw))
    return [
        "<h2>Roofline</h2>",
        '<p class="quiet">How fast, for how much arithmetic on each byte. The roof of a precision is the '
        "fastest matrix product that was measured here. Bytes are counted as if each layer read its inputs from memory "
        "and wrote its output back: a backend that keeps them in caches, or joins layers, can be above the memory's "
        f"slope.{remark if len(known) < len(rows) else ''}</p>",
        _panels(panels),
    ]


def _scaling_section(rows: Sequence[Row], colours: Colours) -> list[str]:
    panels, explained = [], []
    for plan in SCALINGS:
        plots = held(rows, plan.axis, plan.x)
        for title, some in plots:
            panels.append(Panel(plan.heading, title, partial(scaling, plan, title, some, colours)))
        if plots:
            explained.append(f"<b>{plan.heading}:</b> {plan.explained}")
    if not panels:
        return []
    return ["<h2>Scaling</h2>", f'<p class="quiet">{" ".join(explained)}</p>', _panels(panels, WIDE_AND_LOW)]


def _panels(panels: Sequence[Panel], wide: Size = WIDE) -> str:
    """One plot alone is drawn in two widths, of which the style sheet shows one; several stand side by side."""
    figures = []
    for panel in panels:
        # "batch 1" stays on one line.
        detail = escape(panel.detail.replace(" ", "\u00a0").replace("·\u00a0", "· "))
        caption = f"<figcaption><b>{escape(panel.title)}</b><span>{detail}</span></figcaption>"
        sizes = [(wide, "wide"), (NARROW, "narrow")] if len(panels) == 1 else [(NARROW, "")]
        plots = [_with_legend(panel.draw(size, classes), classes) for size, classes in sizes]
        figures.append("\n".join([f"<figure>{caption}", *plots, "</figure>"]))
    return "\n".join(['<div class="panels">', *figures, "</div>"])


def _with_legend(drawing: Drawing, classes: str) -> str:
    if not drawing.unlabelled:
        return drawing.svg
    names = dict.fromkeys(drawing.unlabelled)
    items = "".join(f"<span>{swatch(series)}{escape(name)}</span>" for series, name in names)
    return f'{drawing.svg}\n<p class="legend {classes}">{items}</p>'


def _figures_section(rows: Sequence[Row], colours: Colours) -> list[str]:
    return ["<h2>All figures</h2>", *figures_table(rows, colours)] if rows else []


def _machine_section(content: Mapping[str, Any], colours: Colours) -> list[str]:
    bandwidth, energy = content["bandwidth_gb_s"], content.get("energy")
    return [
        "<h2>How it was measured</h2>",
        f"<pre><code>{escape(content['command'])}</code></pre>",
        f"<p>Timed: {escape(content['timed'])}.</p>",
        *peaks_table(content["peaks"], colours),
        f"<p>Main memory: {number(bandwidth)} GB/s, read and written by a large copy.</p>" if bandwidth else "",
        f"<p>{escape(energy[:1].upper() + energy[1:])}.</p>" if energy else "",
        "<h2>Machine</h2>",
        _facts(content["machine"].items()),
    ]


def _facts(facts: Iterable[tuple[str, Any]]) -> str:
    known = [(key, said) for key, value in facts if (said := _said(value))]
    lines = [f"<dt>{escape(_title(key))}</dt><dd>{escape(said)}</dd>" for key, said in known]
    return "\n".join(["<dl>", *lines, "</dl>"])


def _title(key: str) -> str:
    """The key of a fact in words: ram_mib is "RAM, MiB"."""
    head, _, unit = key.rpartition("_")
    if head and unit in UNITS:
        return f"{_title(head)}, {UNITS[unit]}"
    words = [word.upper() if word in INITIALS else word for word in key.split("_")]
    return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]])


def _said(value: object) -> str:
    """A fact in words; empty: there is none."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {said}" for key, item in value.items() if (said := _said(item)))
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_said, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    if isinstance(value, float):
        return number(value)
    return "" if value is None else str(value)
