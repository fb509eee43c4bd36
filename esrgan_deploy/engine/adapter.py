"""One interface to TensorRT 8.5, 10.x, 11.x and TensorRT-RTX. Differences are found by looking for names, not versions.

What the Python bindings of each version offer:

                            8.5             10.x            11.x            RTX 1.7
    explicit batch          flag            flag            always          always
    strong typing           -               flag            always          always
    FP16, INT8 flags        needed          not needed      -               -
    optimisation level      -               yes             yes             yes
    tiling, aux streams     -               yes (10.8 on)   yes             yes
    progress monitor        -               yes             yes             yes
    timing cache            yes             yes             yes             does nothing
    builds without a GPU    -               -               -               yes
"""

from __future__ import annotations

import importlib
import logging
from collections import deque
from importlib import metadata
from typing import Any

from esrgan_deploy.engine.options import EngineOptions
from esrgan_deploy.errors import BackendMissingError, MachineError, OptionError

DISTRIBUTIONS = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")
"""Distributions that may contain the module `tensorrt`. From version 10 on the first only depends on another."""
EXTERNAL_TACTICS = ("CUBLAS", "CUBLAS_LT", "CUDNN")
_LOG = logging.getLogger("esrgan_deploy.tensorrt")


class TensorRT:
    """The module `tensorrt` or `tensorrt_rtx`, and what it can do."""

    module: Any
    name: str
    """ "TensorRT" or "TensorRT-RTX"."""
    version: str
    """For instance "10.13.3.9"."""
    strongly_typed: bool
    """Layers compute in the types that the graph names. Otherwise types are chosen by flags: TensorRT 8.5."""
    portable: bool
    """A plan runs on several kinds of GPU, and is built without one: TensorRT-RTX."""
    logger: Any
    """TensorRT's classes take it as an argument; there is one for each module, see `take_errors`."""

    def __init__(self, module: Any) -> None:  # noqa: ANN401  # a module, or what looks like it
        creation = module.NetworkDefinitionCreationFlag
        self.module = module
        self.version = str(module.__version__)
        self.portable = hasattr(module, "ComputeCapability")
        self.name = "TensorRT-RTX" if self.portable else "TensorRT"
        self.strongly_typed = hasattr(creation, "STRONGLY_TYPED") or not hasattr(creation, "EXPLICIT_BATCH")
        self.logger = _logger_of(module)

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def take_errors(self) -> list[str]:
        """The errors that TensorRT reported since the last call, oldest first, in one line each."""
        errors: list[str] = self.logger.take_errors()
        return errors

    def take_reason(self) -> str:
        """The newest of `take_errors`, for a message; "it gave no reason" if there is none."""
        return (self.take_errors() or ["it gave no reason"])[-1]

    def create_runtime(self) -> Any:  # noqa: ANN401  # TensorRT has no types
        """Create an object that turns plans into engines.

        Raises:
            MachineError: TensorRT finds no GPU or driver.
        """
        return self._create("Runtime")

    def create_builder(self) -> Any:  # noqa: ANN401
        """Create an object that builds plans.

        Raises:
            MachineError: TensorRT finds no GPU or driver; TensorRT-RTX needs none.
        """
        return self._create("Builder")

    def create_network(self, builder: Any) -> Any:  # noqa: ANN401
        """Create an empty network with an explicit batch, strongly typed where this version can."""
        flags = self.module.NetworkDefinitionCreationFlag
        for name in ("STRONGLY_TYPED", "EXPLICIT_BATCH"):
            if hasattr(flags, name):
                return builder.create_network(1 << int(getattr(flags, name)))
        return builder.create_network(0)

    def check(self, options: EngineOptions) -> None:
        """Make sure that this version has all settings that `options` use.

        Raises:
            OptionError: it lacks one.
        """
        wanted = {
            "builder_optimization_level": (
                options.optimization_level,
                f"optimization level {options.optimization_level}",
            ),
            "tiling_optimization_level": (options.tiling != "none" or None, f"tiling '{options.tiling}'"),
            "max_aux_streams": (options.aux_streams, f"aux-streams {options.aux_streams}"),
        }
        for setting, (value, label) in wanted.items():
            if value is not None and not hasattr(self.module.IBuilderConfig, setting):
                raise OptionError(f"{label}: {self} has no such setting; leave it out, or install 10.8 or newer")

    def configure(self, builder: Any, options: EngineOptions) -> Any:  # noqa: ANN401
        """Create a builder configuration with `options`, except for profile and types."""
        module = self.module
        config = builder.create_builder_config()
        config.clear_flag(module.BuilderFlag.TF32)  # a graph that says float32 means it
        if options.refit:
            config.set_flag(module.BuilderFlag.REFIT)
        if options.workspace_mib is not None:
            config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        if options.tiling != "none":
            config.tiling_optimization_level = getattr(module.TilingOptimizationLevel, options.tiling.upper())
        if options.aux_streams is not None:
            config.max_aux_streams = options.aux_streams
        self._leave_out_external_tactics(config)
        return config

    def _leave_out_external_tactics(self, config: Any) -> None:  # noqa: ANN401
        """Do without cuBLAS and cuDNN: they make convolutions no faster, and may not be installed."""
        sources = self.module.TacticSource.__members__
        if any(name in sources for name in EXTERNAL_TACTICS):
            own = (int(source) for name, source in sources.items() if name not in EXTERNAL_TACTICS)
            config.set_tactic_sources(sum(1 << number for number in own))
        preview: Any = getattr(self.module, "PreviewFeature", None)
        if hasattr(preview, "DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805"):
            config.set_preview_feature(preview.DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805, True)

    def _create(self, kind: str) -> Any:  # noqa: ANN401
        self.take_errors()
        try:
            made = getattr(self.module, kind)(self.logger)
        except (TypeError, RuntimeError) as error:  # TypeError: the C++ side returned a null pointer
            reason = (self.take_errors() or [str(error).split("\n", 1)[0]])[-1]
            raise MachineError(
                f"{self} cannot start here: {reason}; check the NVIDIA driver with nvidia-smi, or choose -b openvino"
            ) from error
        return made


def load_tensorrt() -> TensorRT:
    """The installed TensorRT: `tensorrt`, or else `tensorrt_rtx`.

    Raises:
        BackendMissingError: neither is installed, two distributions overwrite each other's `tensorrt`, or its libraries
            do not load.
    """
    owners = [name for name in DISTRIBUTIONS if _owns_module(name)]
    if len(owners) > 1:
        raise BackendMissingError(
            f"{' and '.join(owners)} are both installed and overwrite each other: "
            f"pip uninstall -y {' '.join(owners)}, then pip install the one for your CUDA version"
        )
    for name in ("tensorrt", "tensorrt_rtx"):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise _broken(name, error) from error
        except (ImportError, OSError) as error:
            raise _broken(name, error) from error
        else:
            if hasattr(module, "Builder"):  # a folder of this name can be imported too
                return TensorRT(module)
    raise BackendMissingError("TensorRT is not installed: pip install 'esrgan-deploy[tensorrt]'")


def _owns_module(distribution: str) -> bool:
    """Whether this distribution is installed and contains files of the module `tensorrt`."""
    try:
        files = metadata.files(distribution)
    except metadata.PackageNotFoundError:
        return False
    return any(file.parts[0] == "tensorrt" for file in files or ())


def _broken(name: str, error: Exception) -> BackendMissingError:
    reason = str(error).split("\n", 1)[0]
    return BackendMissingError(
        f"{name} is installed but does not load ({reason}); install it again with its libraries: "
        "pip install --force-reinstall 'esrgan-deploy[tensorrt]'"
    )


_LOGGERS: dict[int, tuple[Any, Any]] = {}


def _logger_of(module: Any) -> Any:  # noqa: ANN401
    """The logger of `module`, always the same: TensorRT keeps the first that it is given, and ignores others."""
    if id(module) not in _LOGGERS:
        _LOGGERS[id(module)] = (module, _make_logger(module))  # keeping the module keeps its id from being used again
    return _LOGGERS[id(module)][1]


def _make_logger(module: Any) -> Any:  # noqa: ANN401
    severity = module.ILogger.Severity

    class Logger(module.ILogger):  # type: ignore[misc]  # a class of an untyped module
        """Keeps the newest errors, and hands all but verbose messages to `logging`, at level DEBUG."""

        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self._errors: deque[str] = deque(maxlen=20)

        def log(self, level: Any, message: str) -> None:  # noqa: ANN401
            if level == severity.VERBOSE:  # tens of thousands of lines in a build
                return
            line = " ".join(str(message).split())
            if level in (severity.ERROR, severity.INTERNAL_ERROR):
                self._errors.append(line)
            _LOG.debug("%s", line)

        def take_errors(self) -> list[str]:
            errors = list(self._errors)
            self._errors.clear()
            return errors

    return Logger()
