"""Floors 2 and 3 of the CPU side: kernels, then the planner and the launcher that drive them."""
