"""Would the interpreter notice? Kernels with one mistake each must fault, or give wrong numbers.

A mutation that no longer finds its text fails: it must follow the source.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.cuda.lanes import needs_compiler

needs_compiler()

from nbconv.cuda import grad_gemm  # noqa: E402
from tests.cases import Case  # noqa: E402
from tests.cuda.checks.artifacts import artifacts  # noqa: E402
from tests.cuda.checks.listing import Entry, entries  # noqa: E402
from tests.cuda.checks.mutants import Mutation, mutated  # noqa: E402
from tests.cuda.checks.problems import Problem, SliceProblem  # noqa: E402
from tests.cuda.checks.ptx_memory import Fault  # noqa: E402
from tests.cuda.checks.shapes import layer  # noqa: E402
from tests.cuda.checks.toolchain import compile_kernel  # noqa: E402
from tests.helpers import DTYPES  # noqa: E402

# Rows, columns and reduction end inside of tiles; groups, strides, dilations and lines of the image all differ.
DENSE = layer("conv2d", (2, 7, 9, 16), (24, 8, 3, 3), groups=2, stride=(1, 2), dilation=(2, 1), padding=(2, 1))
PHASES = layer("conv_transpose1d", (2, 21, 8), (8, 12, 7), stride=3, padding=2, output_padding=1)
ODD = layer("conv1d", (2, 35, 6), (22, 3, 3), groups=2, padding=((3, 1),), stride=2)
REFLECTED = layer("conv1d", (2, 35, 8), (12, 8, 4), padding=3, padding_mode="reflect")
LONG = layer("conv1d", (2, 400, 12), (12, 1, 3), groups=12, padding=1)
LAYERED = layer("conv2d", (2, 5, 19, 8), (8, 1, 3, 3), groups=8, padding=(1, 2), dilation=(1, 2))


class Mutant(NamedTuple):
    """A mistake, the kernel that has it, and the problems of which one at least must show it."""

    mutation: Mutation
    kernel: str
    cases: tuple[Case, ...] = (DENSE,)
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.kernel}: {self.mutation.name}"


def _mutant(name: str, module: str, old: str, new: str, kernel: str, *cases: Case, **options: Any) -> Mutant:
    times = options.pop("times", 1)
    return Mutant(Mutation(name, f"cuda.{module}", old, new, times), kernel, cases or (DENSE,), **options)


CORE, LOADS, TILE, MASKED = "gemm_core", "gemm_loads", "ffma_64x64", "ffma_64x64_masked"
SYNC = "        cuda.syncthreads()\n"
H, W = (f"load_int(table, fields, T.{{}}_{axis})" for axis in "HW")
MUTANTS = [
    # Order between threads.
    _mutant("no barrier in the loop", CORE, SYNC + "        write =", "        write =", TILE),
    _mutant("no barrier after the loop", CORE, "    copy_wait0()\n    cuda.syncthreads()\n", "    copy_wait0()\n",
            TILE),
    _mutant("no barrier before shares are read", CORE, "    cuda.syncthreads()\n    if thread < half",
            "    if thread < half", TILE),
    _mutant("no barrier after shares are read", CORE, "+= four[j]\n    cuda.syncthreads()\n", "+= four[j]\n", TILE),
    _mutant("no barrier in the finish", CORE, SYNC + "        finish_rows(", "        finish_rows(", TILE),
    _mutant("no barrier between rounds of the finish", CORE, SYNC + "        base =", "        base =",
            "ffma_128x64"),
    _mutant("waits for too few copies", CORE, "            copy_wait0()\n", "            copy_wait1()\n", TILE),
    _mutant("waits for no copies, three stages", CORE, "            copy_wait1()\n", "            copy_commit()\n",
            "tf32_64x64"),
    _mutant("barrier of some threads", CORE, SYNC + "        write =",
            "        if thread < 96:\n            cuda.syncthreads()\n        write =", TILE),
    _mutant("copies into the slice that is read", CORE, "write = next_stage(read, stage_size, stages, stages - 1)",
            "write = read", TILE),
    _mutant("the ring does not close", CORE, "int32(stage_size - stage)", "int32(stage_size + stage)", TILE),
    # Ends.
    _mutant("no tail of the reduction", CORE, "first_step) + (depth - 1)) // depth", "first_step)) // depth", TILE),
    _mutant("stores one row too many", CORE, "if m < limit else int32(-1)", "if m <= limit else int32(-1)", TILE),
    _mutant("reads one row too many", LOADS, "m < limit else", "m <= limit else", TILE, PHASES),
    _mutant("stores columns beyond the group", CORE, "        if column < limit:\n            b0, b1",
            "        if column <= limit:\n            b0, b1", TILE),
    _mutant("reads weights beyond the end", LOADS, "weight, place, place < end)", "weight, place, True)", TILE),
    # Padding.
    _mutant("padding on W inverted", LOADS, "uint32(w) >= uint32(width)", "uint32(w) < uint32(width)", TILE),
    _mutant("padding on H signed", LOADS, "uint32(h) >= uint32(height)", "h >= height", TILE),
    _mutant("padding not filled with zeros", LOADS, "[r] + channel), address[r] != OUTSIDE)",
            "[r] + channel), True)", TILE),
    _mutant("reflects about the edge", "integers", "int32(size - int32(1)) - position)", "size - position)",
            "product_wide", REFLECTED),
    # Places.
    _mutant("strides swapped", LOADS, W.format("STRIDE"), H.format("STRIDE"), TILE),
    _mutant("channels of the first group", LOADS, "int32(group * table[T.C_IN_GROUP])", "int32(0)",
            TILE),
    _mutant("outputs of the first phase", CORE, W.format("OUT_START") + " + ", "", TILE, PHASES),
    _mutant("16 bytes where 4 are aligned", "intrinsics", "[$1+$5], 4, $2", "[$1+$5], 16, $2", MASKED, ODD),
    _mutant("copies numbers of the tap before", LOADS, "wanted = uint32(int32(channel + i)) < uint32(channels)",
            "wanted = int32(channel + i) < channels", MASKED, ODD),
    _mutant("a chunk's last number left out", LOADS, "uint32(int32(channel + (chunk - 1)))",
            "uint32(int32(channel + (chunk - 2)))", MASKED, ODD),
    _mutant("only half of the rows", LOADS, "            more = at != own\n            at = int32(at - 2",
            "            more = False\n            at = int32(at - 2", "ffma_256x32_masked", ODD),
    _mutant("chunks not swizzled", CORE, "int32(int32(thread ^ (thread >> 3)) & 1)", "int32(thread & 1)", TILE),
    # Other kernels.
    _mutant("no barrier", "grad_core", "            cuda.syncthreads()\n", "", "grad_64x64"),
    _mutant("positions of the next slice", "grad_core", "    limit = min(limit, int32(first + rows_of_slice))\n", "",
            "grad_64x64"),
    _mutant("shares are not joined", "grad_core", "        join_shares(shared, sums, thread, threads)\n", "",
            "grad_64x64"),
    _mutant("both shares are stored", "grad_gemm", "    if own_row >= m_tile:\n        return\n", "", "grad_64x64"),
    _mutant("adds the slice twice", "grad_core", "            read = next_stage(read, stage_size, stages, 1)\n", "",
            "grad_64x64"),
    _mutant("swizzled otherwise than read", "tensor_fragments", "HALF_SHIFT = 8, 7, 0", "HALF_SHIFT = 8, 3, 0",
            "bf16_64x64"),
    _mutant("reads beyond the last row", "general", "if row < rows:", "if row <= rows:", "product_wide", PHASES),
    _mutant("writes beyond the last row", "general", "end = min(rows, int32(first + int32(ROWS)))",
            "end = int32(first + int32(ROWS))", "product_wide"),
    _mutant("the window stands still", "depthwise", "window[j, k] = window[j + 1, k]", "window[j, k] = window[j, k]",
            "slide", LAYERED),
    _mutant("channels in a wrong lane", "depthwise", "if block_row >= block_rows or channel >= c_in:",
            "if channel >= c_in:", "slide", LONG),
]  # fmt: skip

ENTRIES = {entry.kernel.py_func.__name__: entry for entry in reversed(entries())}


def run(entry: Entry, ptx: str, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Interpret a kernel of any family on a case: gives what came out and what should have."""
    if entry.family == "grad_gemm":
        slices = SliceProblem(case)
        geometry = slices.geometry
        rows = 2 * grad_gemm.DEPTH
        count = -(-geometry.n * int(np.prod(geometry.output_shape[1:-1])) // rows)
        blocks, threads = grad_gemm.launch(geometry, entry.tile, rows)
        return slices.run(ptx, (blocks, (threads, 1, 1), 0), count, rows)[0], slices.expected()
    problem = Problem(case, DTYPES[entry.dtype], residual=True)
    return problem.run(ptx, entry.grid(problem.geometry))[0], problem.expected()


def shows(ptx: str, entry: Entry, case: Case) -> bool:
    """Say whether a run faults or gives wrong numbers."""
    try:
        result, expected = run(entry, ptx, case)
    except Fault:
        return True
    return not np.array_equal(result, expected)


USED = {f"{mutant.kernel} {case}": (mutant.kernel, case) for mutant in MUTANTS for case in mutant.cases}


@pytest.mark.parametrize(("kernel", "case"), list(USED.values()), ids=str)
def test_real_kernels_show_nothing(kernel: str, case: Case) -> None:
    entry = ENTRIES[kernel]
    assert not shows(artifacts(entry.kernel, entry.types).ptx(), entry, case)


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_mutants_are_caught(mutant: Mutant) -> None:
    entry = ENTRIES[mutant.kernel]
    module = entry.kernel.py_func.__module__.removeprefix("nbconv.")
    with mutated(mutant.mutation, module) as changed:
        kernel = getattr(changed, entry.kernel.py_func.__name__)
        ptx = compile_kernel(kernel, entry.types).ptx()
    assert any(shows(ptx, entry, case) for case in mutant.cases)


def test_mutations_must_find_their_text() -> None:
    with (
        pytest.raises(LookupError, match="0 times"),
        mutated(Mutation("", "cuda.gemm", "no such text", ""), "cuda.gemm"),
    ):
        pass
