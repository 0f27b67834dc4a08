"""Raise the sampling rate of a WAV file by 2, 4 or 8: a channels-last network of one convolution a doubling.

Each doubling is one ``conv1d`` from C to 2C channels and a view: a frame of 2C channels *is* two frames of C, so
``(N, L, 2C)`` is ``(N, 2L, C)`` without moving a number. The first C channels hold the frames that were there, the
other C the frames half-way between them, which a windowed-sinc half-band filter interpolates.

The filter, for pass band edge `p` and attenuation `A`: tones up to ``p`` times the input's rate come out with an error
of at most ``10**(-A/20)``, their images, from ``1 - p`` times that rate on, included. Between the two lies the
transition, centred on the Nyquist frequency. The first doubling takes ``p = 0.45`` and ``A = 120`` dB in 84 taps. What
it leaves ends at 0.55 of the input's rate, so that later doublings have a wide transition and need few taps.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import nbconv
from nbconv.examples.wav import SAMPLE_FORMATS, Wav, WavError, check_fits, read_wav, write_wav
from nbconv.runtime.interrupts import interrupts_wait

__all__ = ["add_arguments", "design_filters", "made_sound", "polyphase_weight", "run", "upscale"]

Array = npt.NDArray[Any]

FACTORS = (2, 4, 8)
PASS_BAND = 0.45
ATTENUATION = 120.0
MADE_RATE, MADE_SECONDS = 48000, 2
# A dense weight has C * C blocks of which C are not zero. Up to this C the zeros ride along in vector lanes that a
# narrower convolution would leave empty; beyond it each channel is a sample of its own.
MOST_DENSE_CHANNELS = 8
LEAST_SECONDS = 0.1  # short sounds are run again, since one run of a millisecond says little
REFERENCE_FRAMES = 1 << 18


def design_filters(factor: int) -> list[Array]:
    """Return the half-band filter of each doubling: float64 arrays ``(taps,)`` of even length.

    Filter `f` gives the frame half-way between input frames ``i`` and ``i + 1`` as
    ``sum_j f[j] * x[i + 1 - taps/2 + j]``.

    Notes
    -----
    Kaiser's formulas for window shape and length: J. F. Kaiser, "Nonrecursive digital filter design using the
    I0-sinh window function", 1974.

    Examples
    --------
    >>> [len(taps) for taps in design_filters(8)]
    [84, 20, 12]
    """
    stop = 1 - PASS_BAND
    filters = [_design_halfband(PASS_BAND)]
    while 2 ** len(filters) < factor:
        filters.append(_design_halfband(stop / 2 ** len(filters)))
    return filters


def _design_halfband(pass_band: float) -> Array:
    # Half of the new frames are exact, so the others carry twice the ripple of the whole filter: 6 dB more are needed.
    order = (ATTENUATION + 6 - 7.95) / (2.285 * math.pi * (1 - 2 * pass_band))
    half = math.ceil(order / 4)
    attenuation = 7.95 + 2.285 * math.pi * (1 - 2 * pass_band) * 4 * half
    beta = 0.1102 * (attenuation - 8.7)
    at = np.arange(-half, half) + 0.5
    window = np.i0(beta * np.sqrt(1 - (at / half) ** 2)) / np.i0(beta)
    return np.asarray(np.sinc(at) * window)


def polyphase_weight(taps: Array, channels: int) -> Array:
    """Return the weight of one doubling, PyTorch's shape: filter ``(taps,)`` -> ``(2 * channels, channels, taps)``.

    Output channel ``c`` is input channel ``c`` itself, output channel ``channels + c`` the same half a frame later.

    Examples
    --------
    >>> polyphase_weight(np.array([0.5, 0.5]), 1)
    array([[[1. , 0. ]],
    <BLANKLINE>
           [[0.5, 0.5]]])
    """
    weight = np.zeros((2 * channels, channels, len(taps)), taps.dtype)
    for c in range(channels):
        weight[c, c, len(taps) // 2 - 1] = 1
        weight[channels + c, c] = taps
    return weight


def upscale(x: Array, weights: Sequence[Array]) -> Array:
    """Double the rate of `x` once for each weight: ``(N, L, C)`` -> ``(N, 2**len(weights) * L, C)``.

    Examples
    --------
    >>> x = np.array([[[1.0], [3.0], [5.0]]])
    >>> upscale(x, [polyphase_weight(np.array([0.5, 0.5]), 1)])[0, :, 0]
    array([1. , 2. , 3. , 4. , 5. , 2.5])
    """
    for weight in weights:
        n, length, channels = x.shape
        x = nbconv.conv1d(x, weight, padding="same").reshape(n, 2 * length, channels)
    return x


def made_sound(rate: int) -> Array:
    """Return the test signal sampled at `rate` in Hz: float64 ``(2 * rate, 2)``.

    Sixteen tones from 55 Hz to 21 kHz with Gaussian envelopes, upwards on the left, downwards on the right. A tone's
    spectrum is a Gaussian 3 Hz wide, so the sum is band-limited and yet silent at both ends: whatever rate it is
    sampled at, the samples are those of one band-limited signal.
    """
    time_ = np.arange(MADE_SECONDS * rate) / rate
    pitches = np.geomspace(55, 0.44 * MADE_RATE, 16)
    sound = np.zeros((len(time_), 2))
    for side, order in enumerate((pitches, pitches[::-1])):
        for pitch, middle in zip(order, np.linspace(0.4, MADE_SECONDS - 0.4, len(order)), strict=True):
            since = time_ - middle
            sound[:, side] += 0.5 * np.exp(-0.5 * (since / 0.05) ** 2) * np.cos(2 * np.pi * pitch * since)
    return sound


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line of `run`."""
    parser.add_argument(
        "input", nargs="?", metavar="IN.wav", help="16-bit, 24-bit or float WAV; default: a test signal of two seconds"
    )
    parser.add_argument("output", nargs="?", metavar="OUT.wav", help="default: IN-x2.wav beside IN.wav")
    parser.add_argument(
        "--factor", type=int, choices=FACTORS, default=2, help="new rate over old rate; default: %(default)s"
    )


@dataclass(frozen=True)
class Timing:
    """Seconds until the kernels were there, seconds and floating-point operations of the best of `runs` runs."""

    prepare: float
    taken: float
    runs: int
    flops: float


def run(args: argparse.Namespace) -> int:
    """Do what the command line says; return the exit status."""
    path = args.input or "the test signal"
    try:
        sound = read_wav(args.input) if args.input else Wav(made_sound(MADE_RATE), MADE_RATE, SAMPLE_FORMATS[3, 32])
        if not sound.samples.size:
            raise WavError("the file holds no samples")
        path = args.output or _default_output(args.input, args.factor)
        frames, channels = sound.samples.shape
        check_fits(frames * args.factor, channels, sound.rate * args.factor, sound.form)
        _check_output(path, args.input)
        filters = design_filters(args.factor)
        _report_sound(sound, args.factor)
        samples, timing = _upscale_timed(sound.samples.astype(sound.form.dtype, copy=False), filters)
        _report_speed(sound, timing)
        _report_error(sound, samples, filters, made=not args.input)
        clipped = write_wav(path, Wav(samples, sound.rate * args.factor, sound.form, sound.speakers))
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        print(f"nbconv upscale: error: {path}: {reason}", file=sys.stderr)
        return 2
    except MemoryError:
        print(f"nbconv upscale: error: {path}: not enough memory", file=sys.stderr)
        return 2
    print(f"written       {path}" + (f", {clipped} samples clipped at full scale" if clipped else ""))
    return 0


def _default_output(input_path: str | None, factor: int) -> str:
    source = Path(input_path or "test-signal.wav")
    return str(source.with_name(f"{source.stem}-x{factor}.wav"))


def _check_output(path: str, input_path: str | None) -> None:
    """Find what would keep the result from being written before the work is done."""
    if input_path and os.path.exists(path) and os.path.samefile(path, input_path):
        raise WavError("this is the input file; name another one for the result")
    if os.path.isdir(path):
        raise IsADirectoryError(0, "is a directory")
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise FileNotFoundError(0, "its folder does not exist")


def _upscale_timed(samples: Array, filters: Sequence[Array]) -> tuple[Array, Timing]:
    """Upscale ``(frames, channels)``, timed apart from the compilation of the kernels."""
    frames, channels = samples.shape
    dense = channels <= MOST_DENSE_CHANNELS
    weights = [polyphase_weight(taps, channels if dense else 1).astype(samples.dtype) for taps in filters]
    x = samples[None] if dense else samples.T[:, :, None]
    start = time.perf_counter()
    with interrupts_wait():
        upscale(x[:, : MADE_SECONDS * MADE_RATE], weights)
    prepare = time.perf_counter() - start
    times: list[float] = []
    while sum(times) < LEAST_SECONDS:
        start = time.perf_counter()
        y = upscale(x, weights)
        times.append(time.perf_counter() - start)
    flops = sum(2.0 * len(x) * frames * 2**stage * weight.size for stage, weight in enumerate(weights))
    return (y[0] if dense else y[:, :, 0].T), Timing(prepare, min(times), len(times), flops)


def _report_sound(sound: Wav, factor: int) -> None:
    frames, channels = sound.samples.shape
    names = {1: "mono", 2: "stereo"}
    print(f"sound         {names.get(channels, f'{channels} channels')}, {sound.form.name}")
    print(f"rate          {sound.rate} Hz -> {sound.rate * factor} Hz")
    print(f"duration      {frames / sound.rate:.3f} s", flush=True)


def _report_speed(sound: Wav, timing: Timing) -> None:
    from nbconv.runtime.peak import measure_peak

    seconds = len(sound.samples) / sound.rate
    best = f"best of {timing.runs} runs, " if timing.runs > 1 else ""
    print(f"taken         {timing.taken:.4f} s, {best}after {timing.prepare:.2f} s to get the kernels")
    print(f"speed         {seconds / timing.taken:.0f} times real time")
    threads = nbconv.get_num_threads()
    peak = measure_peak(sound.form.dtype) * threads
    rate = timing.flops / timing.taken
    of = "one thread" if threads == 1 else f"{threads} threads"
    print(f"convolution   {rate / 1e9:.1f} GFLOP/s, {rate / peak:.1%} of the {peak / 1e9:.0f} GFLOP/s FMA peak of {of}")


def _report_error(sound: Wav, samples: Array, filters: Sequence[Array], *, made: bool) -> None:
    if made:
        ideal = made_sound(sound.rate * 2 ** len(filters))
        against, worst = "the ideal band-limited signal", float(np.abs(samples - ideal).max())
    else:
        try:
            import scipy.signal  # noqa: F401
        except ImportError:
            print("worst error   not measured: scipy, whose resample_poly would be the judge, is not installed")
            return
        against = "scipy.signal.resample_poly with the same filter"
        worst = _worst_error_against_scipy(sound.samples, samples, filters)
    level = f" ({20 * math.log10(worst):.0f} dB)" if 0 < worst < math.inf else ""
    print(f"worst error   {worst:.1e} of full scale{level} against {against}")


def _worst_error_against_scipy(x: Array, y: Array, filters: Sequence[Array]) -> float:
    """Compare in pieces, each with as much sound around it as the filters reach, so that memory stays bounded."""
    from scipy.signal import resample_poly

    factor, reach = 2 ** len(filters), sum(len(taps) for taps in filters)
    worst = 0.0
    for first in range(0, len(x), REFERENCE_FRAMES):
        end = min(first + REFERENCE_FRAMES, len(x))
        begin = max(first - reach, 0)
        piece = x[begin : end + reach].astype(np.float64)
        for taps in filters:
            prototype = np.zeros(2 * len(taps) - 1)
            prototype[::2] = taps
            prototype[len(taps) - 1] = 1
            piece = resample_poly(piece, 2, 1, axis=0, window=prototype / 2)
        error = np.abs(piece[(first - begin) * factor :][: (end - first) * factor] - y[first * factor : end * factor])
        worst = max(worst, float(error.max()))
    return worst
