"""esrgan-bench: latency, throughput, share of the machine's peak, memory and energy of networks on this machine."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from esrgan_deploy import cli
from esrgan_deploy.backends.names import BACKENDS, CpuPrecision
from esrgan_deploy.cli.models import HELP, add_trust, find_model, model_argument
from esrgan_deploy.cli.progress import BuildProgress
from esrgan_deploy.cli.terminal import done, note, say
from esrgan_deploy.errors import OptionError
from esrgan_deploy.models import BUNDLED, DEFAULT

if TYPE_CHECKING:
    from esrgan_bench.cases import Sweep
    from esrgan_bench.measure import Benchmark

SLOWER = 4
SHAPES = [(128, 128)]
WHOLE_FRAMES = [(640, 360), (1280, 720), (1920, 1080)]
FRAMES = 1000
FILES = ("json", "markdown", "html")
EPILOG = f"""\
Each combination of model, backend, precision, batch, streams, threads and shape is measured in a session of its own: a
warm-up, then timed runs, at least 5 and at least 10 seconds. GFLOPS are counted from the graph, two for each multiply-
accumulate; 'of peak' compares them with a large matrix product that runs through the same backend in the same precision
on all cores. What is finished when a benchmark is interrupted is in its files.

Exit codes: 0 done, 2 bad input, 3 this machine cannot do it, {SLOWER} slower than --compare's file, 130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command."""
    arguments = sys.argv[1:] if argv is None else argv
    found: list[str] = []
    code = cli.run(_parser, lambda args: _bench(args, shlex.join(["esrgan-bench", *arguments]), found), argv)
    return code or (SLOWER if found else 0)


def _parser() -> cli.Parser:
    parser = cli.Parser("esrgan-bench", "Measure networks on this machine.", EPILOG)
    add = parser.add_argument
    models = f"ONNX files, {HELP} (default: {DEFAULT})"
    add("-m", "--model", type=model_argument, nargs="+", action="extend", help=models)
    add_trust(parser)
    add("-b", "--backend", nargs="+", action="extend", choices=BACKENDS, help="default: the fastest here")
    precisions = (
        "what the CPU computes in; int8: the INT8 file beside the model (default: the fastest at full fidelity)"
    )
    add("--precision", nargs="+", choices=get_args(CpuPrecision), default=["auto"], help=precisions)
    add("--shapes", type=cli.size, nargs="+", metavar="WxH", help="of a frame (default: 128x128)")
    add("--batch", type=cli.count, nargs="+", metavar="N", default=[1], help="frames in one run (default: 1)")
    add("--streams", type=_number, nargs="+", metavar="N", default=[1], help="batches under way at a time (default: 1)")
    add("--threads", type=_number, nargs="+", metavar="N", default=[None], help="of the CPU (default: one per core)")
    add("--seconds", type=_seconds, metavar="S", help="least time for each combination (default: 10)")
    files = parser.add_argument_group("results")
    add = files.add_argument
    add("--json", type=Path, metavar="F", help="write all figures and facts of the machine to this file")
    add("--markdown", type=Path, metavar="F", help="write a table")
    add("--html", type=Path, metavar="F", help="write a page with plots; needs matplotlib")
    add("--compare", type=Path, metavar="OLD", help="say what is slower than in this older file of --json")
    others = parser.add_argument_group("instead of all this").add_mutually_exclusive_group()
    add = others.add_argument
    expect = f"say within seconds what to expect of whole frames, and how long N of them take (default: {FRAMES})"
    add("--expect", type=cli.count, nargs="?", const=FRAMES, metavar="N", help=expect)
    add("--tune", action="store_true", help="find the fastest backend, threads, streams and tile, and remember them")
    return parser


def _number(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number, 1 or more, of at most 9 digits")
    return int(text)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds, for instance 2.5")
    return float(text)


def _bench(args: argparse.Namespace, command: str, slower: list[str]) -> None:
    """Do what was asked for; `slower` is filled with the regressions."""
    args.model = [find_model(model, args) for model in args.model or [BUNDLED]]
    if args.expect or args.tune:
        given = [name for name in (*FILES, "compare") if getattr(args, name)]
        if given:
            raise OptionError(f"--{'expect' if args.expect else 'tune'} measures no table; leave out --{given[0]}")
        _tune(args) if args.tune else _expect(args)
    else:
        slower += _measure(args, command)


def _sweep(args: argparse.Namespace, shapes: list[tuple[int, int]]) -> Sweep:
    from esrgan_bench.cases import Sweep

    return Sweep(
        args.model,
        backends=args.backend or ["auto"],
        precisions=args.precision,
        shapes=args.shapes or shapes,
        batches=args.batch,
        streams=args.streams,
        threads=args.threads,
    )


def _measure(args: argparse.Namespace, command: str) -> list[str]:
    """Measure everything; the names of what is slower than it was."""
    from esrgan_bench.cases import list_cases
    from esrgan_bench.compare import compare, read_older, report_lines
    from esrgan_bench.measure import LEAST_SECONDS, Benchmark
    from esrgan_bench.report import result_of, to_json
    from esrgan_bench.table import table_foot, table_head, table_row
    from esrgan_deploy.system.files import check_writable

    if args.html:
        from esrgan_bench.page import check_can_draw

        check_can_draw()
    for path in _files(args):
        check_writable(path)
    older = read_older(args.compare) if args.compare else None
    cases = list_cases(_sweep(args, SHAPES))
    benchmark = Benchmark(cases, LEAST_SECONDS if args.seconds is None else args.seconds)
    models = [case.config.model for case in cases]
    say(*table_head(models).split("\n"))
    try:
        for measurement in benchmark.run(_note):
            say(table_row(result_of(measurement), models))
            # After each case, since a later one may need more memory than there is, and be killed.
            _save(args, benchmark, command, with_page=False)
    except KeyboardInterrupt:
        files = ", ".join(str(path) for path in _files(args)) if benchmark.measured else ""
        raise KeyboardInterrupt(files and f"what was measured is in {files}") from None
    finally:
        _save(args, benchmark, command, with_page=True)
    say(*table_foot(benchmark).split("\n"))
    if older is None:
        return []
    comparison = compare(older, to_json(benchmark, command))
    say(*report_lines(comparison, args.compare))
    if not comparison.changes:
        raise OptionError(f"{args.compare}: holds nothing of what was measured now; give the same -m, -b, --shapes ...")
    return [change.name for change in comparison.slower]


def _files(args: argparse.Namespace) -> list[Path]:
    """What is to be written."""
    return [path for path in (args.json, args.markdown, args.html) if path]


def _save(args: argparse.Namespace, benchmark: Benchmark, command: str, *, with_page: bool) -> None:
    """Write the files that were asked for, once there is a figure; the page only at the end."""
    if not benchmark.measured:
        return
    from esrgan_bench.report import to_json
    from esrgan_deploy.system.files import write_json

    content = to_json(benchmark, command)
    if args.json:
        write_json(args.json, content)
    if args.markdown:
        from esrgan_bench.markdown import write_markdown

        write_markdown(args.markdown, content)
    if args.html and with_page:  # matplotlib would count in the memory of the cases that are left
        from esrgan_bench.page import write_page

        write_page(args.html, content)


def _expect(args: argparse.Namespace) -> None:
    from esrgan_bench.expect import LEGEND, expect, expectation_lines

    for expectations in expect(_sweep(args, WHOLE_FRAMES), _note):
        say(*expectation_lines(expectations, args.expect))
    say(*LEGEND.split("\n"))


def _tune(args: argparse.Namespace) -> None:
    from esrgan_deploy.tuning import tune

    for model in args.model:
        for precision in args.precision:
            with BuildProgress() as progress:
                choice = tune(model, precision, progress)
            done(
                f"{model.name}, {precision}: {choice.line()}",
                *choice.table().split("\n"),
                f"Found and remembered in {choice.seconds:.1f} s.",
            )


def _note(line: str) -> None:
    note(f"esrgan-bench: {line}")
