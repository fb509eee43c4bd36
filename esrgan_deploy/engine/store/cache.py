"""Engines that were built on this machine: found again, or built, and never trusted unseen.

The key of an engine is the SHA-256 over everything that decides it: the bytes of the ONNX file, GPU, driver, TensorRT,
profile and builder settings. With a new driver or another model it is another key, so a stale engine is never met.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from esrgan_deploy.alpha import endpoints_path
from esrgan_deploy.engine.options import EngineOptions, Shape
from esrgan_deploy.engine.store import prune
from esrgan_deploy.engine.store.folder import EngineFolder, Entry, remove_file, user_folder
from esrgan_deploy.engine.store.sidecar import (
    SIDECAR_FORMAT,
    EngineFile,
    Machine,
    Sidecar,
    open_engine,
    this_machine,
    write_sidecar,
)
from esrgan_deploy.errors import ModelError, OptionError, OutputError
from esrgan_deploy.system.files import replacing
from esrgan_deploy.system.locks import locked
from esrgan_deploy.version import __version__

if TYPE_CHECKING:
    from esrgan_deploy.cuda.gpu import DeviceFacts
    from esrgan_deploy.engine.adapter import TensorRT
    from esrgan_deploy.engine.build.plan import Plan
    from esrgan_deploy.engine.build.progress import BuildProgress
    from esrgan_deploy.frame_io import FrameType
    from esrgan_deploy.model import ModelInfo


class EngineCache:
    """A folder of engines, which any number of processes may share.

    Args:
        folder: made when the first engine is built; None: `esrgan-deploy/engines` in $XDG_CACHE_HOME, or in ~/.cache.

    Raises:
        OutputError: `folder` is None, and there is no home folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or user_folder("engines")
        self._files = EngineFolder(self.folder)

    def get(
        self,
        trt: TensorRT,
        facts: DeviceFacts | None,
        model: Path,
        options: EngineOptions,
        *,
        free_memory: int | None = None,
        progress: BuildProgress,
    ) -> EngineFile:
        """The engine of an ONNX file for exactly these options, built if it is not there or is damaged.

        Where another process is building it, this one waits and takes that engine. That, and what was wrong with a
        damaged one, is said through `progress`, as a phase with a total of 0.

        Args:
            trt: the TensorRT that is installed.
            facts: what `esrgan_deploy.cuda.gpu` found; None: nothing, which is enough for portable engines.
            model: the ONNX file; for an engine with `refit` the weights of both endpoints lie beside it.
            options: what the engine is for.
            free_memory: bytes on the GPU that the engine may take; None: not known.
            progress: told of each phase of a build.

        Raises:
            ModelError: no such file, no upscaling network, or TensorRT does not take it.
            OptionError: a profile that the network does not fit; `refit` without the weights of both endpoints.
            OutputError: the folder cannot be written, or is full.
            MachineError: no GPU, not enough memory, or the build failed.
        """
        machine = this_machine(trt, facts)
        model_sha256 = hashlib.sha256(_read(model)).hexdigest()
        order = _Order(engine_key(model_sha256, machine, options), trt, machine, model, model_sha256, options)
        engine, _ = self._lookup(order.key)
        if engine is not None:
            return engine
        self._files.make()
        with self._locked(order.key, lambda: progress("another process builds this engine; waiting for it", 0, 0)):
            engine, faults = self._lookup(order.key)  # who held the lock may have built it
            if engine is not None:
                return engine
            for fault in faults:
                progress(f"built again, since it could not be used: {fault}", 0, 0)
            self._remove(order.key)
            with self._removed_on_failure(order.key):
                plan, info = self._build(order, free_memory, progress)
                return self._write(order, info, plan)

    def find(
        self,
        trt: TensorRT,
        facts: DeviceFacts | None,
        model_sha256: str,
        shape: Shape,
        frames: FrameType,
        refit: bool,
    ) -> EngineFile | None:
        """An engine that is there already and takes batches of `shape`: one for this shape alone, else a dynamic one.

        Raises:
            MachineError: no GPU, and a library that builds for one only.
            OutputError: the folder cannot be read.
        """
        machine = this_machine(trt, facts)
        fitting = []
        for path in self._files.engine_paths():
            with contextlib.suppress(ModelError):  # a damaged sidecar: `get` will see to it
                engine = open_engine(path)
                made, options = engine.sidecar, engine.sidecar.options
                same = (made.machine, made.model_sha256) == (machine, model_sha256)
                if same and (options.frames, options.refit) == (frames, refit) and options.profile.covers(shape):
                    fitting.append(engine)
        for engine in sorted(fitting, key=lambda engine: _distance(engine.sidecar.options, shape)):
            with contextlib.suppress(ModelError):
                engine.verify()
                return engine
        return None

    def entries(self) -> list[Entry]:
        """All engines in the folder, by name; each was compared with its sidecar.

        Raises:
            OutputError: the folder cannot be read.
        """
        return self._files.engines()

    def discard(self, engine: EngineFile) -> None:
        """Remove an engine that TensorRT does not load, so that `get` builds it again.

        One that another process has built in its place meanwhile stays.

        Raises:
            OutputError: the folder cannot be written.
        """
        key = engine.sidecar.key
        with self._locked(key, lambda: None):
            present, _ = self._lookup(key)
            if present is None or present.sidecar == engine.sidecar:
                self._remove(key)

    def prune(self, machine: Machine | None, *, everything: bool = False) -> prune.Pruned:
        """Remove what nobody will use any more; see `prune.prune`."""
        return prune.prune(self._files, machine, everything=everything)

    def _locked(self, key: str, waiting: Callable[[], None]) -> AbstractContextManager[None]:
        return locked(self._files.lock_path(key), waiting)

    def _lookup(self, key: str) -> tuple[EngineFile | None, list[str]]:
        """The engine of a key, or what is wrong with what lies in its place."""
        faults = []
        for entry in self._files.engines(key):
            if entry.engine is not None and entry.engine.sidecar.key == key:
                return entry.engine, []
            faults.append(entry.fault or f"{entry.path}: its sidecar is that of another engine")
        return None, faults

    def _build(self, order: _Order, free_memory: int | None, progress: BuildProgress) -> tuple[Plan, ModelInfo]:
        from esrgan_deploy.engine.build import timing_cache
        from esrgan_deploy.engine.build.plan import build_plan
        from esrgan_deploy.model import load_onnx

        network, info = load_onnx(order.model)
        if info.file_sha256 != order.model_sha256:
            raise ModelError(f"{order.model}: was changed while it was read; start again")
        if order.options.refit and not endpoints_path(order.model).is_file():
            raise OptionError(
                f"{order.model}: a refittable engine needs {endpoints_path(order.model).name} beside the model; "
                "export both with esrgan-export --refit"
            )
        self._files.check_room(order.model)
        timings = self._files.timing_path(order.machine)
        before = timing_cache.read(timings)
        plan = build_plan(
            order.trt,
            network,
            info,
            order.model,
            order.options,
            free_memory=free_memory,
            timing_cache=before,
            progress=progress,
        )
        if plan.timing_cache and plan.timing_cache != before:
            with contextlib.suppress(OutputError):  # without it the next build takes longer, no more
                timing_cache.write(timings, plan.timing_cache)
        return plan, info

    def _write(self, order: _Order, info: ModelInfo, plan: Plan) -> EngineFile:
        """Weights of both endpoints, then the plan, then the sidecar: what has a sidecar is whole."""
        endpoints = _read(endpoints_path(order.model)) if plan.options.refit else None
        sidecar = Sidecar(
            key=order.key,
            model=order.model.name,
            model_sha256=order.model_sha256,
            info=info,
            options=plan.options,
            machine=order.machine,
            plan_sha256=hashlib.sha256(plan.data).hexdigest(),
            plan_bytes=len(plan.data),
            ends_sha256=hashlib.sha256(endpoints).hexdigest() if endpoints else None,
            seconds=round(plan.seconds, 2),
            built=datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0),
            notes=plan.notes,
            created_by=f"esrgan-deploy {__version__}",
        )
        path = self._files.engine_path(order.model, plan.options, order.machine, order.key)
        if endpoints:
            # A copy, not a link: the engine must not change when somebody edits the model's file in place.
            with replacing(endpoints_path(path)) as partial:
                partial.write_bytes(endpoints)
        with replacing(path) as partial:
            partial.write_bytes(plan.data)
        write_sidecar(path, sidecar)
        return EngineFile(path, sidecar)

    @contextlib.contextmanager
    def _removed_on_failure(self, key: str) -> Iterator[None]:
        """A plan whose sidecar finds no room goes as well: it could not be used."""
        try:
            yield
        except BaseException:
            self._remove(key)
            raise

    def _remove(self, key: str) -> None:
        """Everything that lies under a key, leftovers of killed builds included; the key's lock is held."""
        for path in self._files.of_key(key):
            remove_file(path)


@dataclass(frozen=True)
class _Order:
    """What is to be built."""

    key: str
    trt: TensorRT
    machine: Machine
    model: Path
    model_sha256: str
    options: EngineOptions


def engine_key(model_sha256: str, machine: Machine, options: EngineOptions) -> str:
    """SHA-256, in hexadecimal, over everything that decides a plan; `options` are those asked for."""
    parts = {"format": SIDECAR_FORMAT, "model": model_sha256, "machine": asdict(machine), "options": options.to_json()}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _distance(options: EngineOptions, shape: Shape) -> tuple[bool, int]:
    """Sorts engines by how well they suit `shape`: a static one first, then those whose favourite shape is nearest."""
    best = options.profile.opt
    pixels = best.batch * best.height * best.width
    return not options.profile.is_static, abs(pixels - shape.batch * shape.height * shape.width)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
