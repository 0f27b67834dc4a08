"""Compile PTX's loads, stores and asynchronous copies to Python functions of (block, mask)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tests.cuda.checks.ptx_memory import LOCAL_WINDOW, SHARED_WINDOW, bank_rounds, check_alignment
from tests.cuda.checks.ptx_operands import ADDRESS, Step, active, address, reader, writer
from tests.cuda.checks.ptx_parser import WIDTHS, Instruction, dtype_of, elements

if TYPE_CHECKING:
    from tests.cuda.checks.ptx_interpreter import Block, Program

Array = NDArray[Any]

SPACES = {
    "global": "global",
    "shared": "shared",
    "shared::cta": "shared",
    "local": "local",
    "param": "param",
    "const": "global",
}
BANK_SAMPLES = 2  # executions of an instruction whose bank conflicts are counted: they repeat in a loop


def _space(opcode: tuple[str, ...]) -> str:
    return next((SPACES[part] for part in opcode if part in SPACES), "generic")


def _load(program: Program, instruction: Instruction) -> Step:
    space, kind = _space(instruction.opcode), instruction.opcode[-1]
    if space == "param":
        return _load_parameter(program, instruction)
    width, targets = WIDTHS[kind], elements(instruction.operands[0])
    _check_modifiers(instruction, len(targets))
    places, writes, size = (
        address(program, instruction.operands[1]),
        [writer(program, t) for t in targets],
        width * len(targets),
    )
    dtype, text = dtype_of(kind), str(instruction)

    def step(block: Block, mask: Array | None) -> None:
        who = active(block, mask)
        data = load_bytes(block, space, places(block)[who], size, block.thread[who], text)
        numbers = np.ascontiguousarray(data).view(dtype)
        for i, write in enumerate(writes):
            value = numbers[:, i]
            if mask is not None:
                value = np.zeros(block.threads, dtype)
                value[who] = numbers[:, i]
            write(block, np.ascontiguousarray(value), mask)

    return step


def _store(program: Program, instruction: Instruction) -> Step:
    space, kind = _space(instruction.opcode), instruction.opcode[-1]
    sources = elements(instruction.operands[1])
    if space == "param":
        return _store_parameter(program, instruction)
    _check_modifiers(instruction, len(sources))
    places, reads = address(program, instruction.operands[0]), [reader(program, s, kind) for s in sources]
    text = str(instruction)

    def step(block: Block, mask: Array | None) -> None:
        who = active(block, mask)
        numbers = np.stack([np.broadcast_to(read(block), block.threads)[who] for read in reads], 1)
        store_bytes(block, space, places(block)[who], numbers.view(np.uint8), block.thread[who], text)

    return step


def _check_modifiers(instruction: Instruction, count: int) -> None:
    known = {"nc", "v2", "v4", "weak", "relaxed", "cta", "volatile", "cg", "ca", "cs", "lu", "wb", "wt", *SPACES}
    hints = [part for part in instruction.opcode[1:-1] if part not in known and not part.startswith("L")]
    vector = {"v2": 2, "v4": 4}.get(next((p for p in instruction.opcode if p in ("v2", "v4")), ""), 1)
    if hints or vector != count:
        raise NotImplementedError(str(instruction))


def load_bytes(block: Block, space: str, places: Array, size: int, threads: Array, text: str) -> Array:
    """Read from a space; generic addresses tell by themselves which one is meant."""
    space, places = _window(space, places)
    if space == "global":
        return block.memory.load(places, size, block.thread_of_grid[threads])
    if space == "local":
        return block.local.load(places, size, threads)
    data = block.shared.load(places, size, threads)
    count_banks(block, text, places, size, threads)
    return data


def store_bytes(block: Block, space: str, places: Array, data: Array, threads: Array, text: str) -> None:
    """Write to a space."""
    space, places = _window(space, places)
    if space == "global":
        block.memory.store(places, data, block.thread_of_grid[threads])
    elif space == "local":
        block.local.store(places, data, threads)
    else:
        block.shared.store(places, data, threads)
        count_banks(block, text, places, data.shape[1], threads)


def _window(space: str, places: Array) -> tuple[str, Array]:
    if space != "generic":
        return space, places
    for window, name in ((LOCAL_WINDOW, "local"), (SHARED_WINDOW, "shared")):
        if (places >= window).all():
            return name, places - np.uint64(window)
        if (places >= window).any():
            raise NotImplementedError("generic access to several spaces at once")
    return "global", places


def count_banks(block: Block, text: str, places: Array, size: int, threads: Array) -> None:
    """Add one execution to the report, of the first few."""
    seen, took, needed = block.report.banks.get(text, (0, 0, 0))
    if seen < BANK_SAMPLES:
        more = bank_rounds(places, size, threads)
        block.report.banks[text] = (seen + 1, took + more[0], needed + more[1])


def _load_parameter(program: Program, instruction: Instruction) -> Step:
    kind, dtype = instruction.opcode[-1], dtype_of(instruction.opcode[-1])
    name, offset = ADDRESS.fullmatch(instruction.operands[1]).groups()  # type: ignore[union-attr]
    writes = [writer(program, target) for target in elements(instruction.operands[0])]
    first = int(offset or "0", 0)

    def step(block: Block, mask: Array | None) -> None:
        for i, write in enumerate(writes):
            key = f"{name}+{first + i * WIDTHS[kind]}"
            if key in block.arguments:
                write(block, block.arguments[key].view(dtype), mask)
            else:
                if first or i:
                    raise NotImplementedError(f"{instruction}: a parameter inside another")
                value = block.parameters[name]
                whole = int(value) & ((1 << 8 * WIDTHS[kind]) - 1) if dtype.kind != "f" else value
                write(block, np.array([whole], f"u{dtype.itemsize}" if dtype.kind != "f" else dtype), mask)

    return step


def _store_parameter(program: Program, instruction: Instruction) -> Step:
    kind = instruction.opcode[-1]
    name, offset = ADDRESS.fullmatch(instruction.operands[0]).groups()  # type: ignore[union-attr]
    reads = [reader(program, source, kind) for source in elements(instruction.operands[1])]
    first, bits = int(offset or "0", 0), np.dtype(f"u{WIDTHS[kind]}")

    def step(block: Block, mask: Array | None) -> None:
        for i, read in enumerate(reads):
            key = f"{name}+{first + i * WIDTHS[kind]}"
            value = np.broadcast_to(read(block), block.threads).view(bits)
            if mask is not None and key in block.arguments:
                value = np.where(mask, value, block.arguments[key])
            block.arguments[key] = value

    return step


def _copy_async(program: Program, instruction: Instruction) -> Step:
    opcode = instruction.opcode
    if opcode[1] != "async" or "bulk" in opcode or "mbarrier" in opcode:
        raise NotImplementedError(".".join(opcode))
    if "commit_group" in opcode:
        return _commit
    if "wait_group" in opcode or "wait_all" in opcode:
        left = int(instruction.operands[0]) if instruction.operands else 0
        return lambda block, mask: wait_for_copies(block, mask, left, everything="wait_all" in opcode)
    target, source, size_text, *filled = instruction.operands
    size = int(size_text)
    if (opcode[2] == "cg" and size != 16) or size not in (4, 8, 16) or len(filled) > 1:
        raise NotImplementedError(f"{size} bytes")
    targets, sources = address(program, target), address(program, source)
    real = reader(program, filled[0], "u32") if filled else None
    text = str(instruction)

    def step(block: Block, mask: Array | None) -> None:
        who = active(block, mask)
        threads, to, of = block.thread[who], targets(block)[who], sources(block)[who]
        check_alignment(of, size, "global cp.async")
        data = np.zeros((len(threads), size), np.uint8)
        read = np.broadcast_to(real(block), block.threads)[who] if real else np.full(len(threads), size)
        if ((read != 0) & (read != size)).any():
            raise NotImplementedError("cp.async of part of its size")
        if (full := read == size).any():
            data[full] = block.memory.load(of[full], size, block.thread_of_grid[threads[full]])
        block.shared.send(to, size, threads)
        count_banks(block, text, to, size, threads)
        block.copies.append((threads, block.groups[who], to, data))

    return step


def _commit(block: Block, mask: Array | None) -> None:
    groups = block.groups.copy()
    groups[active(block, mask)] += 1
    block.groups = groups


def wait_for_copies(block: Block, mask: Array | None, left: int, everything: bool) -> None:
    """Let the copies of all but a thread's last `left` groups arrive."""
    limit = block.groups - left + (1 if everything else 0)
    waiting = np.ones(block.threads, bool) if mask is None else mask
    rest = []
    for threads, groups, places, data in block.copies:
        here = waiting[threads] & (groups < limit[threads])
        if here.any():
            block.shared.arrive(places[here], data[here], threads[here])
        if not here.all():
            rest.append((threads[~here], groups[~here], places[~here], data[~here]))
    block.copies = rest


MEMORY_STEPS: dict[str, Callable[[Program, Instruction], Step]] = {
    "ld": _load,
    "ldu": _load,
    "st": _store,
    "cp": _copy_async,
}
