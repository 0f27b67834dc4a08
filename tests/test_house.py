"""The house itself: who may import whom, what importing loads, what public docstrings say."""

from __future__ import annotations

import ast
import graphlib
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

import nbconv

PACKAGE = Path(nbconv.__file__).parent
ROOF = 6

# First match counts. A file imports from floors below its own, or from its own where that makes no circle.
FLOORS = [
    ("geometry", 0),
    ("parameters", 0),
    ("arrays", 0),
    ("options", 0),
    ("devices", 0),
    ("call_keys", 0),
    ("cpu.tables", 0),
    ("runtime*", 1),
    ("*.backend", 3),
    ("cpu.ready", 3),
    ("cuda.entry", 3),
    ("cuda.gradients", 3),
    ("cpu*", 2),
    ("cuda*", 2),
    ("functional", 4),
    ("columns", 4),
    ("padding_adjoint", 4),
    ("gradients", 4),
    ("backward", 4),
    ("rules", 4),
    ("layers", 5),
    ("sequential", 5),
    ("incidence", 5),
    ("conventions", 5),
    ("counting", 5),
    ("time_floor", 5),
    ("warming", 5),
    ("*_command", ROOF),
    ("examples*", ROOF),
    ("__init__", ROOF),
    ("__main__", ROOF),
]
COMPILERS = {"numba", "llvmlite"}
COMPILED = ("runtime*", "cuda.*")
# Outside of these floors: to print their versions, inside a function.
MAY_NAME_COMPILERS = {"info_command"}

SOURCES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def floor_of(module: str) -> int:
    """Floor of a module, named within the package."""
    for pattern, floor in FLOORS:
        if fnmatch(module, pattern):
            return floor
    return pytest.fail(f"nbconv/{module} has no floor: give it one in FLOORS")


def imports_of(module: str) -> Iterator[str]:
    """Full names of everything that a module imports at run time, inside functions too."""
    tree = ast.parse(SOURCES[module].read_text())
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    package = ("nbconv", *module.split("."))
    if SOURCES[module].name != "__init__.py" or module == "__init__":
        package = package[:-1]
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            full = ".".join(part for part in (base, node.module) if part)
            yield from (f"{full}.{alias.name}" for alias in node.names)


def imported_modules(module: str) -> set[str]:
    """Modules of the package that a module imports, named within the package."""
    found = set()
    for name in imports_of(module):
        top, *inner = name.split(".")
        if top == "nbconv":
            known = [".".join(inner[:depth]) for depth in range(1, len(inner) + 1)]
            found |= {known_name for known_name in known if known_name in SOURCES} or {"__init__"}
    return found


@pytest.mark.parametrize("module", SOURCES)
def test_imports_come_from_below(module: str) -> None:
    above = {name for name in imported_modules(module) if floor_of(name) > floor_of(module)}
    assert not above, f"nbconv/{module} reaches up"


def test_imports_make_no_circle() -> None:
    graph = {module: imported_modules(module) - {module, "__init__", "cpu", "cuda", "runtime"} for module in SOURCES}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError
    assert set(order) >= {"geometry", "functional"}


@pytest.mark.parametrize("module", SOURCES)
def test_compilers_are_named_on_their_floor_only(module: str) -> None:
    named = {name.split(".")[0] for name in imports_of(module)} & COMPILERS
    if named and not any(fnmatch(module, floor) for floor in COMPILED):
        assert module in MAY_NAME_COMPILERS, f"nbconv/{module} imports {named}"
        top = {
            n.name
            for node in ast.parse(SOURCES[module].read_text()).body
            if isinstance(node, ast.Import)
            for n in node.names
        }
        assert not top & COMPILERS


@pytest.mark.parametrize("module", [name for name in SOURCES if name.split(".")[0] in ("cpu", "cuda")])
def test_cpu_and_cuda_never_see_each_other(module: str) -> None:
    own = module.split(".")[0]
    other = {"cpu": "cuda", "cuda": "cpu"}[own]
    assert not {name for name in imported_modules(module) if name.split(".")[0] == other}


@pytest.mark.parametrize("module", [name for name in SOURCES if floor_of(name) == 2])
def test_kernels_read_no_environment(module: str) -> None:
    names = set(imports_of(module))
    assert not names & {"os", "os.environ", "os.getenv"}


# ---- importing -----------------------------------------------------------------------------------------------------


def python(code: str) -> str:
    """Run code in a fresh interpreter, in pure default settings; return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_loads_no_compiler() -> None:
    heavy = {"numba", "llvmlite", "scipy", "torch", "ml_dtypes"}
    printed = python(f"import nbconv, sys; nbconv.__version__, dir(nbconv); print(*({heavy} & set(sys.modules)))")
    assert printed == ""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux lists them")
def test_importing_starts_no_thread() -> None:
    count = "len(os.listdir('/proc/self/task'))"
    assert python(f"import os, numpy; before = {count}; import nbconv; print({count} - before)") == "0"


def test_import_writes_nothing() -> None:
    """Neither a file nor a folder, also where the cache is not there yet."""
    code = """
import os, sys
written = []
def watch(event, arguments):
    if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        written.append(arguments[0])
    elif event in ("os.mkdir", "os.rename", "os.remove", "os.link", "os.symlink", "os.truncate"):
        written.append((event, arguments))
sys.dont_write_bytecode = True
sys.addaudithook(watch)
import nbconv
found, written = written, []
open(os.devnull, "w").close()
print(found, len(written))  # the watch itself sees what is written
"""
    assert python(code) == "[] 1"


def test_star_import_and_dir_agree_with_all() -> None:
    assert set(nbconv.__all__) <= set(dir(nbconv))
    for name in nbconv.__all__:
        assert getattr(nbconv, name) is not None


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="conv3d"):
        nbconv.conv3d  # noqa: B018


def test_works_without_ml_dtypes() -> None:
    """bfloat16 needs a package that users may lack; the other dtypes do not."""
    printed = python(
        "import sys; sys.modules['ml_dtypes'] = None\n"
        "import numpy as np, nbconv\n"
        "for dtype in (np.float16, np.float32):\n"
        "    print(nbconv.conv1d(np.ones((4, 1), dtype), np.ones((1, 1, 2), dtype)).ravel().tolist())"
    )
    assert printed.splitlines() == ["[2.0, 2.0, 2.0]"] * 2


# ---- docstrings ----------------------------------------------------------------------------------------------------

PUBLIC = [name for name in nbconv.__all__ if callable(getattr(nbconv, name))]
OPERATIONS = [
    name
    for name in PUBLIC
    if getattr(nbconv, name).__module__.rsplit(".", 1)[1]
    in ("functional", "columns", "backward", "layers", "sequential")
]
ARRAYS = ("x", "weight", "bias", "cols", "grad_output")


@pytest.mark.parametrize("name", PUBLIC)
def test_public_docstrings(name: str) -> None:
    assert inspect.getdoc(getattr(nbconv, name))


@pytest.mark.parametrize("name", OPERATIONS)
def test_public_docstrings_name_every_parameter(name: str) -> None:
    public = getattr(nbconv, name)
    text = inspect.getdoc(public) or ""
    for parameter in inspect.signature(public).parameters:
        if parameter not in ("args", "kwargs"):
            assert parameter in text.replace(",", " ").split(), f"the docstring does not tell what {parameter} is"


@pytest.mark.parametrize("name", OPERATIONS)
def test_public_docstrings_give_shapes_of_arrays(name: str) -> None:
    public = getattr(nbconv, name)
    lines = (inspect.getdoc(public) or "").splitlines()
    for parameter in set(inspect.signature(public).parameters) & set(ARRAYS):
        described = [line for line in lines if line.startswith(f"{parameter} :")]
        assert any("shape (" in line for line in described), f"no shape of {parameter}"


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name.islower()])
def test_functions_have_examples_and_say_what_they_raise(name: str) -> None:
    text = inspect.getdoc(getattr(nbconv, name)) or ""
    for section in ("Parameters\n---", "Returns\n---", "Raises\n---", "Examples\n---", ">>> "):
        assert section in text
