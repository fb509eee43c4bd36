"""The figures of a benchmark as JSON and as a table."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from esrgan_deploy.atomic import replacing
from esrgan_deploy.bench.machine import machine_facts
from esrgan_deploy.bench.measure import Benchmark, Measurement, percentiles_ms
from esrgan_deploy.errors import OutputError

FORMAT = 1
TIMED = "Session.run on uint8 RGB frames in host memory, conversion to float and back included"

_COLUMNS = {
    **{"backend": 9, "type": 7, "size": 10, "batch": 5, "runs": 5, "p50 ms": 9, "p90 ms": 9, "p99 ms": 9},
    **{"fps": 8, "GFLOPS": 9, "of peak": 7, "RSS MiB": 7, "at most": 7},
}
"""Titles and widths, after the name of the model."""


def to_json(benchmark: Benchmark, command: str) -> dict[str, Any]:
    """Everything that was measured, also of a benchmark that was interrupted; `complete` tells."""
    return {
        **provenance(command),
        "timed": TIMED,
        "complete": benchmark.complete,
        "peaks": [asdict(peak) for peak in benchmark.peaks],
        "results": [_result(m) for m in benchmark.measurements if m.seconds],
    }


def provenance(command: str) -> dict[str, Any]:
    """What every file of figures begins with: version of the format, time (UTC), command and machine."""
    return {
        "format": FORMAT,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "machine": machine_facts(),
    }


def check_writable(path: Path) -> None:
    """Refuse, before minutes of measuring, a file that could not be written afterwards.

    Raises:
        OutputError: `path` is a folder, or its folder is missing or not writable.
    """
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: the folder {path.parent} does not exist or is not writable; name another")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` to `path`, completely or not at all.

    Raises:
        OutputError: `path` cannot be written.
    """
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def table_head(models: Sequence[Path]) -> str:
    """Names of the columns; `models` are all that will have a row."""
    return _line("model", tuple(_COLUMNS), _name_width(models))


def table_row(m: Measurement, models: Sequence[Path]) -> str:
    """The figures of one case under `table_head`."""
    ms = percentiles_ms(m.seconds)
    cells = (
        *(m.backend, m.precision, f"{m.case.width}x{m.case.height}", f"{m.case.batch}", f"{len(m.seconds)}"),
        *(f"{ms['p50']:.1f}", f"{ms['p90']:.1f}", f"{ms['p99']:.1f}", f"{m.fps:.3f}"),
        "-" if m.gflops is None else f"{m.gflops:.1f}",
        "-" if m.share_of_peak is None else f"{m.share_of_peak:.1%}",
        *(f"{m.rss_mib:.0f}", f"{m.rss_peak_mib:.0f}"),
    )
    return _line(m.case.model.name, cells, _name_width(models))


def table_foot(benchmark: Benchmark) -> str:
    """What the times include, and what 'of peak' compares with."""
    peaks = [
        f"Peak of {p.backend} in {p.precision}: {p.gflops:.1f} GFLOPS, MatMul {p.side}x{p.side}, {p.chain} in a row, "
        "fastest run."
        for p in benchmark.peaks
    ]
    return "\n".join([f"Time: {TIMED}; fps over all runs.", *peaks])


def _result(m: Measurement) -> dict[str, Any]:
    return {
        "model": m.case.model.name,
        "backend": m.backend,
        "precision": m.precision,
        "scale": m.scale,
        "width": m.case.width,
        "height": m.case.height,
        "batch": m.case.batch,
        "runs": len(m.seconds),
        "latency_ms": percentiles_ms(m.seconds),
        "fps": m.fps,
        "flops_per_frame": m.case.flops,
        "gflops": m.gflops,
        "share_of_peak": m.share_of_peak,
        "rss_mib": {"before": m.rss_before_mib, "now": m.rss_mib, "peak": m.rss_peak_mib},
    }


def _line(name: str, cells: Sequence[str], name_width: int) -> str:
    padded = (cell.rjust(width) for cell, width in zip(cells, _COLUMNS.values(), strict=True))
    return " ".join([name.ljust(name_width), *padded])


def _name_width(models: Sequence[Path]) -> int:
    return max(5, *(len(path.name) for path in models))
