"""`audit demo`: a whole audit of the small classifier that comes with the tool, on the path of any user's model."""

from __future__ import annotations

import shlex
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit.cli import console, options
from audit.errors import PrerequisiteError

if TYPE_CHECKING:
    from audit.cli.run import RunOptions
    from audit.engine.prepare import Inputs

MODEL = "timm:test_efficientnet?num_classes=10&in_chans=1"
PREPROCESS = "mean=0.5/std=0.5/size=32"
DATA = "sklearn:digits?split=test"
SETTINGS = (
    "evasion.samples=128", "evasion.eps_linf=1/255,2/255,4/255,8/255", "evasion.eps_l2=0.5", "evasion.steps=40",
    "evasion.queries=1000", "distillation.samples=64", "distillation.steps=20", "distillation.cw_steps=40",
    "distillation.queries=200", "certified.samples=16", "certified.method=crown-ibp",
    "certified.attack_steps=20", "smoothing.sigmas=0.12", "smoothing.samples=16", "smoothing.n=200",
)  # fmt: skip


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Run folder.")] = Path("audit-runs/demo"),
    device: options.Device = "auto",
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure anew, even what is stored.")] = False,
) -> None:
    """Audit a small digits classifier from beginning to end, and print where the report is."""
    from audit.cli.run import execute

    inputs, wanted = request(out, device, fresh=fresh)
    argv = command(inputs, wanted)
    console.say(f"This is what runs:\n  audit {shlex.join(argv)}\n")
    raise typer.Exit(execute(inputs, wanted, argv))


def request(out: Path, device: str, *, fresh: bool) -> tuple[Inputs, RunOptions]:
    """The demo as any other run."""
    from audit.cli.run import RunOptions
    from audit.engine.prepare import Inputs
    from audit.loading.models import ModelRequest

    model = ModelRequest(MODEL, weights=demo_file("digits.safetensors"), preprocess=PREPROCESS)
    inputs = Inputs(model, (DATA,), device=device)
    return inputs, RunOptions(settings=SETTINGS, policy=demo_file("demo-policy.toml"), out=out, fresh=fresh)


def command(inputs: Inputs, wanted: RunOptions) -> list[str]:
    """The arguments of `audit run` that do the same."""
    words = ["run", "--model", inputs.model.spec, "--weights", str(inputs.model.weights)]
    words += ["--preprocess", inputs.model.preprocess, "--data", *inputs.data]
    for setting in wanted.settings:
        words += ["--set", setting]
    words += ["--device", inputs.device, "--policy", str(wanted.policy), "--out", str(wanted.out)]
    return words


def demo_file(name: str) -> Path:
    """A file of the demo: beside the package in an installed wheel, in `fixtures/` in a checkout.

    Raises:
        PrerequisiteError: when it is in neither place.
    """
    package = Path(str(resources.files("audit")))
    for folder in (package / "demo_files", package.parent / "fixtures"):
        if (folder / name).is_file():
            return folder / name
    raise PrerequisiteError(f"Expected {name} to come with the installation, got none. Install trust-audit again.")
