"""esrgan-export: a checkpoint, or any blend of a PSNR and a GAN checkpoint, to verified ONNX."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING

from esrgan_deploy import __version__, cli
from esrgan_deploy.cli.models import HELP, ModelName, add_trust, find, model_argument
from esrgan_deploy.cli.progress import BuildProgress
from esrgan_deploy.cli.terminal import done, note
from esrgan_deploy.errors import BackendMissingError, EsrganError, OptionError, OutputError
from esrgan_deploy.models import DEFAULT, MODELS

if TYPE_CHECKING:
    from esrgan_deploy.model import ModelInfo
    from esrgan_export.checkpoint import Checkpoint
    from esrgan_export.networks import Network

PACKAGES = ("torch", "onnx", "onnxruntime", "safetensors")
EPILOG = """\
examples:
  esrgan-export --alpha 0.8 --fp16
  esrgan-export --gan RealESRGAN_x4plus.pth --fp16
  esrgan-export --gan RealESRGAN_x4plus.pth --int8 --calibrate frames
  esrgan-export --psnr RRDB_PSNR_x4.pth --gan RRDB_ESRGAN_x4.pth --alpha 0.6 0.8 1 --fp16 -o models

Without --psnr and --gan it exports the default pair that comes with this package. Checkpoints: .pth, .safetensors, or
ncnn's .param. Each ONNX file is compared with PyTorch in fp32 on five photos; the figures are printed and written
beside it. An export that differs too much fails and writes no file. With a GPU and TensorRT, an engine is built too.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command."""
    return cli.run(_parser, _export, argv)


def _parser() -> cli.Parser:
    parser = cli.Parser("esrgan-export", "Export ESRGAN-type checkpoints to ONNX, and verify the result.", EPILOG)
    add = parser.add_argument
    add("--psnr", type=model_argument, metavar="P", help=f"checkpoint of the PSNR-oriented network (alpha 0), {HELP}")
    add("--gan", type=model_argument, metavar="G", help=f"checkpoint of the GAN (alpha 1), {HELP}")
    add_trust(parser)
    add("--alpha", type=parse_alpha, nargs="+", metavar="A", help="the GAN's share, 0 to 1; one file for each value")
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument("--fp16", action="store_true", help="compute in fp16 (default: fp32)")
    precision.add_argument("--bf16", action="store_true", help="compute in bf16")
    precision.add_argument("--int8", action="store_true", help="compute in int8 where that keeps the picture")
    add("--calibrate", type=Path, metavar="DIR", help="for --int8: pictures like those that will be upscaled")
    add("--refit", action="store_true", help="also write the weights of both endpoints, so that alpha can be set later")
    add("--dynamic-batch", action="store_true", help="leave the batch size open (default: 1, which many hosts need)")
    add("--shape", type=_shape, metavar="WxH", help="fix the input's size (default: any size)")
    add("-o", "--output", type=Path, default=Path(), metavar="DIR", help="folder for the files (default: this one)")
    add("--name", help="first part of the file names (default: the checkpoint's name)")
    add("--comparison", action="store_true", help="also draw network beside image interpolation, on one photo")
    return parser


def parse_alpha(text: str) -> float:
    """Parse the GAN's share, a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from None
    if not 0 <= value <= 1:  # false for NaN too
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1]; 0 is the PSNR network, 1 the GAN")
    return value


def _shape(text: str) -> tuple[int, int]:
    """Parse "WxH" to (height, width)."""
    from esrgan_deploy.model import LARGEST_SIDE

    width, _, height = text.lower().partition("x")
    if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"'{text}' is not WxH, for instance 1280x720")
    if max(len(width), len(height)) > 5 or not (0 < int(width) <= LARGEST_SIDE and 0 < int(height) <= LARGEST_SIDE):
        raise argparse.ArgumentTypeError(f"'{text}' is no size of a frame: sides go from 1 to {LARGEST_SIDE}")
    return int(height), int(width)


def _export(args: argparse.Namespace) -> None:
    take_default_pair(args)
    check_options(args)
    _check_installed()
    prepare_folder(args.output)
    _find_checkpoints(args)
    progress = progress_printer()
    progress("loading PyTorch")
    from esrgan_export.checkpoint import load_checkpoint

    psnr, gan = (load_checkpoint(path) if path else None for path in (args.psnr, args.gan))
    if psnr and gan:
        from esrgan_export.interpolate import interpolate, relatedness

        if warning := relatedness(psnr, gan).warning:
            note(f"esrgan-export: warning: {warning}")
        for alpha in dict.fromkeys(args.alpha):
            network = interpolate(psnr, gan, alpha)
            path = _export_one(network, psnr, gan, alpha, args, progress)
            if args.comparison:
                _compare(psnr.network, gan.network, network, alpha, path)
    else:
        source = psnr or gan
        assert source is not None, "check_options lets no call without a checkpoint pass"
        _export_one(source.network, psnr, gan, None, args, progress)


def take_default_pair(args: argparse.Namespace) -> None:
    """If neither checkpoint is named, take the default pair of those that come with this package."""
    if args.psnr is None and args.gan is None:
        model = MODELS[DEFAULT]
        args.psnr, args.gan, args.name = model.psnr, model.gan, args.name or model.stem


def _find_checkpoints(args: argparse.Namespace) -> None:
    """Put files in place of names; a file that was given by its name lends that to the results."""
    from esrgan_deploy.zoo.find import checkpoint_file

    for end in ("gan", "psnr"):
        given = getattr(args, end)
        if isinstance(given, ModelName):
            setattr(args, end, find(given, args, partial(checkpoint_file, end=end)))
            args.name = args.name or given


def check_options(args: argparse.Namespace) -> None:
    """Check that the options fit together, before anything is loaded."""
    if args.psnr and args.gan and not args.alpha:
        raise OptionError("two checkpoints need --alpha A, the GAN's share, for instance --alpha 0.8")
    if not (args.psnr and args.gan):
        own, missing = (0.0, "--gan") if args.psnr else (1.0, "--psnr")
        other = next((alpha for alpha in args.alpha or [] if alpha != own), None)
        if other is not None:
            raise OptionError(f"--alpha {other:g} needs a second checkpoint to blend with: {missing}")
        for asked, option, purpose in (
            (args.comparison, "--comparison", "compare"),
            (args.refit, "--refit", "blend"),
        ):
            if asked:
                raise OptionError(f"{option} needs a second checkpoint to {purpose} with: {missing}")
    if args.int8 and not args.calibrate:
        raise OptionError(
            "--int8 needs --calibrate DIR: some ten pictures like those that will be upscaled, as they are"
        )
    if args.calibrate and not args.int8:
        raise OptionError("--calibrate is for --int8; add that, or leave it out")
    if args.int8 and args.refit:
        raise OptionError("--refit: int8 weights have scales of their own at each alpha; export each alpha without it")
    if args.name is not None and (not args.name or Path(args.name).name != args.name):
        raise OptionError(f"--name '{args.name}' is not a file name; name the folder with -o")


def _check_installed() -> None:
    missing = [package for package in PACKAGES if not util.find_spec(package)]
    if missing:
        raise BackendMissingError(f"esrgan-export needs {', '.join(missing)}: pip install 'esrgan-deploy[export]'")


def prepare_folder(folder: Path) -> None:
    """Make `folder`, and check that it can be written, which would otherwise fail after minutes of work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OutputError(f"{folder}: is a file; name a folder with -o") from error
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}; name another folder with -o") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder}: is not writable; name another folder with -o")


def progress_printer() -> Callable[[str], None]:
    """A function that prints lines to stderr, each with the seconds since the start."""
    start = time.monotonic()

    def progress(step: str) -> None:
        note(f"[{time.monotonic() - start:5.1f} s] {step}")

    return progress


def _export_one(
    network: Network,
    psnr: Checkpoint | None,
    gan: Checkpoint | None,
    alpha: float | None,
    args: argparse.Namespace,
    progress: Callable[[str], None],
) -> Path:
    from esrgan_deploy.alpha import endpoints_path
    from esrgan_export.artefact import export_artefact, report_path
    from esrgan_export.quantise.calibration import load_crops

    precision = "fp16" if args.fp16 else "bf16" if args.bf16 else "int8" if args.int8 else "fp32"
    info = describe(network, psnr, gan, alpha, precision, f"esrgan-export {__version__}")
    path: Path = args.output / file_name(base_name(args, network), info, args.dynamic_batch, args.shape)
    report = export_artefact(
        network,
        info,
        path,
        dynamic_batch=args.dynamic_batch,
        static_shape=args.shape,
        pair=(psnr, gan) if args.refit and psnr and gan else None,
        crops=load_crops(args.calibrate, network.multiple_of) if args.int8 else (),
        progress=progress,
    )
    done(path, *str(report).split("\n"), f"report: {report_path(path)}")
    if args.refit:
        done(f"both endpoints: {endpoints_path(path)}")
    done(f"engine: {_build_engine(path, args.refit)}")
    return path


def describe(
    network: Network, psnr: Checkpoint | None, gan: Checkpoint | None, alpha: float | None, precision: str, program: str
) -> ModelInfo:
    """The metadata of an artefact of `network`, made from these checkpoints by `program`."""
    from esrgan_deploy.model import ModelInfo

    return ModelInfo(
        scale=network.scale,
        precision=precision,
        multiple_of=network.multiple_of,
        alpha=alpha,
        arch=network.config(),
        psnr_sha256=psnr.sha256 if psnr else None,
        gan_sha256=gan.sha256 if gan else None,
        created_by=program,
    )


def base_name(args: argparse.Namespace, network: Network) -> str:
    """The first part of the file names: --name, or the name of the checkpoint."""
    name: str = args.name or (args.gan or args.psnr).stem.removesuffix(f"_x{network.scale}")
    return name


def _build_engine(model: Path, refit: bool) -> str:
    """Build the engine if there is a GPU and TensorRT. Returns its path, or why there is none and what to do."""
    from esrgan_deploy.cuda.gpu import find_gpu
    from esrgan_deploy.engine.machine import find_local_machine, free_memory
    from esrgan_deploy.engine.options import EngineOptions, default_profile
    from esrgan_deploy.engine.store.cache import EngineCache
    from esrgan_deploy.model import load_onnx

    try:
        find_gpu()  # without a GPU only portable engines can be built, which nobody asked for here
        trt, facts = find_local_machine()
        options = EngineOptions(default_profile(load_onnx(model)[1]), refit=refit)
        with BuildProgress() as progress:
            memory = free_memory(facts)
            return str(EngineCache().get(trt, facts, model, options, free_memory=memory, progress=progress).path)
    except EsrganError as error:
        return f"not built, {error}; the ONNX file is complete. On the machine where it will run: esrgan-engine {model}"


def file_name(name: str, info: ModelInfo, dynamic_batch: bool, shape: tuple[int, int] | None) -> str:
    """{name}_x4_a0.80_fp16.onnx; a fixed shape and an open batch size are added to the name."""
    parts = [name, f"x{info.scale}"]
    if info.alpha is not None:
        two_digits = f"{info.alpha:.2f}"
        parts.append(f"a{two_digits if float(two_digits) == info.alpha else repr(info.alpha)}")
    parts.append(info.precision)
    if shape:
        parts.append(f"{shape[1]}x{shape[0]}")
    if dynamic_batch:
        parts.append("batch")
    return "_".join(parts) + ".onnx"


def _compare(psnr: Network, gan: Network, interpolated: Network, alpha: float, artefact: Path) -> None:
    from esrgan_export.comparison import draw_comparison, write_comparison

    path = artefact.with_suffix(".comparison.png")
    write_comparison(draw_comparison(psnr, gan, interpolated, alpha), path)
    done(f"comparison: {path}")
