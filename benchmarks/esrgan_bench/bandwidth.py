"""How fast does this machine move bytes? A large copy in main memory, by all cores."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import numpy as np

from esrgan_deploy.system.cpu import largest_cache_bytes, usable_cores
from esrgan_deploy.system.memory import ram_mib

LEAST_BYTES = 128 << 20
"""Of source and of target each; several times the caches of a desktop."""
CACHES = 4
"""STREAM's rule (McCalpin 1995): each array has at least four times the size of the largest cache."""
RUNS = 5


def copy_bandwidth_gb_s() -> float:
    """Bytes read plus bytes written per second of the fastest of `RUNS` large copies, in 1e9 bytes.

    numpy copies without the interpreter's lock, so each usable core takes a part. Reading the target before it is
    overwritten, as most CPUs do, does not count, like in STREAM.
    """
    cores = max(1, int(usable_cores()))
    size = max(LEAST_BYTES, CACHES * largest_cache_bytes())
    size = min(size, (ram_mib() << 20) // 8)  # a small container must not be filled up
    part = np.ones(size // cores, np.uint8)
    targets = [np.empty_like(part) for _ in range(cores)]
    sources = [part.copy() for _ in range(cores)]
    seconds = []
    with ThreadPoolExecutor(cores) as pool:
        for _ in range(1 + RUNS):  # the first one pays for the pages of the targets, and never wins
            start = perf_counter()
            list(pool.map(np.copyto, targets, sources))
            seconds.append(perf_counter() - start)
    return 2 * part.nbytes * cores / min(seconds) / 1e9
