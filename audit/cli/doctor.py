"""`audit doctor`: what this machine has."""

import importlib.metadata
import os
import tempfile
from pathlib import Path

from audit.cli import console

OPTIONAL = {
    "torchattacks": "reference attacks of the tests: pip install --no-deps torchattacks==3.5.1 requests tqdm",
    "onnxruntime": "onnx: models: pip install 'trust-audit[onnx]'",
    "onnx2torch": "gradients of onnx: models: pip install 'trust-audit[onnx]'",
    "transformers": "hf: folders: pip install 'trust-audit[hf]'",
    "auto_LiRPA": "second opinion on bounds: pip install --no-deps auto-LiRPA==0.3",
}
_DISTRIBUTIONS = {"auto_LiRPA": "auto-LiRPA"}


def doctor() -> None:
    """Show what this machine has: devices, libraries, optional packages, write access."""
    import platform

    import torch

    from audit import __version__
    from audit.engine.keys import package_versions
    from audit.engine.prepare import available_cores

    rows = [("trust-audit", __version__), ("python", platform.python_version())]
    rows += list(package_versions().items())
    rows += [("cores", str(available_cores()))]
    count = torch.cuda.device_count()
    rows += [(f"cuda:{place}", torch.cuda.get_device_name(place)) for place in range(count)]
    rows += [] if count else [("GPU", "none; everything runs on the CPU")]
    for package, advice in OPTIONAL.items():
        rows.append((package, _version(_DISTRIBUTIONS.get(package, package)) or f"absent. For the {advice}"))
    rows.append(("run folder", _write_access(Path("audit-runs"))))
    console.show(console.columns(list(dict(rows).items())))


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _write_access(folder: Path) -> str:
    """Whether run folders can be made here."""
    parent = folder if folder.is_dir() else Path.cwd()
    try:
        with tempfile.TemporaryFile(dir=parent):
            free = os.statvfs(parent).f_bavail * os.statvfs(parent).f_frsize / 2**30
            return f"{folder}/ can be written, {free:.1f} GiB free"
    except OSError as error:
        return f"{parent} cannot be written ({error.strerror}); give audit run --out DIR"
