"""What happens while TensorRT builds: progress is told, and Ctrl-C ends the build instead of waiting minutes for it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any, Protocol

from esrgan_deploy.engine.adapter import TensorRT

WHOLE = "Building engine"
"""The name that TensorRT's progress monitor gives to the outermost phase."""


class BuildProgress(Protocol):
    """Told how far the build is."""

    def __call__(self, phase: str, done: int, total: int) -> None:
        """`done` of `total` steps of `phase` are complete. Phases nest: one may begin and end within another.

        What it raises, KeyboardInterrupt too, stops the build and comes out of `build_plan`. TensorRT may call from
        threads of its own, one at a time.
        """


class BuildMonitor:
    """Around a build: `progress` is called, and the build stopped at Ctrl-C or when `progress` raises.

    A Python exception must not reach TensorRT's C++ code, where it is printed and lost. So what the handlers of SIGINT
    and SIGTERM raise is kept, and raised when the block ends: with TensorRT 8.5, which reports no progress and cannot
    be stopped, that is when the engine is built. A handler that raises nothing stops nothing.
    """

    def __init__(self, trt: TensorRT, config: Any, progress: BuildProgress) -> None:  # noqa: ANN401
        """`config`: of the builder; it keeps the monitor, which must therefore live as long."""
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
        """Pass it on; False if the build is to end."""
        try:
            with self._lock:
                self._progress(phase, done, total)
        except BaseException as error:  # raised again at the end of the block
            self._stop(error)
        return not self.stopped

    @property
    def stopped(self) -> bool:
        """Whether the build is to end."""
        return self._error is not None

    def _stop(self, error: BaseException) -> None:
        self._error = self._error or error


def _make_monitor(module: Any, watch: BuildMonitor) -> Any:  # noqa: ANN401
    class Monitor(module.IProgressMonitor):  # type: ignore[misc]  # a class of an untyped module
        """TensorRT's own names for what `BuildMonitor` is told."""

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
            if done < total and not watch.stopped:  # TensorRT often leaves the last steps out
                watch.tell(phase_name, total, total)

        def _tell(self, phase: str, done: int, total: int) -> bool:
            self._steps[phase] = done, total
            return watch.tell(phase, done, total)

    return Monitor()
