"""Tile sizes and blocking, as data: numbers that were measured, each with its reason.

A tile holds `rows` x `vectors` accumulators in registers. `vectors` more hold a row of weights; the factor of the
other operand comes straight from memory (AVX-512) or takes one register more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..geometry import Axis
from ..runtime.microkernel import DENSE, DEPTHWISE, DOT, NARROW, grouped
from ..runtime.target import host_target

__all__ = [
    "FAR_POSITIONS",
    "MOST_SLIDING_COLUMNS",
    "SHORT_RUNS",
    "Blocking",
    "blocking",
    "dense_kind",
    "full_tiles",
    "is_better_sliding",
    "is_crowded",
    "is_far_slow",
    "is_small_group",
    "max_dot_columns",
    "max_dot_rows",
    "max_grouped_rows",
    "max_grouped_vectors",
    "max_narrow_rows",
    "max_reducing_vectors",
    "max_rows",
    "max_vectors",
    "packing_pays",
    "pitch_apart",
    "rim_grows",
    "rims_fit",
    "round_up",
    "rows_apart",
    "sets_apart",
    "sliding_rows",
    "split_columns",
    "spreading_rows",
    "spreading_terms",
]

# vectors in a tile -> rows, for 32 and for 16 vector registers. At least 8 accumulators hide the latency of the
# multiply-add on two units; more rows mean fewer loads of weights for each of them.
_DENSE_ROWS = {32: {1: 24, 2: 14, 3: 9, 4: 6}, 16: {1: 10, 2: 6, 3: 4}}
# A reduction over positions reads both operands from L2, a line of each few numbers: nearly square tiles read fewest.
_MOST_REDUCING_VECTORS = 3
# L1 keeps lines that lie a multiple of a way's size apart in one set, of 8 lines or more.
_WAY_BYTES, _ROWS_OF_A_SET = 4096, 8
# More lines of x than that in a set are read from L2 again, by a depthwise tile for each row of the window: then fewer
# rows, that wait for fewer of them, are faster.
_CROWD, _ROWS_IN_A_CROWD = 12, 7
# Rows of both operands of a depthwise tile that all lie in so few sets, or fewer, do not stay in L1 together.
_FEW_SETS = 4
# On halves of registers two multiply-adds start a cycle: rows as far as their addresses stay in registers.
_NARROW_ROWS = {1: 9, 2: 12, 3: 9, 4: 6}
# Dot tiles: columns -> rows. Each vector along the reduction is loaded once for all columns of its row.
_DOT_ROWS = {32: {1: 12, 2: 10, 3: 8, 4: 6, 5: 5, 6: 4, 7: 3, 8: 2}, 16: {1: 8, 2: 5, 3: 3, 4: 2}}
# A dot tile walks through its rows side by side. Where memory is the limit, it asks for no more at once than can be on
# its way; two rows share each load of the weights.
_DOT_BYTES, _LEAST_DOT_ROWS = 1024, 2
# Terms, in vectors, that pay for adding up the sums of more columns than half of a narrow tile's.
_DOT_VECTORS = 4
# Tiles of small groups: vectors -> rows. The rows of x stay in registers beside the sums.
_GROUPED_ROWS = {32: {1: 12, 2: 6}, 16: {1: 5, 2: 3}}
_GROUPS_IN_VECTOR = 2
# Depthwise tiles load one vector for each multiply-add, whatever their shape; these keep the weights in registers.
_DEPTHWISE_ROWS = {32: {1: 14, 2: 12, 3: 8, 4: 6}, 16: {1: 8, 2: 4, 3: 3}}
# Depthwise tiles that slide along a row: taps of the window -> rows, from the most, where registers hold one vector of
# each sum, the window's weights and, as LLVM schedules it, half of the row, to the fewest whose sums hide the latency.
_SLIDING_ROWS = {
    32: {3: (14, 11, 9, 7, 6, 5, 4), 5: (11, 9, 7, 6, 5, 4), 32: (8, 7, 6, 5, 4)},
    16: {3: (6, 5, 4), 5: (5, 4), 32: (4,)},
}
# Even ones of at most so many taps, where registers hold all of that: as few instructions as hide the latency, for the
# processor to look across more tiles.
_EVEN_TAPS, _EVEN_ROWS = 7, (7, 6, 5, 4)
# Tiles of dense columns, or small groups, that slide along a row: rows to choose from. Registers hold the sums, the
# weights of all taps, and two numbers of x; beside fewer sums of small groups, those of several terms.
_SPREADING_ROWS = 14, 11, 9, 7, 6, 5, 4
_SPREADING_SPARE, _SHUFFLING_SUMS = 2, 14
# Weights that do not fit there come from memory, for the fewest rows: so many vectors, of windows that do and do not
# move by single steps, are worth it.
_FAR_WEIGHTS = 36, 24
# Channels up to which ungrouped tiles slide: with more, a run over the taps of a row of the kernel is as fast, but for
# one vector of columns, which has a load for each multiply-add. So many terms of a tap are written out.
_FEW_CHANNELS = 4

# Tiles of fewer sums had better cross the ends of lines. Where a line has several: positions inside for each one of the
# rims, and tiles that reach over these, each with a kernel of its own: more of them where a rim is a large part of the
# line, and few taps make short kernels.
_LEAST_SUMS, _MOST_INSIDE, _MOST_REACHING = 8, 192, 4
_WIDE_RIM, _MOST_REACHING_WIDE, _SHORT_KERNEL = 4, 16, 9

# Numbers of weights whose rows, far apart, L2 does not keep -> positions of a call that pay for packing them.
_PACKING_PAYS = {1 << 18: 64, 1 << 17: 512}

# Cycles that gathering takes for each row of a window, whatever its length: index arithmetic and a call of memcpy.
_COPY_CYCLES = 40


class Blocking(NamedTuple):
    """Sizes in numbers (not bytes) that keep each operand in its cache."""

    reduction: int
    """Terms of the reduction taken at once: with one tile of columns they are the weights that stay in L2."""
    panel: int
    """Numbers of a panel of gathered rows: it shares L2 with those weights."""
    rows_span: int
    """Numbers of x that one job sweeps for every tile of columns."""
    near: int
    """Numbers of y that are still in L2, with what they were made of, when they are looked at again."""
    far: int
    """Numbers of x and y together beyond which they are not found in L2 again."""
    remote: int
    """Numbers of x and y together beyond which they are not found in L3 again: where they are, writing past the caches
    only costs."""
    row: int
    """Numbers of weights of a row of the kernel and a tile of columns that L2 holds beside the next ones."""
    resident: int
    """Numbers of weights up to which all of them stay in L2 beside what they meet."""
    uncached: int
    """Numbers of weights beyond which L2 does not hold them until the next call."""
    max_positions: int
    """Output positions of a job: enough to use each weight often, few enough to balance threads."""


def max_vectors() -> int:
    """Give the widest tile, in vector registers."""
    return max(_DENSE_ROWS[host_target().registers])


def max_reducing_vectors() -> int:
    """Give the widest tile of a reduction over positions, in vector registers."""
    return min(max_vectors(), _MOST_REDUCING_VECTORS)


def max_rows(vectors: int, depthwise: bool) -> int:
    """Give the rows of a full tile of that width."""
    return (_DEPTHWISE_ROWS if depthwise else _DENSE_ROWS)[host_target().registers][vectors]


def _sets(row_bytes: int) -> int:
    """Count the sets of L1 in which lines lie that are so many bytes apart."""
    return _WAY_BYTES // math.gcd(_WAY_BYTES, abs(row_bytes) or 1)


def rows_apart(rows: int, row_bytes: int) -> int:
    """Give the rows of a tile, at most so many, that do not push each other out of L1, so many bytes apart."""
    return min(rows, _ROWS_OF_A_SET * _sets(row_bytes))


def pitch_apart(row: int, rows: int, width: int, dtype: np.dtype) -> int:
    """Give the numbers from a packed row of `row` numbers to the next; a vector more where many `rows` share a set."""
    return row + width if rows_apart(rows, row * dtype.itemsize) < rows else row


def sets_apart(row_bytes: int) -> int:
    """Give the bytes after which rows so many apart come back to a set of L1, or 0 where they lie in many sets."""
    period = math.gcd(_WAY_BYTES, row_bytes)
    return period if period >= _WAY_BYTES // _FEW_SETS else 0


def max_narrow_rows(vectors: int) -> int:
    """Give the rows of a full tile on halves of registers."""
    return _NARROW_ROWS[vectors]


def sliding_rows(taps: int, even: bool = False) -> tuple[int, ...]:
    """List the rows of tiles that slide a window of so many taps, falling; none for one too long to write out."""
    if even and 0 < taps <= _EVEN_TAPS and host_target().registers == max(_SLIDING_ROWS):
        return _EVEN_ROWS
    fitting = [rows for most, rows in _SLIDING_ROWS[host_target().registers].items() if 0 < taps <= most]
    return fitting[0] if fitting else ()


def uncrowded(rows: tuple[int, ...], lines: int, step_bytes: int) -> tuple[int, ...]:
    """Leave those of `sliding_rows` that suit tiles whose first, largest, reads so many lines, so many bytes apart."""
    most = _ROWS_IN_A_CROWD if is_crowded(lines, step_bytes) else max(rows, default=0)
    return tuple(row for row in rows if row <= most)


def is_crowded(lines: int, step_bytes: int) -> bool:
    """Say whether lines so many bytes apart are more than the sets of L1 hold where they lie."""
    return lines > _CROWD * _sets(step_bytes)


def spreading_rows(taps: int, stride: int, vectors: int, step_bytes: int, is_group: bool) -> tuple[int, ...]:
    """List the rows of tiles of so many vectors that slide along a row, falling; none where that saves nothing.

    Columns of x lie so many bytes apart: a tile reaches over no more of them than L1 keeps together. One of small
    groups shuffles them, in registers of their own.
    """
    most = (host_target().registers - _SPREADING_SPARE) // max(1, vectors) - taps
    if taps * vectors <= _FAR_WEIGHTS[stride > 1]:
        most = max(most, _SPREADING_ROWS[-1])
    if is_group:
        most = min(most, _SHUFFLING_SUMS // max(1, vectors))
    columns = min(most * stride + taps, _CROWD * _sets(step_bytes))
    most = min(most, (columns - taps) // stride + 1)
    return tuple(rows for rows in _SPREADING_ROWS if rows <= most and stride < taps)


def is_better_sliding(channels: int, vectors: int, dtype: np.dtype) -> bool:
    """Say whether ungrouped tiles are faster where their window slides, of so many channels and vectors of columns."""
    return channels <= _FEW_CHANNELS or (vectors == 1 and channels * dtype.itemsize >= host_target().vector_bytes)


def spreading_terms(terms: int) -> int:
    """Give the terms of a tap that such tiles write out, of so many: all, or 0 for a loop."""
    return terms if terms <= _FEW_CHANNELS else 0


def max_grouped_rows(vectors: int) -> int:
    """Give the rows of a full tile of small groups."""
    return _GROUPED_ROWS[host_target().registers][vectors]


def max_grouped_vectors() -> int:
    """Give the widest tile of small groups, in vector registers."""
    return max(_GROUPED_ROWS[host_target().registers])


def max_dot_rows(columns: int, row_bytes: int = 0, taps: int = 1) -> int:
    """Give the rows of a full tile of dot products that reads so many bytes a row, each of them for so many taps."""
    most = taps * _DOT_BYTES // max(1, row_bytes)
    return min(_DOT_ROWS[host_target().registers][columns], max(_LEAST_DOT_ROWS, most))


def max_dot_columns(dtype: np.dtype, terms: int | None = None) -> int:
    """Give the most columns for which a dot tile wastes less than others: none without masked loads.

    Of so many terms, if that is said: to add up the lanes of its sums must not take as long as they do.
    """
    target = host_target()
    lanes = target.vector_bytes // dtype.itemsize
    if target.vector_bytes < 32:
        return 0
    # A narrow tile, where there is one, is as fast from half its columns on.
    is_short = terms is not None and terms < _DOT_VECTORS * lanes and dense_kind(1, dtype) == NARROW
    return min(lanes // (4 if is_short else 2), max(_DOT_ROWS[target.registers]))


def full_tiles(dtype: np.dtype) -> Iterator[tuple[str, int, int, int]]:
    """List the full tile of every width: the name of its kind, the kind, rows, vectors (of dot products: columns)."""
    registers = host_target().registers
    groups = [channels for channels in (2, 4, 8) if is_small_group(channels, dtype)]
    kinds = [("dense", DENSE, _DENSE_ROWS), ("depthwise", DEPTHWISE, _DEPTHWISE_ROWS)]
    kinds += [(f"groups of {channels}", grouped(channels), _GROUPED_ROWS) for channels in groups]
    for name, kind, rows in kinds:
        for vectors, full in rows[registers].items():
            yield name, kind, full, vectors
    for vectors in (1, 3):
        if dense_kind(vectors * host_target().vector_bytes // dtype.itemsize // 2, dtype) == NARROW:
            yield "narrow", NARROW, _NARROW_ROWS[vectors], vectors
    for columns in range(1, max_dot_columns(dtype) + 1):
        yield "dot", DOT, _DOT_ROWS[registers][columns], columns


def dense_kind(columns: int, dtype: np.dtype) -> int:
    """Choose dense tiles on whole registers or on halves, by the lanes that would lie idle in the last ones.

    Half of a register of 64 bytes costs half of a whole one where the processor works on halves anyway (Zen 4), and
    else as much: there halves pay only where they are all that is needed, by reading fewer weights.
    """
    target = host_target()
    width = target.vector_bytes // dtype.itemsize
    most = 2 * width if target.cpu == "znver4" else width
    idle = -columns % width >= width // 2
    return NARROW if target.vector_bytes == 64 and idle and columns <= most else DENSE


def is_small_group(channels: int, dtype: np.dtype) -> bool:
    """Say whether a vector holds several whole groups: a shuffle for each multiply-add beats lanes that lie idle."""
    lanes = host_target().vector_bytes // dtype.itemsize
    return channels > 0 and lanes % (_GROUPS_IN_VECTOR * channels) == 0


def is_far_slow() -> bool:
    """Say whether tiles wait for rows that lie far apart: not on Zen, whose L2 and L3 answer soon enough."""
    return not host_target().is_zen


def packing_pays(weights: int, positions: int) -> bool:
    """Say whether one call of so many positions had better pack so many weights that tiles could read in place."""
    return is_far_slow() and any(weights >= many and positions >= least for many, least in _PACKING_PAYS.items())


def rim_grows(rows: int, vectors: int, taps_h: int, row_terms: int, lanes: int) -> bool:
    """Weigh the copies that gather a tile's worth of rim against a tile of fewer rows, in cycles for each row.

    The window has `taps_h` rows of so many terms.
    """
    terms = taps_h * row_terms
    return terms * vectors > rows * (taps_h * _COPY_CYCLES + terms // lanes)


def rims_fit(w: Axis, rows: int, vectors: int) -> bool:
    """Say whether tiles of `rows` x `vectors` that do not cross the ends of a line, made for its rims, are worth it."""
    tiles = -(-w.out // rows)
    size = w.out // tiles if tiles else 0
    if size * vectors < _LEAST_SUMS:
        return False
    if tiles == 1:
        return True
    first, end = w.interior
    right = (w.out - 1) * w.stride - w.lo + (w.taps - 1) * w.dilation + 1 - w.size
    reaching_over = sum(-(-max(0, rim) // (size * w.stride)) for rim in (w.lo, right))
    rims = first + w.out - end
    is_wide = rims * _WIDE_RIM >= w.out and w.taps <= _SHORT_KERNEL
    return rims * _MOST_INSIDE >= w.out and reaching_over <= (_MOST_REACHING_WIDE if is_wide else _MOST_REACHING)


def split_columns(vectors: int, widest: int) -> list[int]:
    """Cut a row of vectors into tiles of nearly equal width: 5 of at most 4 make 3 + 2, not 4 + 1."""
    tiles = -(-vectors // widest)
    return [vectors // tiles + (i < vectors % tiles) for i in range(tiles)]


def round_up(number: int, step: int) -> int:
    """Give the least multiple of `step` that is not below `number`."""
    return -(-number // step) * step


def blocking(dtype: np.dtype) -> Blocking:
    """Give the cache blocking for `dtype` (float32 or float64), sized for an L2 of 1 MiB a core."""
    scale = 4 / dtype.itemsize
    return Blocking(
        reduction=int(1024 * scale),
        panel=int((1 << 17) * scale),
        rows_span=int(96 * 1024 * scale),
        near=int((1 << 15) * scale),
        far=int((1 << 19) * scale),
        remote=int((1 << 22) * scale),
        row=int(240 * 1024 * scale),
        resident=int((1 << 16) * scale),
        uncached=int((1 << 17) * scale),
        max_positions=512,
    )


# Terms of a tap that are written out for tiles of one vector: the small groups of networks. With more vectors a loop
# is as fast, and other lengths would be kernels without end.
SHORT_RUNS = 8, 16

# Columns with which dot tiles slide: with more, registers would not hold the sums of enough rows.
MOST_SLIDING_COLUMNS = 4

# Positions of a job that pay for weights from beyond L2: with fewer, threads had better have columns of their own.
FAR_POSITIONS = 96
