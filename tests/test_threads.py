"""Launching: how many threads, which twin, in what slices; and many Python threads at once on every layer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbconv
from nbconv.runtime import threading_layer, threads
from nbconv.runtime.processors import cpu_quota
from tests.processes import LINUX, need_layer, run_python

LAYERS = ["omp", "workqueue", "tbb"]
HIDE_OPENMP = "import sys; sys.modules['numba.np.ufunc.omppool'] = None\n"

HAMMER = """
from concurrent.futures import ThreadPoolExecutor
import nbconv
bad = []
def work(i):
    for _ in range(50):
        if not check(4000 + 10 * (i % 4)):
            bad.append(i)
for i in range(4):
    expected(4000 + 10 * i)
started = [threading.Thread(target=work, args=(i,)) for i in range(8)]
for thread in started:
    thread.start()
with ThreadPoolExecutor(8) as pool:
    list(pool.map(work, range(8)))
for thread in started:
    thread.join()
print(nbconv.threading_info()["layer"], len(bad))
"""


@pytest.mark.parametrize("layer", LAYERS)
def test_sixteen_threads_at_once(layer: str) -> None:
    need_layer(layer)
    printed = run_python(HAMMER, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2", NBCONV_NUM_THREADS="2")
    assert printed == f"{layer} 0"


def test_sixteen_threads_at_once_without_openmp() -> None:
    printed = run_python(HIDE_OPENMP + HAMMER, NUMBA_NUM_THREADS="2", NBCONV_NUM_THREADS="2")
    assert printed in ("workqueue 0", "tbb 0")


def test_a_layer_that_cannot_be_had_means_one_thread() -> None:
    code = "import nbconv; print(check(), nbconv.threading_info()['layer'], nbconv.threading_info()['advice'])"
    printed = run_python(HIDE_OPENMP + code, NUMBA_THREADING_LAYER="omp", NBCONV_NUM_THREADS="2")
    assert printed.startswith("True none unset NUMBA_THREADING_LAYER")


# ---- how many ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("restore_threads")
def test_set_get_and_context_manager() -> None:
    nbconv.set_num_threads(np.int8(3))
    assert nbconv.get_num_threads() == 3
    with nbconv.num_threads(1):
        assert nbconv.get_num_threads() == 1
        with nbconv.num_threads(5):
            assert nbconv.get_num_threads() == 5
        assert nbconv.get_num_threads() == 1
    assert nbconv.get_num_threads() == 3
    with pytest.raises(ZeroDivisionError), nbconv.num_threads(1):
        _ = 1 / 0
    assert nbconv.get_num_threads() == 3


@pytest.mark.usefixtures("restore_threads")
def test_the_context_manager_is_of_one_python_thread() -> None:
    nbconv.set_num_threads(4)
    seen: list[int] = []
    with nbconv.num_threads(1):
        other = threading.Thread(target=lambda: seen.append(nbconv.get_num_threads()))
        other.start()
        other.join()
    assert seen == [4]


@pytest.mark.parametrize(("n", "error"), [(0, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError)])
def test_wrong_numbers_of_threads(n: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="set_num_threads: n must"):
        nbconv.set_num_threads(n)
    with pytest.raises(error, match="num_threads: n must"):
        nbconv.num_threads(n).__enter__()


def test_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBCONV_NUM_THREADS", " 3 ")
    assert threads._default_threads() == 3
    for wrong in ("0", "-1", "many", "1.5"):
        monkeypatch.setenv("NBCONV_NUM_THREADS", wrong)
        with pytest.raises(ValueError, match=f"NBCONV_NUM_THREADS must be a whole number.*got '{wrong}'"):
            threads._default_threads()


def test_the_default_is_the_least_of_affinity_quota_and_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NBCONV_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads.numba.config, "NUMBA_NUM_THREADS", 16)
    for cores, quota, least in ((4, None, 4), (4, 2, 2), (2, 8, 2), (64, None, 16)):
        monkeypatch.setattr(threads, "affinity", lambda cores=cores: cores)
        monkeypatch.setattr(threads, "cpu_quota", lambda quota=quota: quota)
        assert threads._default_threads() == least


CGROUPS: list[tuple[int | None, dict[str, str]]] = [
    (None, {}),
    (None, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}),
    (2, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}),
    # Nested groups of version 2: the parent's limit is the lower one.
    (
        3,
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/cpu.max": "300000 100000\n",
            "sys/fs/cgroup/a/b/cpu.max": "800000 100000\n",
        },
    ),
    # Version 1 in a container: the path is the host's, only the top is mounted.
    (
        1,
        {
            "proc/self/cgroup": "5:cpuset:/\n4:cpu,cpuacct:/docker/0123\n1:name=systemd:/x\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
    ),
    (
        None,
        {
            "proc/self/cgroup": "4:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    ),
    (None, {"proc/self/cgroup": "nonsense\n0::/\n", "sys/fs/cgroup/cpu.max": "\n"}),
]


@pytest.mark.parametrize(("quota", "files"), CGROUPS)
def test_quota_of_control_groups(quota: int | None, files: dict[str, str], tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path) == quota


@pytest.mark.skipif(not LINUX, reason="counts threads as Linux lists them")
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_threading_info_starts_no_thread(layer: str) -> None:
    need_layer(layer)
    code = """
import nbconv
nbconv.get_num_threads()  # loads Numba
before = len(os.listdir("/proc/self/task"))
info = nbconv.threading_info()
print(len(os.listdir("/proc/self/task")) - before, *sorted(info))
"""
    assert run_python(code, NUMBA_THREADING_LAYER=layer) == "0 advice layer limits safety threads"


# ---- which twin, in what slices ------------------------------------------------------------------------------------


class Same:
    """Twins that are one function."""

    def __init__(self, function: Callable[..., None]) -> None:
        self.serial = self.parallel = function


class Recorder:
    """Twins that record how they were called."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int, int]] = []
        self.serial = self.note("serial")
        self.parallel = self.note("parallel")

    def note(self, name: str) -> Any:
        def run(first: int, last: int, workers: int, *_: Any) -> None:
            self.calls.append((name, first, last, workers))

        return run


def launch(jobs: int, work: int, n: int = 2, **changes: Any) -> list[tuple[str, int, int, int]]:
    """Launch recording twins with `n` threads on a layer; give the calls."""
    twins: Any = Recorder()
    with pytest.MonkeyPatch.context() as patch, nbconv.num_threads(n):
        patch.setattr(threads, "_layer", threading_layer.Layer("test", "", **changes))
        threads.launch(twins, jobs, work, n)
    return twins.calls


def test_small_and_single_work_is_serial() -> None:
    assert launch(8, 10_000_000) == [("parallel", 0, 8, 2)]
    assert launch(8, 999_999) == [("serial", 0, 8, 0)]
    assert launch(1, 10_000_000) == [("serial", 0, 1, 0)]
    assert launch(8, 10_000_000, n=1) == [("serial", 0, 8, 0)]
    assert launch(8, 10_000_000, least_work=1e9) == [("serial", 0, 8, 0)]


def test_a_busy_workqueue_means_serial() -> None:
    assert launch(8, 10_000_000, one_at_a_time=True) == [("parallel", 0, 8, 2)]
    with threads._gate:
        assert launch(8, 10_000_000, one_at_a_time=True) == [("serial", 0, 8, 0)]
        assert launch(8, 10_000_000) == [("parallel", 0, 8, 2)]
    assert not threads._gate.locked()


def test_an_interrupt_opens_the_gate() -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    twins: Any = Same(interrupt)
    with pytest.MonkeyPatch.context() as patch, nbconv.num_threads(2):
        patch.setattr(threads, "_layer", threading_layer.Layer("test", "", one_at_a_time=True))
        with pytest.raises(KeyboardInterrupt):
            threads.launch(twins, 8, 10_000_000, 2)
    assert not threads._gate.locked()


@pytest.mark.parametrize("jobs", [3, 64, 1001])
@pytest.mark.parametrize("n", [1, 2])
def test_slices_cover_all_jobs_once(jobs: int, n: int) -> None:
    calls = launch(jobs, 20_000_000_000, n)
    assert len(calls) > 1
    bounds = [first for _, first, _, _ in calls] + [calls[-1][2]]
    assert bounds[0] == 0
    assert bounds[-1] == jobs
    assert [last for _, _, last, _ in calls] == bounds[1:]
    assert all((last - first) % n == 0 for _, first, last, _ in calls[:-1])


def test_an_interrupt_leaves_whole_jobs() -> None:
    """Between two slices Python sees a signal: all jobs before are done, none after is begun."""
    done: list[int] = []

    def run(first: int, last: int, workers: int) -> None:
        done.extend(range(first, last))
        if last >= 100:
            raise KeyboardInterrupt

    twins: Any = Same(run)
    with nbconv.num_threads(1), pytest.raises(KeyboardInterrupt):
        threads.launch(twins, 1000, 10_000_000_000, 1)
    assert done == list(range(len(done)))
    assert 100 <= len(done) < 1000


def test_the_mask_of_numba_is_left_alone() -> None:
    code = """
import numba, nbconv
masks = []
for mask in (4, 3, 1):
    numba.set_num_threads(mask)
    for n in (1, 2, 3, 7):
        with nbconv.num_threads(n):
            assert check()
        masks.append(numba.get_num_threads())
print(masks)
"""
    assert run_python(code, NUMBA_NUM_THREADS="4") == str([4] * 4 + [3] * 4 + [1] * 4)


SHARED = """
import nbconv
from nbconv.runtime.twins import twins
nbconv.threading_info()

@twins
def note(job, job_end, worker, seen, workers, bad):
    for here in range(job, job_end):
        if here == bad:
            raise ValueError("one job")
        seen[here] += 1
        workers[here] = worker

for jobs, n in ((10, 4), (3, 4), (7, 1), (0, 2), (23, 9)):
    seen, workers = np.zeros(jobs, np.int64), np.zeros(jobs, np.int64)
    note.parallel(0, jobs, n, seen, workers, -1)
    assert seen.tolist() == [1] * jobs
    assert sorted(workers) == workers.tolist(), workers
    assert all(0 <= worker < n for worker in workers)
seen, workers = np.zeros(8, np.int64), np.zeros(8, np.int64)
try:
    note.parallel(2, 8, 4, seen, workers, 7)
except RuntimeError as error:
    print(error, seen)
"""


@pytest.mark.parametrize("layer", LAYERS)
def test_workers_share_all_jobs_once(layer: str) -> None:
    need_layer(layer)
    printed = run_python(SHARED, NUMBA_NUM_THREADS="9", NUMBA_THREADING_LAYER=layer)
    assert printed == "a job of a parallel loop failed [0 0 1 1 1 1 1 0]"


def test_signs_of_zeros_do_not_depend_on_threads() -> None:
    """Sums of negative zeros are one, where no zero of the padding is added: which are must not depend on the cut."""
    code = """
import nbconv
layer = nbconv.Conv1d(np.ones((64, 64, 40), np.float32), np.full(64, -0.0, np.float32), padding=20)
seen = set()
for n in (1, 2, 3, 4):
    nbconv.set_num_threads(n)
    seen.add(layer(np.full((1, 900, 64), -0.0, np.float32)).tobytes())
print(len(seen))
"""
    assert run_python(code, NUMBA_NUM_THREADS="4") == "1"


def test_any_number_of_threads_gives_the_same_bits() -> None:
    code = """
import hashlib, nbconv
rng = np.random.default_rng(0)
x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 700, 24), (40, 24, 3)))
x2, w2 = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 30, 31, 16), (32, 16, 3, 3)))
t = w2.transpose(1, 0, 2, 3)
seen = set()
for n in (1, 2, 3, 4, 7, 16):
    nbconv.set_num_threads(n)
    results = [nbconv.conv1d(x, w, padding=1), nbconv.conv2d(x2, w2, stride=2)]
    results.append(nbconv.conv_transpose2d(x2, t, stride=2))
    for op, a, b, y in (
        ("conv1d", x, w, nbconv.conv1d(x, w)),
        ("conv2d", x2, w2, nbconv.conv2d(x2, w2)),
        ("conv_transpose2d", x2, t, nbconv.conv_transpose2d(x2, t)),
    ):
        results += [g for g in getattr(nbconv, op + "_backward")(y, a, b) if g is not None]
    seen.add(hashlib.sha256(b"".join(r.tobytes() for r in results)).hexdigest())
print(len(seen), len(results))
"""
    assert run_python(code, NUMBA_NUM_THREADS="4") == "1 12"
