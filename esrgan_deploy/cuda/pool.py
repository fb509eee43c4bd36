"""A pool of memory that is reused when nobody holds it any more, so that frames after the first allocate none."""

from __future__ import annotations

import contextlib
import math
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from esrgan_deploy.cuda.driver import Driver
from esrgan_deploy.errors import MachineError

Place = int | None
"""None: pinned host memory. A stream: device memory that is used in that stream's order."""


class Block:
    """A piece of memory, which returns to its pool when this object and all arrays made from it are gone."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.address = address
        self.nbytes = nbytes

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """Lets numpy make a view of host memory that keeps this object alive."""
        return {"version": 3, "typestr": "|u1", "shape": (self.nbytes,), "data": (self.address, False)}

    def array(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """The first bytes of pinned memory as an array, which keeps this block alive."""
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        return np.asarray(self)[:nbytes].view(dtype).reshape(shape)


class Pool:
    """Blocks of pinned host memory and of device memory.

    A block of device memory is reused only in the stream that it was taken for: work in that stream which still reads
    the block is then done before new work writes to it.
    """

    def __init__(self, driver: Driver, when_empty: Callable[[], None]) -> None:
        """`when_empty` is called once, when the last block has been freed after `close`."""
        self._driver = driver
        self._when_empty = [when_empty]
        self._free: dict[Place, list[tuple[int, int]]] = {}
        self._allocated: set[int] = set()
        # Python may finalize a block at any moment, even inside `take`, so the finalizer must not wait for a lock.
        self._returned: deque[tuple[Place, int, int]] = deque()
        self._lock = threading.Lock()
        self._closed = False

    def take(self, place: Place, nbytes: int) -> Block:
        """A block of at least `nbytes`; the driver's context must be active.

        Raises:
            MachineError: no such memory is left.
        """
        with self._lock:
            self._sort_returned()
            free = self._free.setdefault(place, [])
            fitting = [entry for entry in free if entry[0] >= nbytes]
            if fitting:
                size, address = min(fitting)
                free.remove((size, address))
            else:
                self._release(place)  # all of these blocks are too small
                size, address = nbytes, self._allocate(place, nbytes)
        block = Block(address, size)
        finalizer = weakref.finalize(block, self._give_back, place, size, address)
        finalizer.atexit = False  # the end of the process frees everything, perhaps after the context is gone
        return block

    def trim(self) -> None:
        """Free all blocks that nobody holds; the driver's context must be active."""
        with self._lock:
            self._sort_returned()
            for place in self._free:
                self._release(place)

    def close(self) -> None:
        """Free all blocks that nobody holds, and from now on each block as it returns."""
        self._closed = True
        with contextlib.suppress(MachineError), self._driver.active():
            self.trim()
        self._end_if_empty()

    def _allocate(self, place: Place, nbytes: int) -> int:
        address = self._driver.allocate_pinned(nbytes) if place is None else self._driver.allocate(nbytes)
        self._allocated.add(address)
        return address

    def _sort_returned(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                place, size, address = self._returned.popleft()
                self._free.setdefault(place, []).append((size, address))

    def _release(self, place: Place) -> None:
        blocks, self._free[place] = self._free[place], []
        for _, address in blocks:
            self._free_one(place, address)

    def _free_one(self, place: Place, address: int) -> None:
        # After a failure the GPU may refuse this; that failure has been reported where it happened.
        with contextlib.suppress(MachineError):
            if place is None:
                self._driver.free_pinned(address)
            else:
                self._driver.free(address)
        self._allocated.discard(address)

    def _give_back(self, place: Place, size: int, address: int) -> None:
        self._returned.append((place, size, address))
        if not self._closed:
            return
        with contextlib.suppress(IndexError, MachineError), self._driver.active():
            while True:
                place, _, address = self._returned.popleft()
                self._free_one(place, address)
        self._end_if_empty()

    def _end_if_empty(self) -> None:
        if self._closed and not self._allocated:
            with contextlib.suppress(IndexError):
                self._when_empty.pop()()
