"""Runs every benchmark with its default settings: python benchmarks/run_all.py."""

import subprocess
import sys
from pathlib import Path

COMMANDS = (
    ["whole_commands.py"],
    ["scan_speed.py"],
    ["prediction_pass.py"],
    ["prediction_pass.py", "--width", "64", "--images", "1024"],
)

if __name__ == "__main__":
    for command in COMMANDS:
        print(f"== {' '.join(command)}")
        subprocess.run(
            [sys.executable, "-W", "ignore", str(Path(__file__).with_name(command[0])), *command[1:]], check=True
        )
