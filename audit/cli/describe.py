"""`audit describe`: load a model, look at it, measure nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audit.cli import console, options

if TYPE_CHECKING:
    from audit.engine.prepare import Prepared

SAMPLES, BATCH_SIZE = 256, 32


def describe(
    model: options.Model,
    weights: options.Weights = None,
    weights_key: options.WeightsKey = None,
    strip_prefix: options.StripPrefix = None,
    preprocess: options.Preprocess = "auto",
    data: options.DataSpecs = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    allow_code: options.AllowCode = False,
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Load a model and say what it is: classes, preprocessing, output, checks; with data also accuracy on 256."""
    from audit.engine.prepare import Inputs, prepare
    from audit.loading.models import ModelRequest

    request = ModelRequest(model, weights, weights_key, strip_prefix, preprocess, allow_code, allow_pickle)
    inputs = Inputs(request, tuple(data or ()), samples=SAMPLES, seed=seed, device=device)
    notes: list[str] = []
    said: set[str] = set()
    try:
        prepared = prepare(inputs, note=notes.append)
        said = {check.text for check in prepared.info.checks}
    finally:  # where loading fails, the guesses that were taken may be the reason
        for text in notes:
            if text not in said:
                console.say(console.indented(f"note: {text}"))
    console.show(console.columns(_rows(prepared)))
    for check in prepared.info.checks:
        console.show(console.indented(f"{'warning' if check.severity == 'warning' else 'check'}: {check.text}"))


def _rows(prepared: Prepared) -> list[tuple[str, ...]]:
    info = prepared.info
    rows: list[tuple[str, ...]] = [
        ("model", info.name),
        ("spec", info.spec),
        ("digest", info.digest),
        *((f"file {found.name}", f"{found.bytes} bytes, sha256 {found.sha256}") for found in info.files),
        ("classes", str(info.num_classes) + (f" ({', '.join(info.class_names[:10])})" if info.class_names else "")),
        ("input", "x".join(map(str, info.input_shape)) + " (channels x height x width)"),
        ("parameters", f"{info.parameters:,}"),
        ("output", info.output),
        ("access", ", ".join(info.access)),
        *((f"preprocessing {key}", str(value)) for key, value in info.preprocessing.items()),
    ]
    rows += [
        (f"{found.role} data", f"{found.n} images, {len(found.class_counts)} classes seen ({found.spec})")
        for found in prepared.data_infos
    ]
    if "eval" in prepared.data:
        rows.append(("accuracy", _accuracy(prepared)))
    return rows


def _accuracy(prepared: Prepared) -> str:
    import torch

    from audit.toolkit.statistics import proportion

    split, right = prepared.data["eval"], 0
    with torch.inference_mode():
        for start in range(0, len(split), BATCH_SIZE):  # all at once would be gigabytes of activations
            batch = split.batch(start, start + BATCH_SIZE)
            right += int((prepared.subject.logits(batch.pixels).argmax(dim=1).cpu() == batch.labels).sum())
    interval = proportion(right, len(split))
    return f"{right / len(split):.1%} of {len(split)} images ({interval.low:.1%} to {interval.high:.1%})"
