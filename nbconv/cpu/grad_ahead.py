"""What grad_weight asks for ahead: while one chunk of positions is reduced, the lines of the next come into L2.

A tile reads a few numbers of each position, far apart, which no processor fetches ahead by itself: whatever a chunk is
the first to touch, its tiles would wait for. A *column* is one line of each position of the next chunk. Some tiles of a
chunk ask for a column together, a line at every few terms of their own reduction, so that no more is asked for at once
than can be on its way.
"""

from __future__ import annotations

from ..runtime.jit import helper
from . import grad_tables as G

__all__ = ["AHEAD_FIELDS", "look_ahead", "next_lines", "tiles_to_ask"]

_WIDE, _NARROW, _WIDE_COLUMNS, _POSITIONS, _TILES, _NEXT, AHEAD_FIELDS = range(7)


@helper
def look_ahead(ahead, chunk, chunks, wide_at, narrow_at, call):
    """Prepare to ask for a chunk, for a block whose channels begin at these places; for nothing behind the last.

    Borders and padding count as if data lay there: it does not matter what is asked for.
    """
    ahead[_TILES] = ahead[_NEXT] = 0
    if call[G.ASKS] == 0 or chunk >= chunks:
        return
    if call[G.PIECES] > 1:
        line, piece = divmod(chunk, call[G.PIECES])
        first = call[G.OUT_W] * piece // call[G.PIECES]
        ahead[_POSITIONS] = call[G.OUT_W] // call[G.PIECES]
    else:
        line, first = chunk * call[G.LINES_PER_CHUNK], 0
        ahead[_POSITIONS] = call[G.OUT_W] * call[G.LINES_PER_CHUNK]
    sample, out_h = divmod(line, call[G.OUT_H])
    # Of the lines that the rows of the kernel meet, the last is new.
    row = min(out_h * call[G.STRIDE_H] - call[G.LO_H] + call[G.REACH_H] - 1, call[G.SIZE_H] - 1)
    column = max(first * call[G.STRIDE_W] - call[G.LO_W], 0)
    ahead[_WIDE] = wide_at + sample * call[G.WIDE_N] + row * call[G.WIDE_H] + column * call[G.WIDE_W]
    ahead[_NARROW] = narrow_at + sample * call[G.NARROW_N] + out_h * call[G.NARROW_H] + first * call[G.NARROW_W]
    ahead[_WIDE_COLUMNS] = call[G.WIDE_LINES] * min(call[G.STRIDE_W], call[G.REACH_W])
    ahead[_TILES] = (ahead[_WIDE_COLUMNS] + call[G.NARROW_LINES]) * call[G.PACE]


@helper
def tiles_to_ask(ahead):
    """Count the tiles that are yet to ask."""
    return ahead[_TILES] - ahead[_NEXT]


@helper
def next_lines(ahead, tiles, call):
    """Give the lines of the next tiles, at most so many: the first, the step between them, whose, and how many tiles.

    Lines are those of one column. Whose: whether they are the wide operand's.
    """
    column, part = divmod(ahead[_NEXT], call[G.PACE])
    together = min(tiles, call[G.PACE] - part)
    ahead[_NEXT] += together
    first = part * ahead[_POSITIONS] // call[G.PACE]
    if column < ahead[_WIDE_COLUMNS]:
        pixel, line = divmod(column, call[G.WIDE_LINES])
        step = call[G.STRIDE_W] * call[G.WIDE_W]
        return ahead[_WIDE] + pixel * call[G.WIDE_W] + line * call[G.LINE] + first * step, step, True, together
    start = ahead[_NARROW] + (column - ahead[_WIDE_COLUMNS]) * call[G.LINE]
    return start + first * call[G.NARROW_W], call[G.NARROW_W], False, together
