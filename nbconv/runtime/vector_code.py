"""Vectors in LLVM IR: the few operations that tile kernels are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils

__all__ = ["I32", "I64", "VectorCode"]

_SHUFFLED_BYTES = 16
I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)


class VectorCode:
    """Emits loads, stores and arithmetic on vectors of `width` numbers of one type."""

    def __init__(self, builder: Any, dtype: np.dtype, width: int) -> None:
        self.builder, self.width, self.size = builder, width, dtype.itemsize
        self.scalar = ir.FloatType() if dtype.itemsize == 4 else ir.DoubleType()
        self.vector = ir.VectorType(self.scalar, width)
        self.zero = ir.Constant(self.vector, None)
        self.name = f"v{width}f{8 * self.size}"
        self.lane = ir.Constant(ir.VectorType(I32, width), list(range(width)))

    def _call(self, name: str, result: Any, *arguments: Any) -> Any:
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), arguments)

    def pointer(self, address: Any, to: Any) -> Any:
        """Turn an integer into a pointer."""
        return self.builder.inttoptr(address, to.as_pointer())

    def at(self, start: Any, index: Any) -> Any:
        """Step `index` numbers from `start`: an int or a value."""
        return self.builder.gep(start, [I64(index) if isinstance(index, int) else index])

    def at_byte(self, start: Any, index: Any) -> Any:
        """Step `index` bytes from `start`."""
        place = self.builder.gep(self.builder.bitcast(start, I8.as_pointer()), [index])
        return self.builder.bitcast(place, start.type)

    def splat(self, value: Any, lane_type: Any) -> Any:
        """Spread a value over all lanes."""
        one = self.builder.insert_element(
            ir.Constant(ir.VectorType(lane_type, self.width), ir.Undefined), value, I32(0)
        )
        return self.builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(I32, self.width), [0] * self.width))

    def first_lanes(self, count: Any) -> Any:
        """Mask all lanes from `count` on."""
        return self.builder.icmp_signed("<", self.lane, self.splat(self.builder.trunc(count, I32), I32))

    def _place(self, address: Any) -> Any:
        return self.builder.bitcast(address, self.vector.as_pointer())

    # NumPy promises the alignment of one number, never of a vector: hence `align` everywhere.

    def load(self, address: Any, mask: Any = None, others: Any = None) -> Any:
        """Load a vector; lanes that `mask` leaves out are not read, and are zero, or those of `others`."""
        if mask is None:
            return self.builder.load(self._place(address), align=self.size)
        name = f"llvm.masked.load.{self.name}.p0"
        return self._call(name, self.vector, self._place(address), I32(self.size), mask, others or self.zero)

    def store(self, value: Any, address: Any, mask: Any = None) -> None:
        """Store a vector, or those lanes of it that `mask` names."""
        if mask is None:
            self.builder.store(value, self._place(address), align=self.size)
        else:
            name = f"llvm.masked.store.{self.name}.p0"
            self._call(name, ir.VoidType(), value, self._place(address), I32(self.size), mask)

    def stream(self, value: Any, address: Any) -> None:
        """Store a vector where a vector's alignment is known, past the caches.

        Other threads see it in order only once this one has called `memory.settle`.
        """
        stored = self.builder.store(value, self._place(address), align=self.width * self.size)
        stored.set_metadata("nontemporal", self.builder.module.add_metadata([I32(1)]))

    def prefetch(self, address: Any) -> None:
        """Ask for the line of an address, which need not be valid: into L2, which waits for more lines than L1."""
        place = self.builder.bitcast(address, I8.as_pointer())
        self._call("llvm.prefetch.p0", ir.VoidType(), place, I32(0), I32(2), I32(1))

    def broadcast(self, address: Any) -> Any:
        """Load one number into all lanes."""
        return self.splat(self.builder.load(address, align=self.size), self.scalar)

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        """Give ``a * b + c``, rounded once where the processor can."""
        return self._call(f"llvm.fmuladd.{self.name}", self.vector, a, b, c)

    def collect(self, addresses: list[Any]) -> Any:
        """Load a number into each of the first lanes."""
        vector = ir.Constant(self.vector, ir.Undefined)
        for lane, address in enumerate(addresses):
            vector = self.builder.insert_element(vector, self.builder.load(address, align=self.size), I32(lane))
        return vector

    def shuffle(self, value: Any, lanes: list[int], other: Any = None) -> Any:
        """Pick lanes of a vector, or of two in a row, by constant numbers."""
        other = value if other is None else other
        return self.builder.shuffle_vector(value, other, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))

    def near(self, group: int) -> int:
        """Give how many numbers of a group a shuffle reaches that does not cross from 16 bytes to others."""
        return min(group, _SHUFFLED_BYTES // self.size)

    def bring_near(self, value: Any, group: int, first: int) -> Any:
        """Bring `near` numbers of each group, from `first` on, to all 16 bytes where lanes of the group lie.

        Two steps, the first for all of these numbers, are faster than one for each that crosses from 16 bytes to
        others; LLVM would make one of them again.
        """
        near = self.near(group)
        if near == group:
            return value
        lanes = [lane // group * group + first + lane % near for lane in range(self.width)]
        return self._call(f"llvm.arithmetic.fence.{self.name}", self.vector, self.shuffle(value, lanes))

    def pick(self, value: Any, group: int, number: int) -> Any:
        """Spread a number of each group that was brought near over all lanes of the group."""
        near = self.near(group)
        return self.shuffle(value, [lane // near * near + number % near for lane in range(self.width)])

    def add_up(self, values: list[Any]) -> list[Any]:
        """Add all lanes of each vector; the sums are the lanes of as few vectors as hold them, zeros behind them.

        Halves are added to halves, in the same order for each vector. At each step two vectors, whose sums so far share
        lanes among them, become one.
        """
        share = self.width
        while share > 1:
            share //= 2
            values = [*values, self.zero] if len(values) % 2 else values
            places = [range(first, first + share) for first in range(0, 2 * self.width, share)]
            low, high = ([lane for place in places[i::2] for lane in place] for i in (0, 1))
            values = [
                self.builder.fadd(self.shuffle(one, low, other), self.shuffle(one, high, other))
                for one, other in zip(values[::2], values[1::2], strict=True)
            ]
        return values

    def hidden(self, value: Any) -> Any:
        """Give an integer or a pointer unchanged, as one of which LLVM knows nothing: an empty piece of assembly."""
        kind = ir.FunctionType(value.type, [value.type])
        return self.builder.call(ir.InlineAsm(kind, "", "=r,0"), [value])

    def phis(self, values: Any, block: Any) -> list[Any]:
        """Make a phi for each value, as it comes from `block`."""
        made = [self.builder.phi(value.type) for value in values]
        for phi, value in zip(made, values, strict=True):
            phi.add_incoming(value, block)
        return made
