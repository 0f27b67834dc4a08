"""What each intrinsic means, in plain Python: the simulator runs these, one thread at a time.

Asynchronous copies happen at once. Instructions of a whole warp meet at a barrier of its 32 threads.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from .storage import narrow, widen

ALIGNMENT = None  # the simulator's shared arrays take none
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


def copy16(shared, to, array, start, valid):
    """Copy 16 bytes to shared memory, asynchronously; zeros where `valid` is false."""
    _copy(shared, to, array, start, valid, 16)


def copy4(shared, to, array, start, valid):
    """Copy 4 bytes to shared memory, asynchronously; zeros where `valid` is false."""
    _copy(shared, to, array, start, valid, 4)


def copy_commit():
    """Do nothing: copies are done when they are made."""


def copy_wait0():
    """Do nothing: copies are done when they are made."""


def copy_wait1():
    """Do nothing: copies are done when they are made."""


def sync_warp():
    """Wait for the warp: here to keep the compiler from loading a second step's operands during the first."""


class _Warp:
    """Where the threads of one warp lay down a value each and read all 32."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(WARP)
        self.values: list[Any] = [None] * WARP

    def exchange(self, lane: int, value: Any) -> list[Any]:
        self.values[lane] = value
        self.barrier.wait(PATIENCE)
        values = list(self.values)
        self.barrier.wait(PATIENCE)
        return values


_making = threading.Lock()


def _exchange(value: Any) -> tuple[int, list[Any]]:
    thread: Any = threading.current_thread()
    block = thread._manager
    with _making:
        warps = block.__dict__.setdefault("_warps", {})
        warp = warps.setdefault(thread.thread_id // WARP, None)
        if warp is None:
            warp = warps[thread.thread_id // WARP] = _Warp()
    lane = thread.thread_id % WARP
    return lane, warp.exchange(lane, value)


def _matrices(array, start):
    """Give this thread's lane and the four 8 x 8 matrices of 16-bit numbers whose rows the warp's threads address."""
    lane, rows = _exchange(_span(array, start, 4).view(np.uint16))
    return lane, np.array(rows).reshape(4, 8, 8)


def ldmatrix4(array, base, offset):
    """Read four 8 x 8 matrices of 16-bit numbers: thread 8 i + r addresses row r of matrix i."""
    lane, matrices = _matrices(array, base + offset)
    pairs = np.ascontiguousarray(matrices).view(np.uint32)
    return tuple(pairs[:, lane // 4, lane % 4])


def ldmatrix4_transposed(array, base, offset):
    """Read four 8 x 8 matrices of 16-bit numbers and transpose each."""
    lane, matrices = _matrices(array, base + offset)
    pairs = np.ascontiguousarray(matrices.transpose(0, 2, 1)).view(np.uint32)
    return tuple(pairs[:, lane // 4, lane % 4])


def _mma(a, b, c, depth, numbers):
    """Multiply a (16, depth) by b (depth, 8) as the 32 lanes hold them; `numbers` reads the numbers of words."""
    lane, values = _exchange((a, b))
    each = depth // 8
    left, right = np.zeros((16, depth)), np.zeros((depth, 8))
    for other, (a_words, b_words) in enumerate(values):
        row, column = other // 4, other % 4 * each
        for i, word in enumerate(a_words):
            start = column + i // 2 * 4 * each
            left[row + i % 2 * 8, start : start + each] = numbers(word)
        for i, word in enumerate(b_words):
            start = column + i * 4 * each
            right[start : start + each, row] = numbers(word)
    row, column = lane // 4, lane % 4 * 2
    product = left @ right
    places = ((row, column), (row, column + 1), (row + 8, column), (row + 8, column + 1))
    return tuple(np.float32(np.float64(old) + product[place]) for old, place in zip(c, places, strict=True))


def _tf32(word):
    return np.array([word & np.uint32(0xFFFFE000)], np.uint32).view(np.float32)


def _halves(word):
    return np.array([word], np.uint32).view(np.float16)


def _bfloats(word):
    return (np.array([word], np.uint32).view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)


def mma_tf32(a, b, c):
    """Multiply (16, 8) by (8, 8) in tf32 and add c."""
    return _mma(a, b, c, 8, _tf32)


def mma_f16(a, b, c):
    """Multiply (16, 16) by (16, 8) in float16 and add c."""
    return _mma(a, b, c, 16, _halves)


def mma_bf16(a, b, c):
    """Multiply (16, 16) by (16, 8) in bfloat16 and add c."""
    return _mma(a, b, c, 16, _bfloats)


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
