"""Everything about the CUDA side that only a device can tell, in one command and less than ten minutes.

    python -m bench.gpu                     check, measure, and write bench/results/<device>.json
    python -m bench.gpu --quick             fewer layers; no compute-sanitizer
    python -m bench.gpu --table [FILE]      print the README's table, from a file or from the results that were kept

First every kernel and the whole package are compared with the CPU, result by result, and run under compute-sanitizer
where it is installed: nothing that is wrong is timed. Then what the device can do is measured (a copy; cuBLAS through
PyTorch where that is installed), our layers beside PyTorch's conv1d and conv2d in channels_last, of the same arithmetic
(TF32 off, on, bfloat16), forward and both gradients, and what the host spends on a call.

Exit status: 0; 1 where a result is wrong; 2 where there is no device.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench import gpu_table
from bench.gpu_shapes import DENSE, DEPTHWISE
from nbconv import DeviceError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer layers, no compute-sanitizer")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--table", nargs="?", type=Path, const=Path(), help="only print the table of a JSON file")
    args = parser.parse_args(arguments)
    if args.table is not None:
        print_table(args.table)
        return 0
    try:
        from nbconv.cuda.driver import require_device

        require_device()
    except DeviceError as error:
        print(f"nothing can be measured here: {error}", file=sys.stderr)
        return 2
    return measure(args.quick, args.out)


def print_table(path: Path) -> None:
    """Print the table of a file; of the kept results where none is named."""
    kept = [path] if path.name else gpu_table.result_files()
    for file in kept:
        print("\n".join(gpu_table.table_lines(json.loads(file.read_text(encoding="utf-8")))))
    if not kept:
        print("\n".join(gpu_table.table_lines(None)))


def measure(quick: bool, out: Path | None) -> int:
    """Check, measure, write."""
    from bench import gpu_checks, gpu_device
    from bench.gpu_torch import Torch, import_torch

    start = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - start:6.1f} s  {text}", flush=True)

    machine = gpu_device.describe()
    say("  ".join(f"{key} {value}" for key, value in machine.items()))
    found = import_torch()
    torch = None if found is None else Torch(found)
    if torch is None:
        say("torch is not installed, or sees no device: no peers, no cuBLAS, no bfloat16 (pip install torch)")
    checks = gpu_checks.check_all(short=quick)
    say(f"{checks['passed']} results right, {len(checks['failed'])} wrong")
    for name in checks["failed"]:
        say(f"WRONG: {name}")
    if checks["failed"]:
        return 1
    sanitizer = {} if quick else gpu_checks.sanitize()
    say("  ".join(f"{tool}: {result}" for tool, result in sanitizer.items()) or "compute-sanitizer: not run")
    ceilings = gpu_device.ceilings(torch)
    say("  ".join(f"{name} {value:.2f}" for name, value in ceilings.items()))
    cases = [*DENSE[:3], *DEPTHWISE[:1]] if quick else [*DENSE, *DEPTHWISE]
    content = {
        "machine": machine,
        "checks": checks,
        "sanitizer": sanitizer,
        "ceilings": ceilings,
        "rows": gpu_device.rows(torch, cases, say),
        "launch": gpu_device.launch_costs(torch),
    }
    say("  ".join(f"{name} {value:.1f} us" for name, value in content["launch"].items()))
    path = out or gpu_table.RESULTS / gpu_table.file_name(machine["device"])
    gpu_table.write(path, content)
    print("\n" + "\n".join(gpu_table.table_lines(content)))
    say(f"numbers: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
