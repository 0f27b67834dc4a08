"""Compile single PTX instructions to Python functions of (block, mask): reading operands, doing, writing registers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tests.cuda.checks.ptx_arithmetic import operation
from tests.cuda.checks.ptx_memory import Fault
from tests.cuda.checks.ptx_memory_steps import MEMORY_STEPS, count_banks
from tests.cuda.checks.ptx_operands import Step, active, address, need_whole_warps, reader, writer
from tests.cuda.checks.ptx_parser import WIDTHS, Instruction, elements
from tests.cuda.checks.ptx_warp import multiply, shuffle_sources, spread_matrices

if TYPE_CHECKING:
    from tests.cuda.checks.ptx_interpreter import Block, Program

Array = NDArray[Any]


def compile_step(program: Program, instruction: Instruction) -> Step:
    """Find what an instruction does.

    Raises
    ------
    NotImplementedError
        For one that is not known.
    """
    maker = SPECIAL.get(instruction.opcode[0], _arithmetic)
    try:
        return maker(program, instruction)
    except NotImplementedError as error:
        raise NotImplementedError(f"{instruction} ({error})") from None


def _arithmetic(program: Program, instruction: Instruction) -> Step:
    rule = operation(instruction.opcode)
    operands = list(instruction.operands)
    if "|" in operands[0] or len(operands) != len(rule.takes) + 1:
        raise NotImplementedError(f"{len(operands)} operands")
    sources = [reader(program, operand, kind) for operand, kind in zip(operands[1:], rule.takes, strict=True)]
    write, compute = writer(program, operands[0]), rule.compute
    divisor = sources[1] if instruction.opcode[0] in ("div", "rem") and instruction.opcode[-1][0] != "f" else None

    def step(block: Block, mask: Array | None) -> None:
        if divisor and (np.broadcast_to(divisor(block), block.threads)[active(block, mask)] == 0).any():
            raise Fault("integer division by zero")
        write(block, compute(*[source(block) for source in sources]), mask)

    return step


def _move(program: Program, instruction: Instruction) -> Step:
    target, source = instruction.operands
    kind = instruction.opcode[-1]
    if source.startswith("{"):
        return _join(program, target, elements(source), kind)
    if target.startswith("{"):
        return _split(program, elements(target), source, kind)
    read, write = reader(program, source, kind), writer(program, target)
    return lambda block, mask: write(block, read(block), mask)


def _join(program: Program, target: str, sources: list[str], kind: str) -> Step:
    part, dtype = WIDTHS[kind] // len(sources), np.dtype(f"u{WIDTHS[kind]}")
    reads, write = [reader(program, source, f"b{8 * part}") for source in sources], writer(program, target)

    def step(block: Block, mask: Array | None) -> None:
        value = np.zeros(1, dtype)
        for i, read in enumerate(reads):
            value = value | (read(block).astype(dtype) << dtype.type(8 * part * i))
        write(block, value, mask)

    return step


def _split(program: Program, targets: list[str], source: str, kind: str) -> Step:
    part, dtype = WIDTHS[kind] // len(targets), np.dtype(f"u{WIDTHS[kind]}")
    read, writes = reader(program, source, f"b{8 * WIDTHS[kind]}"), [writer(program, target) for target in targets]

    def step(block: Block, mask: Array | None) -> None:
        value = read(block)
        for i, write in enumerate(writes):
            write(block, (value >> dtype.type(8 * part * i)).astype(f"u{part}"), mask)

    return step


def _load_matrix(program: Program, instruction: Instruction) -> Step:
    opcode, targets = instruction.opcode, elements(instruction.operands[0])
    if opcode[-1] != "b16" or "m8n8" not in opcode or f"x{len(targets)}" not in opcode:
        raise NotImplementedError(".".join(opcode))
    places, writes, text = (
        address(program, instruction.operands[1]),
        [writer(program, t) for t in targets],
        str(instruction),
    )

    def step(block: Block, mask: Array | None) -> None:
        need_whole_warps(block, mask, "ldmatrix")
        who = (block.thread % 32 < 8 * len(targets)) & (True if mask is None else mask)
        rows = np.zeros((block.threads, 16), np.uint8)
        rows[who] = block.shared.load(places(block)[who], 16, block.thread[who])
        count_banks(block, text, places(block)[who], 16, block.thread[who])
        pieces = spread_matrices(rows.reshape(-1, 32, 16), "trans" in opcode)
        for write, piece in zip(writes, pieces, strict=False):
            write(block, piece, mask)

    return step


def _multiply_matrices(program: Program, instruction: Instruction) -> Step:
    opcode = instruction.opcode
    if opcode[1] != "sync":
        raise NotImplementedError(".".join(opcode))
    d, *sources = map(elements, instruction.operands)
    writes = [writer(program, target) for target in d]
    a, b, c = (
        [reader(program, s, kind) for s in part] for part, kind in zip(sources, ("b32", "b32", "f32"), strict=True)
    )

    def step(block: Block, mask: Array | None) -> None:
        need_whole_warps(block, mask, "mma")
        a_now, b_now, c_now = ([np.broadcast_to(read(block), block.threads) for read in part] for part in (a, b, c))
        for write, value in zip(writes, multiply(opcode, a_now, b_now, c_now), strict=True):
            write(block, value, mask)

    return step


def _shuffle(program: Program, instruction: Instruction) -> Step:
    if instruction.opcode[1] != "sync" or instruction.opcode[-1] != "b32":
        raise NotImplementedError(str(instruction))
    mode = instruction.opcode[2]
    target, _, valid = instruction.operands[0].partition("|")
    value, by, clamp, members = (reader(program, operand, "b32") for operand in instruction.operands[1:])
    write, write_valid = writer(program, target), writer(program, valid or "_")

    def step(block: Block, mask: Array | None) -> None:
        need_whole_warps(block, mask, "shfl")
        if (members(block) != np.uint32(0xFFFFFFFF)).any():
            raise NotImplementedError("shfl.sync of part of a warp")
        source, inside = shuffle_sources(mode, block.threads, by(block), clamp(block))
        write(block, np.broadcast_to(value(block), block.threads)[source], mask)
        write_valid(block, inside, mask)

    return step


SPECIAL: dict[str, Callable[[Program, Instruction], Step]] = {
    **MEMORY_STEPS,
    "mov": _move,
    "ldmatrix": _load_matrix,
    "mma": _multiply_matrices,
    "shfl": _shuffle,
}
