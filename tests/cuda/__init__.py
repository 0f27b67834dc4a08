"""Tests of the CUDA side."""
