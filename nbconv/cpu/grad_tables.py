"""The integers that the planner of grad_weight hands to its loops: one name for each column, as in `tables`.

The *wide* operand is the one that taps shift over (x of a convolution, grad_output of a transposed one), the *narrow*
one has a position for each window. Channels are those of one group, or of several that were merged.
"""

from __future__ import annotations

import itertools

_next = itertools.count().__next__

# The call: one row.
PARTS = _next()  # of the reduction, each summed by itself
BLOCKS = _next()  # of the weight; a job is one of them, or one part of one
APART = _next()  # 1: parts are jobs of their own, and added at the end
TOTAL = _next()  # numbers of all blocks
CHUNKS = _next()  # of the reduction: lines, or pieces of lines, whose rows are in cache together
LINES, OUT_H, OUT_W = _next(), _next(), _next()  # narrow positions
PIECES, LINES_PER_CHUNK = _next(), _next()
SIZE_H, SIZE_W = _next(), _next()  # wide positions
STRIDE_H, STRIDE_W, DILATION_H, DILATION_W, LO_H, LO_W, REACH_W = (_next() for _ in range(7))
PADDING_MODE, HALF = _next(), _next()
WIDE_N, WIDE_H, WIDE_W, WIDE_C = (_next() for _ in range(4))  # steps
NARROW_N, NARROW_H, NARROW_W, NARROW_C = (_next() for _ in range(4))
GATHERED = _next()  # 1: operands are copied to panels first, for half types and channels that lie apart
PACKED = _next()  # numbers of a row of the narrow panel, which then holds tiles of columns, one after the other; or 0
SWAPPED = _next()  # 1: the rows of tiles are narrow channels, the columns wide ones
TIED = _next()  # 1: depthwise; the rows are taps, the columns channels of both operands
WINDOWS = _next()  # vectors of depthwise tiles that take all rows of the kernel, of lines that all of them meet; or 0
C_WIDE, C_NARROW = _next(), _next()
GROUP_WIDE, GROUP_NARROW = _next(), _next()  # channels of an unmerged group
WIDTH, WIDEST = _next(), _next()  # numbers of a vector, vectors of a tile
GRAD_FIRST, GRAD_SECOND, GRAD_H, GRAD_W = (_next() for _ in range(4))  # steps of the result
KERNEL_W = _next()
WIDE_LINES, NARROW_LINES = _next(), _next()  # of a pixel, that are asked for ahead
ASKS = _next()  # tiles of a strip that ask for the next chunk, of positions enough; 0: all is near
PACE = _next()  # terms of such a tile for each line that it asks for
LINE = _next()  # numbers of a cache line
REACH_H = _next()
STORE = _next()  # how sums become the result: BY_NUMBER, TRANSPOSED, BY_ROW
STORE_TOGETHER = _next()  # rows of the result that are stored at once, in whole vectors, TRANSPOSED
SUMS_SIZE, WIDE_PANEL_SIZE, NARROW_PANEL_SIZE, SCRATCH_SIZE, MAX_LINES = (_next() for _ in range(5))
NEXT_SUMS = _next()  # where in its scratch a job sums all parts but the first
CALL_FIELDS = _next()

_next = itertools.count().__next__

# A segment: taps of one kernel row, and narrow positions of a line for which the wide pixels of each tap lie evenly.
SEGMENT_TAP, SEGMENT_TAP_END = _next(), _next()
SEGMENT_FIRST, SEGMENT_END = _next(), _next()  # narrow positions
SEGMENT_PIXEL, SEGMENT_PIXEL_STEP = _next(), _next()  # wide pixel of the first of them, and from one to the next
SEGMENT_FIELDS = _next()

_next = itertools.count().__next__

# A block of the weight.
BLOCK_GROUP = _next()
BLOCK_ROW, BLOCK_ROW_END = _next(), _next()  # kernel rows
BLOCK_TAP, BLOCK_TAP_END = _next(), _next()  # of each of them
BLOCK_WIDE, BLOCK_WIDE_END = _next(), _next()  # wide channels
BLOCK_CHANNEL, BLOCK_CHANNEL_END = _next(), _next()  # narrow
BLOCK_OFFSET = _next()
BLOCK_FIELDS = _next()

BY_NUMBER, TRANSPOSED, BY_ROW = range(3)
