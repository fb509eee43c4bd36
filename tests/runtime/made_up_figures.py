"""Results of a benchmark that nobody ran: figures that all differ, and that a machine could have."""

import math
from itertools import product
from pathlib import Path

from esrgan_bench.page import write_page

PEAKS = {("openvino", "fp32"): 190.0, ("openvino", "int8"): 680.0, ("ort", "fp32"): 180.0}
NETWORKS = {"big_x4_a0.80": (36e6, 170e3), "small_x4": (1.2e6, 9e3)}
"""Operations and bytes (in fp32) for each pixel."""


def result(network, kind, size, batch=1, streams=1, threads=2, **changed):
    """An entry with figures that all differ, and that a machine could have."""
    flops, moved = (figure * math.prod(size) for figure in NETWORKS[network])
    share = 0.6 + 0.02 * batch + 0.03 * streams + 0.05 * (kind[1] == "fp32") + 1e-7 * math.prod(size)
    gflops = PEAKS[kind] * share * (threads / 2) ** 0.9
    fps = gflops * 1e9 / flops
    p50 = batch * streams / fps * 1e3 * 1.02
    return {
        **{"model": f"{network}_{kind[1]}.onnx", "backend": kind[0], "precision": kind[1], "scale": 4},
        **{"width": size[0], "height": size[1], "batch": batch, "streams": streams, "threads": threads, "runs": 9},
        "latency_ms": {"p50": p50, "p90": p50 * 1.1, "p99": p50 * 1.3},
        **{"spread_ms": p50 / 50, "fps": fps, "flops_per_frame": round(flops), "gflops": gflops},
        **{"share_of_peak": gflops / PEAKS[kind], "bytes_per_frame": round(moved if kind[1] == "fp32" else moved / 4)},
        **{"rss_mib": {"before": 90.0, "now": 700.0, "peak": 1234.0}, "joules_per_frame": None},
        **changed,
    }


def content(results, **changed):
    """A whole benchmark, as its JSON has it."""
    peaks = [{"backend": b, "precision": p, "side": 1536, "chain": 8, "gflops": g} for (b, p), g in PEAKS.items()]
    machine = {"cpu": "Made-up(R) CPU", "cores": 2, "cores_usable": 1.5, "ram_mib": 4096, "packages": {"numpy": "2.1"}}
    return {
        **{"format": 2, "date": "2026-01-02T03:04:05+00:00", "command": "esrgan-bench --html p.html"},
        **{
            "machine": machine,
            "timed": "runs",
            "complete": True,
            "peaks": peaks,
            "bandwidth_gb_s": 12.5,
            "energy": "-",
        },
        **{"results": results, **changed},
    }


def page_of(folder: Path, results, **changed):
    """The text of the page."""
    write_page(folder / "page.html", content(results, **changed))
    return (folder / "page.html").read_text()


SIZES = ((128, 128), (192, 108), (640, 360))
GRID = [result(*case) for case in product(NETWORKS, PEAKS, SIZES, (1, 2, 4), (1, 2))]
THREADS = [result("small_x4", kind, (128, 128), threads=n) for kind, n in product(PEAKS, (1, 2, 4, 8))]
