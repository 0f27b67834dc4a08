"""Strips: how a line of output positions is cut into runs of tiles, by the planner, and listed, by the loops."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..runtime.integers import larger, smaller
from ..runtime.jit import helper
from ..runtime.memory import copy_run
from . import tables as T

__all__ = [
    "FIRST", "GATHERED", "KERNELS", "LAST", "LINES", "PANEL", "PART", "POSITION", "ROWS", "SEGMENT", "SEGMENT_END",
    "STRIP_FIELDS", "SUMS", "TERM", "TERM_END", "TILES", "WIDE", "Margins", "Strip", "X", "Y", "cut_line",
    "line_reach", "list_strips", "take_group",
]  # fmt: skip

# Fields of a strip: a run of tiles of the same number of rows that lie evenly in x, or in the panel. The planner gives
# those up to POSITION, which is counted from the start of a block there; its segments are those of a whole line. Some
# LINES of an image have the same run, each below the other.
(
    ROWS, TILES, PART, KERNELS, TERM, TERM_END, SEGMENT, SEGMENT_END, POSITION, X, Y, LINES, PANEL, SUMS, STRIP_FIELDS
) = range(15)  # fmt: skip
_PLANNED = X
# In PART: first and last strip of these outputs; read from the panel; multiplied by all columns of a job at once.
FIRST, LAST, GATHERED, WIDE = 1, 2, 4, 8
_ALL_TERMS = (1 << 63) - 1
_TILE_COST = 1  # rows that would take as long as a tile of none
_MOST_MARGINS, _MOST_RIMS = 4, 8  # kernels that one line is worth, and one that has a rim for each so many positions

Margins = tuple[int, int]
"""How many columns of x, of those that a sliding tile reaches over, lie in the padding on its left and right."""


class Strip(NamedTuple):
    """A strip as it is planned."""

    rows: int
    tiles: int
    part: int
    margins: Margins | None
    """Of tiles that may slide; None for plain ones."""
    term: int
    term_end: int
    segment: int
    segment_end: int
    position: int

    def fields(self, kernels: dict[Margins | None, int]) -> list[int]:
        """Give the fields up to POSITION, with the place of the kernels for the margins."""
        return [*self[:3], kernels[self.margins], *self[4:]]


def cut_line(
    start: int, stop: int, is_open: bool, call: list[int], row: list[int], sizes: Sequence[int]
) -> Iterator[Strip]:
    """Cut positions `[start, stop)` of a line of the phase `row`; one that is not `is_open` is gathered throughout.

    Where tiles slide, they have as many rows as one of `sizes` says.
    """
    rows = call[T.ROWS]
    first = end = stop
    if is_open:
        first = min(max(start, row[T.W_FIRST]), stop)
        end = min(max(first, row[T.W_END]), stop)
        if call[T.WHOLE_TILES]:
            # The gathered rims grow to whole tiles: one of few rows would cost more than copies.
            cuts = [*(place for place, _ in _even_tiles(start, stop, rows)), stop]
            first = min(cut for cut in cuts if cut >= first)
            end = max(first, *(cut for cut in cuts if cut <= end))
    per_row = row[T.TAPS_W] // row[T.SEGMENT_TAPS]
    whole = 0, _ALL_TERMS, 0, row[T.TAPS_H] * per_row

    # Of a long kernel, taps are left out that meet no data in a cell of positions, which block and tile do not cross:
    # which zeros an output adds, and so the sign of its own, must not depend on how work is cut.
    trims = call[T.PANEL_LINES] == 1 and call[T.OPEN] != T.CLOSED and row[T.TAPS_W] > rows

    def part_of_line(place: int) -> tuple[int, int, int, int]:
        # The terms and segments that meet data in some position of a cell.
        cell = place - place % rows
        lefts = [m * row[T.STRIDE_W] - row[T.LO_W] for m in (cell, min(cell + rows, row[T.OUT_W]) - 1)]
        first, last = (_real_taps(left, row[T.DILATION_W], row[T.TAPS_W], call[T.X_W]) for left in lefts)
        tap, tap_end = last[0], max(last[0], first[1])
        c = call[T.GROUP_CHANNELS]
        return (tap * c, tap_end * c, 0, 1) if per_row == 1 else (0, _ALL_TERMS, tap, tap_end)

    def strips(tiles: Iterable[tuple[int, int, Margins | None]], most: int, part: int) -> Iterator[Strip]:
        # Of tiles, given by place, rows and margins, those that lie one below the other and take as much are one strip.
        numbered = (
            (place - i * size, size, margins, part_of_line(place) if trims and part & GATHERED else whole, place)
            for i, (place, size, margins) in enumerate(tiles)
        )
        for (_, size, margins, reduction), alike in itertools.groupby(numbered, lambda tile: tile[:4]):
            places, together = [tile[4] for tile in alike], max(1, most // size)
            for i in range(0, len(places), together):
                count = min(together, len(places) - i)
                yield Strip._make((size, count, part, margins, *reduction, places[i] - start))

    def run(low: int, high: int, most: int, part: int, margins: Margins | None) -> Iterator[Strip]:
        tiles = _even_tiles(low, high, rows)
        if trims and part & GATHERED:
            cells = range(low - low % rows, high, rows)
            tiles = [tile for cell in cells for tile in _even_tiles(max(low, cell), min(high, cell + rows), rows)]
        return strips(((place, size, margins) for place, size in tiles), most, part)

    def slide(low: int, high: int) -> Iterator[Strip]:
        # Tiles of one size: the last may write outputs that the one before it wrote too.
        fitting = [size for size in sizes if size <= min(rows, high - low)]
        if not fitting:
            return run(low, high, rows, FIRST | LAST, None)
        size = min(fitting, key=lambda size: -(-(high - low) // size) * (size + _TILE_COST))
        places = (min(place, high - size) for place in range(low, high, size))
        part = FIRST | LAST | (WIDE if call[T.WIDE] else 0)
        tiles = ((place, size, _margins(place, size, call, row)) for place in places)
        return strips(tiles, call[T.STRIP_ROWS], part)

    if call[T.FITS]:
        tiles = ((place, size, _margins(place, size, call, row)) for place, size in _even_tiles(start, stop, rows))
        yield from strips(tiles, call[T.STRIP_ROWS], FIRST | LAST)
        return
    if call[T.OVERLAP]:
        all_along, rims = list(slide(start, stop)), row[T.W_FIRST] + row[T.OUT_W] - row[T.W_END]
        most = _MOST_MARGINS if rims * _MOST_RIMS < row[T.OUT_W] else 2 * _MOST_MARGINS
        if all(strip.margins for strip in all_along) and len({strip.margins for strip in all_along}) <= most:
            yield from all_along
            return
    panel_rows = call[T.PANEL_ROWS]
    if call[T.PANEL_LINES]:
        reach = line_reach(row[T.STRIDE_W], row[T.TAPS_W], row[T.DILATION_W])
        panel_rows = (panel_rows - reach) // row[T.STRIDE_W]
    for low, high in (start, first), (end, stop):
        if call[T.OPEN] == T.ALL_OPEN:
            for place in range(low, high):
                yield from _edge(place, place - start, call, row)
        else:
            yield from run(low, high, min(call[T.SCRATCH_ROWS], panel_rows), FIRST | LAST | GATHERED, None)
        if low == start and call[T.OVERLAP]:
            yield from slide(first, end)
        elif low == start:
            yield from run(first, end, call[T.STRIP_ROWS], FIRST | LAST, (0, 0))


def _even_tiles(low: int, high: int, most: int) -> list[tuple[int, int]]:
    """Cut positions `[low, high)` into as few tiles as can be; give where they begin, and their rows.

    The first of them are one row longer: a last one of few rows is slow.
    """
    if high <= low:
        return []
    count = -(-(high - low) // most)
    size, longer = divmod(high - low, count)
    return [(low + i * size + min(i, longer), size + (i < longer)) for i in range(count)]


def _margins(place: int, rows: int, call: list[int], row: list[int]) -> Margins:
    """Give the margins of a tile that begins at position `place`."""
    left = place * row[T.STRIDE_W] - row[T.LO_W]
    span = (rows - 1) * row[T.STRIDE_W] + (row[T.TAPS_W] - 1) * row[T.DILATION_W] + 1
    return min(max(0, -left), span), min(max(0, left + span - call[T.X_W]), span)


def _edge(place: int, position: int, call: list[int], row: list[int]) -> Iterator[Strip]:
    """List the strips of one position: a run of taps of each row of the kernel, those that meet data."""
    left = place * row[T.STRIDE_W] - row[T.LO_W]
    tap, tap_end = _real_taps(left, row[T.DILATION_W], row[T.TAPS_W], call[T.X_W])
    per_row, c = row[T.TAPS_W] // row[T.SEGMENT_TAPS], call[T.GROUP_CHANNELS]
    if per_row == 1:
        yield Strip(1, 1, FIRST | LAST, None, tap * c, tap_end * c, 0, row[T.TAPS_H], position)
        return
    last = max(0, row[T.TAPS_H] - 1)
    for h in range(last + 1):
        part = (FIRST if h == 0 else 0) | (LAST if h == last else 0)
        yield Strip(1, 1, part, None, 0, _ALL_TERMS, h * per_row + tap, h * per_row + tap_end, position)


def _real_taps(place: int, dilation: int, taps: int, size: int) -> tuple[int, int]:
    """Give the range of the taps at `place + tap * dilation` that meet data, `[0, size)`."""
    first = smaller(larger(0, -(place // dilation)), taps)
    return first, larger(first, smaller(taps, (size - place + dilation - 1) // dilation))


_real_taps_compiled = helper(_real_taps)


def line_reach(stride, taps, dilation):
    """Give the columns that some positions reach over, more than their number times the stride."""
    return (taps - 1) * dilation + 1 - stride


_line_reach_compiled = helper(line_reach)


@helper
def list_strips(notes, x_start, y_start, block, plan, phase):
    """List the strips of one block of positions at the start of `notes`; give where they end."""
    line, part = divmod(block, plan[phase + T.BLOCKS_PER_LINE])
    line *= plan[phase + T.LINES_PER_BLOCK]
    per_row = plan[phase + T.TAPS_W] // plan[phase + T.SEGMENT_TAPS]
    at, end = 0, smaller(line + plan[phase + T.LINES_PER_BLOCK], plan[phase + T.LINES])
    while line < end:
        sample, out_h = divmod(line, plan[phase + T.OUT_H])
        top = out_h * plan[phase + T.STRIDE_H] - plan[phase + T.LO_H]
        x_line = x_start + sample * plan[T.X_STEP_N] + top * plan[T.X_STEP_H] - plan[phase + T.LO_W] * plan[T.X_STEP_W]
        y_line = y_start + plan[phase + T.Y_OFFSET] + sample * plan[T.Y_STEP_N] + out_h * plan[phase + T.Y_STEP_H]
        cut = plan[phase + T.CUTS] + 2 * part
        tap, tap_end, together = 0, plan[phase + T.TAPS_H], 1
        if plan[T.OPEN] != T.CLOSED:
            tap, tap_end = _real_taps_compiled(top, plan[phase + T.DILATION_H], tap_end, plan[T.X_H])
        elif out_h < plan[phase + T.H_FIRST] or out_h >= plan[phase + T.H_END]:
            cut = plan[phase + T.CLOSED_CUTS] + 2 * part
        if plan[phase + T.H_FIRST] <= out_h < plan[phase + T.H_END]:
            # All rows of the kernel meet data, as on the next lines of this image.
            together = smaller(plan[phase + T.H_END] - out_h, smaller(end - line, plan[phase + T.LINES_TOGETHER]))
        for strip in range(plan[cut], plan[cut + 1], _PLANNED):
            copy_run(notes, at, plan, strip, _PLANNED)
            # Rows of the kernel that meet no data are left out.
            notes[at + SEGMENT] = larger(notes[at + SEGMENT], tap * per_row)
            notes[at + SEGMENT_END] = smaller(notes[at + SEGMENT_END], tap_end * per_row)
            position = notes[at + POSITION] + part * plan[phase + T.BLOCK]
            notes[at + X] = x_line + position * plan[phase + T.STRIDE_W] * plan[T.X_STEP_W]
            notes[at + Y] = y_line + position * plan[phase + T.Y_STEP_W]
            notes[at + LINES] = together
            notes[at + POSITION] = position + line * plan[phase + T.LINE_LENGTH]
            at += STRIP_FIELDS
        line += together
    return at


@helper
def take_group(notes, strip, end, plan, phase):
    """Find where the strips end that the panel and the scratch can serve at once, and give them their places."""
    gathered, held, place, behind = np.int64(0), 0, 0, np.int64(-1)
    # Windows take a row of the panel each; those of a line that overlap, the columns that they reach over.
    lines, step, reach = plan[T.PANEL_LINES], np.int64(1), np.int64(0)
    if lines:
        step = plan[phase + T.STRIDE_W]
        reach = _line_reach_compiled(step, plan[phase + T.TAPS_W], plan[phase + T.DILATION_W])
    while strip < end:
        # A further strip of the same outputs shares their place.
        rows = notes[strip + ROWS] * notes[strip + TILES] * notes[strip + LINES] if notes[strip + PART] & FIRST else 0
        needs, at = np.int64(0), gathered
        if notes[strip + PART] & GATHERED:
            needs = rows * step + reach
            if lines and notes[strip + POSITION] == behind and behind % plan[phase + T.OUT_W] > 0:
                at, needs = gathered - reach, needs - reach
        if gathered + needs > plan[T.PANEL_ROWS] or held + rows > plan[T.SCRATCH_ROWS]:
            break
        if rows:
            place = held
        if needs > 0:
            behind = notes[strip + POSITION] + rows
        notes[strip + PANEL] = at
        notes[strip + SUMS] = place
        gathered += needs
        held += rows
        strip += STRIP_FIELDS
    return strip
