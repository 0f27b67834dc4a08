"""Count the operations of a convolution: exactly, and as two other projects do.

Shapes are as in the Python functions: ``--x`` is N,L,C or N,H,W,C (N may be left out), ``--weight`` is
C_out,C_in/groups,kernel and for a transposed convolution C_in,C_out/groups,kernel. A comma separates the numbers of
two axes, a colon the two ends of one axis: ``--padding 6:0``.

    python -m nbconv count conv_transpose1d --x 1,32,512 --weight 512,256,16 --stride 8 --padding 4
    python -m nbconv count conv2d_backward --x 8,56,56,64 --weight 64,64,3,3 --padding 1 --needs weight,bias

With ``--peak`` (flop/s) and ``--bandwidth`` (bytes/s) it adds the least time that the operation can take.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from .counting import OPERATIONS, bind_operation, count_operations
from .geometry import PADDING_MODES
from .time_floor import ITEM_SIZES, Roofline, roofline

__all__ = ["add_arguments", "run"]

_COLUMNS = ("multiplications", "additions", "total")
_LABEL_WIDTH, _COLUMN_WIDTH = 26, 22


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("op", metavar="OPERATION", choices=OPERATIONS, help=", ".join(OPERATIONS))
    parser.add_argument("--x", metavar="SIZES", type=_whole_numbers, required=True, help="shape of the input")
    parser.add_argument("--weight", metavar="SIZES", type=_whole_numbers, required=True, help="shape of the weight")
    parser.add_argument("--stride", type=_per_axis, default=1, help="one number, or one an axis (default: 1)")
    parser.add_argument(
        "--padding", type=_padding, default=0, help="as --stride, or LO:HI an axis, or valid, same, causal (default: 0)"
    )
    parser.add_argument("--dilation", type=_per_axis, default=1, help="as --stride (default: 1)")
    parser.add_argument("--groups", type=int, default=1, help="groups of channels (default: 1)")
    parser.add_argument("--output-padding", type=_per_axis, default=0, help="transposed only; as --stride (default: 0)")
    parser.add_argument("--padding-mode", choices=PADDING_MODES, default="zeros", help="default: zeros")
    parser.add_argument("--bias", action="store_true", help="the layer has a bias")
    parser.add_argument("--activation", metavar="NAME", help="counted apart: comparisons and operations")
    parser.add_argument(
        "--needs", metavar="NAMES", type=_names, help="gradients to count: x,weight,bias (default: all three)"
    )
    parser.add_argument("--dtype", choices=tuple(ITEM_SIZES), default="float32", help="default: float32")
    parser.add_argument("--peak", metavar="FLOPS", type=float, help="flop/s of the machine, for example 250e9")
    parser.add_argument("--bandwidth", metavar="BYTES", type=float, help="bytes/s of its memory, for example 20e9")


def run(args: argparse.Namespace) -> int:
    """Print the table; return the exit status."""
    layer: dict[str, Any] = {
        "x_shape": args.x,
        "weight_shape": args.weight,
        "stride": args.stride,
        "padding": args.padding,
        "dilation": args.dilation,
        "groups": args.groups,
        "output_padding": args.output_padding,
        "padding_mode": args.padding_mode,
        "needs": args.needs,
    }
    try:
        exact = count_operations(args.op, **layer, bias=args.bias, activation=args.activation)
        floor = roofline(args.op, **layer, bias=args.bias, dtype=args.dtype, peak=args.peak, bandwidth=args.bandwidth)
        dense = count_operations(args.op, **layer, bias=args.bias, convention="flop_counter")
        geometry, targets = bind_operation(args.op, **layer)
    except (ValueError, TypeError) as error:
        print(f"nbconv count: error: {error}", file=sys.stderr)
        return 2
    published = (
        count_operations(args.op, **layer, bias=args.bias, convention="moduleprofiler")
        if targets == ("output",)
        else "no formula"
    )
    what = "output" if targets == ("output",) else "gradients of " + ", ".join(targets)
    print(f"{args.op}: {_describe(args)}; output {geometry.output_shape}; counted: {what}\n")
    print(_row("", *_COLUMNS))
    print(_row("exact", exact.multiplications, exact.additions, exact.total))
    print(_row("moduleprofiler", "", "", published))
    print(_row("torch.utils.flop_counter", "", "", dense))
    if args.activation:
        print(f"\n{args.activation}: {exact.comparisons:,} comparisons, {exact.activation_operations:,} operations")
    print()
    _print_floor(floor, args.dtype)
    return 0


def _describe(args: argparse.Namespace) -> str:
    """Repeat what was asked for, less what was left at its default."""
    parts = [f"x {args.x}, weight {args.weight}"]
    for name, default in (("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1), ("output_padding", 0)):
        value = getattr(args, name)
        if value != default:
            parts.append(f"{name} {value}")
    if args.padding_mode != "zeros":
        parts.append(f"padding_mode {args.padding_mode}")
    if not args.op.endswith("_backward"):
        parts.append("bias" if args.bias else "no bias")
    return ", ".join(parts)


def _row(label: str, *cells: int | str) -> str:
    texts = [f"{cell:,}" if isinstance(cell, int) else cell for cell in cells]
    return (f"{label:<{_LABEL_WIDTH}}" + "".join(f"{text:>{_COLUMN_WIDTH}}" for text in texts)).rstrip()


def _print_floor(floor: Roofline, dtype: str) -> None:
    print(_row("least bytes moved", floor.bytes_moved), f"bytes, {dtype}")
    print(_row("arithmetic intensity", f"{floor.intensity:.2f}"), "flop/byte")
    if floor.time is not None:
        set_by = {"compute": ", set by arithmetic", "memory": ", set by memory", None: ""}[floor.bound]
        print(_row("time floor", f"{floor.time * 1e6:,.3f}"), f"us{set_by}")


def _whole_numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers separated by commas; got {text!r}") from None


def _per_axis(text: str) -> int | tuple[int, ...]:
    numbers = _whole_numbers(text)
    return numbers[0] if len(numbers) == 1 else numbers


def _padding(text: str) -> Any:
    if text.isalpha():
        return text
    if ":" not in text:
        return _per_axis(text)
    entries = [entry.split(":") for entry in text.split(",")]
    try:
        return tuple(int(ends[0]) if len(ends) == 1 else _ends(*map(int, ends)) for ends in entries)
    except (ValueError, TypeError):
        raise argparse.ArgumentTypeError(f"expected numbers or LO:HI, separated by commas; got {text!r}") from None


def _ends(lo: int, hi: int) -> tuple[int, int]:
    return lo, hi


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))
