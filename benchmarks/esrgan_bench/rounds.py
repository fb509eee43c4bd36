"""Time a session: one run after the other, or several batches under way at any time."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future, wait
from queue import SimpleQueue
from time import perf_counter
from typing import NamedTuple

import numpy as np

from esrgan_deploy.backends import Frames, Session
from esrgan_deploy.budget import check_memory

WARM_UP_ROUNDS = 2
"""The first run of a shape allocates memory and generates code, on some backends a part of the second one too."""


class Round(NamedTuple):
    """As many batches as there are streams."""

    latencies_s: list[float]
    """From submitting a batch to its result, for each."""
    seconds: float
    """Since the round before."""


def noise(session: Session, source: object, batch: int, height: int, width: int, streams: int) -> Frames:
    """A batch of noise for `rounds`, if there is the memory for it and for the results of all streams.

    Args:
        session: to be run.
        source: the model's file, as messages name it.
        batch: frames.
        height: of a frame, in pixels.
        width: likewise.
        streams: batches under way at a time.

    Raises:
        MachineError: there is too little memory.
    """
    pixels = batch * height * width
    what = f"{batch} frames of {width}x{height} at once, with {streams} results under way,"
    check_memory(source, what, 3 * pixels * (1 + streams * session.info.scale**2))
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), np.uint8)


def rounds(session: Session, batch: Frames, streams: int) -> Generator[Round, None, None]:
    """Run `batch` over and over and tell the times of each round; without end. The first `WARM_UP_ROUNDS` do not count.

    With one stream, a run begins when the one before is finished and noted down. With more, that many batches are
    under way all the time, a new one being submitted as soon as one is finished: a closed loop, as a host with a queue
    makes it. Then, by Little's law, streams = batches per second * mean latency.

    Raises:
        EsrganError: what the session's runs raise.
    """
    return _one_by_one(session, batch) if streams == 1 else _side_by_side(session, batch, streams)


def seconds_of(call: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = perf_counter()
    call()
    return perf_counter() - start


def _one_by_one(session: Session, batch: Frames) -> Generator[Round, None, None]:
    while True:
        seconds = seconds_of(lambda: session.run(batch))
        yield Round([seconds], seconds)


def _side_by_side(session: Session, batch: Frames, streams: int) -> Generator[Round, None, None]:
    """Rounds of `streams` results each: where streams keep in step with each other, they finish all at once."""
    finished: SimpleQueue[tuple[float, Future[Frames]]] = SimpleQueue()
    under_way: set[Future[Frames]] = set()

    def submit() -> None:
        start = perf_counter()
        future = session.submit(batch)
        under_way.add(future)
        future.add_done_callback(lambda done: finished.put((perf_counter() - start, done)))

    def take() -> float:
        latency, future = finished.get()
        under_way.remove(future)
        future.result()
        return latency

    try:
        before = perf_counter()
        for _ in range(streams):
            submit()
        while True:
            latencies = []
            for _ in range(streams):
                latencies.append(take())
                submit()
            now = perf_counter()
            yield Round(latencies, now - before)
            before = now
    finally:
        wait(under_way)
