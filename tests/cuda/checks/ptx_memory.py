"""Memory of the interpreter of PTX: every access is checked for bounds, alignment and races.

Global arrays lie far apart. A launch has no order between its threads but a block's barriers, and none at all between
blocks, so an element that one thread wrote may be read or written by no other in the same launch. In shared memory the
record of each two bytes tells who touched it last and between which barriers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SHARED_WINDOW = 1 << 44
LOCAL_WINDOW = 1 << 45
FIRST_ADDRESS = 1 << 32
RED_ZONE = 1 << 20

NOBODY = -1
MANY = -2

# Records of shared memory: 65536 * interval + thread, or one of these.
UNTOUCHED = np.uint32(0xFFFE0000)
IN_FLIGHT = np.uint32(0xFFFF0000)
ANYONE = np.uint32(0xFFFF)
GRANULE = 2


class Fault(Exception):
    """Something that a correct kernel does not do."""


class Buffer:
    """One global array, and who touched each of its elements."""

    def __init__(self, base: int, array: Array, access: str) -> None:
        self.base, self.array, self.access = base, array, access
        self.bytes = np.ascontiguousarray(array).reshape(-1).view(np.uint8).copy()
        self.item = array.dtype.itemsize
        count = len(self.bytes) // self.item
        self.writers = np.full(count, NOBODY, np.int64)
        self.readers = np.full(count if access != "read" else 0, NOBODY, np.int64)

    def content(self) -> Array:
        """Copy what it holds now."""
        return self.bytes.view(self.array.dtype).reshape(self.array.shape).copy()

    def unwritten(self) -> int:
        """Count the elements that no thread wrote."""
        return int((self.writers == NOBODY).sum())

    def forget(self) -> None:
        """Begin another launch: what was written is there for all to read."""
        if self.access == "write" and not self.unwritten():
            self.access = "both"
        self.writers[:] = NOBODY
        self.readers[:] = NOBODY


class GlobalMemory:
    """All arrays of a launch."""

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self._bases = np.zeros(0, np.int64)
        self._next = FIRST_ADDRESS

    def add(self, array: Array, access: str = "read") -> Buffer:
        """Take a copy of an array in.

        `access` is what the kernel may do: ``"read"``; ``"write"``, reading only what the same thread wrote;
        ``"both"``.
        """
        buffer = Buffer(self._next, array, access)
        self.buffers.append(buffer)
        self._bases = np.append(self._bases, self._next)
        self._next += -(-(len(buffer.bytes) + RED_ZONE) // 256) * 256
        return buffer

    def load(self, addresses: Array, size: int, threads: Array) -> Array:
        """Read `size` bytes at each address: (addresses, size) uint8. `threads` are numbered over the whole grid."""
        result = np.empty((len(addresses), size), np.uint8)
        for buffer, chosen, offsets in self._find(addresses, size, "load"):
            items = self._items(buffer, offsets, size)
            if buffer.access != "read":
                who = threads[chosen][:, None]
                wrote = buffer.writers[items]
                if buffer.access == "write" and (wrote == NOBODY).any():
                    raise Fault("load of an output that was never written")
                if ((wrote != NOBODY) & (wrote != who)).any():
                    raise Fault("global race: load of what another thread wrote in the same launch")
                self._note(buffer.readers, items, who)
            result[chosen] = buffer.bytes[offsets[:, None] + np.arange(size)]
        return result

    def store(self, addresses: Array, data: Array, threads: Array) -> None:
        """Write the rows of `data` to the addresses."""
        size = data.shape[1]
        for buffer, chosen, offsets in self._find(addresses, size, "store"):
            if buffer.access == "read":
                raise Fault("store to an array that is only read")
            items, who = self._items(buffer, offsets, size), threads[chosen][:, None]
            for touched, what in ((buffer.writers, "wrote"), (buffer.readers, "read")):
                if ((touched[items] != NOBODY) & (touched[items] != who)).any():
                    raise Fault(f"global race: store to what another thread {what} in the same launch")
            buffer.writers[items] = who
            if (buffer.writers[items] != who).any():
                raise Fault("global race: two threads store to the same place")
            buffer.bytes[offsets[:, None] + np.arange(size)] = data[chosen]

    @staticmethod
    def _note(readers: Array, items: Array, who: Array) -> None:
        before = readers[items]
        mine = np.where((before == NOBODY) | (before == who), who, MANY)
        readers[items] = mine
        readers[items[readers[items] != mine]] = MANY

    @staticmethod
    def _items(buffer: Buffer, offsets: Array, size: int) -> Array:
        if size < buffer.item:
            raise Fault(f"{size}-byte access to an array of {buffer.item}-byte elements")
        return (offsets // buffer.item)[:, None] + np.arange(size // buffer.item)

    def _find(self, addresses: Array, size: int, what: str) -> list[tuple[Buffer, Any, Array]]:
        check_alignment(addresses, size, f"global {what}")
        at = addresses.astype(np.int64)
        found = np.searchsorted(self._bases, at, "right") - 1
        parts = []
        for index in [found[0]] if (found == found[0]).all() else np.unique(found):
            chosen = slice(None) if (found == index).all() else found == index
            buffer = self.buffers[index]
            offsets = at[chosen] - buffer.base
            if index < 0 or (offsets + size > len(buffer.bytes)).any():
                worst = int(offsets[np.argmax(offsets)])
                raise Fault(f"global {what} out of bounds: {size} bytes at {worst} of an array of {len(buffer.bytes)}")
            parts.append((buffer, chosen, offsets))
        return parts


class SharedMemory:
    """Shared memory of blocks that run together, one's after the other's; threads are numbered through all of them."""

    def __init__(self, size: int, blocks: int, threads: int) -> None:
        self.size, self.pitch, self.threads = size, -(-size // 16) * 16, threads
        self.bytes = np.full(blocks * self.pitch, 0xFF, np.uint8)
        self._wrote = np.full(len(self.bytes) // GRANULE, UNTOUCHED, np.uint32)
        self._read = np.full(len(self._wrote), UNTOUCHED, np.uint32)
        self._interval = np.uint32(1 << 16)

    def barrier(self) -> None:
        """Order all that came before with all that comes after."""
        self._interval += np.uint32(1 << 16)
        if self._interval >= UNTOUCHED:
            raise Fault("too many barriers for the records of shared memory")

    def load(self, addresses: Array, size: int, threads: Array) -> Array:
        """Read `size` bytes at each address: (addresses, size) uint8."""
        offsets, granules = self._check(addresses, size, threads, "load")
        me = (self._interval | threads.astype(np.uint32))[:, None]
        wrote = self._wrote[granules]
        if wrote.max() >= UNTOUCHED:
            flying = (wrote >= IN_FLIGHT).any()
            raise Fault(
                "shared load of what cp.async has not brought yet" if flying else "shared load before any store"
            )
        if self._conflict(wrote, me):
            raise Fault("shared race: load of what another thread stored since the last barrier")
        read = self._read[granules]
        mine = np.where((read ^ me) - np.uint32(1) < ANYONE, self._interval | ANYONE, me)
        self._read[granules] = mine
        self._read[granules[self._read[granules] != mine]] = self._interval | ANYONE
        return self.bytes[offsets[:, None] + np.arange(size)]

    def store(self, addresses: Array, data: Array, threads: Array) -> None:
        """Write the rows of `data` to the addresses."""
        offsets, granules = self._check(addresses, data.shape[1], threads, "store")
        self._claim(granules, self._interval | threads.astype(np.uint32), "store")
        self.bytes[offsets[:, None] + np.arange(data.shape[1])] = data

    def send(self, addresses: Array, size: int, threads: Array) -> None:
        """Begin copies by cp.async: until they are waited for nobody may touch the destination."""
        offsets, granules = self._check(addresses, size, threads, "cp.async")
        self._claim(granules, self._interval | threads.astype(np.uint32), "cp.async")
        self._wrote[granules] = (IN_FLIGHT | threads.astype(np.uint32))[:, None]
        self.bytes[offsets[:, None] + np.arange(size)] = 0xFF

    def arrive(self, addresses: Array, data: Array, threads: Array) -> None:
        """End copies: they are the waiting thread's stores, seen by others after a barrier."""
        offsets, granules = self._check(addresses, data.shape[1], threads, "cp.async")
        self._wrote[granules] = (self._interval | threads.astype(np.uint32))[:, None]
        self.bytes[offsets[:, None] + np.arange(data.shape[1])] = data

    def _check(self, addresses: Array, size: int, threads: Array, what: str) -> tuple[Array, Array]:
        check_alignment(addresses, size, f"shared {what}")
        offsets = addresses.astype(np.int64)
        if offsets.min() < 0 or offsets.max() + size > self.size:
            raise Fault(f"shared {what} out of bounds: {size} bytes at {offsets.max()} of {self.size}")
        offsets += threads // self.threads * self.pitch
        return offsets, (offsets // GRANULE)[:, None] + np.arange(max(1, size // GRANULE))

    def _conflict(self, record: Array, me: Array) -> bool:
        """Tell whether any record is of the same interval and another thread."""
        return bool(((record ^ me) - np.uint32(1) < ANYONE).any())

    def _claim(self, granules: Array, me: Array, what: str) -> None:
        me, wrote = me[:, None], self._wrote[granules]
        if (wrote >= IN_FLIGHT).any():
            raise Fault(f"shared {what} to what cp.async is still bringing")
        for record, did in ((wrote, "stored"), (self._read[granules], "loaded")):
            if self._conflict(record, me):
                raise Fault(f"shared race: {what} to what another thread {did} since the last barrier")
        self._wrote[granules] = me
        if (self._wrote[granules] != me).any():
            raise Fault(f"shared race: two threads {what} to the same place")


class LocalMemory:
    """The stacks of all threads of a block."""

    def __init__(self, size: int, threads: int) -> None:
        self.size = size
        self.bytes = np.full((threads, size), 0xFF, np.uint8)

    def load(self, addresses: Array, size: int, threads: Array) -> Array:
        """Read `size` bytes at each thread's address."""
        return self.bytes[threads[:, None], self._check(addresses, size)]

    def store(self, addresses: Array, data: Array, threads: Array) -> None:
        """Write the rows of `data`, each to its own thread's address."""
        self.bytes[threads[:, None], self._check(addresses, data.shape[1])] = data

    def _check(self, addresses: Array, size: int) -> Array:
        check_alignment(addresses, size, "local access")
        offsets = addresses.astype(np.int64)
        if offsets.min() < 0 or offsets.max() + size > self.size:
            raise Fault(f"local access out of bounds: {size} bytes at {offsets.max()} of {self.size}")
        return offsets[:, None] + np.arange(size)


def check_alignment(addresses: Array, size: int, what: str) -> None:
    """Let addresses be multiples of the size of the access, as the hardware demands."""
    if (addresses & type(addresses.flat[0])(size - 1)).any():
        raise Fault(f"misaligned {size}-byte {what}")


def bank_rounds(offsets: Array, size: int, threads: Array) -> tuple[int, int]:
    """Count the rounds that one shared access takes, and those that it would take without conflicts.

    32 banks serve a 4-byte word each; wide accesses go by halves (8 bytes) or quarters (16 bytes) of a warp. Threads
    that meet in a word are served at once.
    """
    part = threads // {8: 16, 16: 8}.get(size, 32)
    words = (offsets.astype(np.int64) // 4)[:, None] + np.arange(max(1, size // 4))
    met = np.unique((part[:, None] << 32) | words)
    parts, first = np.unique(met >> 32, return_index=True)
    load = np.zeros((len(parts), 32), np.int64)
    np.add.at(load, (np.searchsorted(first, np.arange(len(met)), "right") - 1, met % 32), 1)
    return int(load.max(1).sum()), len(parts)
