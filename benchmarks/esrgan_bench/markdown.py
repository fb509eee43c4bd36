"""The figures of a benchmark as a Markdown table, for an issue, a wiki or a README."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from esrgan_bench.table import Result, format_fps, format_known
from esrgan_deploy.cli.terminal import printable
from esrgan_deploy.system.files import replacing

COLUMNS: Mapping[str, Callable[[Result], str]] = {
    "model": lambda r: _escaped(r["model"]),
    "backend": lambda r: f"{r['backend']}",
    "type": lambda r: f"{r['precision']}",
    "size": lambda r: f"{r['width']}x{r['height']}",
    "batch": lambda r: f"{r['batch']}",
    "streams": lambda r: f"{r['streams']}",
    "threads": lambda r: f"{r['threads']}",
    "p50 / p90 / p99 ms": lambda r: " / ".join(f"{r['latency_ms'][p]:.1f}" for p in ("p50", "p90", "p99")),
    "± ms": lambda r: f"{r['spread_ms']:.1f}",
    "fps": lambda r: format_fps(r["fps"]),
    "GFLOPS": lambda r: format_known(r["gflops"], ".1f"),
    "of peak": lambda r: format_known(r["share_of_peak"], ".1%"),
    "RSS MiB": lambda r: f"{r['rss_mib']['peak']:.0f}",
    "J/frame": lambda r: format_known(r["joules_per_frame"], ".1f"),
}
"""Titles and cells; everything behind the number of threads is a figure, and stands to the right."""
FIGURES_BEGIN = 4


def write_markdown(path: Path, content: Mapping[str, Any]) -> None:
    """Write a table of all results, and below it the machine, the versions, and what was timed.

    Args:
        path: the file to write.
        content: what `report.to_json` returns.

    Raises:
        OutputError: `path` cannot be written.
    """
    rules = ("---" if i < FIGURES_BEGIN else "---:" for i in range(len(COLUMNS)))
    rows = [tuple(COLUMNS), tuple(rules), *([cell(r) for cell in COLUMNS.values()] for r in content["results"])]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    with replacing(path) as partial:
        partial.write_text(
            "\n".join([*lines, "", *_legend(content)]) + "\n", encoding="utf-8", errors="backslashreplace"
        )  # names may be no UTF-8


def _legend(content: Mapping[str, Any]) -> list[str]:
    machine = content["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    lines = [
        f"`{printable(content['command']).replace('`', chr(39))}`",
        f"{machine['cpu']}, {machine['cores_usable']:g} of {machine['cores']} cores, {machine['ram_mib']} MiB; "
        f"{machine['os']}; Python {machine['python']}, {packages}. {content['date']}.",
        f"Times: {content['timed']}. ±: median absolute deviation of the runs. RSS: the most of the process.",
        *(f"Peak of {p['backend']} in {p['precision']}: {p['gflops']:.1f} GFLOPS." for p in content["peaks"]),
        f"J/frame: {content['energy']}.",
    ]
    if not content["complete"]:
        lines.insert(0, "**Interrupted: not all combinations were measured.**")
    return [f"{line}\n" for line in lines[:-1]] + lines[-1:]


def _escaped(name: str) -> str:
    """A file name that may hold what Markdown takes for a mark."""
    return "".join(f"\\{letter}" if letter in "\\|*_`[]<>" else letter for letter in printable(name))
