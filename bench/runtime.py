"""What the runtime promises, measured: ``python -m bench.runtime`` prints each figure with its limit.

Every figure is the best of a few fresh processes: what a machine can do when it is left alone. Exit status 1 where one
is over its limit.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

IMPORT = """
import numpy, time
start = time.perf_counter()
import nbconv
print(time.perf_counter() - start)
"""
FIRST = """
import numpy as np, nbconv, time
x, w = np.ones((1, 64, 8), np.float32), np.ones((8, 8, 3), np.float32)
start = time.perf_counter()
nbconv.conv1d(x, w)
print(time.perf_counter() - start)
"""
LARGE_FIRST = (
    FIRST.replace("(1, 64, 8)", "(1, 2000, 64)").replace("(8, 8, 3)", "(64, 64, 3)").replace("w)", "w, padding=1)")
)
# A convolution of some seconds, interrupted half a second in; the delay is from the signal to the exception.
LONG = """
import os, signal, sys, threading, time
import numpy as np, nbconv
x, w = np.ones((8, 40000, 256), np.float32), np.ones((256, 256, 5), np.float32)
nbconv.conv1d(x[:1, :20000], w)
"""
INTERRUPT = (
    LONG
    + """
sent = []
def interrupt():
    time.sleep(0.4)
    sent.append(time.perf_counter())
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
try:
    while True:
        nbconv.conv1d(x, w)
except KeyboardInterrupt:
    print(time.perf_counter() - sent[0])
"""
)
HEARTBEAT = (
    LONG
    + """
beats, stop = [], []
def beat():
    while not stop:
        beats.append(time.perf_counter())
        time.sleep(0.001)
thread = threading.Thread(target=beat)
thread.start()
nbconv.set_num_threads(1)
end = time.perf_counter() + 1
while time.perf_counter() < end:
    nbconv.conv1d(x[:2], w)
stop.append(1)
thread.join()
print(max(b - a for a, b in zip(beats, beats[1:])))
"""
)
SLICES = (
    LONG
    + """
from nbconv.runtime import threads
nbconv.set_num_threads(1)
def seconds():
    start = time.process_time()
    nbconv.conv1d(x[:2], w)
    return time.process_time() - start
whole, sliced, limit = [], [], threads._SLICE_WORK
for _ in range(6):
    threads._SLICE_WORK = limit
    sliced.append(seconds())
    threads._SLICE_WORK = 1 << 62
    whole.append(seconds())
print(min(sliced) / min(whole) - 1)
"""
)
LAUNCH = """
import numpy as np, nbconv, time
from nbconv.runtime import threads
def best(n, x, w):
    with nbconv.num_threads(n):
        times = []
        for _ in range(300):
            start = time.perf_counter()
            nbconv.conv1d(x, w)
            times.append(time.perf_counter() - start)
        return min(times)
worst = 0
for length in (30, 100, 300, 1000, 3000):
    x, w = np.ones((1, length, 32), np.float32), np.ones((32, 32, 3), np.float32)
    chosen, serial = best(2, x, w), best(1, x, w)
    layer = threads._chosen_layer()
    threads._layer = layer.__class__(**{**layer.__dict__, "least_work": 0})
    parallel = best(2, x, w)
    threads._layer = layer
    worst = max(worst, chosen / min(serial, parallel) - 1)
print(worst)
"""


def run(code: str, cache: str) -> float:
    """Run code in a fresh process; give the number that it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NBCONV_CACHE_DIR": cache}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600, check=True
    )
    return float(done.stdout)


def main() -> int:
    """Print the table."""
    over = 0
    with tempfile.TemporaryDirectory() as cache:
        # figure, code, its cache, processes, limit
        rows = [
            ("import nbconv, after NumPy, s", IMPORT, cache, 5, 0.10),
            ("first conv1d, no cache, s", FIRST, "off", 3, 3.0),
            ("the same, large, padded, all threads, s", LARGE_FIRST, "off", 3, 3.0),
            ("first conv1d, warm cache, s", FIRST, cache, 5, 0.35),
            ("Ctrl-C to exception, s", INTERRUPT, cache, 3, 0.5),
            ("longest gap of another thread's heartbeat, s", HEARTBEAT, cache, 3, 0.020),
            ("cost of slices, share", SLICES, cache, 3, 0.01),
            ("latency over min(serial, parallel), share", LAUNCH, cache, 3, 0.20),
        ]
        run(FIRST, cache)
        for name, code, folder, processes, limit in rows:
            figure = min(run(code, folder) for _ in range(processes))
            over += figure > limit
            print(f"{name:<46} {figure:8.3f}   limit {limit:g}{'   OVER' if figure > limit else ''}", flush=True)
    return int(over > 0)


if __name__ == "__main__":
    sys.exit(main())
