"""What the compiled code may assume of the processor.

Numba's own settings are honoured: with ``NUMBA_CPU_NAME`` set, the vector width is what LLVM uses for that processor.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba.core.compiler_lock import global_compiler_lock

__all__ = ["Target", "host_target", "lanes"]


# Numba does this too, but only where it compiles.
llvm.initialize_native_target()
llvm.initialize_native_asmprinter()


@dataclass(frozen=True)
class Target:
    """Processor name, the features that were asked of LLVM, and the register file that follows."""

    cpu: str
    features: str
    vector_bytes: int
    registers: int

    @property
    def is_zen(self) -> bool:
        """Whether it is one of AMD's, whose caches answer soon: choices that were measured on both kinds ask."""
        return self.cpu.startswith("znver")


@lru_cache(maxsize=1)
@global_compiler_lock  # llvmlite has a lock of its own, which a fork must not meet
def host_target() -> Target:
    """Describe the processor that kernels are compiled for."""
    name = numba.config.CPU_NAME or llvm.get_host_cpu_name()
    features = numba.config.CPU_FEATURES
    if features is None:
        features = "" if numba.config.CPU_NAME else llvm.get_host_cpu_features().flatten()
    # LLVM itself is asked: a sum of two long vectors shows in the assembly which registers it would use.
    vector = ir.VectorType(ir.FloatType(), 64)
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(vector, [vector, vector]), "probe")
    builder = ir.IRBuilder(function.append_basic_block())
    builder.ret(builder.fadd(*function.args))
    machine = llvm.Target.from_default_triple().create_target_machine(cpu=name, features=features)
    assembly = machine.emit_assembly(llvm.parse_assembly(str(module)))
    if "zmm" in assembly:
        vector_bytes, registers = 64, 32
    elif "ymm" in assembly:
        vector_bytes, registers = 32, 16
    else:
        vector_bytes, registers = 16, 32 if "xmm" not in assembly else 16
    return Target(name, features, vector_bytes, registers)


def lanes(dtype: np.dtype) -> int:
    """Give the numbers of `dtype` (float32 or float64) that one vector register holds."""
    return host_target().vector_bytes // dtype.itemsize
