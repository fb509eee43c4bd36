"""The figures of a benchmark as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

import numpy as np

from esrgan_bench.measure import Benchmark, Measurement
from esrgan_bench.nvml import gpu_facts
from esrgan_deploy.backends.names import GPU_BACKENDS
from esrgan_deploy.system.machine import machine_facts

REPORT_FORMAT = 2
TIMED = (
    "from submitting uint8 RGB frames in host memory to the result in host memory; conversion to float and back, and "
    "on a GPU both transfers, included"
)


def to_json(benchmark: Benchmark, command: str) -> dict[str, Any]:
    """Everything that was measured, also of a benchmark that was interrupted; `complete` tells."""
    facts = provenance(command)
    if any(m.backend in GPU_BACKENDS for m in benchmark.measured):
        facts["machine"]["gpu"] = gpu_facts()
    return {
        **facts,
        "timed": TIMED,
        "complete": benchmark.complete,
        "models": {m.case.config.model.name: m.model_sha256 for m in benchmark.measured},
        "peaks": [asdict(peak) for peak in benchmark.peaks.found],
        "bandwidth_gb_s": benchmark.bandwidth_gb_s,
        "energy": benchmark.about_energy,
        "results": [result_of(m) for m in benchmark.measured],
    }


def provenance(command: str) -> dict[str, Any]:
    """What every file of figures begins with: version of the format, time (UTC), command and machine."""
    return {
        "format": REPORT_FORMAT,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "machine": machine_facts(),
    }


def result_of(m: Measurement) -> dict[str, Any]:
    """The entry of one measurement; docs/benchmarks.md says what each key means."""
    case, config = m.case, m.case.config
    return {
        **{"model": config.model.name, "backend": m.backend, "precision": m.precision, "scale": m.scale},
        **{"width": case.width, "height": case.height},
        **{"batch": config.batch, "streams": config.streams, "threads": config.threads},
        "runs": len(m.seconds),
        "latency_ms": percentiles_ms(m.seconds),
        "spread_ms": spread_ms(m.seconds),
        "fps": m.fps,
        "flops_per_frame": case.cost.flops,
        "gflops": m.gflops,
        "share_of_peak": m.share_of_peak,
        "bytes_per_frame": m.bytes_per_frame,
        "rss_mib": {"before": m.rss_before_mib, "now": m.rss_mib, "peak": m.rss_peak_mib},
        "joules_per_frame": m.joules_per_frame,
    }


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """The median, the 90th and the 99th percentile in milliseconds, linear between neighbouring runs."""
    p50, p90, p99 = np.percentile(np.asarray(seconds) * 1e3, (50, 90, 99))
    return {"p50": float(p50), "p90": float(p90), "p99": float(p99)}


def spread_ms(seconds: Sequence[float]) -> float:
    """Median absolute deviation from the median, in milliseconds: an outlier among the runs does not move it."""
    milliseconds = np.asarray(seconds) * 1e3
    return float(np.median(np.abs(milliseconds - np.median(milliseconds))))
