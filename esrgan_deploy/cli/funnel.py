"""The funnel at the top of each command: an exception of a dependency or of the system becomes one of our tree.

The library maps what it expects where it arises, with the name and the remedy that only it knows. Here arrives what
nobody expected: a damaged file that a library refuses in an unusual way, a disk that is full at an odd moment, no
memory. What a user can do about it follows from its kind and from where it arose. Whatever no row of the tables below
knows is a fault of ours, and stays one: a KeyError of our own code is not called bad input.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import pickle
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from esrgan_deploy.cli import RUST_PANIC
from esrgan_deploy.errors import EsrganError, MachineError, MediaError, ModelError, OptionError, OutputError

PACKAGES = ("esrgan_deploy", "esrgan_export", "esrgan_train", "esrgan_bench")
"""Our own: what arises in their code is a fault of ours, unless its type says otherwise."""


@dataclass(frozen=True)
class Place:
    """A part of the packages, and what it means if something fails there."""

    module: str
    """It and everything below it."""
    error: type[EsrganError]
    arguments: tuple[str, ...]
    """Attributes of the parsed arguments that may name what it is about; the first that is given does."""
    fault: str


_READ = "cannot be read; it is damaged, or of a kind that is not supported"
_WRITTEN = "cannot be written"
_RUN = "cannot be run; it is damaged, or of a kind that is not supported"

PLACES = (  # the first that fits counts
    Place("esrgan_deploy.video.output.checkpoint", OutputError, ("output",), "cannot be resumed; run without --resume"),
    Place("esrgan_deploy.video.output", OutputError, ("output",), _WRITTEN),
    Place("esrgan_deploy.video.run.finish", OutputError, ("output",), _WRITTEN),
    Place("esrgan_deploy.video.run.cluster", MachineError, ("ray",), "the cluster failed"),
    Place("esrgan_deploy.video", MediaError, ("input",), _READ),
    Place("esrgan_deploy.images", MediaError, ("input",), _READ),
    Place("esrgan_deploy.cuda", MachineError, (), "the GPU cannot be used; choose another one with --backend"),
    Place("esrgan_deploy.engine.build", ModelError, ("model",), "no engine can be built of it"),
    Place("esrgan_deploy.engine", ModelError, ("model",), _RUN),
    Place("esrgan_deploy.backends", ModelError, ("model",), _RUN),
    Place("esrgan_deploy.tuning", ModelError, ("model",), _RUN),
    Place("esrgan_deploy.zoo", ModelError, ("model", "gan", "psnr"), "cannot be had by this name"),
    Place("esrgan_deploy.model", ModelError, ("model",), _READ),
    Place("esrgan_deploy.ncnn", ModelError, ("model", "gan", "psnr"), _READ),
    Place("esrgan_deploy.alpha", ModelError, ("model",), _READ),
    Place("esrgan_deploy.endpoints", ModelError, ("model",), _READ),
    Place("esrgan_deploy.denoise", ModelError, ("model",), _READ),
    Place("esrgan_deploy.onnx_write", ModelError, ("model", "gan", "psnr"), _READ),
    Place("esrgan_deploy.frame_io", ModelError, ("model",), _READ),
    Place("esrgan_deploy.flops", ModelError, ("model",), _READ),
    Place("esrgan_deploy.network_memory", ModelError, ("model",), _READ),
    Place("esrgan_deploy.system", MachineError, (), "this system cannot do it"),
    Place("esrgan_bench.compare", OptionError, ("compare",), _READ),
    Place("esrgan_bench.page", OutputError, ("html",), _WRITTEN),
    Place("esrgan_bench.plots", OutputError, ("html",), _WRITTEN),
    Place("esrgan_bench", ModelError, ("model",), _RUN),
    Place("esrgan_export.evaluation.mos", MediaError, ("mos_tally", "mos_page"), _READ),
    Place("esrgan_export.evaluation", MediaError, ("hr",), _READ),
    Place("esrgan_export.metrics", MediaError, ("hr", "gan", "psnr"), _READ),
    Place("esrgan_export.quantise.calibration", MediaError, ("calibrate",), _READ),
    Place("esrgan_export.verify", ModelError, ("gan", "psnr"), "cannot be verified"),
    Place("esrgan_export", ModelError, ("gan", "psnr", "model"), _READ),
    Place("esrgan_train.recipe", OptionError, ("recipe",), _READ),
    Place("esrgan_train.data", MediaError, ("folders", "recipe"), "its pictures cannot be read"),
    Place("esrgan_train.state", ModelError, ("output",), "its state cannot be read; train without --resume"),
    Place("esrgan_train.run_log", OutputError, ("output",), "its log cannot be read or written"),
    Place("esrgan_train", ModelError, ("recipe", "gan", "psnr"), "cannot be trained"),
)

DEPENDENCIES = frozenset(
    "av cv2 PIL onnx onnxruntime onnxscript onnx_ir openvino ml_dtypes safetensors google torch yaml tomllib tqdm "
    "pydantic pydantic_core lightning_fabric tensorboard ray filelock psutil platformdirs matplotlib tensorrt "
    f"tensorrt_rtx pooch requests urllib3 tomli cuda pycuda pynvml ncnn {RUST_PANIC}".split()
)
"""Top-level modules: what is raised in their code, or is of their types, comes from what they were given."""

DATA_ERRORS = (
    *(struct.error, zlib.error, json.JSONDecodeError, UnicodeError, EOFError, OverflowError, RecursionError),
    *(pickle.PickleError, zipfile.BadZipFile),
)
"""Kinds of the standard library that only what was read can cause, wherever they arise."""

NO_MEMORY = re.compile(
    r"bad_?alloc|failed to map segment|cannot allocate memory|(not enough|out of|insufficient) memory"
    r"|failed to allocate|can't start new thread|unable to allocate",
    re.IGNORECASE,
)
"""How libraries say it that have no MemoryError."""

SYSTEM_ERRORS: dict[int, tuple[type[EsrganError] | None, str]] = {  # None: as `PLACES` says
    errno.ENOSPC: (OutputError, "make room on that disk and run it again"),
    errno.EDQUOT: (OutputError, "make room in your quota and run it again"),
    errno.EFBIG: (OutputError, "its disk, or ulimit -f, allows no file of that size; name another place"),
    errno.EROFS: (OutputError, "name a place that can be written"),
    errno.EPIPE: (OutputError, "whoever read it has gone"),
    errno.EIO: (None, "its disk or network failed; copy it to another place"),
    errno.ENAMETOOLONG: (None, "choose a shorter name"),
    errno.ELOOP: (None, "it is a link to itself"),
    errno.EMFILE: (MachineError, "raise `ulimit -n`"),
    errno.ENFILE: (MachineError, "the system has too many open files; close other programs"),
    errno.ENOMEM: (MachineError, "close other programs, or raise `ulimit -v`"),
    errno.EAGAIN: (MachineError, "the system gives no further process or thread; raise `ulimit -u`"),
}


def mapped(error: BaseException, args: argparse.Namespace | None) -> EsrganError | None:
    """What `error` means for the user; None if it is a fault of ours.

    Args:
        error: what ended a command.
        args: of the command, as far as they are parsed.
    """
    if isinstance(error, EsrganError):
        return error
    text = " ".join(str(error).split())[:1000]
    modules = list(_modules(error.__traceback__))
    place = _place(modules)
    about = _about(place, args)
    if isinstance(error, MemoryError) or (NO_MEMORY.search(text) and not isinstance(error, AssertionError)):
        return MachineError(f"{about}there is not enough memory for it{_smaller(args)} ({text or 'MemoryError'})")
    if isinstance(error, ImportError):
        package = (error.name or "a package").partition(".")[0]
        if package in PACKAGES:
            return None
        return MachineError(f"the package {package} cannot be loaded: {text}; install it again")
    if isinstance(error, OSError) and error.errno is not None and type(error).__module__ == "builtins":
        return _mapped_system(error, place, about)
    innermost = modules[-1] if modules else ""
    from_outside = DEPENDENCIES & {_top(type(error).__module__), _top(innermost)}
    if not from_outside and not isinstance(error, DATA_ERRORS):
        return None
    kind, fault = (place.error, place.fault) if place else (OptionError, "the arguments cannot be used")
    why = "it is nested too deeply" if isinstance(error, RecursionError) else f"{type(error).__name__}: {text}"
    return kind(f"{about}{fault} ({why})")


def _mapped_system(error: OSError, place: Place | None, about: str) -> EsrganError:
    kind, remedy = SYSTEM_ERRORS.get(error.errno or 0, (None, "see whether it is there, and yours to use"))
    if error.errno == errno.ENOENT and error.filename is None and not _has_folder():
        return OptionError("the current folder does not exist any more; change to another one")
    if error.filename is not None:
        about = f"{os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename}: "
    return (kind or (place.error if place else OptionError))(f"{about}{error.strerror or error}; {remedy}")


def _has_folder() -> bool:
    try:
        return bool(Path.cwd())
    except OSError:
        return False


def _smaller(args: argparse.Namespace | None) -> str:
    """What would take less."""
    options = [f"--{name}" for name in ("tile", "batch", "streams", "shapes", "shape") if hasattr(args, name)]
    if not options:
        return "; close other programs, or use a machine with more"
    return f"; give a smaller {' or '.join(options[:2])}, or close other programs"


def _about(place: Place | None, args: argparse.Namespace | None) -> str:
    """The argument that an error is about, as a message begins with it."""
    given = (getattr(args, name, None) for name in (place.arguments if place else ()))
    value = next((value for value in given if value), None)
    value = value[0] if isinstance(value, list) else value
    return "" if value is None else f"{value}: "


def _place(modules: list[str]) -> Place | None:
    """Where it arose: that of our innermost module which has one."""
    for module in reversed(modules):
        if _top(module) in PACKAGES:
            for place in PLACES:
                if module == place.module or module.startswith(f"{place.module}."):
                    return place
    return None


def _modules(trace: TracebackType | None) -> Iterator[str]:
    """The modules that a traceback goes through, the innermost at the end, without those of the standard library."""
    while trace:
        name = str(trace.tb_frame.f_globals.get("__name__", ""))
        if _top(name) not in sys.stdlib_module_names:
            yield name
        trace = trace.tb_next


def _top(module: str) -> str:
    return module.partition(".")[0]
