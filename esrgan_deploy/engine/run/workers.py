"""The two threads of a session: one gives work to the device, the other waits for what the device did."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from queue import SimpleQueue
from typing import TypeAlias

from esrgan_deploy.cuda.driver import Driver
from esrgan_deploy.engine.run.host_streams import BatchBuffers, HostStreams
from esrgan_deploy.errors import MachineError
from esrgan_deploy.frame_io import Frames

Step: TypeAlias = Callable[[], None]
"""A piece of work that raises nothing: it sends what goes wrong to a future."""


class Workers:
    """A feeder and a finisher; each takes one step after the other, with the driver's context active."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._closed = False
        self._gate = threading.Lock()
        """Nothing is given to the feeder after its end."""
        self._queues: list[SimpleQueue[Step | None]] = [SimpleQueue(), SimpleQueue()]
        self._threads = [
            threading.Thread(target=self._work, args=[steps], name=f"esrgan-tensorrt-{name}", daemon=True)
            for name, steps in zip(("feeder", "finisher"), self._queues, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def feed(self, step: Step) -> None:
        """Let the feeder take `step` after all that it was given before.

        Raises:
            RuntimeError: after `close`.
        """
        with self._gate:
            if self._closed:
                raise RuntimeError("the session is closed")
            self._queues[0].put(step)

    def finish(self, step: Step) -> None:
        """Let the finisher take `step`; only the feeder may call this."""
        self._queues[1].put(step)

    def close(self) -> bool:
        """Take all steps that were given, and end; False if that was done before."""
        with self._gate:
            if self._closed:
                return False
            self._closed = True
        for thread, steps in zip(self._threads, self._queues, strict=True):
            steps.put(None)
            thread.join()
        return True

    def _work(self, steps: SimpleQueue[Step | None]) -> None:
        # Once, not for each step: after a failure of the device CUDA may refuse this too, and steps must still be
        # taken, or their futures would never be done.
        with ExitStack() as context:
            with suppress(MachineError):
                context.enter_context(self._driver.active())
            while (step := steps.get()) is not None:
                step()
                del step  # or it would keep frames alive until the next one comes
            with suppress(MachineError):
                context.close()


class BatchTask:
    """What became of one submitted batch; its parts are finished one by one."""

    def __init__(self, future: Future[Frames]) -> None:
        self.future = future
        self.result: Frames | None = None
        self.error: BaseException | None = None

    def finish(self, streams: HostStreams, buffers: BatchBuffers, count: int) -> None:
        """Wait for a part of it, of `count` frames."""
        try:
            streams.finish(buffers, count)
        except BaseException as error:
            self.error = self.error or error

    def end(self) -> None:
        """All parts are finished: hand out the result."""
        result, self.result = self.result, None
        if self.error is not None:
            self.future.set_exception(self.error)
        elif result is not None:
            self.future.set_result(result)
