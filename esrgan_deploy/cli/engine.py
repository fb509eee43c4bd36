"""esrgan-engine: an ONNX file becomes a TensorRT engine, on the machine that will run it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from esrgan_deploy import cli
from esrgan_deploy.cli.guard import Guard
from esrgan_deploy.cli.models import HELP, add_trust, find_model, model_argument
from esrgan_deploy.cli.progress import BuildProgress
from esrgan_deploy.cli.terminal import done, note, printable, say
from esrgan_deploy.errors import EsrganError, OptionError

if TYPE_CHECKING:
    from esrgan_deploy.engine.machine import Machine
    from esrgan_deploy.engine.options import Profile
    from esrgan_deploy.engine.store.cache import EngineCache
    from esrgan_deploy.model import ModelInfo

STOP_S = 60.0
"""Seconds that a build has to end after Ctrl-C: TensorRT looks only between its steps."""
TILINGS = ("none", "fast", "moderate", "full")
EPILOG = """\
An engine belongs to one GPU, driver and TensorRT; TensorRT-RTX makes portable ones, also without a GPU. Engines are
kept in ~/.cache/esrgan-deploy/engines, where esrgan-upscale finds them, and are built again when anything changes.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command."""
    return cli.run(_parser, _engine, argv, guard=lambda _args: Guard("esrgan-engine", 0, None, STOP_S))


def _parser() -> cli.Parser:
    parser = cli.Parser("esrgan-engine", "Build a TensorRT engine from an ONNX file, on the machine it is for.", EPILOG)
    add = parser.add_argument
    add("model", type=model_argument, nargs="?", metavar="MODEL.onnx", help=f"as esrgan-export makes them, {HELP}")
    add_trust(parser)
    add("--shape", type=cli.size, metavar="WxH", help="input size (default: the model's own, or 640x360)")
    for name in ("min", "opt", "max"):
        add(f"--{name}", type=cli.size, metavar="WxH", help=f"{name} of a dynamic engine, in place of --shape")
    add(
        "--batch",
        type=_batches,
        metavar="N",
        default=(1, 1),
        help="frames in one run, or LEAST:MOST (default: 1)",
    )
    add("--frames", choices=("uint8", "uint16"), default="uint8", help="type of the samples (default: uint8)")
    add("--refit", action="store_true", help="alpha can be set later; needs an export with --refit")
    builder = parser.add_argument_group("builder")
    add = builder.add_argument
    add("--optimization", type=int, metavar="0..5", help="how long to search for fast kernels (TensorRT's default: 3)")
    add("--tiling", choices=TILINGS, default="none", help="how long to search for tilings that stay in the L2 cache")
    add("--aux-streams", type=int, metavar="N", help="further streams that layers may run in")
    add("--workspace", type=int, metavar="MIB", help="scratch memory that a layer may use")
    kept = parser.add_argument_group("engines that are kept")
    add = kept.add_argument
    add("--cache", type=Path, metavar="DIR", help="where they are kept, if elsewhere")
    add("--list", action="store_true", help="show them, and which of them fit this machine")
    add("--prune", nargs="?", const="unusable", choices=("unusable", "all"), help="remove unusable ones, or all")
    return parser


def _batches(text: str) -> tuple[int, int]:
    """'4' -> (4, 4), '1:4' -> (1, 4)."""
    least, _, most = text.partition(":")
    return cli.count(least), cli.count(most or least)


def _engine(args: argparse.Namespace) -> None:
    from esrgan_deploy.engine.store.cache import EngineCache
    from esrgan_deploy.system.paths import user_cache

    if sum((args.model is not None, args.list, args.prune is not None)) != 1:
        raise OptionError("give one thing to do: a MODEL.onnx to build an engine from, --list, or --prune")
    cache = EngineCache(args.cache or user_cache("engines"))  # what is built here is meant to stay
    if args.list:
        _list(cache)
    elif args.prune:
        _prune(cache, everything=args.prune == "all")
    else:
        _build(cache, args)


def _build(cache: EngineCache, args: argparse.Namespace) -> None:
    from esrgan_deploy.engine.machine import find_local_machine, free_memory
    from esrgan_deploy.engine.options import EngineOptions
    from esrgan_deploy.model import load_onnx

    args.model = find_model(args.model, args)
    _, info = load_onnx(args.model)
    options = EngineOptions(
        profile=_profile(args, info),
        frames=args.frames,
        refit=args.refit,
        optimization_level=args.optimization,
        tiling=args.tiling,
        aux_streams=args.aux_streams,
        workspace_mib=args.workspace,
    )
    trt, facts = find_local_machine()
    with BuildProgress() as progress:
        engine = cache.get(trt, facts, args.model, options, free_memory=free_memory(facts), progress=progress)
    made = engine.sidecar
    note(*made.notes)
    done(
        f"{engine.path}: {made.options.profile} {made.options.frames}, {made.plan_bytes / 2**20:.1f} MiB, "
        f"built {made.built:%Y-%m-%d %H:%M} UTC in {made.seconds:.1f} s for {made.machine}"
    )


def _profile(args: argparse.Namespace, info: ModelInfo) -> Profile:
    """What `--shape`, or `--min`, `--opt` and `--max`, and `--batch` ask for."""
    from esrgan_deploy.engine.options import Profile, Shape, default_profile

    dynamic = (args.min, args.opt, args.max)
    if any(dynamic) and (args.shape or not all(dynamic)):
        raise OptionError("a dynamic engine takes --min, --opt and --max, all three, and no --shape")
    default = default_profile(info).opt
    sizes = dynamic if any(dynamic) else 3 * (args.shape or (default.width, default.height),)
    least, most = args.batch
    batches = (least, most, most)
    return Profile(*(Shape(n, height, width) for n, (width, height) in zip(batches, sizes, strict=True)))


def _list(cache: EngineCache) -> None:
    entries = cache.entries()
    if not entries:
        say(f"{cache.folder}: no engines")
        return
    machine = _known_machine("which engines fit it is not shown")
    rows = [("file", "model", "profile", "frames", "machine", "MiB", "built (UTC)", "here")]
    for entry in entries:
        if entry.engine is None:
            rows.append((entry.path.name, "-", "-", "-", "-", "-", "-", "broken"))
            continue
        made = entry.engine.sidecar
        here = "?" if machine is None else "yes" if made.machine == machine else "no"
        size, built = f"{made.plan_bytes / 2**20:.1f}", f"{made.built:%Y-%m-%d %H:%M}"
        frames = made.options.frames + (" refit" if made.options.refit else "")
        rows.append(
            (entry.path.name, made.model, str(made.options.profile), frames, str(made.machine), size, built, here)
        )
    shown = [list(map(printable, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        say("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    note(*(entry.fault for entry in entries if entry.fault))


def _prune(cache: EngineCache, *, everything: bool) -> None:
    machine = None if everything else _known_machine("engines of other machines are not removed")
    pruned = cache.prune(machine, everything=everything)
    for removed in pruned.removed:
        done(f"{removed.path.name}: removed: {removed.why}")
    for path in pruned.at_work:
        done(f"{path.name}: another process is building it; left alone")
    total = sum(removed.nbytes for removed in pruned.removed)
    done(f"{cache.folder}: removed {len(pruned.removed)} files, {total / 2**20:.1f} MiB")


def _known_machine(consequence: str) -> Machine | None:
    """The present machine, or None and a line that says why it is not known and what follows from that."""
    from esrgan_deploy.engine.machine import find_local_machine, this_machine

    try:
        return this_machine(*find_local_machine())
    except EsrganError as error:
        note(f"esrgan-engine: this machine is not known, so {consequence}: {error}")
        return None
