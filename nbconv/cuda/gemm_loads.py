"""How the tiled kernels read: the walk over taps and channels, and the copies of slices to shared memory.

A product is a matrix multiplication whose left operand is never formed. Row `m` is an output position, `k` runs over
(tap, channel of the group), and element `(m, k)` is the number of x that this tap of this position reads. A block of
threads makes one tile of the result. Slices of both operands travel through a ring of stages in shared memory by
asynchronous copies, which write zeros where there is nothing to read: that is how zero padding, the ends of rows and
the end of the reduction cost nothing.

Left slices lie in shared memory as halves of (rows, 32 bytes), two of a share. A row's two 16-byte chunks change places
in every other group of four rows: then both the copies of eight neighbouring threads and every pattern of reads that
the kernels use touch all 32 banks once.
"""

from __future__ import annotations

from numpy import int32, uint16, uint32

from . import table as T
from .driver import cuda, inlined
from .intrinsics import copy4, copy16, fresh, load_half, load_int, store_half, store_int

OUTSIDE = -(2**30)  # an address that stays negative whatever channel is added
BEYOND = 2**31  # a place in the weights that stays beyond every end
# What a thread keeps of its walk, besides the channel and the rows' addresses, which change all the time: number `f`
# stands at `walk[own + f * stride]`, in shared memory where registers are short, else in a local array.
TAP_W, TAP_H, LINE, TOP, LEFT, PLACE = range(6)
ROW_FIELDS = 4  # the last four, once for each row


@inlined
def inside(position, size, mode):
    """Map a position outside of [0, size) to the one that the padding mode repeats there; zeros stay outside."""
    if mode == int32(T.REFLECT):
        position = int32(-position) if position < 0 else position
        position = int32(2 * (size - 1) - position) if position >= size else position
    elif mode == int32(T.REPLICATE):
        position = int32(0) if position < 0 else position
        position = int32(size - 1) if position >= size else position
    elif mode == int32(T.CIRCULAR):
        position = int32(position + size) if position < 0 else position
        position = int32(position - size) if position >= size else position
    return position


@inlined
def phase_of_block(table, zero):
    """Give (slice, group, place of the phase's fields) of this block. `zero` is 0: a `fresh` one computes them anew."""
    block = uint32(uint32(cuda.blockIdx.z) + uint32(zero))
    count = uint32(uint32(table[T.GROUPS]) * uint32(table[T.PHASES]))
    slice_ = uint32(block // count)
    index = int32(block - uint32(slice_ * count))
    group = int32(index // table[T.PHASES])
    return int32(slice_), group, int32(T.HEADER + int32(int32(index - int32(group * table[T.PHASES])) * T.PHASE_FIELDS))


@inlined
def tile_of_block(zero):
    """Give the tile of this block, (row, column): blocks that share rows of x run at the same time."""
    columns = uint32(uint32(cuda.gridDim.y) + uint32(zero))
    block = uint32(uint32(cuda.blockIdx.x) + uint32(uint32(cuda.blockIdx.y) * uint32(cuda.gridDim.x)))
    row = uint32(block // columns)
    return int32(row), int32(block - uint32(row * columns))


@inlined
def split_row(table, fields, row):
    """Split a row of the product into (sample, position on H, position on W)."""
    width = uint32(load_int(table, fields, T.ROWS_W))
    plane = uint32(uint32(load_int(table, fields, T.ROWS_H)) * width)
    sample = uint32(uint32(row) // plane)
    rest = uint32(uint32(row) - uint32(sample * plane))
    h = uint32(rest // width)
    return int32(sample), int32(h), int32(rest - uint32(h * width))


@inlined
def start_walk(table, fields, first, step, rows, limit, walk, own, stride):
    """Find what the rows `first + r * step` read at tap (0, 0): line `LINE + TOP`, column `LEFT` of x."""
    store_int(walk, own, TAP_W * stride, int32(-1))
    store_int(walk, own, TAP_H * stride, int32(0))
    for r in range(rows):
        m = int32(first + r * step)
        sample, h, w = split_row(table, fields, m)
        line = int32(sample * table[T.SIZE_H]) if m < limit else int32(-1)
        h = int32(h * load_int(table, fields, T.STRIDE_H) - load_int(table, fields, T.LO_H))
        w = int32(w * load_int(table, fields, T.STRIDE_W) - load_int(table, fields, T.LO_W))
        store_int(walk, own, (LINE + r * ROW_FIELDS) * stride, line)
        store_int(walk, own, (TOP + r * ROW_FIELDS) * stride, h)
        store_int(walk, own, (LEFT + r * ROW_FIELDS) * stride, w)


@inlined
def place_row(table, ended, down, along, height, width, walk, at, stride, masked):
    """Find the address of channel 0 that one row, whose fields stand at `at`, reads `down` and `along` from its first.

    OUTSIDE where nothing is read.
    """
    line = load_int(walk, at, LINE * stride)
    h = int32(load_int(walk, at, TOP * stride) + down)
    w = int32(load_int(walk, at, LEFT * stride) + along)
    if masked:
        h = inside(h, height, table[T.PADDING_MODE])
        w = inside(w, width, table[T.PADDING_MODE])
    outside = ended | (line < 0) | (uint32(h) >= uint32(height)) | (uint32(w) >= uint32(width))
    place = int32(int32(int32(int32(line + h) * width) + w) * table[T.C_IN])
    return int32(OUTSIDE) if outside else place


@inlined
def place_rows(table, fields, tap_h, tap_w, rows, walk, own, stride, address, masked):
    """Find the address of channel 0 at a tap, for each row."""
    height, width = table[T.SIZE_H], table[T.SIZE_W]
    down = int32(tap_h * load_int(table, fields, T.DILATION_H))
    along = int32(tap_w * load_int(table, fields, T.DILATION_W))
    ended = tap_h >= load_int(table, fields, T.TAPS_H)
    if rows <= 2:
        for r in range(rows):
            at = int32(own + r * ROW_FIELDS * stride)
            address[r] = place_row(table, ended, down, along, height, width, walk, at, stride, masked)
    else:  # in a loop, which a walk in registers does not allow: it is seldom run, and a quarter of the code
        at = own
        last = fresh(int32(own + (rows - 1) * ROW_FIELDS * stride))
        more = True
        while more:
            place = place_row(table, ended, down, along, height, width, walk, at, stride, masked)
            store_int(walk, at, PLACE * stride, place)
            more = at != last
            at = int32(at + ROW_FIELDS * stride)
        for r in range(rows):
            address[r] = load_int(walk, own, (PLACE + r * ROW_FIELDS) * stride)


@inlined
def advance(table, fields, channel, step, end, rows, walk, own, stride, address, masked):
    """Take `step` steps of the reduction: over channels, the group's last of which is before `end`, then taps.

    Returns the channel.
    """
    channel = int32(channel + step)
    if channel >= end:
        channels, taps_w = table[T.C_IN_GROUP], load_int(table, fields, T.TAPS_W)
        tap_w, tap_h = load_int(walk, own, TAP_W * stride), load_int(walk, own, TAP_H * stride)
        while channel >= end:
            channel = int32(channel - channels)
            tap_w = int32(tap_w + 1)
            if tap_w == taps_w:
                tap_w = int32(0)
                tap_h = int32(tap_h + 1)
        store_int(walk, own, TAP_W * stride, tap_w)
        store_int(walk, own, TAP_H * stride, tap_h)
        place_rows(table, fields, tap_h, tap_w, rows, walk, own, stride, address, masked)
    return channel


@inlined
def copy_left(
    shared, to, row_step, half_step, halves, x, table, fields, channel, end, rows, walk, own, stride, address, chunk,
    masked,
):  # fmt: skip
    """Copy this thread's chunks of a left slice, one of each half, each after the step that leads to it.

    A chunk is `chunk` numbers that follow each other in the reduction, 16 bytes; the thread's next is two chunks on.
    Masked: they are copied one by one, for channels that `chunk` does not divide, or padding that is not zeros.
    Returns the channel.
    """
    last = fresh(
        int32(to + (halves - 1) * half_step)
    )  # a number of turns that the compiler knows would unroll the loop
    more = True
    while more:
        if masked:
            number = int32(0)
            while number < int32(chunk):
                step = int32(chunk + 1) if number == int32(0) else int32(1)
                channel = advance(table, fields, channel, step, end, rows, walk, own, stride, address, masked)
                for r in range(rows):
                    start = int32(address[r] + channel)
                    if chunk == 4:
                        copy4(shared, int32(to + number), r * row_step, x, start, address[r] != OUTSIDE)
                    else:
                        row = int32(to + r * row_step)
                        copy_half(shared, int32(2 * row + number), x, start, address[r] != OUTSIDE)
                number = int32(number + 1)
        else:
            channel = advance(table, fields, channel, int32(2 * chunk), end, rows, walk, own, stride, address, masked)
            for r in range(rows):
                copy16(shared, to, r * row_step, x, int32(address[r] + channel), address[r] != OUTSIDE)
        more = to != last
        to = int32(to + half_step)
    return channel


@inlined
def copy_half(shared, to, x, start, valid):
    """Copy one 16-bit number to place `to`, counted in such numbers; zero where it is not valid."""
    word = uint16(0)
    if valid:
        word = load_half(x, start, 0)
    store_half(shared, to, word)


@inlined
def copy_right(shared, to, to_step, weight, place, table, end, copies, rows, takes_part):
    """Copy this thread's chunks of a right slice, `rows` rows apart; zeros from the end of the group's weights on.

    Returns where its chunks of the next slice start.
    """
    step = int32(rows * table[T.WEIGHT_ROW_STEP])
    for q in range(copies):
        if takes_part:
            copy16(shared, to, q * to_step, weight, place, place < end)
        place = uint32(place + uint32(step))
    return place
