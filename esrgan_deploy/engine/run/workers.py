"""The two threads of a session: one gives batches to the GPU, the other waits until they are done."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from queue import SimpleQueue
from typing import TypeAlias

from esrgan_deploy.cuda.driver import Driver
from esrgan_deploy.engine.run.host_streams import BatchBuffers, HostStreams
from esrgan_deploy.errors import ClosedError, MachineError
from esrgan_deploy.frame_io import Frames
from esrgan_deploy.watchdog import moved

Step: TypeAlias = Callable[[], None]
"""A function that raises nothing, but sets errors in a future."""


class Workers:
    """A feeder and a finisher thread; each runs its steps one after the other, with the driver's context active."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._closed = False
        self._gate = threading.Lock()
        """Held so that nothing is given to the feeder after its end."""
        self._queues: list[SimpleQueue[Step | None]] = [SimpleQueue(), SimpleQueue()]
        self._threads = [
            threading.Thread(target=self._work, args=[steps], name=f"esrgan-tensorrt-{name}", daemon=True)
            for name, steps in zip(("feeder", "finisher"), self._queues, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def feed(self, step: Step) -> None:
        """Let the feeder run `step` after all earlier ones.

        Raises:
            ClosedError: after `close`.
        """
        with self._gate:
            if self._closed:
                raise ClosedError("the tensorrt session is closed; open another one with open_session")
            self._queues[0].put(step)

    def finish(self, step: Step) -> None:
        """Let the finisher run `step`; only the feeder may call this."""
        self._queues[1].put(step)

    def close(self) -> bool:
        """Finish all steps, and end the threads; False if they were ended before."""
        with self._gate:
            if self._closed:
                return False
            self._closed = True
        for thread, steps in zip(self._threads, self._queues, strict=True):
            steps.put(None)
            thread.join()
        return True

    def _work(self, steps: SimpleQueue[Step | None]) -> None:
        # CUDA may refuse this after a failure of the GPU. The steps must run nevertheless, or their futures would never
        # be done.
        with ExitStack() as context:
            with suppress(MachineError):
                context.enter_context(self._driver.active())
            while (step := steps.get()) is not None:
                step()
                del step  # it would keep frames alive until the next step comes
            with suppress(MachineError):
                context.close()


class BatchTask:
    """One submitted batch, whose parts are finished one by one, and its result or error."""

    def __init__(self, future: Future[Frames]) -> None:
        self.future = future
        self.result: Frames | None = None
        self.error: BaseException | None = None

    def finish(self, streams: HostStreams, buffers: BatchBuffers, count: int) -> None:
        """Wait for a part of `count` frames."""
        try:
            streams.finish(buffers, count)
        except BaseException as error:
            self.error = self.error or error
        moved()

    def end(self) -> None:
        """After all parts: set the result, or the error, in the future."""
        result, self.result = self.result, None
        if self.error is not None:
            self.future.set_exception(self.error)
        elif result is not None:
            self.future.set_result(result)
