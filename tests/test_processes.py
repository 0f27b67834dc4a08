"""Forked, spawned and served processes: the child computes the exact result, on every layer, or the test times out."""

from __future__ import annotations

import sys

import pytest

from tests.helpers import optional
from tests.processes import LINUX, need_layer, run_python

LAYERS = ["omp", "workqueue", "tbb"]
needs_fork = pytest.mark.skipif(not LINUX, reason="this system does not fork processes")
# Two threads wanted, whatever the machine has; the work is above every layer's threshold.
TWO = {"NUMBA_NUM_THREADS": "2", "NBCONV_NUM_THREADS": "2"}

FORK = """
import signal, time
import nbconv
expected(4000)

def fork(children=2):
    for _ in range(children):
        pid = os.fork()
        if pid == 0:
            signal.alarm(40)  # a child that hangs is ended, and seen
            ok = check(4000) and check(4000)
            if ok and os.environ.get("GRANDCHILD"):
                child = os.fork()
                if child == 0:
                    os._exit(0 if check(4000) else 1)
                ok = os.waitpid(child, 0)[1] == 0
            os._exit(0 if ok else 1)
        status = os.waitpid(pid, 0)[1]
        assert status == 0, f"child ended with {status}"
    assert check(4000)
"""

SCENES = {
    "before use": "fork()",
    "after use": "assert check(4000); fork()",
    "after info": "nbconv.threading_info(); fork()",
    "after serial use only": "assert check(20); fork()",
    "after use in another thread": ("t = threading.Thread(target=check, args=(4000,)); t.start(); t.join(); fork()"),
    "twice": "assert check(4000); os.environ['GRANDCHILD'] = '1'; fork()",
    "twice after use in another thread": """
thread = threading.Thread(target=check, args=(4000,))
thread.start()
thread.join()
os.environ["GRANDCHILD"] = "1"
fork()
""",
    "while others launch": """
assert check(4000)
stop = []
def work():
    while not stop:
        assert check(4000)
started = [threading.Thread(target=work, daemon=True) for _ in range(3)]
for thread in started:
    thread.start()
time.sleep(0.2)
fork(4)
stop.append(1)
for thread in started:
    thread.join()
""",
    "while another imports": """
thread = threading.Thread(target=check, args=(4000,), daemon=True)
thread.start()
time.sleep(0.05)
fork()
thread.join()
""",
    "while another compiles": """
import nbconv.cpu.backend
thread = threading.Thread(target=check, args=(4000,), daemon=True)
thread.start()
time.sleep(0.1)
fork()
thread.join()
""",
    "while another is inside LLVM": """
import llvmlite.binding.ffi
import nbconv.cpu.backend
def work():
    with llvmlite.binding.ffi.lib._lock:
        time.sleep(1)
thread = threading.Thread(target=work, daemon=True)
thread.start()
time.sleep(0.1)
fork()
thread.join()
""",
}


@needs_fork
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("scene", SCENES)
def test_fork(scene: str, layer: str) -> None:
    need_layer(layer)
    cache = {"NBCONV_CACHE_DIR": "off"} if scene == "while another compiles" else {}
    run_python(FORK + SCENES[scene], NUMBA_THREADING_LAYER=layer, **TWO, **cache)


TORN = """
assert check(4000)
done, end = threading.Event(), threading.Event()
def work():
    assert check(4000)
    done.set()
    end.wait()
thread = threading.Thread(target=work, daemon=True)
thread.start()
done.wait()

def descend(generations):
    if generations == 0:
        return True
    pid = os.fork()
    if pid == 0:
        signal.alarm(40)
        alone = nbconv.threading_info()["layer"] == "none" and check(4000)
        os._exit(0 if alone and descend(generations - 1) else 1)
    return os.waitpid(pid, 0)[1] == 0

assert descend(2)
end.set()
thread.join()
assert check(4000)
"""


@needs_fork
def test_no_descendant_uses_a_tbb_that_could_not_shut_down() -> None:
    """It hangs at times only, where another thread lives that has launched: so ask for the layer."""
    need_layer("tbb")
    run_python(FORK + TORN, NUMBA_THREADING_LAYER="tbb", **TWO)


@needs_fork
@pytest.mark.torch
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("scene", ["", "assert check(4000)"])
def test_fork_after_a_torch_convolution(layer: str, scene: str) -> None:
    optional("torch", "NBCONV_REQUIRE_TORCH")
    need_layer(layer)
    torch = """
import torch
torch.set_num_threads(2)
torch.nn.functional.conv1d(torch.ones(8, 64, 3000), torch.ones(64, 64, 3))
"""
    run_python(torch + FORK + scene + "\nfork()", NUMBA_THREADING_LAYER=layer, **TWO)


MULTIPROCESSING = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
import nbconv
from tests.processes import check_layer
context = multiprocessing.get_context("{method}")
layer = nbconv.Conv1d(inputs()[1], padding=1)
{before}
with ProcessPoolExecutor(2, mp_context=context) as pool:
    print(all(pool.map(check, [4000] * 4, timeout=200)), all(pool.map(check_layer, [layer] * 4, timeout=200)))
"""


@pytest.mark.parametrize("before", ["", "assert check(4000)"], ids=["unused", "used"])
@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_executors(method: str, before: str) -> None:
    if method != "spawn" and not LINUX:
        pytest.skip("this system does not fork processes")
    assert run_python(MULTIPROCESSING.format(method=method, before=before), **TWO) == "True True"


def test_loky() -> None:
    """joblib's executor pickles layers with cloudpickle."""
    optional("joblib", "NBCONV_REQUIRE_JOBLIB")
    code = """
import joblib, nbconv
from tests.processes import check_layer
layer = nbconv.Conv1d(inputs()[1], padding=1)
assert check(4000)
results = joblib.Parallel(2, backend="loky", timeout=200)(
    [joblib.delayed(check)(4000)] * 2 + [joblib.delayed(check_layer)(layer)] * 2
)
print(results)
"""
    assert run_python(code, **TWO) == "[True, True, True, True]"


@pytest.mark.skipif(sys.platform == "win32", reason="reads POSIX exit statuses")
def test_nothing_is_printed_and_nothing_is_left_behind() -> None:
    """Exit after use is clean: no message of a pool that was torn down, status 0."""
    assert run_python("assert check(4000)") == ""
