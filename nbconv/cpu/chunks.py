"""How the reduction is cut into chunks: the terms whose weights are in cache together."""

from __future__ import annotations

from . import tables as T

__all__ = ["cut_reduction", "cut_rows", "even_cuts"]


def even_cuts(length: int, pieces: int) -> list[tuple[int, int]]:
    """Cut `range(length)` into nearly equal parts, as the loops do."""
    return [(length * i // pieces, length * (i + 1) // pieces) for i in range(pieces)]


def cut_reduction(
    taps: int, fuse: int, channels: int, may_part_channels: bool, limit: int, fitting: int
) -> tuple[list[list[int]], int, int]:
    """Cut `taps`, `fuse` of them a segment, of so many channels each, into chunks of at most `limit` terms.

    A chunk has no more than `fitting` taps. Give the chunks, and of the longest panel row its taps and, where channels
    were parted, the channels of each; else 0.
    """
    if taps == 0:
        return [[0] * T.CHUNK_FIELDS], 1, 1
    if may_part_channels and channels > limit:
        parts = even_cuts(channels, -(-channels // limit))
        chunks = [_chunk(tap, tap + 1, fuse, channels, part) for tap in range(taps) for part in parts]
        return chunks, 1, max(high - low for low, high in parts)
    most = max(1, min(limit // channels, fitting))
    if most >= taps:
        cuts = [(0, taps)]
    elif fuse > most:
        parts = even_cuts(fuse, -(-fuse // most))
        cuts = [(first + low, first + high) for first in range(0, taps, fuse) for low, high in parts]
    else:
        segments = taps // fuse
        cuts = [(low * fuse, high * fuse) for low, high in even_cuts(segments, -(-segments // (most // fuse)))]
    chunks = [_chunk(tap, tap_end, fuse, channels, (0, channels)) for tap, tap_end in cuts]
    return chunks, max(tap_end - tap for tap, tap_end in cuts), 0


def cut_rows(taps_h: int, taps_w: int, channels: int, limit: int) -> list[list[int]]:
    """Cut taps that are segments into chunks of whole rows of the kernel, of at most `limit` terms, or one row."""
    most = max(1, limit // max(1, taps_w * channels))
    cuts = even_cuts(taps_h, -(-taps_h // most))
    chunks = [_chunk(low * taps_w, high * taps_w, 1, channels, (0, channels)) for low, high in cuts]
    return chunks or [[0] * T.CHUNK_FIELDS]


def _chunk(tap: int, tap_end: int, fuse: int, channels: int, part: tuple[int, int]) -> list[int]:
    """Describe a chunk of whole segments, or of a part of one; fields as in `tables`."""
    low, high = part
    segment, inner = divmod(tap, fuse)
    segments = max(1, (tap_end - tap) // fuse)
    run = (tap_end - tap) // segments * (high - low)
    return [segment, segment + segments, run, inner * channels + low, tap, tap_end, low, high]
