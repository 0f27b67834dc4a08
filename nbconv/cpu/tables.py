"""The integers that the planner hands to the loops: one name for each field of each kind of row.

A plan is one flat int64 array, one argument and no specialisation: the call's row at its start, and behind it the rows
that the call and the phases point to. Offsets and strides count numbers, not bytes.
"""

from __future__ import annotations

import itertools

_next = itertools.count().__next__

# The call: one row, at 0.
COLUMN_BLOCKS = _next()  # a job is one block of positions and one block of columns
OPEN = _next()  # CLOSED, LINES or ALL: which taps that meet no data are left out
OVERLAP = _next()  # 1: a line's last tile may write outputs that the one before it wrote too (read by the planner)
FITS = _next()  # 1: tiles are made for the rim that they reach over (read by the planner)
HALF = _next()  # storage of x and y: NOT_HALF, FLOAT16, BFLOAT16
PADDING_MODE = _next()  # index in geometry.PADDING_MODES
REPEAT = _next()  # output channels for each input channel, depthwise
GROUP_CHANNELS = _next()  # channels of x in the reduction of one output
ROWS = _next()  # rows of a full tile
PANEL_ROWS, PANEL_SIZE = _next(), _next()
PANEL_LINES = _next()  # 1: the panel's rows are columns of lines; else windows
PANEL_TERM = _next()  # from one term to the next in a panel's row, or 0: as many as the row has channels
SCRATCH_ROWS = _next()
EXCHANGE = _next()  # sums are held apart, behind the panel, and `loops.exchange_rows`, here, writes them; or NOTHING
STRIP_ROWS = _next()  # at most, of those read in place
FAR = _next()  # 1: weights come from beyond L2, and tiles ask for them ahead
STREAMS = _next()  # 1: outputs are written past the caches
WIDE = _next()  # 1: strips of tiles that slide are multiplied by all columns of a job at once
WORK_SIZE, NOTES_SIZE = _next(), _next()  # of each worker: numbers; strips and, from PANEL_SEGMENTS on, segments
PANEL_SEGMENTS = _next()
WHOLE_TILES = _next()  # 1: gathered rims are full tiles
X_H, X_W = _next(), _next()  # sizes
X_STEP_N, X_STEP_H, X_STEP_W, X_STEP_C = _next(), _next(), _next(), _next()
COPIED = _next()  # 1: a job copies the lines of x that it reads, and the steps above are the copy's
SOURCE_N, SOURCE_H, SOURCE_W = _next(), _next(), _next()  # steps of x itself, where it is copied
Y_STEP_N, Y_STEP_POSITION, Y_STEP_C = _next(), _next(), _next()
OUT_CHANNELS = _next()  # a merged phase has a multiple of them, position after position
PHASES = _next()  # where rows of phases begin
TURNS = _next()  # 1: one phase after the other; else so many take turns, job by job
KERNEL_ROW = _next()  # a kernel's address stands at a strip's KERNELS + vectors * KERNEL_ROW + rows
X_SEGMENTS, W_SEGMENTS, SEGMENTS = _next(), _next(), _next()  # W_SEGMENTS + vectors * SEGMENTS + segment
CALL_FIELDS = _next()

_next = itertools.count().__next__

# A phase: one row each; positions of a phase form lines, which tiles do not cross.
JOB_END = _next()  # the phase's jobs end before this one; where phases take turns, they are so many
LINES, LINE_LENGTH = _next(), _next()
BLOCK, BLOCKS_PER_LINE = _next(), _next()  # a long line is cut into blocks of positions
LINES_PER_BLOCK = _next()  # several short lines make one; else 1
LINES_TOGETHER = _next()  # of those, at most, that one call of a kernel serves
CUTS, CLOSED_CUTS = _next(), _next()  # where, for each block of a line, its strips begin and end; if it is gathered
OUT_H, OUT_W = _next(), _next()
H_FIRST, H_END, W_FIRST, W_END = _next(), _next(), _next(), _next()  # positions whose rows are read in place
STRIDE_H, STRIDE_W, DILATION_H, DILATION_W, LO_H, LO_W = (_next() for _ in range(6))
TAPS_H, TAPS_W = _next(), _next()
SEGMENT = _next()  # its first one in the tables of segments
SEGMENT_TAPS = _next()  # taps that one segment fuses: one, or a row of the kernel
X_TERM = _next()  # from one term of a segment to the next, in x
CHUNK, CHUNK_END = _next(), _next()  # where its rows of chunks stand
WEIGHT_START = _next()
COLUMN, COLUMN_END = _next(), _next()  # where its rows of columns stand
Y_OFFSET, Y_STEP_H, Y_STEP_W = _next(), _next(), _next()
PHASE_FIELDS = _next()

_next = itertools.count().__next__

# A chunk of the reduction: the terms whose weights are in cache together.
CHUNK_SEGMENT, CHUNK_SEGMENT_END = _next(), _next()
CHUNK_RUN = _next()  # terms of each of its segments
CHUNK_K = _next()  # where in its segments it begins, in terms
CHUNK_TAP, CHUNK_TAP_END = _next(), _next()
CHUNK_CHANNEL, CHUNK_CHANNEL_END = _next(), _next()
CHUNK_FIELDS = _next()

_next = itertools.count().__next__

# A tile of columns.
VECTORS = _next()  # of its rows of packed weights
KERNEL_VECTORS = _next()  # that are computed
WEIGHT_TERM = _next()  # numbers from one term of the reduction to the next
COLUMNS = _next()  # valid ones
CHANNEL, CHANNEL_END = _next(), _next()  # channels of x that it reads
WEIGHT_OFFSET, WEIGHT_K = _next(), _next()
OUT_CHANNEL = _next()
COLUMN_FIELDS = _next()

NOT_HALF, FLOAT16, BFLOAT16 = range(3)
CLOSED, LINES_OPEN, ALL_OPEN = range(3)
