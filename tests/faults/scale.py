"""What the sampler costs at 10^4 to 10^7 rows and past 2^24: seconds and memory.

    python tests/faults/scale.py                          # about a minute
    python tests/faults/scale.py --sampler old.py         # another version of qabert/data/sampling.py, to compare

Each size is measured in a fresh process: rows have a label (uint8, five skewed classes) and a length (int32), batches
32 rows.  Seconds are the processor's (`time.process_time`), so that other work on the machine doesn't count.  Memory
is the growth of `resource.getrusage(...).ru_maxrss` from just after these arrays were made to the end of an epoch of
all rows: torch is counted, and below 10^5 rows most of it is what the process needs anyway.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np

SIZES = (10**4, 10**5, 10**6, 10**7, 2**24 + 1)
SHARES = (0.5, 0.25, 0.15, 0.07, 0.03)
HEADS = ("rows", "draw", "build s", "first batch s", "10,000 rows s", "all rows s", "bytes/row")


def load(path: str) -> ModuleType:
    """A version of `qabert/data/sampling.py` as a module."""
    spec = importlib.util.spec_from_file_location("measured_sampling", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def arrays(rows: int, chunk: int = 2**18) -> tuple[np.ndarray, np.ndarray]:
    """Lengths and classes, made in slices, so that making them is not the peak."""
    rng = np.random.default_rng(0)
    lengths, classes = np.empty(rows, np.int32), np.empty(rows, np.uint8)
    for first in range(0, rows, chunk):
        part = slice(first, min(first + chunk, rows))
        size = part.stop - part.start
        classes[part] = np.searchsorted(np.cumsum(SHARES[:-1]), rng.random(size))
        lengths[part] = np.clip(rng.lognormal(3.1, 0.5, size), 4, 128)
    return lengths, classes


def peak() -> int:
    """The most memory that this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(path: str, rows: int, weighted: bool) -> dict[str, float]:
    """Seconds and memory of one size."""
    sampling = load(path)

    def build(lengths: np.ndarray, classes: np.ndarray, examples: int | None = None):
        return sampling.TaskBatchSampler({"t": sampling.TaskRows(lengths, classes, examples)}, 32, weighted=weighted)

    assert sum(map(len, build(*arrays(10**4)))) == 10**4  # loads what is loaded at its first use
    lengths, classes = arrays(rows)
    before, start = peak(), time.process_time()
    sampler = build(lengths, classes)
    found = {"build s": time.process_time() - start}
    start, drawn = time.process_time(), 0
    for number, batch in enumerate(sampler):
        if not number:
            found["first batch s"] = time.process_time() - start
        drawn += len(batch)
    found |= {"all rows s": time.process_time() - start, "bytes/row": (peak() - before) / rows}
    assert drawn == rows
    sampler, start = build(lengths, classes, 10**4), time.process_time()
    assert sum(map(len, sampler)) == 10**4
    return found | {"10,000 rows s": time.process_time() - start}


def main() -> None:
    """Measure every size in a process of its own and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[2]
    parser.add_argument("--sampler", default=str(root / "qabert" / "data" / "sampling.py"), help="the file to measure")
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--weighted", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rows:
        print(json.dumps(measure(args.sampler, args.rows, bool(args.weighted))))
        return
    print("  ".join(f"{head:>13}" for head in HEADS))
    for weighted in (1, 0):
        for rows in SIZES:
            command = [sys.executable, __file__, "--sampler", args.sampler, f"--rows={rows}", f"--weighted={weighted}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            cells = [f"{rows:,}", "weighted" if weighted else "each once"]
            if done.returncode:
                cells.append(done.stderr.strip().splitlines()[-1] if done.stderr else f"exit {done.returncode}")
            else:
                found = json.loads(done.stdout)
                cells += [f"{found[head]:,.3f}" for head in HEADS[2:-1]] + [f"{found['bytes/row']:,.1f}"]
            print("  ".join(f"{cell:>13}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
