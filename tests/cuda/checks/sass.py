"""Statistics of a disassembled kernel: its opcodes, and those of its hot loop."""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)([^;]*);")
LABEL = re.compile(r"\s*(\.L_\w+):")
TARGET = re.compile(r"\.L_\w+")
LOCAL_MEMORY = ("LDL", "STL")


class Loop(NamedTuple):
    """The body of a loop: how many instructions, and how many of each opcode."""

    length: int
    opcodes: Counter[str]

    def share(self, family: str) -> float:
        """Tell which part of the body an opcode takes, with all its variants."""
        return count(self.opcodes, family) / self.length


def opcodes(listing: str) -> Counter[str]:
    """Count every opcode of a listing, with its modifiers."""
    return Counter(match.group(1) for match in map(INSTRUCTION.match, listing.splitlines()) if match)


def count(histogram: Counter[str], *families: str) -> int:
    """Count the opcodes that are, or are variants of, one of `families`: ``LDS`` takes in ``LDS.128``."""
    return sum(n for opcode, n in histogram.items() if any(f"{opcode}.".startswith(f"{f}.") for f in families))


def loops(listing: str) -> list[Loop]:
    """List the loops: all that lies between the target of a backward branch and the branch."""
    body: list[tuple[str, str]] = []
    labels: dict[str, int] = {}
    found = []
    for line in listing.splitlines():
        if label := LABEL.match(line):
            labels[label.group(1)] = len(body)
        elif instruction := INSTRUCTION.match(line):
            body.append((instruction.group(1), instruction.group(2)))
    for last, (opcode, operands) in enumerate(body):
        target = TARGET.search(operands) if opcode.startswith("BRA") else None
        first = labels.get(target.group(), len(body)) if target else len(body)
        if first < last:
            found.append(Loop(last + 1 - first, Counter(name for name, _ in body[first : last + 1])))
    return found


def hottest(found: list[Loop], family: str) -> Loop:
    """Give the loop in which `family` has the greatest share.

    Raises
    ------
    LookupError
        Where no loop has any such instruction.
    """
    holding = [loop for loop in found if count(loop.opcodes, family)]
    if not holding:
        raise LookupError(f"no loop has any {family}")
    return max(holding, key=lambda loop: loop.share(family))
