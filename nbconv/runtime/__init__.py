"""Floor 1: how code is compiled and launched. The only home of Numba decorators, flags and LLVM IR."""
