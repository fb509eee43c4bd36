"""The cache of engines: finds the engine of a model, or builds it, and checks every one before it is used.

The key of an engine is the SHA-256 over everything that it depends on: the bytes of the ONNX file, GPU, driver,
TensorRT, profile and builder settings. A new driver or another model makes another key, so no stale engine is found.
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
from esrgan_deploy.arguments import StrPath, as_path
from esrgan_deploy.endpoints import load_endpoints
from esrgan_deploy.engine.build.plan import Plan, build_plan
from esrgan_deploy.engine.build.progress import BuildProgress
from esrgan_deploy.engine.machine import Machine, this_machine
from esrgan_deploy.engine.options import EngineOptions, Shape
from esrgan_deploy.engine.store import prune, timing_cache
from esrgan_deploy.engine.store.folder import EngineFolder, Entry, remove_file
from esrgan_deploy.engine.store.sidecar import SIDECAR_FORMAT, EngineFile, Sidecar, open_engine, write_sidecar
from esrgan_deploy.errors import ModelError, OutputError
from esrgan_deploy.model import ModelInfo, load_onnx
from esrgan_deploy.system.files import replacing
from esrgan_deploy.system.locks import locked
from esrgan_deploy.system.ownership import close_to_others
from esrgan_deploy.system.paths import user_cache_or_temporary, writable_cache
from esrgan_deploy.version import __version__

if TYPE_CHECKING:
    from esrgan_deploy.cuda.gpu import DeviceFacts
    from esrgan_deploy.engine.adapter import TensorRT
    from esrgan_deploy.frame_io import FrameType


class EngineCache:
    """A folder of engines, which any number of processes may share.

    Args:
        folder: created with the first engine; None: `user_cache("engines")`, or where that cannot be written, a folder
            that is removed at the end of the process.
    """

    def __init__(self, folder: StrPath | None = None) -> None:
        self._given = folder is not None
        self._files = EngineFolder(user_cache_or_temporary("engines") if folder is None else as_path(folder))

    @property
    def folder(self) -> Path:
        """Where the engines are."""
        return self._files.path

    def get(
        self,
        trt: TensorRT,
        facts: DeviceFacts | None,
        model: StrPath,
        options: EngineOptions,
        *,
        free_memory: int | None = None,
        progress: BuildProgress,
    ) -> EngineFile:
        """The engine of an ONNX file for exactly these options, built if it is missing or damaged.

        If another process is building it, this one waits and takes that engine. It says so through `progress`, as it
        does for what was wrong with a damaged engine, as a phase with a total of 0.

        Args:
            trt: the TensorRT that is installed.
            facts: of the GPU, from `find_gpu`; None: unknown, which is enough for portable engines.
            model: the ONNX file; an engine with `refit` needs its endpoints; see `endpoints.load_endpoints`.
            options: what the engine is for.
            free_memory: bytes on the GPU that the engine may take; None: not known.
            progress: called for each phase of a build.

        Raises:
            ModelError: no such file, no upscaling network, or TensorRT does not take it.
            OptionError: a profile that the network does not fit; `refit` without the weights of both endpoints.
            OutputError: the folder cannot be written, or is full.
            MachineError: no GPU, not enough memory, or the build failed.
        """
        machine = this_machine(trt, facts)
        model = as_path(model)
        model_sha256 = hashlib.sha256(_read(model)).hexdigest()
        request = _BuildRequest(engine_key(model_sha256, machine, options), trt, machine, model, model_sha256, options)
        engine, _ = self._lookup(request.key)
        if engine is not None:
            return engine
        if self._given:
            self._files.make()
        else:
            self._files = EngineFolder(writable_cache("engines"))
        with self._locked(request.key, lambda: progress("another process builds this engine; waiting for it", 0, 0)):
            engine, faults = self._lookup(request.key)  # the process that held the lock may have built it
            if engine is not None:
                return engine
            for fault in faults:
                progress(f"built again, since it could not be used: {fault}", 0, 0)
            self._remove(request.key)
            with self._removed_on_failure(request.key):
                plan, info, endpoints = self._build(request, free_memory, progress)
                return self._write(request, info, plan, endpoints)

    def find(
        self,
        trt: TensorRT,
        facts: DeviceFacts | None,
        model_sha256: str,
        shape: Shape,
        frames: FrameType,
        refit: bool,
    ) -> EngineFile | None:
        """A finished engine that takes batches of `shape`, preferably one for this shape alone; None if there is none.

        Raises:
            MachineError: no GPU, and a TensorRT that builds for one GPU only.
            OutputError: the folder cannot be read.
        """
        machine = this_machine(trt, facts)
        fitting = []
        for path in self._files.engine_paths():
            with contextlib.suppress(ModelError):  # a damaged sidecar: `get` builds such an engine again
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
        """All engines in the folder, sorted by name, each compared with its sidecar.

        Raises:
            OutputError: the folder cannot be read.
        """
        return self._files.engines()

    def discard(self, engine: EngineFile) -> None:
        """Remove an engine that TensorRT refuses to load, so that `get` builds it again.

        If another process has built a new one in its place meanwhile, that one stays.

        Raises:
            OutputError: the folder cannot be written.
        """
        key = engine.sidecar.key
        with self._locked(key, lambda: None):
            present, _ = self._lookup(key)
            if present is None or present.sidecar == engine.sidecar:
                self._remove(key)

    def prune(self, machine: Machine | None, *, everything: bool = False) -> prune.PruneResult:
        """Remove engines that are of no use any more; see `prune.prune`."""
        return prune.prune(self._files, machine, everything=everything)

    def _locked(self, key: str, waiting: Callable[[], None]) -> AbstractContextManager[None]:
        return locked(self._files.lock_path(key), waiting)

    def _lookup(self, key: str) -> tuple[EngineFile | None, list[str]]:
        """The engine of a key; or None, and what is wrong with the files that have its name."""
        faults = []
        for entry in self._files.engines(key):
            if entry.engine is not None and entry.engine.sidecar.key == key:
                return entry.engine, []
            faults.append(entry.fault or f"{entry.path}: its sidecar is that of another engine")
        return None, faults

    def _build(
        self, request: _BuildRequest, free_memory: int | None, progress: BuildProgress
    ) -> tuple[Plan, ModelInfo, bytes | None]:
        """The plan, the metadata of its model, and the content of the endpoints file that goes with it."""
        network, info = load_onnx(request.model)
        if info.file_sha256 != request.model_sha256:
            raise ModelError(f"{request.model}: was changed while it was read; start again")
        endpoints = load_endpoints(request.model, network, info).to_bytes() if request.options.refit else None
        self._files.check_room(request.model)
        timings = self._files.timing_path(request.machine)
        before = timing_cache.read(timings)
        plan = build_plan(
            request.trt,
            network,
            info,
            request.model,
            request.options,
            free_memory=free_memory,
            timing_cache=before,
            progress=progress,
        )
        if plan.timing_cache and plan.timing_cache != before:
            with contextlib.suppress(OutputError):  # without the file the next build only takes longer
                timing_cache.write(timings, plan.timing_cache)
        return plan, info, endpoints if plan.options.refit else None

    def _write(self, request: _BuildRequest, info: ModelInfo, plan: Plan, endpoints: bytes | None) -> EngineFile:
        """Write the endpoints, then the plan, then the sidecar, so that an engine with a sidecar is complete."""
        sidecar = Sidecar(
            key=request.key,
            model=request.model.name,
            model_sha256=request.model_sha256,
            info=info,
            options=plan.options,
            machine=request.machine,
            plan_sha256=hashlib.sha256(plan.data).hexdigest(),
            plan_bytes=len(plan.data),
            ends_sha256=hashlib.sha256(endpoints).hexdigest() if endpoints else None,
            seconds=round(plan.seconds, 2),
            built=datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0),
            notes=plan.notes,
            created_by=f"esrgan-deploy {__version__}",
        )
        path = self._files.engine_path(request.model, plan.options, request.machine, request.key)
        if endpoints:
            # A copy, not a link: the engine must not change when somebody edits the model's file in place.
            with replacing(endpoints_path(path)) as partial:
                partial.write_bytes(endpoints)
        with replacing(path) as partial:
            partial.write_bytes(plan.data)
            close_to_others(partial)
        write_sidecar(path, sidecar)
        return EngineFile(path, sidecar)

    @contextlib.contextmanager
    def _removed_on_failure(self, key: str) -> Iterator[None]:
        """Remove the plan too if its sidecar cannot be written, since without one it cannot be used."""
        try:
            yield
        except BaseException:
            self._remove(key)
            raise

    def _remove(self, key: str) -> None:
        """Remove all files of a key, those of killed builds too. The caller holds the key's lock."""
        for path in self._files.of_key(key):
            remove_file(path)


@dataclass(frozen=True)
class _BuildRequest:
    """An engine that has to be built."""

    key: str
    trt: TensorRT
    machine: Machine
    model: Path
    model_sha256: str
    options: EngineOptions


def engine_key(model_sha256: str, machine: Machine, options: EngineOptions) -> str:
    """SHA-256, in hexadecimal, over everything that a plan depends on; `options` are those asked for."""
    parts = {"format": SIDECAR_FORMAT, "model": model_sha256, "machine": asdict(machine), "options": options.to_json()}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _distance(options: EngineOptions, shape: Shape) -> tuple[bool, int]:
    """A sort key for engines that take `shape`: static ones first, then those whose `opt` shape is nearest."""
    best = options.profile.opt
    pixels = best.batch * best.height * best.width
    return not options.profile.is_static, abs(pixels - shape.batch * shape.height * shape.width)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
