"""How long `audit scan` takes for files of one gigabyte, and how much memory: only what can act is read.

    python benchmarks/scan_speed.py [--gigabytes 1] [--repeats 5]

Every figure is the median of fresh processes; the time of `audit --version` is what any command costs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import save

COMMAND = [sys.executable, "-c", "from audit.cli import main; main()"]
TORCH_FILE = "import sys, torch; torch.save({'weight': torch.zeros(int(sys.argv[2]) // 4)}, sys.argv[1])"


def measured(words: list[str], repeats: int) -> dict[str, float]:
    """Median seconds of a command, by the clock and of the processor, and the largest resident memory in MB.

    This process stays small: the count of a child's memory begins with that of its parent.
    """
    seconds, processor, memory = [], [], []
    for _ in range(repeats):
        started = time.perf_counter()
        process = subprocess.Popen([*COMMAND, *words], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, f"{words}: exit code {process.returncode}"
        seconds.append(time.perf_counter() - started)
        processor.append(usage.ru_utime + usage.ru_stime)
        memory.append(usage.ru_maxrss / 1024)
    return {
        "seconds": round(statistics.median(seconds), 3),
        "processor_seconds": round(statistics.median(processor), 3),
        "peak_rss_mb": round(max(memory), 1),
    }


def safetensors_file(path: Path, size: int) -> None:
    """One tensor of zeros, which take no room on the disk."""
    entry = {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size // 4 * 4]}
    header = json.dumps({"weight": entry}).encode()
    with path.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + size // 4 * 4)


def torch_file(path: Path, size: int) -> None:
    """The same, written by torch in a process of its own."""
    subprocess.run([sys.executable, "-c", TORCH_FILE, str(path), str(size)], check=True)


def main() -> None:
    """Makes the files, scans them, and saves what it took."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--gigabytes", type=float, default=1.0)
    arguments.add_argument("--repeats", type=int, default=5)
    asked = arguments.parse_args()
    size = int(asked.gigabytes * 10**9)
    figures: dict[str, Any] = {"gigabytes": asked.gigabytes, "audit --version": measured(["--version"], asked.repeats)}
    usual = figures["audit --version"]["seconds"]
    with tempfile.TemporaryDirectory() as folder:
        for name, make in (("model.safetensors", safetensors_file), ("model.pt", torch_file)):
            path = Path(folder) / name
            make(path, size)
            found = measured(["scan", str(path)], asked.repeats)
            figures[f"audit scan {name}"] = found | {"times_audit_version": round(found["seconds"] / usual, 2)}
            path.unlink()
    save("scan_speed", figures)


if __name__ == "__main__":
    main()
