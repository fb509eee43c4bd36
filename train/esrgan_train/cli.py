"""esrgan-train: train by a recipe, write a recipe to edit, check a data set, or fine-tune a network for INT8."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from importlib import util
from pathlib import Path

from esrgan_deploy import __version__, cli
from esrgan_deploy.cli.terminal import done, note, say
from esrgan_deploy.errors import BackendMissingError, MediaError, OptionError, OutputError
from esrgan_export.cli import export

PACKAGES = ("torch", "lightning_fabric", "pydantic", "yaml", "tensorboard", "safetensors")
_SHOWN = 100
"""Characters of an argument in a message."""
DEFAULT_SCALE = 4
"""HR pixels per LR pixel, for a check without a recipe."""
EPILOG = """\
examples:
  esrgan-train list                                       the recipes of this package
  esrgan-train new paper/rrdb-psnr -o mine.yaml           a copy to edit
  esrgan-train doctor photos/ --recipe mine.yaml          what is wrong with the pictures, before hours are spent
  esrgan-train mine.yaml --set data.train.0.folder=photos/ -o runs/mine
  esrgan-train mine.yaml --set data.train.0.folder=photos/ -o runs/mine --resume
  esrgan-export --psnr runs/psnr/last.safetensors --gan runs/gan/last.safetensors --alpha 0.8 --fp16
  esrgan-train qat --alpha 0.8 --calibrate photos/        INT8, trained to give the same pictures as fp32
"""
QAT_EPILOG = """\
examples:
  esrgan-train qat --alpha 0.8 --calibrate frames
  esrgan-train qat --gan RealESRGAN_x4plus.pth --calibrate frames --steps 1000 -o models --resume

Networks are named as in esrgan-export; without --psnr and --gan it takes the default pair. --calibrate names pictures
of the size and kind that will be upscaled. Every fourth is held out, and the weights that score best on those are
exported. The ONNX file is compared with PyTorch in fp32 on five photos, as every export is. Ctrl-C saves the state of
the run; --resume goes on with it.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command."""
    words = list(sys.argv[1:] if argv is None else argv)
    special = {
        "doctor": (_dataset_parser, _check_dataset),
        "new": (_new_parser, _new),
        "list": (_list_parser, _list),
        "qat": (_qat_parser, _qat),
    }
    if words and words[0] in special:
        parser, command = special[words[0]]
        return cli.run(parser, command, words[1:])
    return cli.run(_parser, _train, words)


def _parser() -> cli.Parser:
    parser = cli.Parser("esrgan-train", "Train a super-resolution network by a recipe.", EPILOG)
    add = parser.add_argument
    add(
        "recipe", metavar="RECIPE", help="name of a recipe of this package, or a .yaml file; or: doctor, new, list, qat"
    )
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help="change one value")
    add("--resume", action="store_true", help="go on after the state in the run's folder, if there is one")
    add("-o", "--output", type=Path, metavar="DIR", help="the run's folder (default: runs/RECIPE)")
    add("--devices", type=_positive, default=1, metavar="N", help="GPUs, or processes without one (default: 1)")
    add("--nodes", type=_positive, default=1, metavar="N", help="machines (default: 1)")
    return parser


def _positive(text: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text[:_SHOWN]}' is not a whole number from 1 to 9999999999")
    return int(text)


def _train(args: argparse.Namespace) -> None:
    _check_installed()
    from esrgan_train.loop import train
    from esrgan_train.recipe import load_recipe

    recipe = load_recipe(args.recipe, args.settings)
    name = Path(args.recipe)
    folder = args.output or Path("runs", name.stem if name.suffix else name)
    train(recipe, folder, resume=args.resume, devices=args.devices, nodes=args.nodes)


def _check_installed() -> None:
    missing = [package for package in PACKAGES if not util.find_spec(package)]
    if missing:
        raise BackendMissingError(f"esrgan-train needs {', '.join(missing)}: pip install 'esrgan-deploy[train]'")


def _dataset_parser() -> cli.Parser:
    parser = cli.Parser("esrgan-train doctor", "Check pictures, and what training on them costs, before it begins.")
    add = parser.add_argument
    add("folders", type=Path, nargs="*", metavar="DIR", help="HR pictures to train on (default: the recipe's)")
    add("--validation", type=Path, nargs="+", default=[], metavar="DIR", help="pictures that must not be among them")
    add("--lr", type=Path, metavar="DIR", help="LR pictures of the same names")
    add(
        "--recipe",
        metavar="RECIPE",
        help="also check that they fit it, and measure its time and memory on this machine",
    )
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help="change one of its values")
    return parser


def _check_dataset(args: argparse.Namespace) -> None:
    if not args.folders and not args.recipe:
        raise OptionError("nothing to check: name folders of pictures, or --recipe")
    _check_installed()
    from esrgan_deploy.cli.progress import Progress
    from esrgan_train.data.dataset_check import check_dataset
    from esrgan_train.recipe import load_recipe
    from esrgan_train.recipe.networks import network_scale
    from esrgan_train.run import resolve

    recipe = load_recipe(args.recipe, args.settings) if args.recipe else None
    folders, validation, lr, patch, scale = args.folders, args.validation, args.lr, 0, DEFAULT_SCALE
    if recipe is not None:
        sets, scale = recipe.data.train, network_scale(recipe)
        folders = folders or [resolve(dataset.folder) for dataset in sets]
        lr = lr or (sets[0].lr if len(sets) == 1 else None)
        patch = recipe.data.patch * max(dataset.shrink for dataset in sets)
        if recipe.validation.folder and not validation:
            validation = [resolve(recipe.validation.folder)]
    with Progress("picture") as progress:
        report = check_dataset(folders, validation=validation, lr=lr, scale=scale, patch=patch, progress=progress)
    say(*str(report).split("\n"))
    if recipe is not None:
        from esrgan_train.cost_estimate import estimate_cost

        say(*str(estimate_cost(recipe)).split("\n"))
    if report.errors:
        raise MediaError(f"{len(report.errors)} of these would stop training or make its scores wrong; see above")


def _new_parser() -> cli.Parser:
    parser = cli.Parser("esrgan-train new", "Copy a recipe of this package to a file, to edit it.")
    parser.add_argument("name", metavar="RECIPE", help="see `esrgan-train list`")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="(default: its name, in this folder)")
    return parser


def _new(args: argparse.Namespace) -> None:
    _check_installed()
    from esrgan_deploy.system.files import replacing
    from esrgan_train.recipe import recipe_text

    text = recipe_text(args.name)
    path = args.output or Path(f"{args.name.replace('/', '-')}.yaml")
    if path.exists():
        raise OutputError(f"{path}: exists already; name another file with -o")
    if path.suffix != ".yaml":
        raise OptionError(f"{path}: recipes end in .yaml; change the suffix")
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
    done(path)


def _list_parser() -> cli.Parser:
    return cli.Parser("esrgan-train list", "List the recipes of this package.")


def _list(_args: argparse.Namespace) -> None:
    _check_installed()
    from esrgan_train.recipe import read_recipe, recipe_names

    names = recipe_names()
    for name in names:
        recipe = read_recipe(name)
        say(f"{name:{max(map(len, names))}} {recipe.gpu_hours:>6g} GPU h  {recipe.description}")


def _qat_parser() -> cli.Parser:
    parser = cli.Parser("esrgan-train qat", "Fine-tune a network for INT8, and write it as verified ONNX.", QAT_EPILOG)
    add = parser.add_argument
    add("--psnr", type=Path, metavar="P", help="checkpoint of the PSNR-oriented network (alpha 0)")
    add("--gan", type=Path, metavar="G", help="checkpoint of the GAN (alpha 1)")
    add("--alpha", type=export.parse_alpha, nargs=1, metavar="A", help="the GAN's share, 0 to 1")
    add("--calibrate", type=Path, metavar="DIR", required=True, help="pictures like those that will be upscaled")
    add("--steps", type=_positive, default=500, metavar="N", help="steps of training (default: 500)")
    add("--batch", type=_positive, default=4, metavar="N", help="crops in a step (default: 4)")
    add("--lr", type=_rate, default=3e-4, metavar="R", help="rate, as a share of each tensor's values (default: 3e-4)")
    add("--resume", action="store_true", help="go on after the state beside the output, if there is one")
    add("-o", "--output", type=Path, default=Path(), metavar="DIR", help="folder for the files (default: this one)")
    add("--name", help="first part of the file names (default: the checkpoint's name)")
    parser.set_defaults(int8=True, refit=False, comparison=False)
    return parser


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from None
    if not 0 < value < 1:  # false for NaN too
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _qat(args: argparse.Namespace) -> None:
    export.take_default_pair(args)
    export.check_options(args)
    _check_installed()
    export.prepare_folder(args.output)
    progress = export.progress_printer()
    progress("loading PyTorch")
    from esrgan_export.artefact import report_path
    from esrgan_export.checkpoint import load_checkpoint
    from esrgan_export.interpolate import interpolate, relatedness
    from esrgan_train.qat.artefact import tune_artefact
    from esrgan_train.qat.tune import QatSettings

    psnr, gan = (load_checkpoint(path) if path else None for path in (args.psnr, args.gan))
    alpha = None
    if psnr and gan:
        (alpha,) = args.alpha
        if warning := relatedness(psnr, gan).warning:
            note(f"esrgan-train qat: warning: {warning}")
        network = interpolate(psnr, gan, alpha)
    else:
        source = psnr or gan
        assert source is not None, "check_options lets no call without a checkpoint pass"
        network = source.network
    info = export.describe(network, psnr, gan, alpha, "int8", f"esrgan-train qat {__version__}")
    path = args.output / export.file_name(export.base_name(args, network), info, False, None)
    settings = QatSettings(steps=args.steps, batch=args.batch, rate=args.lr)
    report = tune_artefact(network, info, path, args.calibrate, settings, resume=args.resume, progress=progress)
    done(path, *str(report).split("\n"), f"report: {report_path(path)}")
