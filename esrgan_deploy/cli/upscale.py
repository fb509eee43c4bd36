"""esrgan-upscale: a picture, a folder of pictures, a clip, or frames from a pipe."""

from __future__ import annotations

import argparse
import errno
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from esrgan_deploy import cli
from esrgan_deploy.backends import gpu_comes_first, open_session
from esrgan_deploy.backends.int8 import at_precision
from esrgan_deploy.backends.names import BACKENDS, CpuPrecision
from esrgan_deploy.cli.guard import Guard
from esrgan_deploy.cli.model_list import ListModels
from esrgan_deploy.cli.models import HELP, add_trust, find_denoised, find_model, model_argument
from esrgan_deploy.cli.progress import BuildProgress, Progress
from esrgan_deploy.cli.terminal import done, note
from esrgan_deploy.errors import EsrganError, MachineError, MediaError, OptionError, OutputError
from esrgan_deploy.models import BUNDLED, DEFAULT
from esrgan_deploy.system.files import check_writable, same_file
from esrgan_deploy.system.monitor import GRACE_S, advice
from esrgan_deploy.upscaler import Upscaler

if TYPE_CHECKING:
    from esrgan_deploy.tuning.run_settings import RunSettings
    from esrgan_deploy.video import VideoInfo, VideoOptions, VideoSummary

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
CODECS = ("h264", "h265", "av1")
DISK_FAILS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""What the next picture of a folder would meet as well."""
CLIP_STREAMS = 2
PARTS = ".parts"
"""What the folder of a clip's finished segments is called behind the clip's name."""
STALL_S = 300.0
RAY_FACTOR = 4
PIPE = Path("-")
"""Stands for stdin and for stdout."""
EPILOG = """\
On a CPU --precision says what is given up for speed: fp32 is exact, auto takes bf16 too where the CPU has it (45 dB to
fp32 and more), int8 runs the INT8 artefact beside the model, which esrgan-export --int8 --calibrate DIR makes. Before a
clip of many minutes, what is fastest here is found out in under 20 seconds, said, and remembered; -b, --threads and -t
are yours to set all the same.

A clip is done in segments. What is finished lies in OUTPUT.parts until all of it is; after Ctrl-C, a crash or a full
disk, the same command with --resume goes on from there, to the same file.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command."""
    return cli.run(_parser, _resumable, argv, guard=_guard)


def _guard(args: argparse.Namespace) -> Guard:
    """What is around the command. With --ray its end takes longer, and its workers watch themselves."""
    factor = RAY_FACTOR if args.ray else 1
    return Guard("esrgan-upscale", factor * args.stall, _parts(args.output), factor * GRACE_S)


def _parts(target: Path) -> Path:
    """See `parts_of`, which would load FFmpeg."""
    return target.parent / f"{target.name}{PARTS}"


def _parser() -> cli.Parser:
    parser = cli.Parser("esrgan-upscale", "Upscale a picture, a folder of pictures, or a clip with its sound.", EPILOG)
    add = parser.add_argument
    add("input", type=Path, metavar="INPUT", help="picture, folder of pictures, clip, or - for YUV4MPEG2 from stdin")
    add("-o", "--output", type=Path, required=True, help="file, folder that mirrors a folder, or - for YUV4MPEG2")
    add("-m", "--model", type=model_argument, help=f"ONNX file or TensorRT engine, {HELP} (default: {DEFAULT})")
    add("-b", "--backend", default="auto", choices=BACKENDS, help="what runs the network (default: the fastest here)")
    add(
        "--alpha",
        type=float,
        metavar="A",
        help="the GAN's share, 0 to 1, of a bundled model or one exported with --refit",
    )
    add("--denoise", type=float, metavar="D", help="1 removes noise, 0 keeps it: -m realesr-general-x4v3 (default: 1)")
    add("-s", "--outscale", type=float, help="enlargement, if other than the network's")
    add("-t", "--tile", type=int, metavar="PX", help="side of a tile; 0: never tile (default: tile large frames)")
    add("--overlap", type=int, metavar="PX", help="context of a tile on each side (default: what the model needs)")
    add("--batch", type=int, default=1, metavar="N", help="frames or tiles that are computed together (default: 1)")
    add(
        "--precision",
        default="auto",
        choices=get_args(CpuPrecision),
        help="auto: full fidelity; int8: faster; see below",
    )
    add("--threads", type=int, metavar="N", help="CPU threads of the network (default: one for each usable core)")
    add(
        "--stall",
        type=_seconds,
        metavar="S",
        default=STALL_S,
        help="end when nothing has moved for S seconds, ten times as long while it computes; 0: never (default: 300)",
    )
    add("--list-models", action=ListModels, help="show every model that has a name, and end")
    add_trust(parser)
    clip = parser.add_argument_group("clips")
    add = clip.add_argument
    add("--resume", action="store_true", help="go on with what an interrupted run has finished")
    add("--codec", choices=CODECS, help="video codec (default: h264 for 8 bits per sample, h265 for more)")
    add("--crf", type=int, metavar="Q", help="quality, lower is better (default: high for the codec)")
    add("--stream", type=int, metavar="N", help="which video stream, as ffprobe counts (default: the only one)")
    add("--deinterlace", action="store_true", help="make one picture of the two fields of each frame")
    add("--frames", type=_range, metavar="A:B", default=(None, None), help="from frame A, counted from 0, to before B")
    add("--duration", type=float, metavar="S", help="stop after so many seconds of the clip")
    add("--tolerance", type=int, metavar="T", default=0, help="reuse what differs by at most T of 255 (default: 0)")
    add("--preview", type=int, metavar="N", help="write every Nth frame, before and after, to OUTPUT.preview")
    add("--segment", type=int, metavar="N", default=120, help="frames that a crash costs at most (default: 120)")
    add("--protocols", type=_names, metavar="P,P", default=(), help="what a playlist may reach beside local files")
    add("--format", metavar="NAME", help="what the clip is read as, in FFmpeg's words (default: what its content says)")
    add("--ray", nargs="?", const="local", metavar="ADDRESS", help="share the work: a Ray cluster's HOST:PORT, or auto")
    return parser


def _range(text: str) -> tuple[int | None, int | None]:
    match = re.fullmatch(r"(\d*):(\d*)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is not FIRST:END, two numbers of frames, for instance 100:200")
    return int(match[1]) if match[1] else None, int(match[2]) if match[2] else None


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds, 0 or more")
    return float(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _resumable(args: argparse.Namespace) -> None:
    """Upscale, and say what an interruption leaves behind."""
    try:
        _upscale(args)
    except KeyboardInterrupt:
        if any(_parts(args.output).glob("*.packets")):
            raise KeyboardInterrupt(advice(str(_parts(args.output)))) from None
        raise


def _upscale(args: argparse.Namespace) -> None:
    source, target = args.input, args.output
    if source != PIPE and not source.exists():
        raise MediaError(f"{source}: does not exist")
    if same_file(source, target):
        raise OutputError(f"{target}: is the input itself; name another output")
    if args.threads is not None and args.threads < 1:
        raise OptionError(f"--threads {args.threads} is too small; give at least 1")
    if args.alpha is not None:
        from esrgan_deploy.alpha import check_alpha

        check_alpha(args.alpha)
    if args.denoise is not None:
        _check_denoise(args)
    _check_target(source, target)
    if args.denoise is not None:
        args.model = find_denoised(args.model, args)
    elif args.model is not None:
        args.model = find_model(args.model, args)
    model = BUNDLED if args.model is None and args.backend != "reference" else args.model
    if args.ray:
        _upscale_on_ray(source, target, model, args)
        return
    # Around it all, since a build that fails leaves its bar on the line that the error is printed on.
    with BuildProgress() as building, _upscaler(model, args, building) as upscaler:
        session = upscaler.session
        if args.alpha is not None:
            session.set_alpha(args.alpha)
        name = model.name if model else "nearest neighbour"
        alpha = "" if args.alpha is None else f" at alpha {args.alpha:g}"  # the file's name may have another one
        note(f"{name} x{session.info.scale}{alpha}, {session.backend} in {session.precision}")
        if PIPE in (source, target):
            _upscale_pipe(source, target, upscaler, args)
        elif source.is_dir():
            _upscale_folder(source, target, upscaler)
        elif source.suffix.lower() in PICTURES:
            _upscale_picture(source, target, upscaler)
        else:
            _upscale_clip(source, target, upscaler, args)


def _check_denoise(args: argparse.Namespace) -> None:
    from esrgan_deploy.denoise import check_denoise

    check_denoise(args.denoise)
    if args.alpha is not None:
        raise OptionError(
            f"--alpha {args.alpha:g} blends a PSNR network and a GAN, --denoise {args.denoise:g} two others; give one"
        )


def _upscaler(model: Path | None, args: argparse.Namespace, building: BuildProgress) -> Upscaler:
    settings, size = _settings(model, args, building)
    session = open_session(
        model,
        settings.backend,
        precision=settings.precision,
        threads=settings.threads,
        streams=settings.streams,
        refit=args.alpha is not None,
        progress=building,
    )
    try:
        return settings.upscaler(session, size, **_upscaler_options(args))
    except BaseException:
        session.close()
        raise


def _settings(
    model: Path | None, args: argparse.Namespace, building: BuildProgress
) -> tuple[RunSettings, tuple[int, int] | None]:
    """What to run with, and the height and width of a clip that this was tuned for."""
    from esrgan_deploy.tuning import recall, tune
    from esrgan_deploy.tuning.run_settings import is_long

    asked = _asked(args)
    if not _is_clip(args) or model is None or asked.backend != "auto" or gpu_comes_first(model):
        return asked, None
    info = None
    if args.input != PIPE:
        from esrgan_deploy.video import probe

        info = probe(
            args.input,
            stream=args.stream,
            deinterlace=args.deinterlace,
            protocols=args.protocols,
            media_format=args.format,
        )
    choice, when = recall(model, args.precision), "tuned before"
    if choice is None and info and is_long(model, info.height, info.width, _most_frames(info, args)):
        choice = tune(model, args.precision, building)
        when = f"tuned in {choice.seconds:.0f} s"
    if choice is None:
        return asked, None
    _note(f"{when}: {choice.line()}")
    return asked.chosen(choice), (info.height, info.width) if info else None


def _asked(args: argparse.Namespace) -> RunSettings:
    """What the user asks for, and beside that, what an interrupted run to the same output has taken."""
    from esrgan_deploy.system.cpu import default_threads
    from esrgan_deploy.tuning.run_settings import RunSettings

    # Frames of a clip can be computed side by side; a picture should have all threads to itself.
    streams = min(CLIP_STREAMS, args.threads or default_threads()) if _is_clip(args) else 1
    asked = RunSettings(args.backend, args.precision, args.threads, streams, args.tile)
    if not _is_clip(args) or PIPE in (args.input, args.output):
        return asked
    from esrgan_deploy.video.output.checkpoint import recorded_identity

    recorded = recorded_identity(args.output)
    return asked.resumed(recorded) if recorded else asked


def _most_frames(info: VideoInfo, args: argparse.Namespace) -> int:
    """How many frames there are to do, as far as the container tells."""
    first, stop = args.frames
    frames = min(info.frames or 0, stop or sys.maxsize) - (first or 0)
    return frames if args.duration is None else min(frames, round(args.duration * info.frame_rate))


def _is_clip(args: argparse.Namespace) -> bool:
    return args.input.suffix.lower() not in PICTURES and not args.input.is_dir()


def _check_target(source: Path, target: Path) -> None:
    """Refuse before the model is loaded what could not be written afterwards."""
    if PIPE in (source, target):
        if source.is_dir() or source.suffix.lower() in PICTURES or target.suffix.lower() in PICTURES:
            raise OptionError("- stands for the frames of a clip; name a file for a picture")
        if target == PIPE and sys.stdout.isatty():
            raise OutputError("-: standard output is a terminal; pipe it into a program, or name a file")
        return
    if source.is_dir():
        if target.exists() and not target.is_dir():
            raise OutputError(f"{target}: is a file, and the input is a folder; name a folder")
        return
    if target.is_dir():
        raise OutputError(f"{target}: is a folder, and the input is one file; name a file")
    if not target.parent.is_dir():
        raise OutputError(f"{target}: the folder {target.parent} does not exist; create it first")
    check_writable(target)
    picture = source.suffix.lower() in PICTURES
    if picture != (target.suffix.lower() in PICTURES):
        kind = "a picture" if picture else "a clip"
        raise OutputError(f"{target}: '{target.suffix}' does not fit the input, which is {kind}")


def _upscale_picture(source: Path, target: Path, upscaler: Upscaler) -> None:
    from esrgan_deploy.images import upscale_file

    height, width = upscale_file(source, target, upscaler)
    done(f"{target}: {width}x{height}")


def _upscale_folder(source: Path, target: Path, upscaler: Upscaler) -> None:
    """Mirror the folder; a picture that fails is reported, the others are done, and the exit code tells."""
    from esrgan_deploy.images import upscale_file
    from esrgan_deploy.system.paths import real_path

    pictures = _pictures_in(source, target)
    if not pictures:
        raise MediaError(f"{source}: holds no picture; known formats: {', '.join(PICTURES)}")
    inputs = {real_path(path) for path in pictures}
    failures: list[EsrganError] = []
    with Progress("picture", len(pictures)) as progress:
        for count, path in enumerate(pictures, 1):
            mirrored = target / path.relative_to(source)
            try:
                _make_folder(mirrored)
                if real_path(mirrored) in inputs:  # by way of a link in the folder of the results
                    raise OutputError(f"{mirrored}: is a picture of the input; name another output")
                upscale_file(path, mirrored, upscaler)
            except (MediaError, OutputError, MachineError) as error:
                if isinstance(error.__cause__, OSError) and error.__cause__.errno in DISK_FAILS:
                    raise
                failures.append(error)
                note(f"esrgan-upscale: {error}")
            progress(count)
    done(f"{target}: {len(pictures) - len(failures)} pictures")
    if failures:
        kind = MachineError if all(isinstance(error, MachineError) for error in failures) else MediaError
        raise kind(f"{source}: {len(failures)} of {len(pictures)} pictures could not be done; the others are")


def _pictures_in(source: Path, target: Path) -> list[Path]:
    """Everything in the folder that is called like a picture, but for what lies in the folder of the results."""
    from esrgan_deploy.system.paths import path_key, real_path

    outputs = path_key(real_path(target))
    try:
        found = sorted(source.rglob("*"))
    except OSError as error:  # for instance of /proc, whose folders come and go
        raise MediaError(
            f"{error.filename or source}: cannot be read: {error.strerror}; name another folder"
        ) from error
    return [
        path
        for path in found
        if path.suffix.lower() in PICTURES
        and not path.is_dir()  # pipes, and links to nowhere, are refused by name when it is their turn
        and outputs not in map(path_key, [folder := real_path(path.parent), *folder.parents])
    ]


def _make_folder(mirrored: Path) -> None:
    try:
        mirrored.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{mirrored}: cannot be written: {error.strerror}; choose another place") from error


def _upscale_clip(source: Path, target: Path, upscaler: Upscaler, args: argparse.Namespace) -> None:
    from esrgan_deploy.video import upscale_video

    with Progress("frame") as progress:
        summary = upscale_video(
            source, target, upscaler, _options(args), resume=args.resume, progress=progress, note=_note
        )
    done(*_clip_lines(target, summary))


def _upscale_on_ray(source: Path, target: Path, model: Path | None, args: argparse.Namespace) -> None:
    from esrgan_deploy.video.run.cluster import UpscalerSpec, upscale_on_ray

    if PIPE in (source, target) or source.is_dir() or source.suffix.lower() in PICTURES:
        raise OptionError("--ray shares the segments of a clip; leave it out for pictures and pipes")
    if args.alpha is not None:
        raise OptionError(
            f"--ray sends the model's file alone; export it with --alpha {args.alpha:g}, and leave it out here"
        )
    settings = _asked(args)
    spec = UpscalerSpec(
        model=at_precision(model, settings.precision) if model else None,  # one file travels
        backend=settings.backend,
        precision="auto" if settings.precision == "int8" else settings.precision,
        threads=settings.threads,
        tile=settings.tile,
        **_upscaler_options(args),
    )
    with Progress("frame") as progress:
        summary = upscale_on_ray(
            source,
            target,
            spec,
            _options(args),
            address=None if args.ray == "local" else args.ray,
            resume=args.resume,
            progress=progress,
            note=_note,
            stall_s=args.stall,
        )
    done(*_clip_lines(target, summary))


def _upscale_pipe(source: Path, target: Path, upscaler: Upscaler, args: argparse.Namespace) -> None:
    from esrgan_deploy.video import upscale_pipe

    if args.resume:
        raise OptionError("--resume: a pipe cannot be read again; name files")
    with Progress("frame") as progress:
        summary = upscale_pipe(
            sys.stdin.buffer if source == PIPE else source,
            sys.stdout.buffer if target == PIPE else target,
            upscaler,
            _options(args),
            progress=progress,
            note=_note,
        )
    note(*_clip_lines(target, summary))


def _upscaler_options(args: argparse.Namespace) -> dict[str, Any]:
    """What `Upscaler` and `UpscalerSpec` are both given by name, but for the tile."""
    return {name: getattr(args, name) for name in ("overlap", "batch", "outscale", "tolerance")}


def _options(args: argparse.Namespace) -> VideoOptions:
    from esrgan_deploy.video import VideoOptions

    return VideoOptions(
        codec=args.codec,
        quality=args.crf,
        stream=args.stream,
        deinterlace=args.deinterlace,
        frames=args.frames,
        duration_s=args.duration,
        segment_frames=args.segment,
        protocols=args.protocols,
        media_format=args.format,
        preview=args.preview,
    )


def _note(line: str) -> None:
    note(f"esrgan-upscale: {line}")


def _clip_lines(target: Path, summary: VideoSummary) -> list[str]:
    """What was done, and where the time went: the stage that is busy nearly all the time sets the pace."""
    resumed = summary.frames - summary.computed
    lines = [f"{target}: {summary.frames} frames in {summary.seconds:.1f} s, {summary.fps:.2f} fps"]
    if resumed:
        lines[0] += f" ({resumed} frames were finished before)"
    if summary.tiles_reused:
        lines.append(
            f"  unchanged and not computed again: {summary.reused} frames, {summary.tiles_reused:.0%} of all tiles"
        )
    if summary.busy_s:
        stages = (f"{name} {seconds / summary.seconds:.0%}" for name, seconds in summary.busy_s.items())
        alone = summary.computed / max(summary.busy_s[summary.limit], 1e-9)
        lines.append(f"  busy: {', '.join(stages)}; {summary.limit} limits, alone it would do {alone:.2f} fps")
    return lines
