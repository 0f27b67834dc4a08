"""What comes in: checks of arrays at the door, and the flat views that kernels take.

Every kernel argument is a flat, writable-typed, one-dimensional array with strides in numbers beside it, so that
layouts, read-only flags and alignments never make Numba compile again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

__all__ = [
    "Flat",
    "begins_lowest",
    "check_array",
    "check_out",
    "compute_dtype",
    "flat_data",
    "flat_steps",
    "flat_view",
    "one_dtype",
    "span_of",
]

_ADVICE = "nbconv computes float32, float64, float16 and bfloat16"


class Flat(NamedTuple):
    """A flat view of the memory that an array spans: `array[i, j]` is `data[start + i * steps[0] + j * steps[1]]`."""

    data: np.ndarray
    start: int
    steps: tuple[int, ...]


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Give the type that sums are held in: float32 for half types, else the type itself."""
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype


def _is_bfloat16(dtype: np.dtype) -> bool:
    return dtype.name == "bfloat16" and dtype.itemsize == 2


def check_array(op: str, name: str, value: Any) -> np.ndarray:
    """Return `value` as a native-endian array of a type that nbconv computes.

    Raises
    ------
    TypeError
        For anything that is no array, or an array of another type; the text says what to do.
    """
    array: np.ndarray = value if type(value) is np.ndarray else _as_array(op, name, value)
    dtype = array.dtype
    if (dtype.kind == "f" and dtype.itemsize <= 8) or _is_bfloat16(dtype):
        return array if dtype.isnative else array.astype(dtype.newbyteorder("="))
    if dtype.kind in "iub":
        advice = f"convert it, e.g. {name}.astype(numpy.float32)"
    elif dtype.kind == "c":
        advice = f"convolve {name}.real and {name}.imag apart"
    elif dtype.kind == "f":
        advice = f"convert it, e.g. {name}.astype(numpy.float64)"
    else:
        advice = "make it an array of numbers"
    raise TypeError(f"{op}: {name} has dtype {dtype}; {_ADVICE}: {advice}")


def _as_array(op: str, name: str, value: Any) -> np.ndarray:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{op}: {name} is a masked array, whose mask would be ignored; use {name}.filled(0)")
    if isinstance(value, np.ndarray):
        return np.asarray(value)
    if hasattr(value, "__dlpack__"):
        try:
            array: np.ndarray = np.from_dlpack(value)
            return array
        except (BufferError, RuntimeError, TypeError) as error:
            kind, reason = type(value).__name__, str(error)
            if str(getattr(value, "dtype", "")).endswith("bfloat16"):
                reason = (
                    "NumPy's exchange has no bfloat16; pass its words, of PyTorch e.g. "
                    f"{name}.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)"
                )
            raise TypeError(f"{op}: {name} ({kind}) is no array that NumPy can view on the CPU: {reason}") from None
    raise TypeError(
        f"{op}: {name} must be a NumPy array; got {type(value).__name__}: "
        f"use numpy.asarray({name}, dtype=numpy.float32)"
    )


def one_dtype(op: str, **arrays: np.ndarray | None) -> np.dtype:
    """Return the dtype that all arrays share; a TypeError names the first pair that differs."""
    (first, array), *others = ((name, array) for name, array in arrays.items() if array is not None)
    for name, other in others:
        if other.dtype != array.dtype:
            raise TypeError(
                f"{op}: {first} has dtype {array.dtype}, {name} has dtype {other.dtype}; they must share one: "
                f"convert one, e.g. {name}.astype({first}.dtype)"
            )
    return array.dtype


def check_out(op: str, out: Any, shape: tuple[int, ...], dtype: np.dtype, *inputs: np.ndarray | None) -> np.ndarray:
    """Check the array that the caller wants filled.

    Raises
    ------
    TypeError
        Where it is no array, or of another dtype than the result.
    ValueError
        Where its shape is not the result's, it is read-only, overlaps itself or an input.
    """
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"{op}: out must be a NumPy array; got {type(out).__name__}")
    if out.dtype != dtype:
        raise TypeError(f"{op}: out has dtype {out.dtype}, the result has {dtype}")
    if out.shape != shape:
        raise ValueError(f"{op}: out has shape {out.shape}, the result has {shape}")
    if not out.flags.writeable:
        raise ValueError(f"{op}: out is read-only")
    if _overlaps_itself(out):
        raise ValueError(f"{op}: out overlaps itself (strides {out.strides} of shape {out.shape})")
    for value in inputs:
        if value is not None and _overlap(out, value):
            raise ValueError(f"{op}: out shares memory with an input")
    return out


def _overlaps_itself(out: np.ndarray) -> bool:
    """Say whether two places of `out` may share memory: each axis must step over all that the finer ones span."""
    if out.flags.c_contiguous or out.size == 0:
        return False
    span = out.itemsize
    for step, size in sorted((abs(step), size) for step, size in zip(out.strides, out.shape, strict=True)):
        if size > 1:
            if step < span:
                return True
            span += step * (size - 1)
    return False


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=100_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def begins_lowest(array: np.ndarray) -> bool:
    """Say whether each number of an array lies a whole number of them behind its first."""
    return all(step >= 0 and step % array.itemsize == 0 for step in array.strides)


def span_of(array: np.ndarray) -> int:
    """Count the bytes from the begin of an array that `begins_lowest` to its end."""
    steps = ((size - 1) * step for size, step in zip(array.shape, array.strides, strict=True))
    return sum(steps) + array.itemsize if array.size else 0


class _Alias:
    """The memory of a read-only array, exported as writable; kernels only read it."""

    def __init__(self, owner: np.ndarray) -> None:
        self.owner = owner
        interface = dict(owner.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface


def flat_view(array: np.ndarray) -> Flat:
    """View the memory that an array spans as one flat array; 16-bit types as the words that hold them.

    Nothing is copied, but for arrays whose strides are no multiple of their item size (fields of packed records).
    """
    return Flat(*flat_data(array), flat_steps(array.shape, array.strides, array.itemsize))


def flat_data(array: np.ndarray) -> tuple[np.ndarray, int]:
    """Give `flat_view` without the strides, for those who know them."""
    if array.itemsize == 2:
        array = array.view(np.uint16)
    flags = array.flags
    if flags.carray:  # the usual case first: small calls are made of these microseconds
        return array.ravel(), 0
    if flags.f_contiguous and flags.behaved:
        return array.T.ravel(), 0
    if flags.c_contiguous:
        data, start = array.reshape(-1), 0
    elif any(step % array.itemsize for step in array.strides):
        data, start = array.copy().reshape(-1), 0
    elif array.size == 0:
        data, start = np.empty(0, array.dtype), 0
    else:
        turned = array.transpose(sorted(range(array.ndim), key=array.strides.__getitem__, reverse=True))
        if turned.flags.carray:  # a view of a whole array, its axes in another order
            return turned.ravel(), 0
        steps = flat_steps(array.shape, array.strides, array.itemsize)
        back = tuple(slice(None, None, -1) if step < 0 else slice(None) for step in steps)
        reach = [(size - 1) * abs(step) for step, size in zip(steps, array.shape, strict=True)]
        data = as_strided(array[back], (sum(reach) + 1,), (array.itemsize,))
        start = sum(r for r, step in zip(reach, steps, strict=True) if step < 0)
    if not data.flags.writeable:
        data = np.asarray(_Alias(data))
    return data, start


def flat_steps(shape: tuple[int, ...], strides: tuple[int, ...], item: int) -> tuple[int, ...]:
    """Give the strides, in numbers, of the view that `flat_data` makes of an array of these strides in bytes."""
    if any(step % item for step in strides):
        return contiguous_steps(shape)
    # A size-1 axis is never stepped along: NumPy gives it any stride, which must not tell plans apart.
    steps, contiguous = [], contiguous_steps(shape)
    for size, step, packed in zip(shape, strides, contiguous, strict=True):
        steps.append(step // item if size > 1 else packed)
    return tuple(steps)


def contiguous_steps(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Give the strides, in numbers, of a C-contiguous array."""
    steps, step = [], 1
    for size in reversed(shape):
        steps.append(step)
        step *= max(1, size)
    return tuple(reversed(steps))
