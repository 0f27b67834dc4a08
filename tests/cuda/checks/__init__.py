"""Checks of CUDA kernels on a machine without a device: compiled, disassembled, and run by an interpreter of PTX."""
