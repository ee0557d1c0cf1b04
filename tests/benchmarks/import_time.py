"""Seconds that `import hf_transfer` adds to `import torch, transformers`: `python -m tests.benchmarks.import_time`."""

from __future__ import annotations

import statistics
import subprocess
import sys


PROGRAM = (
    "import time, torch, transformers; t = time.perf_counter(); import hf_transfer; print(time.perf_counter() - t)"
)


def main() -> None:
    """Median of seven fresh processes; at most 0.3 s is wanted."""
    runs = [subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True) for _ in range(7)]
    seconds = statistics.median(float(run.stdout) for run in runs)
    sys.stdout.write(f"import hf_transfer: {seconds:.3f} s on top of torch and transformers (at most 0.3 wanted)\n")


if __name__ == "__main__":
    main()
