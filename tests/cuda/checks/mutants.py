"""Kernels with one deliberate mistake: their source is changed as text, and the changed package compiled.

A mutant lives in a package of its own name, so that the real one is untouched. It has its own copy of the changed
module and of those that use it, directly or not; the others, with all that is compiled of them, are the real ones. So
are, in those copies, the device functions that the mistake does not reach.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import nbconv

SOURCES = Path(nbconv.__file__).parent

_numbers = itertools.count()


class Mutation(NamedTuple):
    """One mistake: `old` stands once in the module's source, or `times`, and is replaced everywhere by `new`."""

    name: str
    module: str
    """Of the package, as in ``cuda.gemm``."""
    old: str
    new: str
    times: int = 1

    def apply(self, source: str) -> str:
        """Change the source.

        Raises
        ------
        LookupError
            Where the text is not there as often as it should be: the source was changed, and the mutation must follow.
        """
        found = source.count(self.old)
        if found != self.times:
            raise LookupError(f"{self.module}: {self.old!r} stands there {found} times, not {self.times}")
        return source.replace(self.old, self.new)


class _Loader(importlib.machinery.SourceFileLoader):
    """Reads a module of the real package, changed where the mutation says so."""

    def __init__(self, name: str, path: str, mutation: Mutation) -> None:
        super().__init__(name, path)
        self._mutation = mutation

    def get_code(self, fullname: str) -> Any:
        """Compile the source; nothing is cached on disk."""
        source = Path(self.path).read_text(encoding="utf-8")
        if fullname.partition(".")[2] == self._mutation.module:
            source = self._mutation.apply(source)
        return compile(source, self.path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of one mutant package."""

    def __init__(self, package: str, mutation: Mutation) -> None:
        self._package, self._mutation = package, mutation

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        """Answer for the mutant's own modules only."""
        head, _, rest = name.partition(".")
        if head != self._package or not rest:
            return None
        file = SOURCES.joinpath(*rest.split("."))
        is_package = file.is_dir()
        file = file / "__init__.py" if is_package else file.with_suffix(".py")
        if not file.is_file():
            return None
        spec = importlib.machinery.ModuleSpec(
            name, _Loader(name, str(file), self._mutation), origin=str(file), is_package=is_package
        )
        spec.has_location = True
        return spec


def users_of(module: str) -> set[str]:
    """List a module of the CUDA side, as ``cuda.gemm``, and all modules there that use it."""
    uses = {}
    for path in (SOURCES / "cuda").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        named = set(re.findall(r"^\s*from \.(\w+) import", text, re.M))
        for names in re.findall(r"^\s*from \. import (?:\(([^)]*)\)|(.*))$", text, re.M):
            named |= set(re.findall(r"(\w+)(?:\s+as\s+\w+)?", "".join(names)))
        uses[f"cuda.{path.stem}"] = {f"cuda.{name}" for name in named}
    found = {module}
    while more := {user for user, used in uses.items() if used & found} - found:
        found |= more
    return found


def _same(mine: Any, real: Any) -> bool:
    """Say whether two functions do the same as far as their own text goes; other values must be equal."""
    mine, real = getattr(mine, "py_func", mine), getattr(real, "py_func", real)
    if not isinstance(mine, FunctionType) or not isinstance(real, FunctionType):
        return mine is real or (type(mine) is type(real) is int and mine == real)
    parts = ("co_code", "co_consts", "co_names", "co_varnames")
    return all(getattr(mine.__code__, part) == getattr(real.__code__, part) for part in parts)


def _share_unchanged(package: str, own: set[str]) -> None:
    """Put the real device functions where the mistake does not reach: they and all they name are the same."""
    names = [name for name in own if f"{package}.{name}" in sys.modules and f"nbconv.{name}" in sys.modules]
    pairs = [(vars(sys.modules[f"{package}.{name}"]), vars(sys.modules[f"nbconv.{name}"])) for name in names]
    places = [(mine, real, name) for mine, real in pairs for name in mine if name in real]
    changed = {id(mine[name]) for mine, real, name in places if not _same(mine[name], real[name])}
    while True:
        reached = set()
        for mine, _, name in places:
            function = getattr(mine[name], "py_func", None)
            if function is not None and id(mine[name]) not in changed:
                used = (function.__globals__.get(used) for used in function.__code__.co_names)
                if any(id(value) in changed for value in used):
                    reached.add(id(mine[name]))
        if not reached:
            break
        changed |= reached
    for mine, real, name in places:
        if getattr(mine[name], "targetoptions", {}).get("device") and id(mine[name]) not in changed:
            mine[name] = real[name]


@contextmanager
def mutated(mutation: Mutation, module: str) -> Iterator[ModuleType]:
    """Import `module` (as ``cuda.gemm``) of a package with the mistake in it.

    Raises
    ------
    LookupError
        Where the text to replace is not there, or the module never meets the mutated one.
    """
    package = f"nbconv_mutant_{next(_numbers)}"
    root = ModuleType(package)
    root.__path__ = [str(SOURCES)]
    finder = _Finder(package, mutation)
    sys.modules[package] = root
    own = users_of(mutation.module)
    for name in [name for name in sys.modules if name.startswith("nbconv.")]:
        if name != "nbconv.cuda" and name.removeprefix("nbconv.") not in own:
            sys.modules[package + name.removeprefix("nbconv")] = sys.modules[name]
    sys.meta_path.insert(0, finder)
    try:
        result = importlib.import_module(f"{package}.{module}")
        if f"{package}.{mutation.module}" not in sys.modules:
            raise LookupError(f"{module} does not use {mutation.module}")
        _share_unchanged(package, own)
        yield result
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            del sys.modules[name]
