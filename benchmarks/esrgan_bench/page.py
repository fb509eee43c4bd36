"""A benchmark as one HTML file: the fastest of each network, plots, all figures, and the machine.

Nothing is loaded from elsewhere, and no script runs in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Any

from esrgan_bench.table import COLUMNS, Result
from esrgan_deploy.cli.terminal import html_text
from esrgan_deploy.errors import MachineError
from esrgan_deploy.system.files import replacing

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Makes the browser keep what the page promises: nothing is loaded, nothing runs."""
STYLE = """\
:root { color-scheme: light dark; --page: #ffffff; --ink: #1a1d21; --quiet: #5a6470; --line: #d9dee4; --card: #f4f6f8; }
@media screen and (prefers-color-scheme: dark) {
  :root { --page: #14171a; --ink: #e8ebee; --quiet: #a3adb8; --line: #39414a; --card: #1d2226; }
}
body { margin: 0 auto; padding: 2.5rem 1rem 4rem; max-width: 75rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .4rem; }
.quiet, dt, thead th { color: var(--quiet); }
.cards, .plots { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
.cards, .plots { margin-top: 1.2rem; }
.card, pre { background: var(--card); border-radius: .5rem; padding: .9rem 1.1rem; }
.card p { margin: 0; } .figure { font-size: 2rem; line-height: 1.3; font-weight: 650; }
small { font-size: 1rem; font-weight: 400; }
svg { width: 100%; height: auto; max-width: 27rem; break-inside: avoid; }
svg text { font-family: system-ui, sans-serif !important; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .35rem .42rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: 0; } th { font-weight: 500; }
.best { font-weight: 700; }
pre { white-space: pre-wrap; font-size: .86rem; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .2rem 1.2rem; } dd { margin: 0; }
@media print {
  body { padding: 0; max-width: none; font-size: 10pt; } h2 { break-after: avoid; } .card, tr { break-inside: avoid; }
  .card, pre { border: 1px solid var(--line); } .figure { font-size: 1.4rem; } .scroll { overflow: visible; }
  .cards, .plots { grid-template-columns: repeat(3, 1fr); } table { font-size: 6.5pt; } th, td { padding: .2em .3em; }
}
"""


def check_can_draw() -> None:
    """Refuse a page that cannot be drawn; called before anything is measured, so nothing is imported.

    Raises:
        MachineError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise MachineError("--html draws with matplotlib: pip install 'esrgan-deploy[bench]'")


def write_page(path: Path, content: Mapping[str, Any]) -> None:
    """Write the page; it needs matplotlib.

    Args:
        path: the HTML file.
        content: what `report.to_json` returns, also of a benchmark that was interrupted.

    Raises:
        OutputError: `path` cannot be written.
    """
    networks: dict[str, list[Result]] = {}
    for result in content["results"]:
        networks.setdefault(_network(result), []).append(result)
    best = {name: max(some, key=lambda r: r["fps"] * r["width"] * r["height"]) for name, some in networks.items()}
    machine = content["machine"]
    processor = str(machine.get("cpu", "this machine")).replace("(R)", "").replace("(TM)", "")
    cores = f"{machine.get('cores_usable', '?')} of {machine.get('cores', '?')} cores"
    date = content["date"].replace("T", " ").replace("+00:00", " UTC")
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>esrgan-bench: {html_text(processor)}</title>\n<style>\n{STYLE}</style>",
        f"<h1>Super-resolution on {html_text(processor)}</h1>",
        f'<p class="quiet">{html_text(" · ".join([cores, str(machine.get("os", "unknown system")), date]))}</p>',
        "" if content["complete"] else "<p><b>This benchmark was interrupted: not everything was measured.</b></p>",
        *(_measured(networks, best) if networks else ["<p>Nothing was measured.</p>"]),
        f"<h2>How it was measured</h2>\n<pre>{html_text(content['command'])}</pre>",
        *(f"<p>{html_text(line)}</p>" for line in _explanations(content)),
        f"<h2>Machine</h2>\n<dl>{''.join(_fact(*item) for item in machine.items())}</dl>\n</html>\n",
    ]
    with replacing(path) as partial:
        partial.write_text(
            "\n".join(filter(None, parts)), encoding="utf-8", errors="backslashreplace"
        )  # names may be no UTF-8


def _network(result: Result) -> str:
    """The name of the file without precision and suffix: the FP32 and the INT8 file of a network go together."""
    return re.sub(r"_(fp32|fp16|bf16|int8)(?=_|$)", "", PurePath(result["model"]).stem)


def _measured(networks: Mapping[str, list[Result]], best: Mapping[str, Result]) -> list[str]:
    """Cards, plots and table."""
    from esrgan_bench.plots import draw_network, kinds_of, to_svg  # matplotlib comes with an extra

    results = [result for some in networks.values() for result in some]
    parts = [f'<div class="cards">{"".join(_card(*item) for item in best.items())}</div>']
    for name, some in networks.items():
        parts.append(f"<h2>{html_text(name)}</h2>")
        for row in draw_network(some, kinds_of(results)):
            plots = [to_svg(figure, f"{name}: {figure.axes[0].get_title('left')}") for figure in row]
            parts.append(f'<div class="plots">{"".join(plots)}</div>')
    # What is known of no result has no column.
    columns = [column for column in COLUMNS if any(column.cell(result) != "-" for result in results)]
    heads = ["model", *(column.title for column in columns)]
    parts.append(f'<h2>All figures</h2>\n<div class="scroll"><table><thead><tr><th>{"<th>".join(heads)}</thead>')
    for result in results:
        cells = [html_text(text) for text in (result["model"], *(column.cell(result) for column in columns))]
        mark = ' class="best"' if result is best[_network(result)] else ""
        parts.append(f"<tr{mark}><td>{'<td>'.join(cells)}")
    return [*parts, "</table></div>"]


def _card(name: str, best: Result) -> str:
    """The result of a network that computes most pixels in a second."""
    share = "" if best["share_of_peak"] is None else f", {best['share_of_peak']:.0%} of the peak"
    return (
        f'<div class="card"><b>{html_text(name)}</b><p class="figure">{best["fps"]:.3g} '
        f'<small>fps at {best["width"]}x{best["height"]}</small></p><p class="quiet">{html_text(best["backend"])} in '
        f"{html_text(best['precision'])}, batch {best['batch']}, streams {best['streams']}, threads {best['threads']}"
        f"{share}</p></div>"
    )


def _explanations(content: Mapping[str, Any]) -> list[str]:
    lines = [
        f"Times: {content['timed']}. +- is the median absolute deviation.",
        "Plots: a mark or a bar is the best of all results that differ in other options only. Throughput in pixels "
        "counts those of the frames that go in. Batch, streams and threads are shown for the smallest frame. Cards "
        "and bold rows: the most pixels per second of each network.",
        "The peak is the fastest matrix product in the same backend and precision, on all cores. GFLOPS count two "
        "operations for each multiply-accumulate.",
        *(
            f"Peak of {peak['backend']} in {peak['precision']}: {peak['gflops']:.1f} GFLOPS."
            for peak in content["peaks"]
        ),
    ]
    if content["bandwidth_gb_s"]:
        lines.append(f"Main memory: {content['bandwidth_gb_s']:.1f} GB/s, read and written by a large copy.")
    return [*lines, f"J/frame: {content['energy']}."]


def _fact(name: str, value: object) -> str:
    text = _said(value)
    return f"<dt>{html_text(name.replace('_', ' '))}</dt><dd>{html_text(text)}</dd>" if text else ""


def _said(value: object) -> str:
    """A fact in words; empty where it is not known."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {said}" for key, item in value.items() if (said := _said(item)))
    return ", ".join(map(_said, value)) if isinstance(value, list) else "" if value is None else str(value)
