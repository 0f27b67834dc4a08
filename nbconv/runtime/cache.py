"""Compiled code on disk: one checksummed file a key, written atomically, and never an error.

A key names all that a file's content depends on: the source of the whole package, the function, its signature and
options, the versions of everything that compiles, the processor. So nothing in the folder is ever stale, and all of it
may be deleted at any time. A file that cannot be read, checked or written costs a compilation, nothing else.

The hooks into Numba are private: the `_cache` of its dispatchers and callbacks, and how it serialises what it compiled.
They are probed at import; where one is gone, nothing is cached.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import re
import sys
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core import compiler
from numba.core.runtime import rtsys
from numba.core.serialize import dumps

from .target import host_target

__all__ = ["Kept", "attach", "cache_info", "folder"]

_FORMAT = b"nbconv code 1\n"
_PACKAGE = Path(__file__).parents[1]
_OFF = ("0", "off", "none")
# Settings of Numba that change the code it makes; the processor's name and features are part of the key anyway.
_SETTINGS = (
    "OPT",
    "LOOP_VECTORIZE",
    "SLP_VECTORIZE",
    "BOUNDSCHECK",
    "DEBUGINFO_DEFAULT",
    "USING_SVML",
    "LLVM_REFPRUNE_PASS",
)
_HOOKED = all(hasattr(compiler.CompileResult, name) for name in ("_reduce", "_rebuild")) and hasattr(
    rtsys, "initialize"
)

_loaded: list[str] = []
_compiled: list[str] = []
_kept: list[str] = []
_problems: list[str] = []


def _sources() -> list[Path]:
    return sorted(_PACKAGE.rglob("*.py"))


def _fingerprint() -> tuple[tuple[str, int, int], ...]:
    """Tell whether sources were touched, without reading them."""
    stats = ((path, path.stat()) for path in _sources())
    return tuple((str(path), stat.st_mtime_ns, stat.st_size) for path, stat in stats)


def _digest() -> bytes | None:
    """Hash every source file of the package and the versions of what compiles it; None where it cannot be read."""
    digest = hashlib.sha256()
    try:
        for path in _sources():
            content = path.read_bytes()
            digest.update(f"{path.relative_to(_PACKAGE)} {len(content)}\n".encode())
            digest.update(content)
    except OSError:
        return None
    digest.update(repr((numba.__version__, llvmlite.__version__, np.__version__, sys.version, sys.platform)).encode())
    return digest.digest()


# At import: what is compiled later is what was imported now, whatever happens to the files in the meantime.
try:
    _imported = _fingerprint() if _HOOKED else ()
except OSError:
    _imported = ()


@lru_cache(maxsize=1)
def _package() -> bytes | None:
    return _digest() if _imported else None


@lru_cache(maxsize=1)
def folder() -> Path | None:
    """Give the folder of the cache, made if need be; None where there is none to be had, or it was switched off."""
    asked = os.environ.get("NBCONV_CACHE_DIR", "").strip()
    if asked.lower() in _OFF or not _HOOKED:
        return None
    path = Path(asked) if asked else _user_folder()
    if path is None:
        return None
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return path if path.is_dir() else None
    return path


def _user_folder() -> Path | None:
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME", "")
        if not os.path.isabs(base):
            base = "" if os.environ.get("HOME", "/") == "" else os.path.expanduser("~/.cache")
    return Path(base) / "nbconv" if os.path.isabs(base) else None


def cache_info() -> dict[str, Any]:
    """Describe the cache: where it is, whether it can be written, what this process took from it and what it missed."""
    path = folder()
    if path is None:
        state = "off" if _HOOKED else "off: this Numba has no hook for it"
    else:
        state = str(path) if os.access(path, os.W_OK) else f"{path} (read-only)"
    return {
        "cache": state,
        "loaded": len(_loaded),
        "compiled": len(_compiled),
        "kept": len(_kept),
        "problem": _problems[-1] if _problems else None,
    }


def attach(compiled: Any, name: str, options: dict[str, Any]) -> None:
    """Let a dispatcher or a callback of Numba keep its code on disk under `name`, which must be its own."""
    if _HOOKED and hasattr(compiled, "_cache"):
        compiled._cache = _Cache(name, options)


class Kept:
    """A piece of code on disk, under a name of its own and all else that it depends on, `parts`.

    Where the code cannot be had, or kept, nothing happens.
    """

    def __init__(self, name: str, *parts: Any) -> None:
        self._name, self._parts = name, parts

    def _path(self) -> Path | None:
        where, package = folder(), _package()
        if where is None or package is None:
            return None
        host = host_target()
        settings = [getattr(numba.config, setting, None) for setting in _SETTINGS]
        parts = (self._name, self._parts, host.cpu, host.features, settings)
        key = hashlib.sha256(package + repr(parts).encode()).hexdigest()
        return where / f"{re.sub('[^A-Za-z0-9_.]+', '-', self._name)[-60:]}-{key[:32]}.nbc"

    def load(self, restore: Callable[[bytes], Any] = lambda content: content) -> Any:
        """Return what `restore` makes of the code, or None."""
        try:
            path = self._path()
            content = None if path is None else _read(path)
            result = None if content is None else restore(content)
        except Exception:  # whatever lies in a broken file, it must not reach the user
            result = None
        (_compiled if result is None else _loaded).append(self._name)
        return result

    def save(self, give: Callable[[], bytes]) -> None:
        """Keep the code, if it can be kept."""
        try:
            content = give()
            if _fingerprint() != _imported:
                raise ValueError("the sources of nbconv changed after they were imported")
            path = self._path()
            if path is not None:
                _write(path, content)
                _kept.append(self._name)
        except Exception as error:
            _problems.append(str(error))


class _Cache:
    """What Numba asks when it needs code, and tells when it has made some: the interface of its own cache."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self._name = name
        plain = {k: sorted(v) if isinstance(v, (set, frozenset)) else v for k, v in options.items()}
        self._options = repr(sorted(plain.items()))

    @property
    def cache_path(self) -> str:
        return str(folder() or "")

    def enable(self) -> None:
        """Do nothing: caching is not switched function by function."""

    disable = flush = enable

    def _file(self, signature: Any, target_context: Any) -> Kept:
        return Kept(self._name, self._options, str(signature), target_context.codegen().magic_tuple())

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """Return the compiled function, or None."""

        def rebuild(content: bytes) -> Any:
            rtsys.initialize(target_context)
            return compiler.CompileResult._rebuild(target_context, *pickle.loads(content))

        return self._file(signature, target_context).load(rebuild)

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep a compiled function, if it can be kept."""

        def reduce() -> bytes:
            if result.library.has_dynamic_globals:
                raise ValueError(f"{self._name} holds addresses of this process")
            return bytes(dumps(result._reduce()))

        self._file(signature, result.target_context).save(reduce)


def _read(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    head, body = content[: len(_FORMAT) + 32], content[len(_FORMAT) + 32 :]
    return body if head == _FORMAT + _checksum(path, body) else None


def _write(path: Path, body: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_FORMAT + _checksum(path, body) + body)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _checksum(path: Path, body: bytes) -> bytes:
    # The name takes part: a copy under another key is not taken for that key's code.
    return hashlib.sha256(path.name.encode() + body).digest()
