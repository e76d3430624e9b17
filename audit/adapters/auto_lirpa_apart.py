"""auto_LiRPA in a process of its own: it changes parts of torch while it works, and may take the process with it.

The network travels as an exported program, so that whatever can be exported can be asked about, wherever its classes
are defined. What comes back are numbers, or why there are none.
"""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from audit.adapters.auto_lirpa import Method, NotTaken, ball_bounds, box_bounds
from audit.errors import AuditError, PrerequisiteError

SECONDS = 600
"""After which the process is ended: it is for networks and samples that are few and small."""
PROGRAM, QUESTION, ANSWER, REFUSAL = "program.pt2", "question.safetensors", "answer.safetensors", "refusal.txt"


class Asked:
    """A network, to be asked about as often as there is something to ask."""

    def __init__(self, module: nn.Module, shape: tuple[int, ...], seconds: float = SECONDS) -> None:
        """Exports a module that is in evaluation mode, for images of a shape (c, h, w).

        Args:
            module: the network.
            shape: of an image.
            seconds: after which an answer is no longer waited for, at most `SECONDS`.

        Raises:
            PrerequisiteError: when the package is not installed.
            NotTaken: when it cannot be exported.
        """
        if importlib.util.find_spec("auto_LiRPA") is None:
            raise PrerequisiteError(
                "Expected the package auto_LiRPA 0.3, got none. Install it with --no-deps from requirements.lock."
            )
        parameter = next(module.parameters(), torch.zeros(()))
        example = torch.full((1, *shape), 0.5, dtype=parameter.dtype, device=parameter.device)
        written = io.BytesIO()
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                torch.export.save(torch.export.export(module, (example,), strict=False), written)
        except Exception as error:
            raise NotTaken(f"the network cannot be handed over: {_first_line(error)}") from error
        self._program, self._seconds = written.getvalue(), max(min(seconds, SECONDS), 1.0)

    def box(self, lo: Tensor, hi: Tensor, rows: Tensor, method: Method) -> Tensor:
        """See `auto_lirpa.box_bounds`; on the CPU."""
        return self._told({"lo": lo, "hi": hi, "rows": rows}, method)

    def ball(self, centre: Tensor, radius: Tensor, rows: Tensor, method: Method) -> Tensor:
        """See `auto_lirpa.ball_bounds`; on the CPU."""
        return self._told({"centre": centre, "radius": radius, "rows": rows}, method)

    def _told(self, question: dict[str, Tensor], method: Method) -> Tensor:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / PROGRAM).write_bytes(self._program)
            save_file({key: value.detach().cpu().contiguous() for key, value in question.items()}, folder / QUESTION)
            words = [sys.executable, "-P", "-W", "ignore", "-m", __name__, name, method, str(torch.get_num_threads())]
            try:
                ended = subprocess.run(words, capture_output=True, timeout=self._seconds, check=False)  # noqa: S603 - our own words
            except subprocess.TimeoutExpired as error:
                raise NotTaken(f"auto_LiRPA 0.3 took longer than {self._seconds:.0f} s") from error
            if (folder / REFUSAL).exists():
                raise NotTaken((folder / REFUSAL).read_text())
            if ended.returncode or not (folder / ANSWER).exists():
                said = (ended.stderr.decode(errors="replace").strip().splitlines() or ["nothing said"])[-1][:200]
                raise NotTaken(f"auto_LiRPA 0.3 ended its process with code {ended.returncode} ({said})")
            return load_file(folder / ANSWER)["bounds"]


def answer(folder: Path, method: Method) -> None:
    """Reads what is asked and writes the bounds, or why there are none."""
    question = load_file(folder / QUESTION)
    bounds: Callable[..., Tensor] = box_bounds if "lo" in question else ball_bounds
    order = ("lo", "hi", "rows") if "lo" in question else ("centre", "radius", "rows")
    module = torch.export.load(folder / PROGRAM).module(check_guards=False)
    try:
        found = bounds(module, *(question[key] for key in order), method)
    except (NotTaken, AuditError) as error:
        (folder / REFUSAL).write_text(str(error))
    else:
        save_file({"bounds": found.contiguous()}, folder / ANSWER)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]))
    answer(Path(sys.argv[1]), sys.argv[2])  # type: ignore[arg-type]
