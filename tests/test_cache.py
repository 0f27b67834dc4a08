"""The cache on disk: what is kept, what makes a new key, and that nothing in the folder can do harm."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import nbconv
from nbconv.__main__ import main
from tests import faults
from tests.processes import LINUX, ROOT, run_python

REPORT = """
from nbconv.runtime.cache import cache_info
info = cache_info()
print(info["loaded"], info["compiled"], info["kept"], info["problem"])
"""


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds what `check` uses."""
    folder = tmp_path_factory.mktemp("cache") / "warm"
    faults.warm_up(folder)
    return folder


def report(folder: Path, code: str = "assert check()", **environment: str) -> list[str]:
    """Convolve in a fresh process; give what it loaded, compiled, kept, and its last problem."""
    return run_python(code + REPORT, NBCONV_CACHE_DIR=str(folder), NUMBA_NUM_THREADS="2", **environment).split()


def import_from(folder: Path) -> str:
    """Write code that forgets the package and imports the copy in a folder."""
    return f"""
sys.path.insert(0, {str(folder)!r})
for name in [name for name in sys.modules if name.startswith(("nbconv", "tests"))]:
    del sys.modules[name]
import nbconv.cpu.backend
assert nbconv.__file__.startswith(sys.path[0])
"""


def test_a_second_process_compiles_nothing(warm: Path) -> None:
    loaded, compiled, kept, problem = report(warm)
    assert int(loaded) >= 3
    assert (compiled, kept, problem) == ("0", "0", "None")


def test_only_entries_are_kept_one_file_each(warm: Path) -> None:
    names = [path.name for path in warm.iterdir()]
    assert all(name.endswith(".nbc") for name in names)
    assert len(names) < 20
    assert len({name.rsplit("-", 1)[1] for name in names}) == len(names)


@pytest.mark.parametrize(
    "environment",
    [{"NUMBA_CPU_NAME": "haswell"}, {"NUMBA_OPT": "2"}, {"NUMBA_BOUNDSCHECK": "1"}, {"NUMBA_LOOP_VECTORIZE": "0"}],
    ids=lambda environment: next(iter(environment)),
)
@pytest.mark.skipif(not LINUX, reason="names processors of x86-64")
def test_what_changes_the_code_changes_the_key(environment: dict[str, str], warm: Path, tmp_path: Path) -> None:
    shutil.copytree(warm, tmp_path / "cache")
    loaded, compiled, kept, _ = report(tmp_path / "cache", "assert check(20)", **environment)
    assert loaded == "0"
    assert compiled == kept != "0"


def test_a_changed_source_is_compiled_anew(warm: Path, tmp_path: Path) -> None:
    """Any file of the package: a constant in a helper reaches compiled code without a trace in the caller."""
    shutil.copytree(ROOT / "nbconv", tmp_path / "nbconv", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(warm, tmp_path / "cache")
    code = import_from(tmp_path) + "from tests.processes import check\nassert check(20)"
    assert report(tmp_path / "cache", code)[1] == "0"
    with (tmp_path / "nbconv" / "cpu" / "panels.py").open("a") as file:
        file.write("\n# changed\n")
    assert report(tmp_path / "cache", code)[0] == "0"


def test_code_of_sources_that_have_changed_meanwhile_is_not_kept(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "nbconv", tmp_path / "nbconv", ignore=shutil.ignore_patterns("__pycache__"))
    code = f"""{import_from(tmp_path)}
open(nbconv.cpu.backend.__file__, "a").write("# changed")
from tests.processes import check
assert check(20)
"""
    _, compiled, kept, *problem = report(tmp_path / "cache", code)
    assert compiled != "0"
    assert kept == "0"
    assert "changed" in problem


def test_closures_are_not_cached() -> None:
    from nbconv.runtime.jit import serial

    def make(constant: int) -> object:
        @serial
        def add(x):  # type: ignore[no-untyped-def]
            return x + constant

        return add(1)

    assert (make(1), make(2)) == (2, 3)


@pytest.mark.skipif(not LINUX, reason="mounts and rights of Linux")
def test_a_read_only_package_and_cache(warm: Path, tmp_path: Path) -> None:
    """As in a container whose image was built by another user."""
    shutil.copytree(warm, tmp_path / "cache")
    (tmp_path / "cache").chmod(0o555)
    try:
        loaded, compiled, *_ = report(tmp_path / "cache")
    finally:
        (tmp_path / "cache").chmod(0o755)
    assert (int(loaded) > 0, compiled) == (True, "0")


# ---- faults --------------------------------------------------------------------------------------------------------


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    """A folder that can be removed whatever a fault has done to it."""
    yield tmp_path
    for path in tmp_path.rglob("*"):
        if not path.is_symlink():
            os.chmod(path, 0o700)


SOME = ("one byte changed at 60.00%", "files zeroed", "files of other keys", "no folder may be made", "no HOME")


@pytest.mark.parametrize(
    "fault", [fault for fault in faults.all_faults() if fault.name in SOME], ids=lambda fault: fault.name
)
def test_some_faults(fault: faults.Fault, warm: Path, work: Path) -> None:
    """All of them are injected by ``python -m tests.faults``."""
    faults.assert_survived(fault, warm, work)


def test_every_fault_has_a_name_of_its_own() -> None:
    names = [fault.name for fault in faults.all_faults()]
    assert len(set(names)) == len(names)
    assert set(SOME) <= set(names)


# ---- warm-up -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_warmup_leaves_nothing_to_compile(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    code = "from nbconv.__main__ import main\nassert main(['warmup', '--dtypes', 'float32']) == 0"
    assert report(folder, code)[-4] == "0"
    code = """
import nbconv
for activation in (None, "relu", "gelu", ("leaky_relu", 0.01)):
    for length in (5, 90, 2000):
        nbconv.conv1d(np.ones((2, length, 20), np.float32), np.ones((70, 20, 3), np.float32), activation=activation)
        nbconv.conv1d(np.ones((length, 33), np.float32), np.ones((33, 1, 3), np.float32), groups=33)
    nbconv.conv2d(np.ones((9, 9, 8), np.float32), np.ones((40, 8, 3, 3), np.float32), padding=1)
    nbconv.conv_transpose2d(np.ones((9, 9, 8), np.float32), np.ones((8, 24, 2, 2), np.float32), stride=2)
"""
    assert report(folder, code)[1] == "0"


def test_warmup_of_nothing() -> None:
    steps: list[tuple[int, int, str]] = []
    assert sorted(nbconv.warmup([], progress=lambda *step: steps.append(step))) == [
        "cache",
        "compiled",
        "kept",
        "loaded",
        "problem",
    ]
    assert steps == [(0, 0, "done")]


@pytest.mark.parametrize("dtype", ["int8", "float128", "complex64", "nonsense"])
def test_warmup_of_what_is_not_computed(dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TypeError):
        nbconv.warmup([dtype])
    assert main(["warmup", "--dtypes", dtype]) == 2
    assert capsys.readouterr().err.startswith("nbconv warmup: error: ")


# ---- compiling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("enabled", [True, False])
def test_collection_rests_while_functions_compile(enabled: bool, tmp_path: Path) -> None:
    """It is as it was afterwards, also after a failure; functions of others are left alone."""
    code = f"""
import gc, numba
from numba.core import event
import nbconv.runtime.jit as jit
seen = set()
class Watch(event.Listener):
    def on_start(self, event): pass
    def on_end(self, event): seen.add((event.data["dispatcher"].py_func.__name__, gc.isenabled()))
event.register("numba:compile", Watch())
if not {enabled}:
    gc.disable()
assert check(20)
assert gc.isenabled() is {enabled}
@numba.njit
def own(x): return x + 1
own(1)
def fails(x): return x.nothing
fails.__module__ = "nbconv.test"
try:
    jit.serial(fails)(1)
except numba.core.errors.TypingError:
    assert gc.isenabled() is {enabled}
    print(("own", {enabled}) in seen, "fails" in dict(seen))
"""
    assert report(tmp_path / "cache", code)[:2] == ["True", "True"]
