"""The interpreter of PTX judged by itself: kernels written by hand, each right or wrong in one way."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.cuda.checks.ptx_interpreter import Report, launch
from tests.cuda.checks.ptx_memory import Fault, GlobalMemory

KERNEL = """
.version 8.0
.target sm_80
.address_size 64
.extern .shared .align 16 .b8 shared[];
{functions}
.visible .entry kernel(.param .u64 x_at, .param .u64 y_at, .param .u32 n)
{{
.reg .pred %p<8>; .reg .b16 %h<8>; .reg .b32 %r<40>; .reg .f32 %f<40>; .reg .b64 %d<16>; .reg .f64 %fd<8>;
ld.param.u64 %d1, [x_at];
ld.param.u64 %d2, [y_at];
ld.param.u32 %r1, [n];
mov.u32 %r2, %tid.x;
mov.u32 %r3, %ctaid.x;
mov.u32 %r4, %ntid.x;
mad.lo.s32 %r5, %r3, %r4, %r2;
mul.wide.s32 %d3, %r5, 4;
add.s64 %d4, %d1, %d3;
add.s64 %d5, %d2, %d3;
shl.b32 %r6, %r2, 2;
{body}
ret;
}}
"""


def run(
    body: str,
    x: np.ndarray,
    y: Any = None,
    *,
    blocks: int = 1,
    threads: int = 32,
    access: str = "write",
    functions: str = "",
    **options: Any,
) -> tuple[np.ndarray, Report]:
    """Run a body on x; y has a number a thread."""
    memory = GlobalMemory()
    y = np.full(blocks * threads, 99999, x.dtype) if y is None else y
    x_there, y_there = memory.add(x), memory.add(y, access)
    text = KERNEL.format(body=body, functions=functions)
    addresses = [x_there.base, y_there.base, len(x)]
    report = launch(text, (blocks, 1, 1), (threads, 1, 1), addresses, memory, dynamic_shared=1 << 14, **options)
    return y_there.content(), report


def u32(count: int, factor: int = 1) -> np.ndarray:
    """Count up."""
    return np.arange(count, dtype=np.uint32) * np.uint32(factor)


COPY = "ld.global.u32 %r7, [%d4]; st.global.u32 [%d5], %r7;"
TO_SHARED = "ld.global.u32 %r7, [%d4]; st.shared.u32 [%r6], %r7;"
FROM_NEIGHBOUR = "xor.b32 %r8, %r6, 128; ld.shared.u32 %r9, [%r8]; st.global.u32 [%d5], %r9;"
ASYNC = "cp.async.ca.shared.global [%r6], [%d4], 4; cp.async.commit_group;"


def test_copies_over_blocks() -> None:
    y, report = run(COPY, u32(96), blocks=3)
    np.testing.assert_array_equal(y, u32(96))
    assert report.steps == 3 * 14


def test_threads_that_part_and_meet() -> None:
    body = """
    mov.u32 %r8, 0;
    again:
    setp.ge.u32 %p1, %r8, %r2;
    @%p1 bra done;
    add.u32 %r8, %r8, 1;
    bra.uni again;
    done:
    bar.sync 0;
    st.global.u32 [%d5], %r8;
    """
    y, _ = run(body, u32(32))
    np.testing.assert_array_equal(y, u32(32))


def test_parts_of_a_warp_wait_for_each_other() -> None:
    body = (
        "setp.lt.u32 %p1, %r2, 40; @%p1 bra\tlow;\nmov.u32 %r8, 1;\nlow:\nbar.warp.sync -1; st.global.u32 [%d5], %r8;"
    )
    y, _ = run(body, u32(64), threads=64)
    np.testing.assert_array_equal(y, u32(64) >= 40)


def test_calls_are_put_in_place() -> None:
    functions = """
    .func (.param .b32 result) twice(.param .b32 a)
    { .reg .b32 %r<3>; .reg .pred %p<2>;
      ld.param.u32 %r1, [a];
      setp.gt.u32 %p1, %r1, 10;
      @%p1 bra big;
      add.u32 %r2, %r1, %r1;
      st.param.b32 [result+0], %r2;
      ret;
    big:
      st.param.b32 [result+0], %r1;
      ret; }
    """
    body = """
    { .param .b32 p0; st.param.b32 [p0+0], %r2; .param .b32 r0;
      call.uni (r0), twice, (p0); ld.param.b32 %r9, [r0+0]; }
    { .param .b32 p0; st.param.b32 [p0+0], %r9; .param .b32 r0;
      call.uni (r0), twice, (p0); ld.param.b32 %r9, [r0+0]; }
    st.global.u32 [%d5], %r9;
    """
    y, _ = run(body, u32(32), functions=functions)
    once = np.where(u32(32) > 10, u32(32), 2 * u32(32))
    np.testing.assert_array_equal(y, np.where(once > 10, once, 2 * once))


def test_neighbours_through_shared_memory() -> None:
    y, report = run(f"{TO_SHARED} bar.sync 0; {FROM_NEIGHBOUR}", u32(64), threads=64)
    np.testing.assert_array_equal(y, u32(64) ^ 32)
    assert not report.conflicts


def test_blocks_share_nothing_but_global_memory() -> None:
    """Each has shared memory and barriers of its own, and may end when it likes; all see each other's stores."""
    body = "setp.eq.u32 %p1, %r3, 1; @%p1 ret;" + TO_SHARED + "bar.sync 0;" + FROM_NEIGHBOUR
    y, report = run(body, u32(320), blocks=5, threads=64)
    expected = u32(320) ^ 32
    expected[64:128] = 99999
    np.testing.assert_array_equal(y, expected)
    assert report.steps == 5 * 13 + 4 * 7
    with pytest.raises(Fault, match=r"blocks \(0, 0, 0\) to \(2, 0, 0\): divergent barrier: some threads wait"):
        run("setp.eq.u32 %p1, %r5, 70; @%p1 ret; bar.sync 0;", u32(192), blocks=3, threads=64)
    with pytest.raises(Fault, match="global race: load of what another thread wrote"):
        run("st.global.u32 [%d5], %r2; ld.global.u32 %r7, [%d2];", u32(64), blocks=2)
    with pytest.raises(Fault, match="before any store"):
        run(
            f"setp.eq.u32 %p1, %r3, 1; @%p1 bra a; {TO_SHARED} a: bar.sync 0; ld.shared.u32 %r9, [%r6];",
            u32(64),
            blocks=2,
        )


def test_asynchronous_copies() -> None:
    y, _ = run(f"{ASYNC} cp.async.wait_group 0; bar.sync 0; {FROM_NEIGHBOUR}", u32(64), threads=64)
    np.testing.assert_array_equal(y, u32(64) ^ 32)


def test_asynchronous_zero_fill_reads_nothing() -> None:
    body = """
    setp.lt.u32 %p1, %r2, 10;
    selp.u32 %r9, 4, 0, %p1;
    mov.u64 %d6, 16;
    selp.b64 %d6, %d4, %d6, %p1;
    cp.async.ca.shared.global [%r6], [%d6], 4, %r9;
    cp.async.wait_all;
    ld.shared.u32 %r9, [%r6]; st.global.u32 [%d5], %r9;
    """
    y, _ = run(body, u32(32))
    np.testing.assert_array_equal(y, np.where(u32(32) < 10, u32(32), 0))


def test_groups_of_copies_arrive_in_order() -> None:
    second = "add.u32 %r10, %r6, 4096; cp.async.ca.shared.global [%r10], [%d4], 4; cp.async.commit_group;"
    read = "ld.shared.u32 %r9, [%r6]; st.global.u32 [%d5], %r9;"
    y, _ = run(f"{ASYNC} {second} cp.async.wait_group 1; {read}", u32(32))
    np.testing.assert_array_equal(y, u32(32))
    with pytest.raises(Fault, match=r"cp\.async has not brought"):
        run(f"{ASYNC} {second} cp.async.wait_group 2; {read}", u32(32))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("ld.global.u32 %r7, [%d4+4]; st.global.u32 [%d5], %r7;", "global load out of bounds"),
        ("ld.global.u32 %r7, [%d1+-4];", "global load out of bounds"),
        ("st.global.u32 [%d5+4], %r2;", "global store out of bounds"),
        ("st.global.u32 [%d4], %r2;", "only read"),
        ("ld.global.u32 %r7, [%d4+2];", "misaligned 4-byte global load"),
        ("ld.global.v4.u32 {%r7, %r8, %r9, %r10}, [%d4];", "misaligned 16-byte global load"),
        ("st.global.u32 [%d2], %r2;", "global race: two threads store"),
        ("st.global.u32 [%d5], %r2; ld.global.u32 %r7, [%d2];", "global race: load"),
        ("ld.global.u32 %r7, [%d5];", "never written"),
        (f"{TO_SHARED} ld.shared.u32 %r9, [4];", "shared race: load"),
        ("mov.u32 %r8, 0; st.shared.u32 [%r8], %r2;", "shared race: two threads store"),
        (f"{TO_SHARED} bar.sync 0; ld.shared.u32 %r9, [%r6]; {TO_SHARED} ld.shared.u32 %r9, [8];", "shared race: load"),
        (f"{TO_SHARED} bar.sync 0; ld.shared.u32 %r9, [4]; {TO_SHARED}", "another thread loaded"),
        ("ld.shared.u32 %r9, [%r6];", "before any store"),
        ("add.u32 %r8, %r6, 16380; st.shared.u32 [%r8], %r2;", "shared store out of bounds"),
        ("add.u32 %r8, %r6, 2; st.shared.u32 [%r8], %r2;", "misaligned 4-byte shared store"),
        (f"{ASYNC} ld.shared.u32 %r9, [%r6];", r"cp\.async has not brought"),
        (f"{ASYNC} cp.async.wait_group 1; ld.shared.u32 %r9, [%r6];", r"cp\.async has not brought"),
        (f"{ASYNC} st.shared.u32 [%r6], %r2;", "still bringing"),
        (f"{ASYNC} cp.async.wait_group 0; ld.shared.u32 %r9, [0];", "shared race: load"),
        (f"{TO_SHARED} bar.sync 0; ld.shared.u32 %r9, [0]; {ASYNC}", "another thread loaded"),
        ("setp.lt.u32 %p1, %r2, 16; @%p1 bar.sync 0;", "divergent barrier: some threads wait"),
        ("setp.lt.u32 %p1, %r2, 16; @%p1 bra a; bar.sync 0; bra.uni b; a: bar.sync 0; b:", "wait at different ones"),
        ("setp.lt.u32 %p1, %r2, 16; @%p1 ret; bar.sync 0;", "others have left"),
        ("setp.lt.u32 %p1, %r2, 16; @%p1 ret; bar.warp.sync -1;", "part of a warp waits"),
        ("again: bra.uni again;", "does not end"),
        ("mov.u32 %r9, 0; div.u32 %r8, %r2, %r9;", "division by zero"),
        (
            "setp.lt.u32 %p1, %r2, 16; @%p1 bra a; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r9}, [0]; a:",
            "ldmatrix without the whole warp",
        ),
    ],
    ids=lambda value: value[-40:],
)
def test_faults(body: str, message: str) -> None:
    with pytest.raises(Fault, match=message):
        run(body, u32(32), most_steps=1000)


def test_guarded_division_by_zero_is_none() -> None:
    y, _ = run(
        "setp.ne.u32 %p1, %r2, 0; mov.u32 %r8, 7; @%p1 div.u32 %r8, 100, %r2; st.global.u32 [%d5], %r8;", u32(32)
    )
    np.testing.assert_array_equal(y, [7, *(100 // t for t in range(1, 32))])


@pytest.mark.parametrize("instruction", ["atom.global.add.f32 %f1, [%d5], %f2", "vote.sync.all.pred %p1, %p2, -1"])
def test_unknown_instructions_are_an_error(instruction: str) -> None:
    with pytest.raises(NotImplementedError, match=instruction.split()[0]):
        run(f"{instruction};", u32(32))


def test_a_parameter_of_barriers_is_an_error() -> None:
    with pytest.raises(NotImplementedError, match="bar"):
        run("bar.sync 1;", u32(32))


@pytest.mark.parametrize(("stride", "factor"), [(4, 1), (8, 2), (12, 1), (128, 32), (132, 1)])
def test_bank_conflicts(stride: int, factor: int) -> None:
    _, report = run(f"mul.lo.u32 %r8, %r2, {stride}; st.shared.u32 [%r8], %r2;", u32(32))
    assert list(report.banks.values()) == [(1, factor, 1)]


def test_bank_rounds_of_wide_accesses() -> None:
    store = "mul.lo.u32 %r8, %r2, {}; st.shared.v4.u32 [%r8], {{%r2, %r2, %r2, %r2}};"
    assert not run(store.format(16), u32(32))[1].conflicts
    assert list(run(store.format(32), u32(32))[1].conflicts.values()) == [2.0]


def arithmetic(lines: str, numbers: list[Any], dtype: Any, result: str = "%r9") -> np.ndarray:
    """Run instructions on each number in %r7, as bits."""
    x = np.resize(np.array(numbers, dtype), 32).view(np.uint32)
    y, _ = run(f"ld.global.u32 %r7, [%d4]; mov.b32 %f7, %r7; {lines} st.global.u32 [%d5], {result};", x)
    return y[: len(numbers)]


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("add.s32 %r9, %r7, 5", lambda a: a + 5),
        ("mul.lo.s32 %r9, %r7, 100003", lambda a: a * 100003),
        ("mul.hi.s32 %r9, %r7, 100003", lambda a: a * 100003 >> 32),
        ("div.s32 %r9, %r7, 7", lambda a: math.trunc(a / 7)),
        ("div.s32 %r9, %r7, -7", lambda a: math.trunc(a / -7)),
        ("rem.s32 %r9, %r7, 7", lambda a: int(math.fmod(a, 7))),
        ("div.u32 %r9, %r7, 7", lambda a: (a % 2**32) // 7),
        ("shr.s32 %r9, %r7, 3", lambda a: a >> 3),
        ("shr.s32 %r9, %r7, 40", lambda a: a >> 31),
        ("shr.u32 %r9, %r7, 3", lambda a: (a % 2**32) >> 3),
        ("shr.u32 %r9, %r7, 32", lambda a: 0),
        ("shl.b32 %r9, %r7, 31", lambda a: a << 31),
        ("abs.s32 %r9, %r7", abs),
        ("neg.s32 %r9, %r7", lambda a: -a),
        ("not.b32 %r9, %r7", lambda a: ~a),
        ("min.s32 %r9, %r7, 3", lambda a: min(a, 3)),
        ("max.u32 %r9, %r7, 3", lambda a: max(a % 2**32, 3)),
        ("bfe.u32 %r9, %r7, 4, 9", lambda a: (a >> 4) & 511),
        ("bfi.b32 %r9, 5, %r7, 8, 4", lambda a: (a & ~0xF00) | 0x500),
        ("prmt.b32 %r9, %r7, 0, 0x0123", lambda a: int.from_bytes((a % 2**32).to_bytes(4, "little"), "big")),
        ("shf.l.wrap.b32 %r9, %r7, %r7, 8", lambda a: (a % 2**32 * (2**32 + 1) << 8) >> 32),
        ("popc.b32 %r9, %r7", lambda a: bin(a % 2**32).count("1")),
        ("clz.b32 %r9, %r7", lambda a: 32 - (a % 2**32).bit_length()),
        ("mul.wide.s32 %d9, %r7, %r7; cvt.u32.u64 %r9, %d9", lambda a: a * a),
        ("cvt.s64.s32 %d9, %r7; shr.s64 %d9, %d9, 16; cvt.u32.u64 %r9, %d9", lambda a: a >> 16),
        ("cvt.s32.s8 %r9, %r7", lambda a: (a + 128) % 256 - 128),
        ("cvt.u16.u32 %h1, %r7; mov.b32 %r9, {%h1, %h1}", lambda a: a % 2**16 * 65537),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_whole_numbers(line: str, meaning: Any) -> None:
    numbers = [0, 1, -1, 5, -5, 1234567, -1234567, 2**31 - 1, -(2**31) + 1]
    expected = [meaning(number) % 2**32 for number in numbers]
    np.testing.assert_array_equal(arithmetic(f"{line};", numbers, np.int32), expected)


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("fma.rn.f32 %f9, %f7, 0f40400000, 0f3F800000", lambda a: a * np.float32(3) + np.float32(1)),
        ("div.rn.f32 %f9, %f7, 0f40400000", lambda a: a / np.float32(3)),
        ("abs.f32 %f9, %f7", np.abs),
        ("max.f32 %f9, %f7, 0f00000000", lambda a: np.fmax(a, np.float32(0))),
        ("max.NaN.f32 %f9, %f7, 0f00000000", lambda a: np.maximum(a, np.float32(0))),
        ("ex2.approx.ftz.f32 %f9, %f7", np.exp2),
        ("fma.rm.f32 %f9, %f7, 0f3F800000, 0f4B40007F", lambda a: np.floor(a) + np.float32(12582912 + 127)),
        ("add.rz.f32 %f9, %f7, 0f4B400000", lambda a: np.floor(a) + np.float32(12582912)),
        ("cvt.sat.f32.f32 %f9, %f7", lambda a: np.where(a > 0, np.minimum(a, 1), 0)),
        ("cvt.rni.f32.f32 %f9, %f7", np.rint),
        ("cvt.rmi.f32.f32 %f9, %f7", np.floor),
        ("setp.ltu.f32 %p1, %f7, 0f00000000; selp.f32 %f9, %f7, 0f00000000, %p1", lambda a: np.where(~(a >= 0), a, 0)),
        ("setp.lt.f32 %p1, %f7, 0f00000000; selp.f32 %f9, %f7, 0f00000000, %p1", lambda a: np.where(a < 0, a, 0)),
        ("cvt.rn.f16.f32 %h1, %f7; cvt.f32.f16 %f9, %h1", lambda a: a.astype(np.float16).astype(np.float32)),
        ("cvt.f64.f32 %fd1, %f7; sqrt.rn.f64 %fd1, %fd1; cvt.rn.f32.f64 %f9, %fd1", np.sqrt),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_real_numbers(line: str, meaning: Any) -> None:
    numbers = np.array([0, -0.0, 1, -1, 2.5, -2.5, 3.14159, 1e-30, 70000, np.inf, -np.inf, np.nan], np.float32)
    got = arithmetic(f"{line};", list(numbers), np.float32, "%f9").view(np.float32)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(got, meaning(numbers).astype(np.float32))


def test_conversions_to_whole_numbers_saturate() -> None:
    got = arithmetic("cvt.rzi.s32.f32 %r9, %f7;", [2.7, -2.7, 3e9, -3e9, np.nan, np.inf], np.float32).view(np.int32)
    np.testing.assert_array_equal(got, [2, -2, 2**31 - 1, -(2**31), 0, 2**31 - 1])


def test_bfloat16_rounds_to_even() -> None:
    import ml_dtypes

    numbers = np.float32([1, 1.00390625, 1.01171875, 3.3895e38, -2.7182818, 1e-40, np.nan, np.inf])
    got = arithmetic("cvt.rn.bf16.f32 %h1, %f7; mov.b32 %r9, {%h1, 0};", list(numbers), np.float32)
    rounded = (got.astype(np.uint16)).view(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(rounded, numbers.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_tf32_rounds_ties_away() -> None:
    numbers = np.float32([1, 1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-12, np.inf])
    got = arithmetic("cvt.rna.tf32.f32 %r9, %f7;", list(numbers), np.float32).view(np.float32)
    np.testing.assert_array_equal(got, np.float32([1, 1 + 2**-10, 1 + 2**-9, 1, np.inf]))


@pytest.mark.parametrize("kind", ["tf32", "bf16", "f16"])
def test_matrix_products_of_fragments(kind: str) -> None:
    """A times B of small whole numbers, loaded by ldmatrix as kernels do: row-major A, column-major B."""
    rng = np.random.default_rng(0)
    depth, item = (8, 4) if kind == "tf32" else (16, 2)
    a, b = rng.integers(-4, 5, (16, depth)), rng.integers(-4, 5, (depth, 8))
    c = rng.integers(-4, 5, (16, 8))

    def words(matrix: np.ndarray) -> np.ndarray:
        numbers = matrix.astype(np.float16 if kind == "f16" else np.float32)
        if kind == "bf16":
            numbers = (numbers.view(np.uint32) >> 16).astype(np.uint16)
        return np.ascontiguousarray(numbers).view(np.uint32).reshape(-1)

    x = np.concatenate([words(a), words(b.T), c.astype(np.float32).view(np.uint32).reshape(-1)])
    row = depth * item
    body = f"""
    mov.u32 %r8, %r2;
    fill: setp.ge.u32 %p1, %r8, %r1; @%p1 bra filled;
    mul.wide.u32 %d6, %r8, 4; add.s64 %d7, %d1, %d6; ld.global.u32 %r9, [%d7];
    shl.b32 %r10, %r8, 2; st.shared.u32 [%r10], %r9; add.u32 %r8, %r8, 32; bra.uni fill;
    filled: bar.sync 0;
    and.b32 %r11, %r2, 15; mul.lo.u32 %r11, %r11, {row}; shr.u32 %r12, %r2, 4; shl.b32 %r12, %r12, 4;
    add.u32 %r11, %r11, %r12;
    ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r20, %r21, %r22, %r23}}, [%r11];
    and.b32 %r13, %r2, 7; mul.lo.u32 %r13, %r13, {row}; shr.u32 %r14, %r2, 3; and.b32 %r14, %r14, 1;
    shl.b32 %r14, %r14, 4; add.u32 %r13, %r13, %r14;
    ldmatrix.sync.aligned.m8n8.x2.shared.b16 {{%r24, %r25}}, [%r13+{16 * row}];
    shr.u32 %r15, %r2, 2; shl.b32 %r15, %r15, 5; and.b32 %r16, %r2, 3; shl.b32 %r16, %r16, 3;
    add.u32 %r15, %r15, %r16;
    ld.shared.v2.f32 {{%f20, %f21}}, [%r15+{24 * row}];
    ld.shared.v2.f32 {{%f22, %f23}}, [%r15+{24 * row + 256}];
    mma.sync.aligned.m16n8k{depth}.row.col.f32.{kind}.{kind}.f32
        {{%f30, %f31, %f32, %f33}}, {{%r20, %r21, %r22, %r23}}, {{%r24, %r25}}, {{%f20, %f21, %f22, %f23}};
    cvt.u64.u32 %d8, %r15; add.s64 %d9, %d2, %d8;
    st.global.v2.f32 [%d9], {{%f30, %f31}};
    st.global.v2.f32 [%d9+256], {{%f32, %f33}};
    """
    y, _ = run(body, x, np.full(128, np.nan, np.float32))
    np.testing.assert_array_equal(y.reshape(16, 8), a @ b + c)


@pytest.mark.parametrize(("mode", "by"), [("bfly", 5), ("down", 3), ("up", 4), ("idx", 9)])
def test_shuffles(mode: str, by: int) -> None:
    clamp = 0 if mode == "up" else 31
    y, _ = run(f"shfl.sync.{mode}.b32 %r9|%p1, %r2, {by}, {clamp}, -1; st.global.u32 [%d5], %r9;", u32(32))
    lanes = np.arange(32)
    source = {"bfly": lanes ^ by, "down": lanes + by, "up": lanes - by, "idx": np.full(32, by)}[mode]
    np.testing.assert_array_equal(y, np.where((source < 0) | (source > 31), lanes, source))


def test_local_memory_is_each_threads_own() -> None:
    body = """
    .local .align 8 .b8 stack[64];
    mov.u64 %d6, stack; cvta.local.u64 %d7, %d6;
    and.b32 %r8, %r2, 7; mul.wide.u32 %d8, %r8, 4; add.s64 %d8, %d7, %d8;
    st.u32 [%d8], %r2; ld.u32 %r9, [%d8]; st.global.u32 [%d5], %r9;
    """
    y, _ = run(body, u32(32))
    np.testing.assert_array_equal(y, u32(32))
