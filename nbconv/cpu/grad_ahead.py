"""What grad_weight asks for ahead: while one chunk of positions is reduced, the lines of the next come into L2.

A tile reads a few numbers of each position, far apart, which no processor fetches ahead by itself: whatever a chunk is
the first to touch, its tiles would wait for. A *column* is one line of each position of the next chunk. Some tiles of a
chunk ask for a column each, a line at each term of their own reduction, so that no more is asked for at once than can
be on its way.
"""

from __future__ import annotations

from ..runtime.jit import helper
from . import grad_tables as G

__all__ = ["AHEAD_FIELDS", "columns_left", "look_ahead", "next_column"]

_WIDE, _NARROW, _WIDE_RUN, _WIDE_COLUMNS, _COLUMNS, _NEXT, AHEAD_FIELDS = range(7)


@helper
def look_ahead(ahead, chunk, chunk_end, wide_at, wide_run, narrow_at, narrow_run, call):
    """Prepare to ask for a chunk, of whose positions a block reads so many numbers; for nothing behind the last.

    Borders and padding count as if data lay there: it does not matter what is asked for.
    """
    ahead[_COLUMNS] = ahead[_NEXT] = 0
    if call[G.ASKS] == 0 or chunk >= chunk_end:
        return
    if call[G.PIECES] > 1:
        line, piece = divmod(chunk, call[G.PIECES])
        first = call[G.OUT_W] * piece // call[G.PIECES]
    else:
        line, first = chunk * call[G.LINES_PER_CHUNK], 0
    sample, out_h = divmod(line, call[G.OUT_H])
    # Of the lines that the rows of the kernel meet, the last is new.
    row = min(out_h * call[G.STRIDE_H] - call[G.LO_H] + call[G.REACH_H] - 1, call[G.SIZE_H] - 1)
    column = max(first * call[G.STRIDE_W] - call[G.LO_W], 0)
    ahead[_WIDE] = wide_at + sample * call[G.WIDE_N] + row * call[G.WIDE_H] + column * call[G.WIDE_W]
    ahead[_NARROW] = narrow_at + sample * call[G.NARROW_N] + out_h * call[G.NARROW_H] + first * call[G.NARROW_W]
    ahead[_WIDE_RUN] = -(-wide_run // call[G.LINE])
    ahead[_WIDE_COLUMNS] = ahead[_WIDE_RUN] * min(call[G.STRIDE_W], call[G.REACH_W])
    ahead[_COLUMNS] = ahead[_WIDE_COLUMNS] + -(-narrow_run // call[G.LINE])


@helper
def columns_left(ahead):
    """Count what no tile has asked for yet."""
    return ahead[_COLUMNS] - ahead[_NEXT]


@helper
def next_column(ahead, call):
    """Give where the next column begins, from one of its lines to the next, and whether it is the wide operand's."""
    column = ahead[_NEXT]
    ahead[_NEXT] += 1
    if column < ahead[_WIDE_COLUMNS]:
        pixel, line = divmod(column, ahead[_WIDE_RUN])
        start = ahead[_WIDE] + pixel * call[G.WIDE_W] + line * call[G.LINE]
        return start, call[G.STRIDE_W] * call[G.WIDE_W], True
    return ahead[_NARROW] + (column - ahead[_WIDE_COLUMNS]) * call[G.LINE], call[G.NARROW_W], False
