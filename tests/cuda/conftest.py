"""What pytest is not to import on its own, looking for doctests: the checks need numba-cuda, and hold no tests."""

collect_ignore_glob = ["checks/*.py"]
