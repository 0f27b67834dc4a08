"""Read and write WAV files of 16-bit, 24-bit and 32-bit integers and of 32-bit and 64-bit floats, any channel count.

The standard library's `wave` reads no floats, and before Python 3.12 no ``WAVE_FORMAT_EXTENSIBLE``; hence a reader of
its own. Samples come as a C-contiguous ``(frames, channels)`` array with full scale at 1.0.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["SAMPLE_FORMATS", "SampleFormat", "Wav", "WavError", "check_fits", "read_wav", "write_wav"]

Samples = npt.NDArray[Any]

PCM, FLOAT, EXTENSIBLE = 0x0001, 0x0003, 0xFFFE
SUBFORMAT_TAIL = bytes.fromhex("000000001000800000aa00389b71")  # of every GUID that stands for a plain format code
MOST_BYTES = 2**32 - 1 - 128  # a RIFF size is 32 bits wide; 128 leave room for the headers
UNKNOWN_SIZE = 2**32 - 1  # what a program writes that streams and cannot come back to fill in the length
BLOCK = 1 << 20  # samples converted at a time, so that no temporary grows with the file


class WavError(ValueError):
    """A file that is no WAV, is broken, or has a format that is not read here."""


class SampleFormat(NamedTuple):
    """How one sample is stored, and the dtype that holds all of its bits."""

    name: str
    code: int
    bits: int
    dtype: type[np.floating[Any]]


SAMPLE_FORMATS = {
    (form.code, form.bits): form
    for form in (
        SampleFormat("16-bit", PCM, 16, np.float32),
        SampleFormat("24-bit", PCM, 24, np.float32),
        SampleFormat("32-bit", PCM, 32, np.float64),
        SampleFormat("float32", FLOAT, 32, np.float32),
        SampleFormat("float64", FLOAT, 64, np.float64),
    )
}


@dataclass(frozen=True)
class Wav:
    """A sound: samples ``(frames, channels)`` with full scale at 1.0, frames a second, format, speaker mask."""

    samples: Samples
    rate: int
    form: SampleFormat
    speakers: int | None = None


def read_wav(path: str | os.PathLike[str]) -> Wav:
    """Read a WAV file.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    Wav
        Samples ``(frames, channels)``, float32; float64 where the file holds 32-bit integers or 64-bit floats.

    Raises
    ------
    WavError
        Where the file is not a WAV file, is broken, or has another sample format.
    OSError
        Where it cannot be opened or read.

    Examples
    --------
    >>> sound = read_wav("speech.wav")  # doctest: +SKIP
    >>> sound.rate, sound.samples.shape, sound.form.name  # doctest: +SKIP
    (48000, (96000, 2), '24-bit')
    """
    with open(path, "rb") as file:
        riff = file.read(12)
        if riff[:4] in (b"RF64", b"RIFX"):
            raise WavError(f"{riff[:4].decode()} files are not supported, only RIFF")
        if len(riff) < 12 or riff[:4] != b"RIFF" or riff[8:] != b"WAVE":
            raise WavError("not a WAV file: it does not begin with a RIFF WAVE header")
        header = None
        while True:
            name, size = _read_chunk_head(file)
            if name == b"fmt ":
                header = _parse_format(file.read(min(size, 64)))
                file.seek(max(size - 64, 0) + size % 2, os.SEEK_CUR)
            elif name == b"data":
                if header is None:
                    raise WavError("broken WAV file: the data come before the format")
                form, channels, rate, speakers = header
                raw = _read_data(file, size, channels * form.bits // 8)
                return Wav(_decode(raw, form).reshape(-1, channels), rate, form, speakers)
            else:
                file.seek(size + size % 2, os.SEEK_CUR)


def write_wav(path: str | os.PathLike[str], sound: Wav) -> int:
    """Write a WAV file; integer formats are rounded to nearest and clipped at full scale, without dither.

    Parameters
    ----------
    path
        The file to create or replace.
    sound
        Samples ``(frames, channels)`` of any float dtype, rate, format, and speaker mask.

    Returns
    -------
    int
        How many samples were clipped; always 0 for float formats.

    Raises
    ------
    WavError
        Where the sound does not fit in a WAV file; nothing is written then.
    OSError
        Where the file cannot be written.

    Examples
    --------
    >>> silence = Wav(np.zeros((48000, 2), np.float32), 48000, SAMPLE_FORMATS[PCM, 24])
    >>> write_wav("silence.wav", silence)  # doctest: +SKIP
    0
    """
    frames, channels = sound.samples.shape
    form = sound.form
    width = form.bits // 8
    check_fits(frames, channels, sound.rate, form)
    n_bytes = frames * channels * width
    extensible = sound.speakers is not None or channels > 2
    fields = EXTENSIBLE if extensible else form.code, channels, sound.rate
    fmt = struct.pack("<HHIIHH", *fields, sound.rate * channels * width, channels * width, form.bits)
    if extensible:
        fmt += struct.pack("<HHIH", 22, form.bits, sound.speakers or 0, form.code) + SUBFORMAT_TAIL
    elif form.code != PCM:
        fmt += struct.pack("<H", 0)
    chunks = _chunk(b"fmt ", fmt)
    if form.code != PCM:
        chunks += _chunk(b"fact", struct.pack("<I", frames))
    clipped = 0
    with open(path, "wb") as file:
        total = 4 + len(chunks) + 8 + n_bytes + n_bytes % 2
        file.write(struct.pack("<4sI4s", b"RIFF", total, b"WAVE") + chunks + struct.pack("<4sI", b"data", n_bytes))
        step = max(1, BLOCK // channels)
        for first in range(0, frames, step):
            raw, n_clipped = _encode(sound.samples[first : first + step].ravel(), form)
            file.write(raw)
            clipped += n_clipped
        file.write(b"\0" * (n_bytes % 2))
    return clipped


def check_fits(frames: int, channels: int, rate: int, form: SampleFormat) -> None:
    """Raise WavError where such a sound is too large for the 32-bit fields of a WAV file."""
    width = form.bits // 8
    if frames * channels * width > MOST_BYTES or rate * channels * width >= 2**32 or channels * width >= 2**16:
        raise WavError(
            f"{frames} frames of {channels} x {form.name} at {rate} Hz do not fit in a WAV file, which ends at 4 GiB"
        )


def _read_chunk_head(file: BinaryIO) -> tuple[bytes, int]:
    head = file.read(8)
    if len(head) < 8:
        raise WavError("broken WAV file: it ends before the data")
    name, size = struct.unpack("<4sI", head)
    return name, size


def _parse_format(fmt: bytes) -> tuple[SampleFormat, int, int, int | None]:
    if len(fmt) < 16:
        raise WavError("broken WAV file: the format chunk is too short")
    code, channels, rate, _, frame_bytes, bits = struct.unpack("<HHIIHH", fmt[:16])
    speakers = None
    if code == EXTENSIBLE:
        if len(fmt) < 40:
            raise WavError("broken WAV file: the format chunk is too short")
        speakers, code = struct.unpack("<IH", fmt[20:26])
        if fmt[26:40] != SUBFORMAT_TAIL:
            code = EXTENSIBLE
    form = SAMPLE_FORMATS.get((code, bits))
    if form is None:
        known = ", ".join(form.name for form in SAMPLE_FORMATS.values())
        raise WavError(f"WAV format {code:#06x} with {bits} bits a sample is not supported; supported: {known}")
    if channels == 0 or rate == 0 or frame_bytes != channels * bits // 8:
        raise WavError(
            f"broken WAV file: {channels} channels of {bits} bits at {rate} Hz in frames of {frame_bytes} bytes"
        )
    return form, channels, rate, speakers


def _read_data(file: BinaryIO, size: int, frame_bytes: int) -> bytes:
    left = os.fstat(file.fileno()).st_size - file.tell()
    if size == UNKNOWN_SIZE:
        size = left - left % frame_bytes
    if size > left:
        raise WavError(f"broken WAV file: {size} bytes of data announced, {left} present")
    if size % frame_bytes:
        raise WavError(f"broken WAV file: {size} bytes of data are not a whole number of {frame_bytes}-byte frames")
    return file.read(size)


def _decode(raw: bytes, form: SampleFormat) -> Samples:
    """Turn stored samples into floats: bytes -> ``(samples,)``."""
    if form.code == FLOAT:
        return np.frombuffer(raw, f"<f{form.bits // 8}").astype(form.dtype)
    width = form.bits // 8
    stored = np.frombuffer(raw, np.uint8).reshape(-1, width)
    samples = np.empty(len(stored), form.dtype)
    # Every width ends up in the high bytes of an int32: one scale serves all, and the sign comes by itself.
    wide = np.zeros((min(len(stored), BLOCK), 4), np.uint8)
    for first in range(0, len(stored), BLOCK):
        part = stored[first : first + BLOCK]
        wide[: len(part), 4 - width :] = part
        np.multiply(
            wide[: len(part)].view("<i4")[:, 0], 2.0**-31, out=samples[first : first + len(part)], casting="unsafe"
        )
    return samples


def _encode(samples: Samples, form: SampleFormat) -> tuple[bytes, int]:
    """Turn floats into stored samples and count the clipped ones: ``(samples,)`` -> bytes."""
    if form.code == FLOAT:
        return samples.astype(f"<f{form.bits // 8}", copy=False).tobytes(), 0
    scale = 2.0 ** (form.bits - 1)
    whole = np.rint(samples.astype(np.float64) * scale)
    fitting = np.clip(np.nan_to_num(whole, nan=0.0), -scale, scale - 1)
    clipped = int(np.count_nonzero(fitting != whole))
    width = form.bits // 8
    return np.ascontiguousarray(fitting.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :width]).tobytes(), clipped


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack("<4sI", name, len(body)) + body + b"\0" * (len(body) % 2)
