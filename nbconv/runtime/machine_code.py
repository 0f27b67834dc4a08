"""From LLVM IR to a function's address, without Numba: kernels need nothing of what it does for Python.

Kernels are made of vector code whose loops are as they are to be. LLVM has addresses to simplify in it, but neither
loops to unroll nor numbers to gather into vectors: to look for these takes longer than all the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import llvmlite.binding as llvm
import numba
from llvmlite import ir

from . import cache
from .jit import compiler_lock
from .target import host_target
from .vector_code import I64

__all__ = ["Code", "address_of_code"]

_LEVEL = 2  # of LLVM's optimisation: the third gives the same code

Code = Callable[[ir.IRBuilder, Sequence[ir.Value]], None]
"""Writes the body of a function of some integers."""


@compiler_lock
def address_of_code(name: str, arguments: int, code: Code) -> int:
    """Compile a function of so many integers, or load it from the cache; give its address, which stays.

    `name` must say all that the code depends on but the processor.
    """
    target, engine = _machine()
    kept = cache.Kept(name, target.triple)
    content = kept.load()
    if content is None:
        content = _compile(name, arguments, code, target)
        kept.save(lambda: content)
    engine.add_object_file(llvm.ObjectFileRef.from_data(content))
    engine.finalize_object()
    return int(engine.get_function_address(name))


@lru_cache(maxsize=1)
def _machine() -> tuple[Any, Any]:
    """Make what compiles and what holds code, both as Numba has them."""
    host = host_target()
    kind = llvm.Target.from_default_triple()
    reloc = "static" if kind.name.startswith("x86") else "default"
    options = {"cpu": host.cpu, "features": host.features, "reloc": reloc, "codemodel": "jitdefault", "jit": True}
    target, holder = kind.create_target_machine(**options), kind.create_target_machine(**options)
    # On some processors parts of one object must lie near each other, which only llvmlite's own memory sees to.
    near = numba.config.USE_LLVMLITE_MEMORY_MANAGER
    return target, llvm.create_mcjit_compiler(llvm.parse_assembly(""), holder, use_lmm=near)


def _compile(name: str, arguments: int, code: Code, target: Any) -> bytes:
    module = ir.Module(name)
    module.triple, module.data_layout = target.triple, str(target.target_data)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * arguments), name)
    builder = ir.IRBuilder(function.append_basic_block())
    code(builder, function.args)
    builder.ret_void()
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    options = llvm.create_pipeline_tuning_options(_LEVEL)
    options.loop_unrolling = options.loop_vectorization = options.slp_vectorization = False
    passes = llvm.create_pass_builder(target, options)
    passes.getModulePassManager().run(parsed, passes)
    return bytes(target.emit_object(parsed))
