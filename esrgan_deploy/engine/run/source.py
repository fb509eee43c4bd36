"""Where a session gets its engines: from a file that the user names, or from the cache, which builds missing ones."""

from __future__ import annotations

import dataclasses
import logging
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from esrgan_deploy.cuda.driver import Driver
from esrgan_deploy.endpoints import check_endpoints
from esrgan_deploy.engine.build.memory import engine_memory
from esrgan_deploy.engine.machine import this_machine
from esrgan_deploy.engine.options import EngineOptions, Profile, Shape, default_profile
from esrgan_deploy.engine.store.cache import EngineCache
from esrgan_deploy.engine.store.sidecar import EngineFile, check_machine, open_engine
from esrgan_deploy.errors import ModelError, OptionError
from esrgan_deploy.frame_io import FrameType
from esrgan_deploy.model import ModelInfo, load_onnx

if TYPE_CHECKING:
    import onnx

    from esrgan_deploy.engine.adapter import TensorRT
    from esrgan_deploy.engine.build.progress import BuildProgress

_LOG = logging.getLogger(__name__)


class EngineSource(ABC):
    """Engines of one model."""

    path: Path
    info: ModelInfo
    refittable: bool
    """Whether the alpha of its engines can be changed."""
    largest_untiled: int
    """See `Session.largest_untiled`: input pixels of the largest frame that an engine takes."""

    @abstractmethod
    def pick(self, wanted: Shape, frames: FrameType) -> EngineFile:
        """An engine for frames of this size and type; its batch size may differ from the one wanted.

        Raises:
            OptionError: the model, or the only engine, does not take such frames.
            EsrganError: see `EngineCache.get`, if an engine has to be built.
        """

    @abstractmethod
    def still_fits(self, engine: EngineFile, picked_for: Shape, wanted: Shape, frames: FrameType) -> bool:
        """Whether `engine`, which was picked for `picked_for`, also serves `wanted`."""

    @abstractmethod
    def replace(self, engine: EngineFile, wanted: Shape, refusal: ModelError) -> EngineFile:
        """Another engine in place of one that TensorRT refuses to load; raises `refusal` if there is none."""


class OneEngine(EngineSource):
    """A single engine file, named by the user."""

    def __init__(self, path: Path, trt: TensorRT, driver: Driver) -> None:
        """Open `path`.

        Raises:
            ModelError: no engine, without its sidecar, or built for another machine.
        """
        self.path = path
        self._engine = open_engine(path)
        check_machine(self._engine, this_machine(trt, driver.facts))
        sidecar = self._engine.sidecar
        self.info = dataclasses.replace(sidecar.info, file_sha256=sidecar.model_sha256)
        self.refittable = sidecar.options.refit
        self.largest_untiled = sidecar.options.profile.max.height * sidecar.options.profile.max.width

    def pick(self, wanted: Shape, frames: FrameType) -> EngineFile:
        """See `EngineSource.pick`."""
        sidecar = self._engine.sidecar
        options = sidecar.options
        if options.frames != frames or not options.profile.covers(nearest_batch(options.profile, wanted)):
            raise OptionError(
                f"{self.path}: was built for {options.frames} frames of {options.profile} (batch x height x width), "
                f"these are {frames} frames of {wanted}; build another with: esrgan-engine {sidecar.model} "
                f"--shape {wanted.width}x{wanted.height} --frames {frames}"
            )
        return self._engine

    def still_fits(self, engine: EngineFile, picked_for: Shape, wanted: Shape, frames: FrameType) -> bool:
        """See `EngineSource.still_fits`."""
        return self.pick(wanted, frames) is engine

    def replace(self, engine: EngineFile, wanted: Shape, refusal: ModelError) -> EngineFile:
        """See `EngineSource.replace`."""
        raise refusal


class CachedEngines(EngineSource):
    """Engines of an ONNX file, from the cache or newly built, each for one shape."""

    def __init__(
        self,
        path: Path,
        trt: TensorRT,
        driver: Driver,
        cache: EngineCache,
        settings: EngineOptions,
        progress: BuildProgress,
    ) -> None:
        """Read `path`. The profile and the type of frames in `settings` are not used.

        Raises:
            ModelError: no upscaling network.
            OptionError: refittable engines are wanted, but the weights of both endpoints are missing.
        """
        self.path = path
        model, self.info = load_onnx(path)
        self.refittable = settings.refit
        if settings.refit:
            check_endpoints(path, self.info)
        self._trt = trt
        self._driver = driver
        self._cache = cache
        self._settings = settings
        self._progress = progress
        self.largest_untiled = self._largest_untiled(model)

    def pick(self, wanted: Shape, frames: FrameType) -> EngineFile:
        """See `EngineSource.pick`."""
        sha256 = self.info.file_sha256 or ""
        facts, refit = self._driver.facts, self._settings.refit
        found = self._cache.find(self._trt, facts, sha256, wanted, frames, refit)
        return found or self._get(wanted, frames)

    def still_fits(self, engine: EngineFile, picked_for: Shape, wanted: Shape, frames: FrameType) -> bool:
        """See `EngineSource.still_fits`."""
        options = engine.sidecar.options
        fits = options.frames == frames and options.profile.covers(nearest_batch(options.profile, wanted))
        return fits and picked_for.batch == wanted.batch

    def replace(self, engine: EngineFile, wanted: Shape, refusal: ModelError) -> EngineFile:
        """See `EngineSource.replace`."""
        _LOG.warning("%s; it is built again", refusal)
        self._cache.discard(engine)
        return self._get(wanted, engine.sidecar.options.frames)

    def _largest_untiled(self, model: onnx.ModelProto) -> int:
        """What fits into half of the free memory; the rest is for batches in flight and for TensorRT's builder."""
        trial = default_profile(self.info).opt
        free, _ = self._driver.memory()
        return engine_memory(model, trial, "uint16").largest_tile(free // 2, self.info.multiple_of) ** 2

    def _get(self, wanted: Shape, frames: FrameType) -> EngineFile:
        self._progress(f"{self.path}: no engine for {frames} {wanted} yet; it is built now, once", 0, 0)
        profile = Profile.fixed(wanted.batch, wanted.height, wanted.width)
        options = dataclasses.replace(self._settings, profile=profile, frames=frames)
        free, _ = self._driver.memory()
        return self._cache.get(
            self._trt, self._driver.facts, self.path, options, free_memory=free, progress=self._progress
        )


def nearest_batch(profile: Profile, shape: Shape) -> Shape:
    """`shape` with the nearest batch size that an engine of this profile can run."""
    batch = min(max(shape.batch, profile.min.batch), profile.max.batch)
    return Shape(batch, shape.height, shape.width)
