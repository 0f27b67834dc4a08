"""Every kernel's machine code, for each architecture: no spills, within its budgets, its hot loop what it should be."""

from __future__ import annotations

import pytest

from tests.cuda.lanes import needs_compiler

needs_compiler()

from tests.cuda.checks import sass  # noqa: E402
from tests.cuda.checks.artifacts import compile_side_by_side  # noqa: E402
from tests.cuda.checks.listing import STATIC_SHARED, Entry, entries, kernels_of_package  # noqa: E402
from tests.cuda.checks.toolchain import ARCHITECTURES, SM_80, Architecture  # noqa: E402

RESERVED_SHARED = 1024  # bytes that sm_90 keeps for itself
HOT = [entry for entry in entries() if entry.has_hot_loop]

each_entry = pytest.mark.parametrize("entry", entries(), ids=str)
each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: f"sm_{a[0]}{a[1]}{a[2]}")


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    compile_side_by_side()


def test_every_kernel_is_listed() -> None:
    assert {entry.kernel for entry in entries()} == kernels_of_package()


@each_architecture
@each_entry
def test_budgets(entry: Entry, architecture: Architecture) -> None:
    """Numbers that are spilled, and arrays that are no registers, lie on the stack."""
    resources = entry.artifacts.resources(architecture)
    assert (resources.stack, resources.local) == (0, 0)
    assert resources.registers <= entry.most_registers
    assert resources.shared <= STATIC_SHARED + RESERVED_SHARED * (architecture != SM_80)


@each_entry
def test_sums_have_one_order(entry: Entry) -> None:
    assert not entry.artifacts.has_atomics()


@each_architecture
@pytest.mark.parametrize("entry", HOT, ids=str)
def test_hot_loop(entry: Entry, architecture: Architecture) -> None:
    code = entry.artifacts.machine_code(architecture)
    assert not sass.count(code.opcodes, *sass.LOCAL_MEMORY)
    loop = code.hot_loop(entry.hot)
    missing = [opcode for opcode in entry.expected if not sass.count(loop.opcodes, opcode)]
    assert not missing, loop.opcodes
    assert loop.share(entry.hot) >= entry.share, loop.opcodes
