"""esrgan-eval: measure super-resolution methods on a folder of pictures, or let people score them."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esrgan_deploy import cli
from esrgan_deploy.backends.names import BACKENDS
from esrgan_deploy.cli.models import HELP, add_trust, find_file, model_argument
from esrgan_deploy.cli.terminal import note, say
from esrgan_deploy.errors import OptionError

if TYPE_CHECKING:
    from esrgan_export.evaluation.image_pairs import ImagePair
    from esrgan_export.evaluation.methods import Method

METRICS = ("psnr", "ssim", "psnr-rgb", "ssim-rgb", "rmse", "niqe", "ma", "pi", "lpips", "st-lpips")
METRICS_HELP = f"{', '.join(METRICS)} (default: psnr ssim niqe)"
DEGRADATIONS = ("clean", "jpeg60", "noisy", "mpeg4", "h264")
DEGRADE_HELP = f"make LR as people have it: {', '.join(DEGRADATIONS)}"
DEFAULT_SCALE = 4
MOST_STEPS = 10_000
EPILOG = """\
examples:
  esrgan-eval --hr Set14 -m psnr.onnx gan.onnx --html set14.html
  esrgan-eval --hr Set14 --sr results/esrgan results/rcan --metrics psnr ssim rmse niqe --json set14.json
  esrgan-eval --hr photos -m default --degrade clean jpeg60 noisy mpeg4 h264 --html ordinary.html

HR is cropped to multiples of the scale; LR is HR shrunk by MATLAB's bicubic unless --lr names it. PSNR and SSIM are
those of papers: luma (BT.601, studio swing), border shaved by the scale. docs/evaluation.md defines every column.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command."""
    arguments = sys.argv[1:] if argv is None else argv
    return cli.run(_parser, lambda args: _run(args, shlex.join(["esrgan-eval", *map(str, arguments)])), argv)


def _parser() -> cli.Parser:
    parser = cli.Parser("esrgan-eval", "Measure super-resolution methods on a folder of pictures.", EPILOG)
    add = parser.add_argument
    several: dict[str, Any] = {"type": Path, "nargs": "+", "action": "extend", "default": []}
    add("--hr", type=Path, metavar="DIR", help="pictures in full resolution")
    add("--sr", **several, metavar="DIR", help="folders of results, named as the HR pictures")
    add("-m", "--model", **{**several, "type": model_argument}, help=f"ONNX files or checkpoints to run, {HELP}")
    add_trust(parser)
    add("--lr", type=Path, metavar="DIR", help="low-resolution pictures (default: made from HR)")
    add("--degrade", nargs="+", action="extend", default=[], metavar="KIND", help=DEGRADE_HELP)
    add("-s", "--scale", type=int, metavar="N", help="enlargement (default: that of the models, else 4)")
    add("--metrics", nargs="+", choices=METRICS, default=["psnr", "ssim", "niqe"], metavar="M", help=METRICS_HELP)
    add("--back-projection", type=int, default=0, metavar="N", help="make results agree with LR, in N steps")
    add("-b", "--backend", default="auto", choices=BACKENDS, help="what runs ONNX files (default: the fastest here)")
    add("-t", "--tile", type=int, metavar="PX", help="side of a tile in LR pixels (default: tile large pictures)")
    add("--json", type=Path, metavar="F", help="write every value to this file")
    add("--html", type=Path, metavar="F", help="write a page with crops side by side")
    weights = parser.add_argument_group("files of metrics")
    weights.add_argument("--lpips-heads", type=Path, metavar="F", help="alex.pth or vgg.pth of the package lpips")
    weights.add_argument("--lpips-trunk", type=Path, metavar="F", help="torchvision's AlexNet or VGG16")
    weights.add_argument("--st-lpips-weights", type=Path, metavar="F", help="alex_shift_tolerant.pth")
    weights.add_argument("--ma", metavar="SCORER", help="MODULE:FUNCTION or .csv (columns method, picture, ma)")
    people = parser.add_argument_group("mean opinion scores")
    people.add_argument(
        "--mos-page", type=Path, metavar="F", help="write a page on which people score the results blind"
    )
    seed_help = "of the order on that page, and of the noise of --degrade (default: 0)"
    people.add_argument("--seed", type=int, default=0, help=seed_help)
    people.add_argument(
        "--mos-tally", type=Path, nargs="+", metavar="F", help="count saved answers, and do nothing else"
    )
    return parser


def _run(args: argparse.Namespace, command: str) -> None:
    _check_options(args)
    if args.mos_tally:
        from esrgan_export.evaluation.mos import tally, tally_table

        say(*tally_table(tally(args.mos_tally), len(args.mos_tally)).split("\n"))
        return
    from esrgan_export.evaluation.image_pairs import images_by_stem

    pictures = images_by_stem(args.hr)
    with ExitStack() as stack:
        methods, scale = _open_methods(args, list(pictures), stack)
        _evaluate(args, command, methods, pictures, scale)


def _check_options(args: argparse.Namespace) -> None:
    """Check, before anything is loaded, that the options fit together and that the files can be written."""
    if args.mos_tally:
        return
    if args.hr is None:
        raise OptionError("no pictures given: --hr DIR, and --sr DIR or -m MODEL for what is measured")
    if not args.sr and not args.model:
        raise OptionError("nothing to measure: --sr DIR for a folder of results, -m MODEL for a network")
    _check_degradations(args)
    if args.scale is not None and args.scale < 1:
        raise OptionError(f"--scale {args.scale} is too small; give at least 1")
    if args.back_projection < 0:
        raise OptionError(f"--back-projection {args.back_projection} is negative; give the number of steps, about 10")
    if args.back_projection > MOST_STEPS:
        raise OptionError(f"--back-projection: more than {MOST_STEPS} steps change nothing; give about 10")
    from esrgan_deploy.system.files import check_writable

    for path in (args.json, args.html, args.mos_page):
        if path:
            check_writable(path)


def _check_degradations(args: argparse.Namespace) -> None:
    if args.degrade and (args.lr or args.sr):
        given = f"--lr {args.lr}" if args.lr else f"--sr {args.sr[0]}"
        raise OptionError(f"--degrade makes LR for the networks of -m, so {given} has no part in it; leave one out")
    if args.degrade and args.seed < 0:
        raise OptionError(f"--seed {args.seed} is negative; the noise of --degrade needs 0 or more")
    for name in args.degrade:
        from esrgan_export.evaluation.degradations import degradation

        degradation(name)


def _open_methods(args: argparse.Namespace, pictures: list[str], stack: ExitStack) -> tuple[list[Method], int]:
    """Bicubic, the folders and the networks, with back-projection if asked for; and the scale of all of them."""
    from esrgan_export.evaluation.methods import BackProjected, Bicubic, Folder, Model

    models = []
    args.model = [find_file(model, args) for model in args.model]
    for path in args.model:
        models.append(Model(path, args.backend, args.tile))
        stack.callback(models[-1].close)
    scale = _common_scale(args, [(model.source, model.scale) for model in models])
    methods: list[Method] = [*(Folder(folder, pictures, scale) for folder in args.sr), *models]
    if args.back_projection:
        methods = [BackProjected(method, args.back_projection) for method in methods]
    taken = {"bicubic": "the baseline", "HR": "the original", "LR": "its small copy", "nearest": "no interpolation"}
    for method in methods:
        if method.name in taken:
            raise OptionError(
                f"{method.source}: tables would call it '{method.name}', as {taken[method.name]} is called; rename it"
            )
        taken[method.name] = method.source
    return [Bicubic(), *methods], scale


def _common_scale(args: argparse.Namespace, models: Sequence[tuple[str, int]]) -> int:
    scale: int = args.scale or (models[0][1] if models else DEFAULT_SCALE)
    for source, found in models:
        if found != scale:
            wanted = "--scale" if args.scale else models[0][0]
            raise OptionError(f"{source} enlarges {found} times, {wanted} {scale} times; measure them one by one")
    return scale


def _evaluate(
    args: argparse.Namespace,
    command: str,
    methods: Sequence[Method],
    pictures: Mapping[str, Path],
    scale: int,
) -> None:
    from esrgan_deploy.system.files import write_json
    from esrgan_export.evaluation.evaluate import PairCallback, evaluate, mean_label
    from esrgan_export.evaluation.ma_scores import open_ma_scorer
    from esrgan_export.evaluation.measures import Weights, build_measures
    from esrgan_export.evaluation.mos import MosWriter
    from esrgan_export.evaluation.page import PageWriter
    from esrgan_export.evaluation.score_table import ScoreTable, to_json

    ma = open_ma_scorer(args.ma) if args.ma else None
    measures = build_measures(args.metrics, Weights(args.lpips_heads, args.lpips_trunk, args.st_lpips_weights, ma))
    _warn_of_trunk(args)
    kinds: list[str | None] = list(dict.fromkeys(args.degrade)) or [None]
    labels = [f"{name} {kind}" if kind else name for kind in kinds for name in pictures]
    labels += [mean_label(len(pictures), kind) for kind in kinds]
    table = ScoreTable(measures, labels, [method.name for method in methods])
    page = PageWriter(measures) if args.html else None
    mos = MosWriter(args.seed, len(kinds) * len(pictures)) if args.mos_page else None
    callbacks: list[PairCallback] = [lambda pair, _, scores: say(*table.rows(pair.label, scores).split("\n"))]
    callbacks += [writer.add for writer in (page, mos) if writer]
    say(*table.head().split("\n"))
    evaluations = [
        evaluate(_pairs(args, pictures, scale, kind), scale, methods, measures, callbacks, kind) for kind in kinds
    ]
    if args.json:
        write_json(args.json, to_json(evaluations, command, args.seed))
    if page:
        page.write(args.html, evaluations, command)
    if mos:
        mos.write(args.mos_page)
    say(*table.foot(evaluations).split("\n"))


def _warn_of_trunk(args: argparse.Namespace) -> None:
    if "lpips" in args.metrics:
        from esrgan_export.metrics.lpips import is_published_trunk

        if not is_published_trunk(args.lpips_trunk):
            note(
                f"esrgan-eval: warning: {args.lpips_trunk} is not torchvision's file; LPIPS then compares with no "
                "published figure"
            )


def _pairs(args: argparse.Namespace, pictures: Mapping[str, Path], scale: int, kind: str | None) -> Iterator[ImagePair]:
    from esrgan_export.evaluation.degradations import degradation
    from esrgan_export.evaluation.image_pairs import images_by_stem, load_pair, partner

    lr = images_by_stem(args.lr) if args.lr else {}
    partners = {stem: partner(stem, lr, args.lr, scale) if args.lr else None for stem in pictures}
    damage = degradation(kind) if kind else None
    return (load_pair(path, partners[stem], scale, damage, args.seed) for stem, path in pictures.items())
