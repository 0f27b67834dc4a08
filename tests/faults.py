"""Faults of the world around a convolution, one by one: ``python -m tests.faults`` prints how many were survived.

Each fault is a scene for a fresh interpreter: it must exit with 0 after convolutions whose every number was right.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.processes import LINUX, run_python

USE = "assert check(20)\n"


class Fault(NamedTuple):
    """What is broken, by `prepare` in the cache folder; the code that runs then; its environment."""

    name: str
    prepare: Callable[[Path], None] = lambda folder: None
    code: str = USE
    environment: dict[str, str] = {}  # noqa: RUF012


def files(folder: Path) -> list[Path]:
    """List the files of compiled code."""
    found = sorted(folder.glob("*.nbc"))
    assert found, "the cache is empty"
    return found


def rewrite(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Change the content of every file."""

    def prepare(folder: Path) -> None:
        for path in files(folder):
            path.write_bytes(change(path.read_bytes()))

    return prepare


def swap(folder: Path) -> None:
    """Give every file the content of the next one."""
    found = files(folder)
    contents = [path.read_bytes() for path in found]
    for path, content in zip(found, contents[1:] + contents[:1], strict=True):
        path.write_bytes(content)


def replace_by_folders(folder: Path) -> None:
    """Put a folder where each file was."""
    for path in files(folder):
        path.unlink()
        path.mkdir()


def replace_by_loops(folder: Path) -> None:
    """Put a link to itself where each file was."""
    for path in files(folder):
        path.unlink()
        path.symlink_to(path)


def unreadable(folder: Path) -> None:
    """Take all rights away."""
    for path in files(folder):
        path.chmod(0)


def is_file(folder: Path) -> None:
    """Put a file where the folder was."""
    shutil.rmtree(folder)
    folder.write_text("")


def flip(position: float) -> Callable[[bytes], bytes]:
    """Change one byte."""

    def change(content: bytes) -> bytes:
        at = int(position * (len(content) - 1))
        return content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :]

    return change


FULL_DISK = (
    """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
"""
    + USE
)
FAILING = (
    """
import builtins, {module}
real = {module}.{name}
def fail(*args, **kwargs):
    if "nbc" in str(args) or "NBCONV" in str(args) or "writing" in str(kwargs):
        raise {error}
    return real(*args, **kwargs)
{module}.{name} = fail
"""
    + USE
)
NO_HOOK = "from numba.core import compiler\ndel compiler.CompileResult.{name}\n" + USE
NO_LIBRARY = "from numba.core import codegen\ndel codegen.JITCodeLibrary\n" + USE
RACE = """
import subprocess
code = "from tests.processes import check; assert check(20)"
started = [subprocess.Popen([sys.executable, "-c", code]) for _ in range({count})]
assert [process.wait(250) for process in started] == [0] * {count}
"""
KILLED = (
    """
import subprocess, time
code = "from tests.processes import check; check(20)"
for delay in (1.0, 2.0, 3.0, 4.0):
    process = subprocess.Popen([sys.executable, "-c", code])
    time.sleep(delay)
    process.kill()
    process.wait()
"""
    + USE
)
EMPTY = {"NBCONV_CACHE_DIR": "{folder}/empty"}


def cache_faults() -> Iterator[Fault]:
    """Break the files of the cache, and the folder."""
    yield Fault("nothing is broken")
    for share in (0.0, 0.001, 0.5, 0.999):
        yield Fault(
            f"files cut to {share:.1%}", rewrite(lambda content, share=share: content[: int(share * len(content))])
        )
    yield Fault("files zeroed", rewrite(lambda content: bytes(len(content))))
    yield Fault("files end in zeros", rewrite(lambda content: content[: len(content) // 2].ljust(len(content), b"\0")))
    yield Fault("files lengthened", rewrite(lambda content: content + b"more"))
    for position in (0.0, 0.0005, 0.3, 0.6, 1.0):
        yield Fault(f"one byte changed at {position:.2%}", rewrite(flip(position)))
    yield Fault("foreign text files", rewrite(lambda content: b"hello\n"))
    yield Fault("foreign pickles", rewrite(lambda content: b"\x80\x04N."))
    yield Fault("files of other keys", swap)
    yield Fault("folders for files", replace_by_folders)
    yield Fault("the folder is missing", shutil.rmtree)
    yield Fault("the folder is a file", is_file)
    yield Fault("no folder may be made", environment={"NBCONV_CACHE_DIR": "/proc/nbconv/cache"})
    yield Fault("the folder's name is odd", environment={"NBCONV_CACHE_DIR": "{folder}/a b/\u00fc'\"$"})
    yield Fault("the cache is off", environment={"NBCONV_CACHE_DIR": "off"})
    if LINUX:
        yield Fault("links to themselves", replace_by_loops)
        yield Fault("unreadable files", unreadable)
        yield Fault("disk full", code=FULL_DISK, environment=EMPTY)


def home_faults() -> Iterator[Fault]:
    """Take the user's folder away."""
    for home in ("", "/nonexistent", "relative", "/dev/null", "/proc"):
        yield Fault(f"HOME={home!r}", environment={"HOME": home, "NBCONV_CACHE_DIR": "", "XDG_CACHE_HOME": ""})
    yield Fault("XDG_CACHE_HOME is no folder", environment={"NBCONV_CACHE_DIR": "", "XDG_CACHE_HOME": "/dev/null"})
    code = "del os.environ['HOME']\n" + USE
    yield Fault("no HOME", code=code, environment={"NBCONV_CACHE_DIR": "", "XDG_CACHE_HOME": ""})


def system_faults() -> Iterator[Fault]:
    """Let calls of the system fail, and hooks of Numba be gone."""
    for error in ("OSError(28, 'No space left on device')", "PermissionError(13, 'denied')", "MemoryError()"):
        for module, name in (("os", "replace"), ("tempfile", "mkstemp"), ("os", "fdopen"), ("pickle", "loads")):
            code = FAILING.format(module=module, name=name, error=error)
            if name in ("fdopen", "loads"):
                code = code.replace(
                    'if "nbc" in str(args) or "NBCONV" in str(args) or "writing" in str(kwargs):', "if True:"
                )
            yield Fault(f"{module}.{name}: {error}", code=code, environment={} if name == "loads" else EMPTY)
    for name in ("_reduce", "_rebuild"):
        yield Fault(f"Numba has no CompileResult.{name}", code=NO_HOOK.format(name=name))
    yield Fault("Numba has no JITCodeLibrary", code=NO_LIBRARY, environment={"NBCONV_CACHE_DIR": "off"})


def process_faults() -> Iterator[Fault]:
    """Let processes meet, and die."""
    yield Fault("16 processes at first use", code=RACE.format(count=16), environment=EMPTY)
    yield Fault("4 processes, broken cache", rewrite(flip(0.5)), RACE.format(count=4))
    yield Fault("processes killed while they compile", code=KILLED, environment=EMPTY)
    hide = "sys.modules['numba.np.ufunc.omppool'] = None\n"
    yield Fault("no OpenMP", code=hide + USE)
    yield Fault("no OpenMP, but asked for", code=hide + USE, environment={"NUMBA_THREADING_LAYER": "omp"})
    yield Fault("no TBB, but asked for", code=USE, environment={"NUMBA_THREADING_LAYER": "tbb"})
    yield Fault("unknown threading layer", code=USE, environment={"NUMBA_THREADING_LAYER": "nonsense"})
    yield Fault("an exception in another thread", code="threading.Thread(target=lambda: 1 / 0).start()\n" + USE)
    if LINUX:
        from tests.test_processes import FORK, SCENES

        for scene, code in SCENES.items():
            yield Fault(f"fork {scene}", code=FORK + code)


def all_faults() -> list[Fault]:
    """List every fault."""
    return [*cache_faults(), *home_faults(), *system_faults(), *process_faults()]


def assert_survived(fault: Fault, warm: Path, work: Path) -> None:
    """Run one scene on a copy of a warm cache, in `work`; raises AssertionError where it is not survived."""
    folder = work / "cache"
    shutil.copytree(warm, folder)
    fault.prepare(folder)
    environment = {"NBCONV_CACHE_DIR": "{folder}", "NUMBA_NUM_THREADS": "2", **fault.environment}
    run_python(fault.code, **{key: value.replace("{folder}", str(folder)) for key, value in environment.items()})


def warm_up(folder: Path) -> None:
    """Fill a cache with what the scenes use."""
    run_python("assert check() and check(20) and check(4000)", NBCONV_CACHE_DIR=str(folder), NUMBA_NUM_THREADS="2")


def main() -> int:
    """Inject all faults; return 0 where all were survived."""
    survived, faults = 0, all_faults()
    with tempfile.TemporaryDirectory() as top:
        warm_up(Path(top) / "warm")
        for i, fault in enumerate(faults):
            work = Path(top) / str(i)
            work.mkdir()
            try:
                assert_survived(fault, Path(top) / "warm", work)
            except (AssertionError, subprocess.TimeoutExpired) as error:
                print(f"NOT SURVIVED: {fault.name}\n{error}", flush=True)
            else:
                survived += 1
            shutil.rmtree(work, ignore_errors=True)
    print(f"{len(faults)} faults tried, {survived} survived")
    return int(survived < len(faults))


if __name__ == "__main__":
    sys.exit(main())
