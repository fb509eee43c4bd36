"""Memory of the fake GPU: allocations that know their borders, are born dirty and are never handed out twice."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from esrgan_deploy.errors import MachineError

ALIGNMENT = 256
FIRST_DEVICE_ADDRESS = 0x0D00_0000_0000
"""Nothing of the host's lies there: who takes a device address for a pointer crashes, as with a real GPU."""


class CudaBug(AssertionError):  # noqa: N818  # of the program, not of CUDA
    """The program broke a rule of CUDA; a real GPU would have crashed, or computed something else."""


@dataclass(eq=False)
class Allocation:
    address: int
    content: np.ndarray
    pinned: bool
    owner: str
    alive: bool = True


def overlaps(one, other):
    """Whether two ranges (address, bytes) share a byte; other things only overlap themselves."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return one[0] < other[0] + other[1] and other[0] < one[0] + one[1]
    return one is other


class Memory:
    """Device memory at made-up addresses, and pinned memory at true ones, so that numpy can look at it."""

    def __init__(self, total, random):
        self.total = total
        self.used = 0
        self._random = random
        self._next = FIRST_DEVICE_ADDRESS
        self._addresses: list[int] = []
        self._allocations: list[Allocation] = []
        """Sorted by address. Freed ones stay, so that an address means one thing only."""

    def allocate(self, nbytes, owner="device memory"):
        """Device memory; MachineError when there is not enough."""
        if nbytes <= 0:
            raise CudaBug(f"{nbytes} bytes were asked for")
        if nbytes > self.total - self.used:
            raise MachineError(f"CUDA_ERROR_OUT_OF_MEMORY: {nbytes} bytes wanted, {self.total - self.used} are free")
        self.used += nbytes
        address = self._next
        self._next += (nbytes // ALIGNMENT + 2) * ALIGNMENT
        return self._keep(Allocation(address, self._dirty(nbytes), False, owner))

    def allocate_pinned(self, nbytes):
        """Host memory at its true address."""
        if nbytes <= 0:
            raise CudaBug(f"{nbytes} bytes were asked for")
        content = self._dirty(nbytes)
        return self._keep(Allocation(content.ctypes.data, content, True, "pinned memory"))

    def free(self, address, *, pinned=False, owned=False):
        """Give back what begins at `address`."""
        found = self._find(address)
        if found.address != address:
            raise CudaBug(f"{address:#x} is the middle of an allocation")
        if found.pinned != pinned or (found.owner.endswith("memory") == owned):
            raise CudaBug(f"{found.owner} was given back in the wrong way")
        found.alive = False
        self.used -= 0 if pinned else found.content.nbytes
        found.content[:] = 0xDD if pinned else 0
        if not pinned:
            found.content = found.content[:0]

    def range_of(self, address):
        """(address, bytes) of the allocation."""
        found = self._find(address)
        return found.address, found.content.nbytes

    def check(self, address, nbytes, *, pinned):
        """Raise unless the bytes lie inside one living allocation of the right kind."""
        found = self._find(address)
        if found.pinned != pinned:
            raise CudaBug(f"{address:#x} is {found.owner}, not {'pinned' if pinned else 'device'} memory")
        if nbytes <= 0 or address + nbytes > found.address + found.content.nbytes:
            raise CudaBug(f"{nbytes} bytes at {address:#x} do not fit into its {found.content.nbytes}")

    def view(self, address, nbytes):
        """The bytes themselves."""
        found = self._find(address)
        self.check(address, nbytes, pinned=found.pinned)
        return found.content[address - found.address :][:nbytes]

    def kept(self):
        """How many allocations of each kind are still alive."""
        owners = [found.owner for found in self._allocations if found.alive]
        return {owner: owners.count(owner) for owner in sorted(set(owners))}

    def _find(self, address):
        if type(address) is not int:
            raise CudaBug(f"an address is an int, not {address!r}")
        position = bisect_right(self._addresses, address) - 1
        found = self._allocations[position] if position >= 0 else None
        if found is None or (found.alive and address >= found.address + found.content.nbytes):
            raise CudaBug(f"{address:#x} lies in no allocation")
        if not found.alive:
            raise CudaBug(f"{address:#x} lies in {found.owner} that was given back")
        return found

    def _keep(self, allocation):
        position = bisect_right(self._addresses, allocation.address)
        self._addresses.insert(position, allocation.address)
        self._allocations.insert(position, allocation)
        return allocation.address

    def _dirty(self, nbytes):
        return np.full(nbytes, self._random.randint(1, 255), np.uint8)
