"""What each intrinsic means, in plain Python: the simulator runs these, one thread at a time.

Asynchronous copies happen at once. Instructions of a whole warp meet at a barrier of its 32 threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from .storage import narrow, widen

ALIGNMENT: int | None = None  # the simulator's shared arrays take none
WARP = 32
PATIENCE = 60  # seconds; a warp that does not meet is an error, not a hang


def load1(array, base, offset):
    """Read one number."""
    return array[base + offset]


load_int = load1


def load_half(array, base, offset):
    """Read one 16-bit number as a word."""
    return array[base + offset].view(np.uint16)


def load4(array, base, offset):
    """Read four numbers in one instruction, as float32."""
    start = _aligned(array, base + offset, 4)
    return tuple(np.float32(widen(array[start + i])) for i in range(4))


def _aligned(array, start, count):
    """Check what hardware checks: that a vector of `count` numbers starts at a multiple of its size."""
    if start % count:
        raise ValueError(f"misaligned access to {count} numbers of {array.dtype} from {start} on")
    return start


def store_half(array, index, value):
    """Write a 16-bit number over an array, at `index` counted in such numbers."""
    array.view(np.uint16)[index] = value


def store2(array, index, values):
    """Write two float32, rounded to what the array holds, in one instruction."""
    _store(array, index, values, 2)


def store4(array, index, values):
    """Write four float32, rounded to what the array holds, in one instruction."""
    _store(array, index, values, 4)


def _store(array, index, values, count):
    start = _aligned(array, index, count)
    for i in range(count):
        array[start + i] = narrow(np.float32(values[i]), array)


def _copy(shared, to, array, start, valid, size):
    """Copy `size` bytes to word `to` of shared memory."""
    words, count = size // 4, size // array.dtype.itemsize
    _aligned(shared, to, words)
    data = np.zeros(words, np.float32)
    if valid:
        _aligned(array, start, count)
        data = np.array([array[start + i] for i in range(count)], array.dtype).view(np.float32)
    shared[to : to + words] = data


def _span(array, start, words):
    """View `words` 32-bit words of an array, checked as hardware checks them."""
    each = 4 // array.dtype.itemsize
    if start % (words * each):
        raise ValueError(f"misaligned access of {words} words at element {start}")
    count = words * each
    part = np.array([array[start + i] for i in range(count)], array.dtype)
    return part


def store_int(array, base, offset, value):
    """Write one integer."""
    array[base + offset] = value


def copy16(shared, to, offset, array, start, valid):
    """Copy 16 bytes to shared memory, asynchronously; zeros where `valid` is false. `offset` is a constant."""
    _copy(shared, to + offset, array, start, valid, 16)


def copy4(shared, to, offset, array, start, valid, further, wanted):
    """Copy 4 bytes to shared memory, asynchronously, if `wanted`: zeros where `valid` is false.

    `offset` and `further`, of the place in the array, are constants.
    """
    if wanted:
        _copy(shared, to + offset, array, start + further, valid, 4)


def copy_commit():
    """Do nothing: copies are done when they are made."""


def copy_wait0():
    """Do nothing: copies are done when they are made."""


def copy_wait1():
    """Do nothing: copies are done when they are made."""


def sync_warp():
    """Wait for the warp: here to keep the compiler from loading a second step's operands during the first."""


class _Warp:
    """Where the threads of one warp meet: each lays down a value, the last of them works out all results."""

    def __init__(self) -> None:
        self.values: list[Any] = [None] * WARP
        self.results: Any = None
        self.broken = False
        self._lock = threading.Lock()
        self._come = 0
        self._ready = [threading.Lock() for _ in range(WARP)]
        for lock in self._ready:
            lock.acquire()

    def exchange(self, lane: int, value: Any, function: Callable[[list[Any]], Any]) -> Any:
        """Give this lane's part of `function` of all lanes' values."""
        self.values[lane] = value
        with self._lock:
            self._come += 1
            last = self._come == WARP
        if last:
            self._come = 0
            self.results = function(self.values)
            self._release(lane)
        elif not self._ready[lane].acquire(timeout=PATIENCE) or self.broken:
            raise RuntimeError(f"{self._come} threads of a warp wait for the others")
        return self.results[lane]  # the next results come when all lanes have taken theirs and are back

    def abort(self) -> None:
        """Let those that wait go on, and fail: the others will not come."""
        self.broken = True
        self._release(None)

    def _release(self, own: int | None) -> None:
        for lane, lock in enumerate(self._ready):
            if lane != own and lock.locked():
                lock.release()


_making = threading.Lock()


def _exchange(value: Any, function: Callable[[list[Any]], Any]) -> Any:
    thread: Any = threading.current_thread()
    with _making:
        warps = thread._manager.__dict__.setdefault("_warps", {})
        warp = warps.get(thread.thread_id // WARP)
        if warp is None:
            warp = warps[thread.thread_id // WARP] = _Warp()
    return warp.exchange(thread.thread_id % WARP, value, function)


def ldmatrix4(array, base, offset):
    """Read four 8 x 8 matrices of 16-bit numbers: thread 8 i + r addresses row r of matrix i."""
    return _exchange(_span(array, base + offset, 4).view(np.uint16), _pairs_of_rows)


def ldmatrix4_transposed(array, base, offset):
    """Read four 8 x 8 matrices of 16-bit numbers and transpose each."""
    return _exchange(_span(array, base + offset, 4).view(np.uint16), _pairs_of_columns)


def _pairs_of_rows(rows: list[Any]) -> list[Any]:
    return _deal(np.array(rows).reshape(4, 8, 8))


def _pairs_of_columns(rows: list[Any]) -> list[Any]:
    return _deal(np.ascontiguousarray(np.array(rows).reshape(4, 8, 8).transpose(0, 2, 1)))


def _deal(matrices: Any) -> list[Any]:
    """Give lane 4 r + c the c-th pair of row r of each matrix, as a word."""
    return [tuple(words) for words in matrices.view(np.uint32).reshape(4, WARP).T]


def _multiply(values: list[Any], depth: int, numbers: Callable[[Any], Any]) -> list[Any]:
    """Multiply a (16, depth) by b (depth, 8) as the 32 lanes hold them and add c; `numbers` reads words as numbers."""
    a, b, c = (np.array(part) for part in zip(*values, strict=True))
    each = depth // 8  # numbers of a word
    # a: lane, (half of the columns, half of the rows), number; b: lane, half of the rows, number
    a = numbers(a.astype(np.uint32)).reshape(8, 4, 2, 2, each).transpose(3, 0, 2, 1, 4).reshape(16, depth)
    b = numbers(b.astype(np.uint32)).reshape(8, 4, 2, each).transpose(2, 1, 3, 0).reshape(depth, 8)
    product = (a.astype(np.float64) @ b.astype(np.float64)).reshape(2, 8, 4, 2).transpose(1, 2, 0, 3).reshape(WARP, 4)
    return [tuple(sums) for sums in (c.astype(np.float64) + product).astype(np.float32)]


def _of_tf32(values: list[Any]) -> list[Any]:
    return _multiply(values, 8, lambda words: (words & np.uint32(0xFFFFE000)).view(np.float32))


def _of_f16(values: list[Any]) -> list[Any]:
    return _multiply(values, 16, lambda words: words.view(np.float16))


def _of_bf16(values: list[Any]) -> list[Any]:
    return _multiply(values, 16, lambda w: (w.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32))


def mma_tf32(a, b, c):
    """Multiply (16, 8) by (8, 8) in tf32 and add c."""
    return _exchange((a, b, c), _of_tf32)


def mma_f16(a, b, c):
    """Multiply (16, 16) by (16, 8) in float16 and add c."""
    return _exchange((a, b, c), _of_f16)


def mma_bf16(a, b, c):
    """Multiply (16, 16) by (16, 8) in bfloat16 and add c."""
    return _exchange((a, b, c), _of_bf16)


def fresh(value):
    """Give the same value, one that the compiler cannot know."""
    return value


def bits_of(value):
    """Give the bits of a float32 as uint32."""
    return np.float32(value).view(np.uint32)


def float_of(bits):
    """Give the float32 of these bits."""
    return np.uint32(bits).view(np.float32)


def round_tf32(value):
    """Round to 10 bits of fraction, halves away from zero."""
    return np.uint32((int(bits_of(value)) + 0x1000) & 0xFFFFE000)
