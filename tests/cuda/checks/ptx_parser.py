"""Read PTX text into a flat program: one list of instructions, the calls of device functions put in place."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

WIDTHS = {"b8": 1, "u8": 1, "s8": 1, "b16": 2, "u16": 2, "s16": 2, "f16": 2, "bf16": 2, "f16x2": 4, "bf16x2": 4}
WIDTHS |= {"b32": 4, "u32": 4, "s32": 4, "f32": 4, "b64": 8, "u64": 8, "s64": 8, "f64": 8}

NAME = re.compile(r"[%$A-Za-z_][\w$.%]*")
VARIABLE = re.compile(
    r"\.(?:extern\s+|visible\s+|weak\s+)*"
    r"\.?(shared|global|const|local)\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$%]+)(?:\[(\d*)\])?\s*(?:=\s*\{([^}]*)\})?"
)
FUNCTION = re.compile(
    r"\.(entry|func)\s+(?:\(([^)]*)\)\s*)?([\w$%]+)\s*(?:\(([^)]*)\))?((?:\s*\.(?!entry|func|extern|visible|weak)\w+[^;{]*)?)\s*([;{])"
)
PARAMETER = re.compile(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+(?:\.ptr[^,)]*?)?([\w$%]+)(?:\[(\d+)\])?\s*(?:,|$)")
INSTRUCTION = re.compile(r"(?:@(!?)(%[\w$]+)\s+)?([a-z][\w.]*(?:::\w[\w.]*)*)(?:\s+(.*))?$", re.S)


class Instruction(NamedTuple):
    """One instruction: its guard ``@!%p1``, its opcode cut at the dots, its operands."""

    guard: str | None
    negated: bool
    opcode: tuple[str, ...]
    operands: tuple[str, ...]

    def __str__(self) -> str:
        guard = f"@{'!' * self.negated}{self.guard} " if self.guard else ""
        return f"{guard}{'.'.join(self.opcode)} {', '.join(self.operands)}"


class Variable(NamedTuple):
    """A named piece of memory; `size` is 0 where the launch decides, `data` is its initial content."""

    space: str
    align: int
    size: int
    data: bytes = b""


@dataclass
class Function:
    """A function as it was written, or the flat program of a kernel."""

    name: str
    results: list[str] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)
    registers: dict[str, str] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)
    symbols: set[str] = field(default_factory=set)
    body: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)


@lru_cache(maxsize=64)
def parse(text: str) -> Function:
    """Parse a module with one kernel; gives the kernel, with its calls put in place and all variables it may name.

    Raises
    ------
    ValueError
        For text that is not understood, or a call of a function that is not there.
    """
    text = re.sub(r"/\*.*?\*/", "", re.sub(r"//[^\n]*", "", text), flags=re.S)
    functions, entries, rest, at = {}, [], [], 0
    while found := FUNCTION.search(text, at):
        kind, results, name, parameters, _, end = found.groups()
        rest.append(text[at : found.start()])
        at = found.end()
        if end == "{":
            close = _closing_brace(text, at)
            functions[name] = _function(name, results or "", parameters or "", text[at:close])
            at = close + 1
            entries += [name] * (kind == "entry")
    if len(entries) != 1:
        raise ValueError(f"one kernel is expected in a module, not {len(entries)}")
    program = _inline(functions[entries[0]], functions, {"count": 0})
    program.variables.update(_variables("".join([*rest, text[at:]])))
    return program


def _closing_brace(text: str, at: int) -> int:
    depth = 1
    for brace in re.compile("[{}]").finditer(text, at):
        depth += 1 if brace.group() == "{" else -1
        if depth == 0:
            return brace.start()
    raise ValueError("a function has no end")


def _variables(text: str) -> dict[str, Variable]:
    found = {}
    for space, align, kind, name, count, values in VARIABLE.findall(text):
        width = WIDTHS[kind]
        data = b"".join(int(v, 0).to_bytes(width, "little") for v in values.split(",")) if values else b""
        found[name] = Variable(space, int(align or width), width * int(count or 0), data)
    return found


def _function(name: str, results: str, parameters: str, body: str) -> Function:
    function = Function(name)
    function.results = [n for _, n, _ in PARAMETER.findall(results)]
    function.parameters = [n for _, n, _ in PARAMETER.findall(parameters)]
    function.variables = _variables(body)
    body = re.sub(r"\.pragma[^;]*;|\.(?:loc|file)\b[^\n]*", "", body)
    statement = ""
    for piece in re.split(r"(;|(?m:(?:^|(?<=;))\s*[\w$]+:(?!:)))", body):
        if piece == ";":
            _add_statement(function, " ".join(statement.split()).lstrip("{} "))
            statement = ""
        elif piece.endswith(":") and not statement.strip(" \n\t{}"):
            function.labels[piece.strip(" \n\t:")] = len(function.body)
        else:
            statement += piece
    if statement.strip(" \n\t{}"):
        raise ValueError(f"an instruction has no end: {statement.strip()}")
    return function


def _add_statement(function: Function, statement: str) -> None:
    if not statement:
        return
    words = statement.split()
    if words[0] == ".reg":
        for register in " ".join(words[2:]).split(","):
            prefix, _, count = register.strip().rstrip(">").partition("<")
            names = [f"{prefix}{i}" for i in range(int(count))] if count else [prefix]
            function.registers.update(dict.fromkeys(names, words[1].lstrip(".")))
    elif words[0] == ".param":
        function.symbols.add(words[-1].partition("[")[0])
    elif words[0] in (".local", ".shared"):
        pass  # read by _variables
    elif (parts := INSTRUCTION.match(statement)) and not statement.startswith("."):
        negated, guard, opcode, operands = parts.groups()
        function.body.append(Instruction(guard, negated == "!", tuple(opcode.split(".")), _operands(operands or "")))
    else:
        raise ValueError(f"not understood: {statement}")


def _operands(text: str) -> tuple[str, ...]:
    """Cut at the commas outside of brackets."""
    operands, depth = [""], 0
    for character in text:
        depth += (character in "{[(") - (character in "}])")
        if character == "," and depth == 0:
            operands.append("")
        else:
            operands[-1] += character
    return tuple(operand.strip() for operand in operands if operand.strip())


def elements(operand: str) -> list[str]:
    """Take ``{%f1, %f2}`` or ``(a, b)`` apart; one name stays one."""
    return [part.strip() for part in operand.strip("{}()").split(",") if part.strip()]


def _inline(function: Function, functions: dict[str, Function], counter: dict[str, int]) -> Function:
    flat = replace(function, body=[], labels={}, registers=dict(function.registers), variables=dict(function.variables))
    labels_at: dict[int, list[str]] = {}
    for label, at in function.labels.items():
        labels_at.setdefault(at, []).append(label)
    for at, instruction in enumerate(function.body):
        flat.labels.update(dict.fromkeys(labels_at.get(at, ()), len(flat.body)))
        if instruction.opcode[0] == "call":
            _put_call(flat, instruction, functions, counter)
        else:
            flat.body.append(instruction)
    flat.labels.update(dict.fromkeys(labels_at.get(len(function.body), ()), len(flat.body)))
    return flat


def _put_call(flat: Function, call: Instruction, functions: dict[str, Function], counter: dict[str, int]) -> None:
    operands = list(call.operands)
    results = elements(operands.pop(0)) if operands[0].startswith("(") else []
    name, arguments = operands[0], elements(operands[1]) if len(operands) > 1 else []
    if name not in functions or call.guard:
        raise ValueError(f"a call that cannot be put in place: {call}")
    callee = _inline(functions[name], functions, counter)
    counter["count"] += 1
    suffix = f"${counter['count']}"
    own = [*callee.registers, *callee.variables, *callee.symbols, *callee.labels]
    names = {known: known + suffix for known in own}
    names |= dict(zip(callee.parameters, arguments, strict=True)) | dict(zip(callee.results, results, strict=True))

    def renamed(text: str) -> str:
        return NAME.sub(lambda found: names.get(found.group(), found.group()), text)

    start, end = len(flat.body), f"$return{suffix}"
    flat.registers.update((names[register], kind) for register, kind in callee.registers.items())
    flat.variables.update((names[variable], what) for variable, what in callee.variables.items())
    flat.symbols.update(names[symbol] for symbol in callee.symbols)
    flat.labels.update((names[label], start + at) for label, at in callee.labels.items())
    flat.labels[end] = start + len(callee.body)
    for instruction in callee.body:
        guard = renamed(instruction.guard) if instruction.guard else None
        if instruction.opcode[0] in ("ret", "exit"):
            flat.body.append(Instruction(guard, instruction.negated, ("bra",), (end,)))
        else:
            flat.body.append(instruction._replace(guard=guard, operands=tuple(map(renamed, instruction.operands))))


def dtype_of(kind: str) -> np.dtype:
    """Give NumPy's dtype of a PTX type; untyped bits are unsigned."""
    letter = {"b": "u", "u": "u", "s": "i", "f": "f"}[kind[0]]
    return np.dtype(f"{'u' if kind in ('bf16', 'f16x2', 'bf16x2') else letter}{WIDTHS[kind]}")
