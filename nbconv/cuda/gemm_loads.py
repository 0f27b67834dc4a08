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
NEVER = -(2**31)  # a line that stays outside whatever tap is added
BEYOND = 2**31  # a place in the weights that stays beyond every end
# What a thread keeps of its walk, besides the channel and the rows' addresses, which change all the time: number `f`
# stands at `walk[own + f * stride]`, in shared memory where registers are short, else in a local array.
ALONG, TAP_H, BASE, TOP, LEFT, PLACE = range(6)
ROW_FIELDS = 4  # the last four, once for each row


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
def start_walk(table, fields, group, first, step, rows, limit, walk, own, stride):
    """Find what the rows `first + r * step` read at tap (0, 0): line `TOP`, column `LEFT`, from `BASE` on."""
    channel = int32(group * table[T.C_IN_GROUP])
    store_int(walk, own, ALONG * stride, int32(-load_int(table, fields, T.DILATION_W)))
    store_int(walk, own, TAP_H * stride, int32(0))
    for r in range(rows):
        m = int32(first + r * step)
        sample, h, w = split_row(table, fields, m)
        h = int32(h * load_int(table, fields, T.STRIDE_H) - load_int(table, fields, T.LO_H))
        w = int32(w * load_int(table, fields, T.STRIDE_W) - load_int(table, fields, T.LO_W))
        line = int32(int32(sample * table[T.SIZE_H]) + h)
        base = int32(int32(int32(line * table[T.SIZE_W]) + w) * table[T.C_IN])
        store_int(walk, own, (BASE + r * ROW_FIELDS) * stride, int32(base + channel))
        store_int(walk, own, (TOP + r * ROW_FIELDS) * stride, h if m < limit else int32(NEVER))
        store_int(walk, own, (LEFT + r * ROW_FIELDS) * stride, w)
        if rows > 2:  # then copies read it before the first tap
            store_int(walk, own, (PLACE + r * ROW_FIELDS) * stride, int32(OUTSIDE))


@inlined
def place_row(ended, down, along, further, height, width, walk, at, stride):
    """Find the address that one row, whose fields stand at `at`, reads `down` and `along` from its first.

    That is `further` numbers on; OUTSIDE where nothing is read.
    """
    h = int32(load_int(walk, at, TOP * stride) + down)
    w = int32(load_int(walk, at, LEFT * stride) + along)
    outside = ended | (uint32(h) >= uint32(height)) | (uint32(w) >= uint32(width))
    place = int32(load_int(walk, at, BASE * stride) + further)
    return int32(OUTSIDE) if outside else place


@inlined
def place_rows(table, fields, tap_h, along, rows, walk, own, stride, address):
    """Find the address of the group's channel 0 at a tap, for each row; the tap is `along` positions from the first."""
    height, width = table[T.SIZE_H], table[T.SIZE_W]
    down = int32(tap_h * load_int(table, fields, T.DILATION_H))
    further = int32(int32(int32(down * width) + along) * table[T.C_IN])
    ended = tap_h >= load_int(table, fields, T.TAPS_H)
    if rows == 1 or stride == 1:
        for r in range(rows):
            at = int32(own + r * ROW_FIELDS * stride)
            address[r] = place_row(ended, down, along, further, height, width, walk, at, stride)
    else:  # in a loop, which a walk in registers does not allow: it is seldom run, and would be much of the code
        at = fresh(int32(own + (rows - 1) * ROW_FIELDS * stride))
        more = True
        while more:
            place = place_row(ended, down, along, further, height, width, walk, at, stride)
            store_int(walk, at, PLACE * stride, place)
            more = at != own
            at = int32(at - ROW_FIELDS * stride)
        for r in range(rows):
            address[r] = load_int(walk, own, (PLACE + r * ROW_FIELDS) * stride)


@inlined
def next_tap(table, fields, channel, channels, rows, walk, own, stride, address):
    """Go to the next tap, and on until `channel` is one of the group's; returns it."""
    dilation, span = load_int(table, fields, T.DILATION_W), load_int(table, fields, T.SPAN_W)
    along, tap_h = load_int(walk, own, ALONG * stride), load_int(walk, own, TAP_H * stride)
    more = True
    while more:
        channel = int32(channel - channels)
        along = int32(along + dilation)
        if along == span:
            along = int32(0)
            tap_h = int32(tap_h + 1)
        more = channel >= channels
    store_int(walk, own, ALONG * stride, along)
    store_int(walk, own, TAP_H * stride, tap_h)
    place_rows(table, fields, tap_h, along, rows, walk, own, stride, address)
    return channel


@inlined
def copy_left(
    shared, to, row_step, half_step, halves, x, table, fields, channel, channels, rows, walk, own, stride, address,
    chunk, masked,
):  # fmt: skip
    """Copy this thread's chunks of a left slice, one of each half, each after the step that leads to it.

    A chunk is `chunk` numbers that follow each other in the reduction, 16 bytes; the thread's next is two chunks on.
    Masked, for channels that `chunk` does not divide: number by number, in a turn for each tap that the chunk meets.
    Returns the channel, and where the next half would go.
    """
    last = fresh(
        int32(to + (halves - 1) * half_step)
    )  # a number of turns that the compiler knows would unroll the loop
    more = True
    while more:
        channel = int32(channel + 2 * chunk)
        if masked:
            while True:  # of a tap that the step has left behind, no number
                copy_part(shared, to, row_step, x, channel, channels, rows, walk, own, stride, address, chunk)
                if uint32(int32(channel + (chunk - 1))) < uint32(channels):
                    break
                channel = next_tap(table, fields, channel, channels, rows, walk, own, stride, address)
        else:
            if channel >= channels:
                channel = next_tap(table, fields, channel, channels, rows, walk, own, stride, address)
            for r in range(rows):
                copy16(shared, to, r * row_step, x, int32(address[r] + channel), address[r] != OUTSIDE)
        more = to != last
        to = int32(to + half_step)
    return channel, to


@inlined
def copy_part(shared, to, row_step, x, channel, channels, rows, walk, own, stride, address, chunk):
    """Copy those numbers of a chunk that a tap has; its first would be `channel`, perhaps one of a tap before."""
    if rows <= 2:
        copy_numbers(shared, to, row_step, x, channel, channels, rows, address, chunk)
    else:  # two at a time, or it would be much of the code
        at = fresh(int32(own + (rows - 2) * ROW_FIELDS * stride))
        to = int32(to + (rows - 2) * row_step)
        more = True
        while more:
            for r in range(2):
                address[r] = load_int(walk, at, (PLACE + r * ROW_FIELDS) * stride)
            copy_numbers(shared, to, row_step, x, channel, channels, 2, address, chunk)
            more = at != own
            at = int32(at - 2 * ROW_FIELDS * stride)
            to = int32(to - 2 * row_step)


@inlined
def copy_numbers(shared, to, row_step, x, channel, channels, rows, address, chunk):
    """Copy the numbers of a chunk in `rows` rows that are channels; the first would be `channel`."""
    for r in range(rows):
        start, valid = int32(address[r] + channel), address[r] != OUTSIDE
        for i in range(chunk):
            wanted = uint32(int32(channel + i)) < uint32(channels)
            if chunk == 4:
                copy4(shared, to, r * row_step + i, x, start, valid, i, wanted)
            elif wanted:
                copy_half(shared, int32(2 * int32(to + r * row_step) + i), x, start, i, valid)


@inlined
def copy_half(shared, to, x, start, further, valid):
    """Copy one 16-bit number to place `to`, counted in such numbers; zero where it is not valid."""
    word = uint16(0)
    if valid:
        word = load_half(x, start, further)
    store_half(shared, to, word)


@inlined
def copy_right(shared, to, to_step, weight, place, step, end, copies, takes_part):
    """Copy this thread's chunks of a right slice, `step` numbers apart; zeros from the end of the group's weights on.

    Returns where its chunks of the next slice start.
    """
    for q in range(copies):
        if takes_part:
            copy16(shared, to, q * to_step, weight, place, place < end)
        place = uint32(place + step)
    return place
