"""The figures of a benchmark as JSON and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from esrgan_bench.measure import Benchmark, Measurement
from esrgan_bench.nvml import gpu_facts
from esrgan_deploy.backends.names import ON_GPU
from esrgan_deploy.system.machine import machine_facts

FORMAT = 2
TIMED = (
    "from submitting uint8 RGB frames in host memory to the result in host memory; conversion to float and back, and "
    "on a GPU both transfers, included"
)

_COLUMNS = {
    **{"backend": 9, "type": 5, "size": 9, "batch": 5, "streams": 7, "threads": 7, "runs": 5},
    **{"p50 ms": 9, "p90 ms": 9, "p99 ms": 9, "+-ms": 7, "fps": 8, "GFLOPS": 8, "of peak": 7},
    **{"RSS MiB": 7, "at most": 7, "J/frame": 7},
}
"""Titles and widths, after the name of the model."""


def to_json(benchmark: Benchmark, command: str) -> dict[str, Any]:
    """Everything that was measured, also of a benchmark that was interrupted; `complete` tells."""
    facts = provenance(command)
    if any(m.backend in ON_GPU for m in benchmark.measured):
        facts["machine"]["gpu"] = gpu_facts()
    return {
        **facts,
        "timed": TIMED,
        "complete": benchmark.complete,
        "models": {m.case.setting.model.name: m.model_sha256 for m in benchmark.measured},
        "peaks": [asdict(peak) for peak in benchmark.peaks.found],
        "bandwidth_gb_s": benchmark.bandwidth_gb_s,
        "energy": benchmark.about_energy,
        "results": [_result(m) for m in benchmark.measured],
    }


def provenance(command: str) -> dict[str, Any]:
    """What every file of figures begins with: version of the format, time (UTC), command and machine."""
    return {
        "format": FORMAT,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "machine": machine_facts(),
    }


def table_head(models: Sequence[Path]) -> str:
    """Names of the columns; `models` are all that will have a row."""
    return _line("model", tuple(_COLUMNS), _name_width(models))


def table_row(m: Measurement, models: Sequence[Path]) -> str:
    """The figures of one case under `table_head`."""
    case, setting = m.case, m.case.setting
    cells = (
        *(m.backend, m.precision, f"{case.width}x{case.height}"),
        *(f"{setting.batch}", f"{setting.streams}", f"{setting.threads}", f"{len(m.seconds)}"),
        *(f"{value:.1f}" for value in (*percentiles_ms(m.seconds).values(), spread_ms(m.seconds))),
        *(rate(m.fps), _known(m.gflops, ".1f"), _known(m.share_of_peak, ".1%")),
        *(f"{m.rss_mib:.0f}", f"{m.rss_peak_mib:.0f}", _known(m.joules_per_frame, ".1f")),
    )
    return _line(setting.model.name, cells, _name_width(models))


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


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """The median, the 90th and the 99th percentile in milliseconds, linear between neighbouring runs."""
    p50, p90, p99 = np.percentile(np.asarray(seconds) * 1e3, (50, 90, 99))
    return {"p50": float(p50), "p90": float(p90), "p99": float(p99)}


def spread_ms(seconds: Sequence[float]) -> float:
    """Median absolute deviation from the median, in milliseconds: an outlier among the runs does not move it."""
    milliseconds = np.asarray(seconds) * 1e3
    return float(np.median(np.abs(milliseconds - np.median(milliseconds))))


def rate(fps: float) -> str:
    """Frames per second with at least three digits that mean something: a frame may take minutes."""
    return f"{fps:.3f}" if fps >= 1 else f"{fps:.3g}"


def _result(m: Measurement) -> dict[str, Any]:
    case, setting = m.case, m.case.setting
    return {
        **{"model": setting.model.name, "backend": m.backend, "precision": m.precision, "scale": m.scale},
        **{"width": case.width, "height": case.height},
        **{"batch": setting.batch, "streams": setting.streams, "threads": setting.threads},
        "runs": len(m.seconds),
        "latency_ms": percentiles_ms(m.seconds),
        "spread_ms": spread_ms(m.seconds),
        "fps": m.fps,
        "flops_per_frame": case.work.flops,
        "gflops": m.gflops,
        "share_of_peak": m.share_of_peak,
        "bytes_per_frame": m.bytes_per_frame,
        "rss_mib": {"before": m.rss_before_mib, "now": m.rss_mib, "peak": m.rss_peak_mib},
        "joules_per_frame": m.joules_per_frame,
    }


def _known(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)


def _line(name: str, cells: Sequence[str], name_width: int) -> str:
    padded = (cell.rjust(width) for cell, width in zip(cells, _COLUMNS.values(), strict=True))
    return " ".join([name.ljust(name_width), *padded])


def _name_width(models: Sequence[Path]) -> int:
    return max(5, *(len(path.name) for path in models))
