"""python -m tests.hostile: run many hostile cases, in worker processes that fork each of them."""

import argparse
import functools
import json
import os
import platform
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from esrgan_deploy.cli.terminal import say
from hostile import ROOT, classes, report
from hostile.minimise import minimise
from hostile.process import call
from hostile.worker import Room, Verdict, Worker, build

CASE = struct.Struct("<q40s")
"""What a worker is told: the seed and the name of a case."""
PIPE_BYTES = 4096
"""That a pipe takes in one piece."""


def _parser():
    parser = argparse.ArgumentParser("python -m tests.hostile", description=__doc__)
    add = parser.add_argument
    add("--n", type=int, default=300, metavar="N", help="cases for each seed (default: 300)")
    add("--seed", type=int, nargs="+", default=[1], metavar="S", help="seeds (default: 1)")
    add("--case", nargs="+", metavar="K", help="only these cases, for instance onnx_files-12, and keep their files")
    add("--class", dest="kinds", nargs="+", choices=classes.NAMES, default=list(classes.NAMES), help="only these")
    add("--ideas", action="store_true", help="every named idea first, then random ones; --n 0: no random ones")
    add("--jobs", type=int, default=1, metavar="N", help="processes at a time (default: 1)")
    add("--keep", type=Path, metavar="DIR", help="where failing inputs are kept (default: hostile-failures)")
    add("--seconds", type=float, metavar="S", help="after which a command hangs (default: 60)")
    add("--json", type=Path, metavar="F", help="write the table to this file")
    add("--quiet", action="store_true", help="only the table")
    return parser


def main(argv=None):
    """Run, print a table, and return 1 if anything failed."""
    args = _parser().parse_args(argv)
    if args.case:
        names = args.case
    elif args.ideas:
        names = classes.ideas_first(args.n, args.kinds)
    else:
        names = classes.names(args.n, args.kinds)
    wanted = [(seed, name) for seed in args.seed for name in names]
    keep = args.keep or Path("hostile-failures")
    begin = time.monotonic()
    verdicts = run_cases(
        wanted, args.jobs, keep, args.seconds, keep_all=bool(args.case), tell=None if args.quiet else _tell
    )
    say(*report.table(verdicts).splitlines())
    faults = Counter(kind for verdict in verdicts for kind, _ in verdict.faults)
    took = time.monotonic() - begin
    failed = sum(1 for verdict in verdicts if verdict.faults)
    say(f"{len(verdicts)} cases in {took:.0f} s, {failed} failed: {dict(faults) or 'nothing'}")
    if args.json:
        facts = {"seconds": round(took), "python": platform.python_version(), "system": platform.platform()}
        command = f"python -m tests.hostile --n {args.n} --seed {' '.join(map(str, args.seed))}"
        report.write_json(args.json, verdicts, command, facts)
    return 1 if faults else 0


def _tell(verdict):
    if verdict.faults:
        say(*report.lines_of(verdict))


def run_cases(wanted, jobs=1, keep=None, deadline_s=None, *, keep_all=False, tell=None):
    """The verdicts of cases, (seed, name) each, in `jobs` processes; failing inputs go to the folder `keep`."""
    # Cases that need torch come last: loading it makes every later fork slower.
    wanted = sorted(wanted, key=lambda pair: classes.spec(*pair).needs_torch)
    work = Path(tempfile.mkdtemp(prefix="hostile-"))
    work.chmod(0o755)
    names_out, names_in = os.pipe()
    results_out, results_in = os.pipe()
    workers = []
    for _ in range(jobs):
        if (child := os.fork()) == 0:
            os.close(names_in)
            os.close(results_out)
            try:
                _work(work, names_out, results_in, keep, deadline_s, keep_all)
            finally:
                os._exit(0)
        workers.append(child)
    os.close(names_out)
    os.close(results_in)
    feeder = os.fork()
    if feeder == 0:
        os.close(results_out)
        for seed, name in wanted:
            os.write(names_in, CASE.pack(seed, name.encode()))
        os._exit(0)
    os.close(names_in)
    try:
        verdicts = []
        with os.fdopen(results_out, encoding="utf-8") as results:
            for line in results:
                verdict = Verdict(**json.loads(line))
                verdicts.append(verdict)
                if tell:
                    tell(verdict)
    finally:
        for child in [feeder, *workers]:
            os.waitpid(child, 0)
        shutil.rmtree(work, ignore_errors=True)
    missing = len(wanted) - len(verdicts)
    assert not missing, f"{missing} cases have no verdict: a worker died"
    return verdicts


def _work(work, names_out, results_in, keep, deadline_s, keep_all):
    """One worker: takes names from the pipe, and writes verdicts."""
    worker = Worker(work / str(os.getpid()), work / "seeds", deadline_s)
    while len(data := os.read(names_out, CASE.size)) == CASE.size:
        seed, name = CASE.unpack(data)
        spec = classes.spec(seed, name.rstrip(b"\0").decode())
        verdict = worker.verdict(spec)
        if keep and (verdict.faults or keep_all):
            kept = cuts = None
            if verdict.faults and verdict.edits:
                kept, cuts, verdict = minimise(functools.partial(worker.verdict, spec), verdict)
            _keep(keep, worker, spec, verdict, kept, cuts)
        os.write(results_in, _line(verdict))


def _line(verdict):
    """A line that a pipe takes in one piece, whatever the verdict quotes."""
    for most in (2000, 300, 80, 20):
        verdict.faults = [(kind, text[:most]) for kind, text in verdict.faults[:8]]
        verdict.commands = [command[:most] for command in verdict.commands[:3]]
        verdict.last = verdict.last[:most]
        verdict.sizes = {}
        line = json.dumps(verdict.to_json()).encode() + b"\n"
        if len(line) < PIPE_BYTES:
            break
    return line


def _keep(keep, worker, spec, verdict, kept, cuts):
    """The files of a case as they were before it ran, and how to run it again."""
    room = Room(keep.resolve() / f"{spec.name}-{spec.seed}-{spec.idea}")
    call(build, room, worker.seeds, spec, kept, cuts)
    for mounted in room.path.rglob("mounted"):
        subprocess.run(["umount", "-l", str(mounted)], capture_output=True)
    for name in ("case", "before"):
        (room.path / name).unlink(missing_ok=True)
    again = f"python -m tests.hostile --seed {spec.seed} --case {spec.name}"
    lines = [
        *report.lines_of(verdict),
        f"edits kept: {sorted(kept)}, cut out: {cuts}" if kept else "",
        f"again: {again}",
    ]
    (room.path / "README.txt").write_text("\n".join(lines) + "\n", encoding="utf-8", errors="backslashreplace")


assert sys.platform != "win32", "cases are run in forked processes"
__all__ = ["ROOT", "main", "run_cases"]
