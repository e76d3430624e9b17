"""What every benchmark shares: the machine, and where results go."""

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
_ASKED = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
COMMIT = _ASKED.stdout.strip() or None
"""Of the code that was loaded: asked when a benchmark begins, as it may be another one when it ends."""


def machine() -> dict[str, Any]:
    """Hardware, versions and commit."""
    import torch

    from audit.engine.keys import package_versions
    from audit.engine.prepare import available_cores

    cpu = Path("/proc/cpuinfo")
    models = [line.split(":", 1)[1].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": available_cores(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "packages": package_versions(),
        "commit": COMMIT,
    }


def save(name: str, figures: dict[str, Any], *, show: bool = True) -> None:
    """Prints the figures and writes them with the machine they were measured on."""
    words = [Path(word).name if "/" in word and Path(word).is_absolute() else word for word in sys.argv]
    content = {"benchmark": name, "command": " ".join(words), "figures": figures, "machine": machine()}
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"{name}.json"
    target.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    for key, value in figures.items() if show else ():
        print(f"{key:<48} {value}")
    print(f"-> {target.relative_to(ROOT)}")
