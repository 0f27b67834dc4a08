"""How a line of output positions is cut: what the loops do, and what the planner must know of it."""

from __future__ import annotations

from ..runtime.jit import helper

__all__ = ["cut_line", "tile_rows"]


@helper
def cut_line(start, stop, first, end, rows, whole_tiles):
    """Give the part of `[start, stop)` that is read in place, of which `[first, end)` could be.

    With `whole_tiles` the gathered rims grow to full tiles of `rows`: a tile of few rows would cost more than copies.
    """
    first = min(max(start, first), stop)
    end = min(max(first, end), stop)
    if whole_tiles:
        first = min(stop, start + (first - start + rows - 1) // rows * rows)
        end = max(first, stop - (stop - end + rows - 1) // rows * rows)
    return first, end


def tile_rows(start: int, stop: int, first: int, end: int, rows: int, whole_tiles: bool) -> set[int]:
    """List the numbers of rows of the tiles that `[start, stop)` is cut into, read in place or gathered throughout."""
    cut = getattr(cut_line, "py_func", cut_line)
    first, end = cut(start, stop, first, end, rows, whole_tiles)
    found: set[int] = set()
    for length in (first - start, end - first, stop - end, stop - start):
        found |= {min(length, rows), length % rows} if length else set()
    return found - {0}
