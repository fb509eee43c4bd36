"""Batches of crops, made in threads while the network computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from esrgan_train.data.crops import Crops, Sample

Batch = Sample
"""LR, HR and target: uint8 (N, 3, h, w) and twice (N, 3, h * scale, w * scale)."""

AHEAD = 2  # batches that are being made, or wait, while the network computes


def batches(crops: Crops, start: int, size: int, world: int = 1, rank: int = 0, workers: int = 1) -> Generator[Batch]:
    """Batch number `start` of this process, then the next one, without end.

    Batch b of process r begins with crop (b * world + r) * size. So all processes together see what one process with
    batches of size * world sees, and k batches of a process hold the crops of one batch of k * size.

    Args:
        crops: where the crops come from.
        start: number of the first batch; a resumed run begins where it stopped.
        size: crops in a batch.
        world: number of processes.
        rank: number of this process, from 0.
        workers: number of threads.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="crops") as pool:
        waiting: deque[list[Future[Sample]]] = deque()
        number = start
        try:
            while True:
                while len(waiting) < AHEAD:
                    first = (number * world + rank) * size
                    waiting.append([pool.submit(crops.__getitem__, first + i) for i in range(size)])
                    number += 1
                samples = [sample.result() for sample in waiting.popleft()]
                yield _stack(samples)
        finally:
            pool.shutdown(cancel_futures=True)


def _stack(samples: list[Sample]) -> Batch:
    lr, hr = torch.stack([sample.lr for sample in samples]), torch.stack([sample.hr for sample in samples])
    if all(sample.target is sample.hr for sample in samples):
        return Batch(lr, hr, hr)
    return Batch(lr, hr, torch.stack([sample.target for sample in samples]))
