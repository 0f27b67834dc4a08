"""Which tile kernel computes a tile: chosen once for each plan, compiled on first use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..geometry import Axis
from ..runtime.microkernel import (
    DOT,
    Slide,
    far_kernel,
    rim_kernel,
    short_kernel,
    sliding_kernel,
    spreading_kernel,
    tile_kernel,
)
from .strips import Margins
from .tiles import SHORT_RUNS, spreading_terms

__all__ = ["Kernels"]


@dataclass(frozen=True)
class Kernels:
    """What the choice of a kernel depends on, the same for all tiles of a plan."""

    kind: int
    dtype: np.dtype
    slides: bool
    """Whether windows slide along rows of x."""
    spreads: bool
    """Whether these are windows of tiles that are not depthwise."""
    fits: bool
    """Whether tiles that reach over the rim of x are made for it."""
    step: int
    """From one column of x to the next where no other channels lie between; else 0."""
    even: bool
    """Whether windows have one row, and rows of x and of y lie alike."""
    far_rows: int
    """Rows of the kernel that meet lines of x first, where tiles that slide ask for these ahead; else 0."""
    streams: bool
    """Whether tiles write past the caches: outputs that nobody looks at before they have left them."""
    far_weights: bool
    written_out: bool
    """Whether dense tiles meet the terms of a run, all of them, one after the other in both operands."""
    widths: set[int]
    """Of tiles of columns, in vectors."""
    widest: int
    rows: int

    def slide_along(self, w: Axis, run: int) -> bool:
        """Say whether depthwise windows slide, along an axis, in runs of so many terms."""
        return self.slides and not self.spreads and run == w.taps > 0

    def list_addresses(self, w: Axis, run: int, margins: Margins | None, tile_sizes: Iterable[int]) -> list[int]:
        """Compile the kernels of these numbers of rows; list addresses for all widths and numbers of rows up to most.

        Tiles of one run of terms, or 0 where runs differ, have these `margins`, or do not slide at all.
        """
        reaches_over = self.fits and margins is not None and any(margins)
        slides = (margins is not None and (self.spreads or self.slide_along(w, run))) or reaches_over
        slide = Slide(w.taps, w.stride, w.dilation, *(margins or ())) if slides else None
        kernels = np.zeros((self.widest + 1, self.rows + 1), np.int64)
        for rows in tile_sizes:
            if slide is not None and not (self.spreads or self.fits):
                kernels[:, rows] = sliding_kernel(self.dtype, slide, rows, self.even, self.far_rows, self.streams)
            else:
                for vectors in self.widths:
                    kernels[vectors, rows] = self._address(slide, run, rows, vectors)
        return list(map(int, kernels.ravel()))

    def _address(self, slide: Slide | None, run: int, rows: int, vectors: int) -> int:
        far = self.far_weights and vectors > 1
        if slide is not None and self.fits:
            return rim_kernel(self.dtype, self.kind, slide, rows, vectors, far, self.streams)
        if slide is not None:
            terms = spreading_terms(run)
            is_far = self.far_rows > 0 and self.kind != DOT  # dot products ask for x in any case
            return spreading_kernel(self.dtype, self.kind, slide, terms, self.step, rows, vectors, is_far)
        if self.written_out and run in SHORT_RUNS and vectors == 1:
            return short_kernel(self.dtype, self.kind, run, rows, self.streams)
        if far:
            return far_kernel(self.dtype, self.kind, rows, vectors)
        return tile_kernel(self.dtype, self.kind, rows, vectors, self.streams)
