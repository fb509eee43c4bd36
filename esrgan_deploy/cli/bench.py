"""esrgan-bench: latency, throughput, share of the machine's peak, and memory of networks on this machine."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from esrgan_deploy import cli
from esrgan_deploy.backends import BACKENDS
from esrgan_deploy.models import BUNDLED

EPILOG = """\
Each combination of model, backend, shape and batch is measured in a session of its own: a warm-up, then timed runs,
at least 5 and at least 10 seconds. GFLOPS are counted from the graph, two for each multiply-accumulate; 'of peak'
compares them with a large matrix product that runs through the same backend in the same precision.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command."""
    arguments = sys.argv[1:] if argv is None else argv
    return cli.run(_parser(), lambda args: _bench(args, shlex.join(["esrgan-bench", *arguments])), argv)


def _parser() -> cli.Parser:
    parser = cli.Parser("esrgan-bench", "Measure networks on this machine.", EPILOG)
    add = parser.add_argument
    add("-m", "--model", type=Path, nargs="+", action="extend", help="ONNX files (default: the compact network)")
    add("-b", "--backend", nargs="+", action="extend", choices=BACKENDS, help="default: the fastest here")
    add("--shapes", type=cli.size, nargs="+", metavar="WxH", default=[(128, 128)], help="default: 128x128")
    add("--batch", type=cli.count, nargs="+", metavar="N", default=[1], help="frames in one run (default: 1)")
    add("--json", type=Path, metavar="F", help="write all figures and facts of the machine to this file")
    return parser


def _bench(args: argparse.Namespace, command: str) -> None:
    from esrgan_deploy.bench.measure import Benchmark, plan_cases
    from esrgan_deploy.bench.report import check_writable, table_foot, table_head, table_row, to_json, write_json

    models = args.model or [BUNDLED]
    if args.json:
        check_writable(args.json)
    benchmark = Benchmark(plan_cases(models, args.backend or ["auto"], args.shapes, args.batch))

    def save() -> None:
        if args.json and any(m.seconds for m in benchmark.measurements):
            write_json(args.json, to_json(benchmark, command))

    print(table_head(models), flush=True)
    try:
        for measurement in benchmark.run():
            print(table_row(measurement, models), flush=True)
            save()  # a later case may need more memory than there is, and be killed
    finally:
        save()
    print(table_foot(benchmark))
