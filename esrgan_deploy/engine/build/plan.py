"""Build a plan: TensorRT compiles an ONNX network, with frames attached, for the shapes of a profile."""

from __future__ import annotations

import dataclasses
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esrgan_deploy.engine.adapter import TensorRT
from esrgan_deploy.engine.build.graph import CHANNELS, INPUT, frame_graph
from esrgan_deploy.engine.build.layer_types import check_types, set_types
from esrgan_deploy.engine.build.memory import EngineMemory, engine_memory
from esrgan_deploy.engine.build.progress import BuildMonitor, BuildProgress
from esrgan_deploy.engine.options import EngineOptions, Profile, Shape
from esrgan_deploy.errors import MachineError, ModelError, OptionError
from esrgan_deploy.model import ModelInfo

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Plan:
    """A serialised engine, and how it was built."""

    data: bytes
    options: EngineOptions
    """As built: a dynamic profile may have become smaller or static, see `notes`."""
    seconds: float
    timing_cache: bytes
    """TensorRT's measurements, for the next build on this GPU; empty for TensorRT-RTX, which measures when it runs."""
    notes: tuple[str, ...]
    """One line for each thing that was done differently than asked."""


def build_plan(
    trt: TensorRT,
    model: onnx.ModelProto,
    info: ModelInfo,
    source: Path,
    options: EngineOptions,
    *,
    free_memory: int | None,
    timing_cache: bytes = b"",
    progress: BuildProgress,
) -> Plan:
    """Compile `model` for `options`.

    A dynamic profile that does not fit into `free_memory` gets a smaller maximum; one that TensorRT cannot build is
    replaced by its shape `opt` alone. The plan's notes say so. Ctrl-C stops the build at TensorRT's next step; version
    8.5 reports no steps and stops when it is finished.

    Args:
        trt: from `load_tensorrt`.
        model: from `load_onnx`, like `info`.
        info: for the sizes that the network takes.
        source: the ONNX file, for messages.
        options: profile and settings.
        free_memory: bytes of GPU memory that the engine may need; None: unknown, and not checked.
        timing_cache: from an earlier build on this GPU with this TensorRT.
        progress: called at the beginning, at every step and at the end of each phase.

    Raises:
        OptionError: a setting that this TensorRT lacks, or shapes that the network is not made for.
        ModelError: TensorRT cannot read the network; the message names the layer.
        MachineError: no GPU where one is needed, not enough memory, or TensorRT failed; the message quotes it.
    """
    trt.check(options)
    check_types(trt, model, source)
    _check_profile(options.profile, info, source)
    notes: list[str] = []
    if free_memory is not None:
        options = _fitted(model, info, source, options, free_memory, notes)
    start = time.monotonic()
    build = _Build(trt, source, timing_cache, progress)
    try:
        data = build.attempt(model, options)
    except (ModelError, MachineError) as error:
        if options.profile.is_static or _needs_gpu(trt, options):
            raise
        # A static graph has literal sizes: TensorRT can read more networks then, and needs less memory.
        wanted, opt = options.profile, options.profile.opt
        options = dataclasses.replace(options, profile=Profile.fixed(opt.batch, opt.height, opt.width))
        data = build.attempt(model, options)
        notes.append(f"the dynamic profile {wanted} cannot be built, so this is for {opt} alone: {error}")
    return Plan(data, options, time.monotonic() - start, build.timing_cache, tuple(notes))


def _check_profile(profile: Profile, info: ModelInfo, source: Path) -> None:
    for shape in (profile.min, profile.opt, profile.max):
        if shape.height % info.multiple_of or shape.width % info.multiple_of:
            raise OptionError(
                f"{source}: takes widths and heights that are multiples of {info.multiple_of}, "
                f"not {shape.width}x{shape.height}; round them up, frames are padded to that"
            )
        if info.fixed_size not in (None, (shape.height, shape.width)):
            raise OptionError(
                f"{source}: takes frames of {info.fixed_size[1]}x{info.fixed_size[0]} only, the profile has "
                f"{shape.width}x{shape.height}; build for that size, or export the model again without --shape"
            )


def _fitted(
    model: onnx.ModelProto, info: ModelInfo, source: Path, options: EngineOptions, free: int, notes: list[str]
) -> EngineOptions:
    """`options` with a profile that fits into `free` bytes; only the maximum of a dynamic profile is changed."""
    profile = options.profile
    need = engine_memory(model, profile.max, options.frames)
    if need.at(profile.max) <= free:
        return options
    if profile.is_static or need.at(profile.opt) > free:
        raise MachineError(f"{source}: {_shortage(need, profile.opt, free, info.multiple_of)}")
    largest = _largest_between(need, profile.opt, profile.max, free, info.multiple_of)
    notes.append(
        f"the largest shape {profile.max} needs {_gib(need.at(profile.max))} of device memory, {_gib(free)} are free: "
        f"built for up to {largest}"
    )
    return dataclasses.replace(options, profile=Profile(profile.min, profile.opt, largest))


def _largest_between(need: EngineMemory, opt: Shape, top: Shape, free: int, multiple_of: int) -> Shape:
    """A shape between `opt`, which fits into `free` bytes, and `top`: fewer frames, or else smaller ones."""
    batch = need.largest_batch(top, free)
    if batch >= opt.batch:
        return dataclasses.replace(top, batch=min(batch, top.batch))
    steps = 64
    for step in range(steps - 1, 0, -1):
        height, width = (
            low + (high - low) * step // steps // multiple_of * multiple_of
            for low, high in ((opt.height, top.height), (opt.width, top.width))
        )
        shape = Shape(opt.batch, height, width)
        if need.at(shape) <= free:
            return shape
    return opt


def _shortage(need: EngineMemory, shape: Shape, free: int, multiple_of: int) -> str:
    """The message that `shape` does not fit, and what does."""
    batch, tile = need.largest_batch(shape, free), need.largest_tile(free, multiple_of)
    if batch:
        remedy = f"it fits with --batch {batch}"
    elif tile:
        remedy = f"it fits with --tile {tile} and --batch 1"
    else:
        remedy = "the weights alone do not fit; free memory on the GPU, or take a smaller network"
    return (
        f"{shape.batch} frame(s) of {shape.width}x{shape.height} need about {_gib(need.at(shape))} of device memory, "
        f"{_gib(free)} are free; {remedy}"
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


class _Build:
    """Up to two attempts, with one timing cache."""

    def __init__(self, trt: TensorRT, source: Path, timing_cache: bytes, progress: BuildProgress) -> None:
        self.timing_cache = timing_cache
        self._trt = trt
        self._source = source
        self._progress = progress

    def attempt(self, model: onnx.ModelProto, options: EngineOptions) -> bytes:
        """Build the plan once; raises what `build_plan` raises."""
        trt = self._trt
        trt.take_errors()
        framed = frame_graph(model, options)
        builder = trt.create_builder()
        network = trt.create_network(builder)
        parser = trt.module.OnnxParser(network, trt.logger)
        if not parser.parse(framed.SerializeToString()):
            raise _parse_error(trt, parser, framed, self._source)
        config = trt.configure(builder, options)
        set_types(trt, framed, network, config)
        if not options.profile.is_static:
            self._add_profile(builder, config, options)
        # TensorRT-RTX chooses kernels on the machine that runs the plan; its functions for a timing cache only warn.
        with_timing = not trt.portable
        if with_timing:
            self._use_timing_cache(config)
        with BuildMonitor(trt, config, self._progress):
            plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise _failure(trt, self._source, options)
        if with_timing:
            self.timing_cache = bytes(config.get_timing_cache().serialize())
        return bytes(plan)

    def _use_timing_cache(self, config: Any) -> None:  # noqa: ANN401
        kept = config.create_timing_cache(self.timing_cache)
        if not config.set_timing_cache(kept, ignore_mismatch=False):  # from another GPU or TensorRT
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)

    def _add_profile(self, builder: Any, config: Any, options: EngineOptions) -> None:  # noqa: ANN401
        profile, channels = options.profile, CHANNELS[options.frames]
        shapes = [
            (shape.batch, shape.height, shape.width, channels) for shape in (profile.min, profile.opt, profile.max)
        ]
        ranges = builder.create_optimization_profile()
        ranges.set_shape(INPUT, *shapes)
        if config.add_optimization_profile(ranges) < 0:
            reason = _tidy(self._trt.take_reason())
            raise OptionError(f"{self._source}: {self._trt} refuses the profile {profile}: {reason}")


def _needs_gpu(trt: TensorRT, options: EngineOptions) -> bool:
    """Whether a build needs a GPU just because of `refit`: TensorRT-RTX then compiles kernels during the build."""
    return trt.portable and options.refit


def _failure(trt: TensorRT, source: Path, options: EngineOptions) -> MachineError:
    reason = _tidy(trt.take_reason())
    if "memory" in reason.lower():
        remedy = "a smaller shape or batch needs less"
    elif _needs_gpu(trt, options):
        remedy = f"{trt.name} builds refittable engines only where a GPU is: build there, or without --refit"
    else:
        remedy = "another shape or --optimization may do, or -b openvino without TensorRT"
    return MachineError(f"{source}: {trt} built no engine for {options.profile}: {reason}; {remedy}")


def _parse_error(trt: TensorRT, parser: Any, framed: onnx.ModelProto, source: Path) -> ModelError:  # noqa: ANN401
    """The parser's error in one line, with the name and operator of the layer."""
    where, reason = "the network", _tidy(trt.take_reason())
    if parser.num_errors:
        error = parser.get_error(parser.num_errors - 1)  # the earlier ones led to it
        reason = _tidy(error.desc())
        if 0 <= error.node() < len(framed.graph.node):
            node = framed.graph.node[error.node()]
            where = f"layer '{node.name or node.output[0]}' ({node.op_type})"
    return ModelError(f"{source}: {trt} cannot read {where}: {reason}; choose -b openvino or -b ort")


def _tidy(text: str) -> str:
    """A message of TensorRT without the places in its source code."""
    text = re.sub(r"\.? In \S+ at /\S+:\d+", "", " ".join(text.split()))
    return re.sub(r" \[\w+\.\w+::.*", "", text)
