"""Compile ahead into the cache on disk: in an image build, before a service starts.

Run it where the processor is the one that will serve, or name that one: ``NUMBA_CPU_NAME=haswell python -m nbconv
warmup``. ``NBCONV_CACHE_DIR`` says where the code is kept; both settings must then be the same when it is used.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time

import nbconv

from .warming import DTYPES

__all__ = ["add_arguments", "run"]

_BAR = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line of `run`."""
    parser.add_argument(
        "--dtypes",
        default=",".join(DTYPES),
        metavar="NAMES",
        help="types of the arrays to come, separated by commas (default: %(default)s; bfloat16 comes with float16)",
    )
    parser.add_argument("--gradients", action="store_true", help="compile the gradients too")
    parser.add_argument("--quiet", action="store_true", help="print no progress")


def run(args: argparse.Namespace) -> int:
    """Compile; return 0, or 2 where nothing could be kept."""
    started = time.perf_counter()
    try:
        report = nbconv.warmup(
            args.dtypes.split(","), gradients=args.gradients, progress=None if args.quiet else show_progress
        )
    except TypeError as error:
        return _fail(str(error).removeprefix("warmup: "))
    seconds = time.perf_counter() - started
    print(f"{report['loaded']} loaded, {report['compiled']} compiled in {seconds:.1f} s; cache: {report['cache']}")
    lost = report["compiled"] - report["kept"]
    why = report["problem"] or "set NBCONV_CACHE_DIR to a folder that can be written"
    return _fail(f"{lost} compiled, but not kept: {why}") if lost else 0


def show_progress(done: int, total: int, what: str) -> None:
    """Draw a bar on the terminal; nothing where stderr is none."""
    if not sys.stderr.isatty():
        return
    filled = _BAR * done // max(1, total)
    line = f"[{'#' * filled}{'.' * (_BAR - filled)}] {done}/{total} {what}"
    sys.stderr.write("\r" + line[: shutil.get_terminal_size().columns - 1] + "\x1b[K")
    if done == total:
        sys.stderr.write("\r\x1b[K")
    sys.stderr.flush()


def _fail(text: str) -> int:
    print(f"nbconv warmup: error: {text}", file=sys.stderr)
    return 2
