"""What pytest leaves aside here: modules that need a device; `tests/cuda/test_gpu_bench.py` runs what it can."""

collect_ignore_glob = ["gpu*.py"]
