"""Which of Numba's threading layers launches, and what it survives."""

from __future__ import annotations

import ctypes
import os
import site
import sys
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

import numba
from numba.np.ufunc import parallel

__all__ = ["TORN", "Layer", "choose_layer"]

_FORKED_WITHOUT_EXEC = 0x40  # PF_FORKNOEXEC of Linux: the ninth field of /proc/self/stat


@dataclass(frozen=True)
class Layer:
    """A threading layer as the launcher sees it."""

    name: str
    safety: str
    advice: str = ""
    one_at_a_time: bool = False
    one_starter: bool = False
    """A fork is survived where the thread that forks is the only one that ever launched; else the child uses one."""
    least_work: float = 4e6
    """Operations below which waking a second thread takes longer than what it saves."""


_INSTALL_TBB = "pip install 'nbconv[tbb]' (Linux and Windows on x86-64)" if sys.maxsize > 2**32 else "install TBB"
_TBB = Layer("tbb", "several threads may launch at once; survives a fork", one_starter=True)
_OMP = Layer(
    "omp",
    "several threads may launch at once; a process forked after the first launch convolves in one thread",
    f"none for threads; where forked processes are to use several threads each: {_INSTALL_TBB}",
)
_OTHER_OMP = Layer("omp", "several threads may launch at once; survives a fork")
_WORKQUEUE = Layer(
    "workqueue",
    "one launch at a time, others run in one thread meanwhile; survives a fork; parallel Numba functions of other "
    "origin must not run beside it",
    f"install the OpenMP runtime of the system (Debian, Ubuntu: apt-get install libgomp1), or {_INSTALL_TBB}",
    one_at_a_time=True,
    least_work=3e7,
)
_FORKED = Layer(
    "none",
    "forked after OpenMP was loaded: one thread, since GNU OpenMP does not survive a fork",
    f"start processes by 'spawn' or 'forkserver', or {_INSTALL_TBB}",
    least_work=float("inf"),
)
TORN = Layer(
    "none",
    "forked where another thread than the forking one had used TBB: one thread",
    "fork in the main thread before others convolve, or start processes by 'spawn' or 'forkserver'",
    least_work=float("inf"),
)
_INTERPRETED = Layer("none", "kernels run interpreted (NUMBA_DISABLE_JIT), in one thread", least_work=float("inf"))


def choose_layer() -> Layer:
    """Find the layer that Numba has taken, or will take, in this process; starts no thread."""
    if numba.config.DISABLE_JIT:
        return _INTERPRETED
    forked_with_openmp = _forked_with_openmp()
    try:
        name: str | None = numba.threading_layer()
    except ValueError:  # not initialised
        load_tbb()
        name = _probe()
    if name == "tbb":
        numba.get_num_threads()  # starts it, in this thread; its workers come with the first launch
        return _TBB
    if name == "omp":
        return _FORKED if forked_with_openmp else (_OMP if sys.platform == "linux" else _OTHER_OMP)
    if name == "workqueue":
        return _WORKQUEUE
    wanted = numba.config.THREADING_LAYER
    return Layer(
        "none",
        f"NUMBA_THREADING_LAYER={wanted} cannot be had: one thread",
        f"unset NUMBA_THREADING_LAYER, or {_INSTALL_TBB}",
        least_work=float("inf"),
    )


def _probe() -> str | None:
    """Take the first layer that loads, in the order that Numba will go through."""
    wanted = str(numba.config.THREADING_LAYER).lower()
    orders = {
        "default": tuple(numba.config.THREADING_LAYER_PRIORITY),
        "safe": ("tbb",),
        "threadsafe": ("tbb", "omp"),
        "forksafe": ("tbb", "workqueue") if sys.platform == "linux" else ("tbb", "omp", "workqueue"),
    }
    for name in orders.get(wanted, (wanted,)):
        try:
            if name == "tbb":
                getattr(parallel, "_check_tbb_version_compatible", int)()
            import_module(f"numba.np.ufunc.{'workqueue' if name == 'workqueue' else name + 'pool'}")
        except ImportError:
            continue
        return name
    return None


def load_tbb() -> None:
    """Load the TBB that pip installed: in a virtual environment it lies where no loader looks."""
    name = {"linux": "libtbb.so.12", "win32": "tbb12.dll"}.get(sys.platform)
    if name is None or str(numba.config.THREADING_LAYER).lower() in ("omp", "workqueue"):
        return
    try:
        ctypes.CDLL(name)
        return
    except OSError:
        pass
    inside = partial(os.path.join, "Library", "bin") if sys.platform == "win32" else partial(os.path.join, "lib")
    for prefix in (sys.prefix, sys.base_prefix, site.getuserbase()):
        path = os.path.join(prefix, inside(name))
        if os.path.isfile(path):
            try:
                ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
                return
            except OSError:
                continue


def _forked_with_openmp() -> bool:
    """Say whether this process is a fork that carries an OpenMP runtime, whose threads stayed behind in the parent.

    Conservative: a runtime that was loaded after the fork counts too.
    """
    if sys.platform != "linux":
        return False
    try:
        stat = Path("/proc/self/stat").read_text()
        flags = int(stat[stat.rindex(")") :].split()[7])
        return bool(flags & _FORKED_WITHOUT_EXEC) and "libgomp" in Path("/proc/self/maps").read_text()
    except (OSError, ValueError, IndexError):
        return True
