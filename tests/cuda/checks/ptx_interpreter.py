"""Run a kernel's PTX on the CPU, all threads of many blocks at once as NumPy arrays.

`launch` raises `Fault` for what no correct kernel does: accesses out of bounds or misaligned, races in shared or global
memory, data of cp.async read before its wait, barriers that not all threads reach together, warp-wide instructions
without the whole warp, integer division by zero, kernels that do not end. An instruction whose meaning is not written
down raises NotImplementedError. Threads that parted go on with those furthest behind, and blocks with each other: they
share nothing but global memory, where no order between them is taken for granted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.cuda.checks import ptx_instructions
from tests.cuda.checks.ptx_memory import Buffer, Fault, GlobalMemory, LocalMemory, SharedMemory
from tests.cuda.checks.ptx_operands import Step
from tests.cuda.checks.ptx_parser import WIDTHS, Function, Instruction, parse

Array = NDArray[Any]

RUNNING, WAITING, WAITING_FOR_WARP, DONE = range(4)
MOST_SHARED = 227 * 1024  # bytes a block of sm_90, with the opt-in
THREADS_AT_ONCE = 4096  # Python's own work on an instruction is small against that of so many threads


@dataclass
class Report:
    """What a launch did: instructions executed, each once a block, and the rounds of its shared accesses."""

    steps: int = 0
    banks: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """By instruction: executions counted, the rounds they took, the rounds they needed."""

    @property
    def conflicts(self) -> dict[str, float]:
        """Rounds for each one that was needed, of those shared accesses that took more."""
        return {text: took / needed for text, (_, took, needed) in self.banks.items() if took > needed}


class Program:
    """A parsed kernel, its instructions compiled to Python functions."""

    def __init__(self, text: str) -> None:
        self.function: Function = parse(text)
        self.slots = {name: slot for slot, name in enumerate(self.function.registers)}
        self.instructions = self.function.body
        self.targets = set(self.function.labels.values())
        self.shared_places, self.static_shared = _layout(self.function, "shared")
        self.local_places, self.local_size = _layout(self.function, "local")
        self._steps: dict[int, Step] = {}

    def step(self, at: int) -> Step:
        """Give an instruction's function, compiled at its first execution."""
        step = self._steps.get(at)
        if step is None:
            step = self._steps[at] = ptx_instructions.compile_step(self, self.instructions[at])
        return step

    def target(self, instruction: Instruction) -> int:
        """Place of a branch's label."""
        return self.function.labels[instruction.operands[0]]


def _layout(function: Function, space: str) -> tuple[dict[str, int], int]:
    """Place the variables of a space one after the other, those whose size the launch decides at the end."""
    places, end = {}, 0
    variables = [(name, v) for name, v in function.variables.items() if v.space == space]
    for name, variable in sorted(variables, key=lambda item: item[1].size == 0):
        end = -(-end // variable.align) * variable.align
        places[name] = end
        end += variable.size
    return places, end


@lru_cache(maxsize=64)
def program_of(text: str) -> Program:
    """Parse PTX text, once."""
    return Program(text)


class Block:
    """The state of blocks of threads that run together: threads are numbered through all of them."""

    def __init__(
        self,
        program: Program,
        memory: GlobalMemory,
        parameters: dict[str, Any],
        blocks: Sequence[Sequence[int]],
        grid: Sequence[int],
        shape: Sequence[int],
        dynamic_shared: int,
        report: Report,
    ) -> None:
        self.program, self.memory, self.parameters, self.report = program, memory, parameters, report
        self.each = int(np.prod(shape))
        self.threads = self.each * len(blocks)
        self.thread = np.arange(self.threads)
        index = np.ravel_multi_index(tuple(np.array(blocks).T[::-1]), tuple(grid)[::-1])
        self.thread_of_grid = (self.each * index[:, None] + np.arange(self.each)).reshape(-1)
        self.shared = SharedMemory(program.static_shared + dynamic_shared, len(blocks), self.each)
        self.local = LocalMemory(program.local_size, self.threads)
        self.registers: list[Array] = [
            np.zeros(self.threads, bool if kind == "pred" else f"u{WIDTHS[kind]}")
            for kind in program.function.registers.values()
        ]
        self.arguments: dict[str, Array] = {}
        self.copies: list[tuple[Array, Array, Array, Array]] = []  # cp.async: threads, their group, places, data
        self.groups = np.zeros(self.threads, np.int64)  # committed so far
        self.special = self._special(blocks, grid, shape, dynamic_shared)

    def _special(
        self, blocks: Sequence[Sequence[int]], grid: Sequence[int], shape: Sequence[int], dynamic: int
    ) -> dict[str, Array]:
        thread = self.thread % self.each
        tid = np.unravel_index(thread, tuple(shape)[::-1])[::-1]
        ctaid = np.repeat(np.array(blocks), self.each, 0).T
        values: dict[str, Any] = {"%laneid": thread % 32, "%dynamic_smem_size": dynamic, "WARP_SZ": 32}
        for axis, *numbers in zip("xyz", tid, ctaid, shape, grid, strict=True):
            values.update(
                zip((f"%tid.{axis}", f"%ctaid.{axis}", f"%ntid.{axis}", f"%nctaid.{axis}"), numbers, strict=True)
            )
        return {name: np.broadcast_to(np.asarray(v, np.uint32), self.threads) for name, v in values.items()}

    def run(self, most_steps: int) -> None:
        """Run to the end."""
        at = np.zeros(self.threads, np.int64)
        state = np.full(self.threads, RUNNING)
        while True:
            running = state == RUNNING
            if not running.any():
                if (state == DONE).all():
                    return
                self._release(at, state)
                continue
            here = int(at[running].min())
            group = running & (at == here)
            self._run_group(here, None if group.all() else group, at, state, most_steps)

    def _release(self, at: Array, state: Array) -> None:
        """Let the blocks go on whose threads all wait at a barrier, the same one; the others have ended."""
        if (state == WAITING_FOR_WARP).any():
            raise Fault("divergent barrier: part of a warp waits for the rest")
        waiting, places = (state == WAITING).reshape(-1, self.each), at.reshape(-1, self.each)
        here = waiting.any(1)
        if not waiting[here].all():
            raise Fault("divergent barrier: some threads wait at it, others have left the kernel")
        if (places[here] != places[here, :1]).any():
            raise Fault("divergent barrier: threads wait at different ones")
        self.shared.barrier()
        state[waiting.reshape(-1)] = RUNNING

    def _wait_for_warp(self, arrived: Array, at: Array, state: Array) -> None:
        """Let threads wait until their whole warp has come; shared memory is taken to be unordered all the same."""
        state[arrived] = WAITING_FOR_WARP
        for first in range(0, self.threads, 32):
            warp = slice(first, first + 32)
            if (state[warp] == WAITING_FOR_WARP).all() and (at[warp] == at[first]).all():
                state[warp] = RUNNING

    def _run_group(self, here: int, group: Array | None, at: Array, state: Array, most_steps: int) -> None:
        """Run threads that stand at the same place until they part, wait, end, or may meet others."""
        program, instructions = self.program, self.program.instructions
        everyone = np.ones(self.threads, bool)
        members = everyone if group is None else group
        blocks = int(members.reshape(-1, self.each).any(1).sum())
        while True:
            if here >= len(instructions):
                state[members] = DONE
                return
            instruction = instructions[here]
            self.report.steps += blocks
            if self.report.steps > most_steps:
                raise Fault(f"the kernel does not end within {most_steps} instructions")
            mask = group
            if instruction.guard:
                chosen = self.registers[program.slots[instruction.guard]]
                chosen = ~chosen if instruction.negated else chosen
                mask = chosen if group is None else group & chosen
                mask = None if mask.all() else mask
            name = instruction.opcode[0]
            if name in ("bra", "ret", "exit"):
                taken = everyone if mask is None else mask
                target = program.target(instruction) if name == "bra" else len(instructions)
                if mask is None or (taken == members).all():
                    here = target
                elif not taken.any():
                    here += 1
                else:
                    at[members], at[taken] = here + 1, target
                    return
            elif name in ("bar", "barrier"):
                if instruction.opcode[1:] == ("warp", "sync"):
                    if mask is not None:
                        at[members] = here + 1
                        self._wait_for_warp(mask, at, state)
                        return
                elif _is_barrier(instruction) and mask is None:
                    self.shared.barrier()
                else:
                    at[members] = here + 1
                    state[mask] = WAITING
                    return
                here += 1
            else:
                if mask is None or mask.any():
                    try:
                        program.step(here)(self, mask)
                    except Fault as fault:
                        raise Fault(f"{fault}; at: {instruction}") from None
                here += 1
            if group is not None and here in program.targets:
                at[members] = here
                return


def _is_barrier(instruction: Instruction) -> bool:
    known = ("bar", "sync"), ("barrier", "sync"), ("barrier", "sync", "aligned")
    if instruction.opcode not in known or instruction.operands != ("0",):
        raise NotImplementedError(str(instruction))
    return True


def launch(
    text: str,
    grid: Sequence[int],
    block: Sequence[int],
    arguments: Sequence[Any],
    memory: GlobalMemory,
    *,
    dynamic_shared: int = 0,
    most_steps: int = 5_000_000,
) -> Report:
    """Run a kernel to its end.

    Parameters
    ----------
    text
        PTX with one kernel.
    grid, block
        Blocks and threads, (x, y, z).
    arguments
        Buffers of `memory` (one-dimensional arrays) and numbers, as numba-cuda would be given them.
    memory
        The global arrays.
    dynamic_shared
        Bytes.
    most_steps
        Instructions of a block after which a kernel counts as one that does not end.

    Raises
    ------
    Fault
        For what no correct kernel does.
    NotImplementedError
        For an instruction whose meaning is not written down.
    """
    program, report = program_of(text), Report()
    flat: list[Any] = []
    for argument in arguments:
        flat += _array_fields(argument) if isinstance(argument, Buffer) else [argument]
    parameters = dict(zip(program.function.parameters, flat, strict=True))
    if program.static_shared + dynamic_shared > MOST_SHARED:
        raise Fault(f"{program.static_shared + dynamic_shared} bytes of shared memory; a block has {MOST_SHARED}")
    if int(np.prod(block)) > _most_threads(text):
        raise Fault(f"{int(np.prod(block))} threads a block; the kernel was compiled for {_most_threads(text)}")
    with np.errstate(all="ignore"):
        blocks = [(x, y, z) for z, y, x in product(*map(range, reversed(grid)))]
        each = int(np.prod(block))
        # Warps that are not whole would run into the next block's.
        count = max(1, THREADS_AT_ONCE // each) if each % 32 == 0 else 1
        for first in range(0, len(blocks), count):
            some = blocks[first : first + count]
            state = Block(program, memory, parameters, some, grid, block, dynamic_shared, report)
            try:
                state.run(report.steps + len(some) * most_steps)
            except Fault as fault:
                raise Fault(f"blocks {some[0]} to {some[-1]}: {fault}") from None
    return report


def _array_fields(buffer: Buffer) -> list[int]:
    """Give numba-cuda's fields of an array: meminfo, parent, nitems, itemsize, data, shape, strides."""
    array = buffer.array
    return [0, 0, array.size, array.itemsize, buffer.base, *array.shape, *array.strides]


def _most_threads(text: str) -> int:
    bound = re.search(r"\.maxntid\s+(\d+)(?:,\s*(\d+))?(?:,\s*(\d+))?", text)
    return int(np.prod([int(n) for n in bound.groups() if n])) if bound else 1024
