"""esrgan-upscale: a picture, a folder of pictures, or a clip."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from esrgan_deploy import cli
from esrgan_deploy.atomic import same_file
from esrgan_deploy.backends import BACKENDS, open_session
from esrgan_deploy.cli.progress import Progress
from esrgan_deploy.errors import MediaError, OptionError, OutputError
from esrgan_deploy.models import BUNDLED
from esrgan_deploy.upscaler import Upscaler

if TYPE_CHECKING:
    from esrgan_deploy.video import VideoSummary

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
CODECS = ("h264", "h265", "av1")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command."""
    return cli.run(_parser(), _upscale, argv)


def _parser() -> cli.Parser:
    parser = cli.Parser("esrgan-upscale", "Upscale a picture, a folder of pictures, or a clip with its sound.")
    add = parser.add_argument
    add("input", type=Path, metavar="INPUT", help="picture, folder of pictures, or clip")
    add("-o", "--output", type=Path, required=True, help="file, or for a folder the folder that mirrors it")
    add("-m", "--model", type=Path, help="ONNX file, as esrgan-export makes them (default: the compact one, alpha 0.8)")
    add("-b", "--backend", default="auto", choices=BACKENDS, help="what runs the network (default: the fastest here)")
    add("-s", "--outscale", type=float, help="enlargement, if other than the network's")
    add("-t", "--tile", type=int, metavar="PX", help="side of a tile; 0: never tile (default: tile large frames)")
    add("--overlap", type=int, metavar="PX", help="context of a tile on each side (default: what the model needs)")
    add("--batch", type=int, default=1, metavar="N", help="frames or tiles that are computed together (default: 1)")
    add("--precision", default="auto", choices=("auto", "fp32", "bf16"), help="what openvino computes in")
    add("--threads", type=int, metavar="N", help="CPU threads of the network (default: one per core)")
    clip = parser.add_argument_group("clips")
    clip.add_argument("--codec", default="h264", choices=CODECS, help="video codec (default: h264)")
    clip.add_argument("--crf", type=int, metavar="Q", help="quality, lower is better (default: high for the codec)")
    return parser


def _upscale(args: argparse.Namespace) -> None:
    source, target = args.input, args.output
    if not source.exists():
        raise MediaError(f"{source}: does not exist")
    if same_file(source, target):
        raise OutputError(f"{target}: is the input itself; name another output")
    if args.threads is not None and args.threads < 1:
        raise OptionError(f"--threads {args.threads} is too small; give at least 1")
    _check_target(source, target)
    model = BUNDLED if args.model is None and args.backend != "reference" else args.model
    session = open_session(model, args.backend, precision=args.precision, threads=args.threads)
    with Upscaler(session, tile=args.tile, overlap=args.overlap, batch=args.batch, outscale=args.outscale) as upscaler:
        name = model.name if model else "nearest neighbour"
        print(f"{name} x{session.info.scale}, {session.backend} in {session.precision}", file=sys.stderr)
        if source.is_dir():
            _upscale_folder(source, target, upscaler)
        elif source.suffix.lower() in PICTURES:
            _upscale_picture(source, target, upscaler)
        else:
            _upscale_clip(source, target, upscaler, args)


def _check_target(source: Path, target: Path) -> None:
    """Refuse before the model is loaded what could not be written afterwards."""
    if source.is_dir():
        if target.exists() and not target.is_dir():
            raise OutputError(f"{target}: is a file, and the input is a folder; name a folder")
        return
    if target.is_dir():
        raise OutputError(f"{target}: is a folder, and the input is one file; name a file")
    if not target.parent.is_dir():
        raise OutputError(f"{target}: the folder {target.parent} does not exist; create it first")
    picture = source.suffix.lower() in PICTURES
    if picture != (target.suffix.lower() in PICTURES):
        kind = "a picture" if picture else "a clip"
        raise OutputError(f"{target}: '{target.suffix}' does not fit the input, which is {kind}")


def _upscale_picture(source: Path, target: Path, upscaler: Upscaler) -> None:
    from esrgan_deploy.stills import read_still, upscale_still, write_still

    still = upscale_still(read_still(source), upscaler)
    write_still(target, still)
    height, width = still.rgb.shape[:2]
    print(f"{target}: {width}x{height}")


def _upscale_folder(source: Path, target: Path, upscaler: Upscaler) -> None:
    """Mirror the folder; a picture that fails is reported, the others are done, and the exit code tells."""
    from esrgan_deploy.stills import read_still, upscale_still, write_still

    inside = target.resolve()
    pictures = [
        path
        for path in sorted(source.rglob("*"))
        if path.is_file() and path.suffix.lower() in PICTURES and inside not in path.resolve().parents
    ]
    if not pictures:
        raise MediaError(f"{source}: holds no picture; known formats: {', '.join(PICTURES)}")
    failed = 0
    with Progress("picture", len(pictures)) as progress:
        for done, path in enumerate(pictures, 1):
            mirrored = target / path.relative_to(source)
            try:
                mirrored.parent.mkdir(parents=True, exist_ok=True)
                write_still(mirrored, upscale_still(read_still(path), upscaler))
            except MediaError as error:
                failed += 1
                print(f"esrgan-upscale: {error}", file=sys.stderr)
            except OSError as error:
                raise OutputError(f"{mirrored}: cannot be written: {error.strerror}") from error
            progress(done)
    print(f"{target}: {len(pictures) - failed} pictures")
    if failed:
        raise MediaError(f"{source}: {failed} of {len(pictures)} pictures could not be read; the others are done")


def _upscale_clip(source: Path, target: Path, upscaler: Upscaler, args: argparse.Namespace) -> None:
    from esrgan_deploy.video import upscale_video

    with Progress("frame") as progress:
        summary = upscale_video(source, target, upscaler, codec=args.codec, quality=args.crf, progress=progress)
    print(_clip_line(target, summary))


def _clip_line(target: Path, summary: VideoSummary) -> str:
    return f"{target}: {summary.frames} frames in {summary.seconds:.1f} s, {summary.fps:.2f} fps"
