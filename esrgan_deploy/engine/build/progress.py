"""Report the progress of a build, and let Ctrl-C stop it instead of waiting minutes for its end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any, Protocol

from esrgan_deploy.engine.adapter import TensorRT

WHOLE = "Building engine"
"""The name that TensorRT's progress monitor gives to the outermost phase."""


class BuildProgress(Protocol):
    """A function that is told how far a build is."""

    def __call__(self, phase: str, done: int, total: int) -> None:
        """`done` of `total` steps of `phase` are complete. Phases nest: one may begin and end within another.

        An exception that it raises, KeyboardInterrupt too, stops the build and is raised by `build_plan`. It may be
        called in TensorRT's own threads, but never in two at the same time.
        """


class BuildMonitor:
    """A context manager around a build: calls `progress`, and stops the build when that or a signal handler raises.

    A Python exception that reaches TensorRT's C++ code is printed there and lost. So exceptions of `progress`, and of
    the handlers of SIGINT and SIGTERM, are kept and raised at the end of the block. TensorRT 8.5 reports no progress
    and cannot be stopped: there the block ends when the engine is built.
    """

    def __init__(self, trt: TensorRT, config: Any, progress: BuildProgress) -> None:  # noqa: ANN401
        """`config`: of the builder, which calls the monitor and must not outlive it."""
        self._progress = progress
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._monitored = hasattr(trt.module, "IProgressMonitor")
        if self._monitored:
            self._monitor = _make_monitor(trt.module, self)
            config.progress_monitor = self._monitor

    def __enter__(self) -> None:
        self._handlers: dict[int, Callable[..., Any]] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if callable(handler):  # a Python function, not SIG_DFL or SIG_IGN
                    self._handlers[number] = handler
                    signal.signal(number, self._handle)
        if not self._monitored:
            self.tell(WHOLE, 0, 1)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if not self._monitored and error is None:
            self.tell(WHOLE, 1, 1)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._error is not None:
            raise self._error

    def _handle(self, number: int, frame: object) -> None:
        try:
            self._handlers[number](number, frame)
        except BaseException as error:  # raised again at the end of the block
            self._stop(error)

    def tell(self, phase: str, done: int, total: int) -> bool:
        """Call `progress`; False if the build should stop."""
        try:
            with self._lock:
                self._progress(phase, done, total)
        except BaseException as error:  # raised again at the end of the block
            self._stop(error)
        return not self.stopped

    @property
    def stopped(self) -> bool:
        """Whether the build should stop."""
        return self._error is not None

    def _stop(self, error: BaseException) -> None:
        self._error = self._error or error


def _make_monitor(module: Any, build: BuildMonitor) -> Any:  # noqa: ANN401
    class Monitor(module.IProgressMonitor):  # type: ignore[misc]  # a class of an untyped module
        """Passes on to `BuildMonitor` what TensorRT reports."""

        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)
            self._steps: dict[str, tuple[int, int]] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._tell(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            _, total = self._steps.get(phase_name, (0, step + 1))
            return self._tell(phase_name, step + 1, total)

        def phase_finish(self, phase_name: str) -> None:
            done, total = self._steps.pop(phase_name, (0, 0))
            if done < total and not build.stopped:  # TensorRT often does not report the last steps
                build.tell(phase_name, total, total)

        def _tell(self, phase: str, done: int, total: int) -> bool:
            self._steps[phase] = done, total
            return build.tell(phase, done, total)

    return Monitor()
