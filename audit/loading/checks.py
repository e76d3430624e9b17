"""Whether a subject behaves as a classifier must, on real samples."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from audit.api import Batch, DataSplit, Subject
from audit.api.subject import out_of_memory
from audit.errors import DataError, SubjectError
from audit.loading.gradient_checks import gradient_diagnostics
from audit.schema import Diagnostic
from audit.toolkit.batching import Batching, memory_for_one

MOST_SAMPLES = 256
BATCH_SIZE = 32
ALONE_SAMPLES = 8
"""Samples that are also run one by one."""
TOLERANCE = 1e-3
"""Of logits, relative to the largest: convolutions in TF32 on a GPU stay within it, batch statistics do not."""
FLOAT64_TOLERANCE = 1e-7
"""As far below `TOLERANCE` as float64 rounds below float32, with room; batch statistics stay where they are."""
ROUNDING = 1e-5
SATURATED_GAP = 50.0
SATURATED_SHARE = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """Samples (on the subject's device) and the subject's logits on them, of which so many were computed at once."""

    batch: Batch
    logits: Tensor
    at_once: int

    @property
    def scale(self) -> float:
        """The largest absolute logit, at least 1."""
        return max(1.0, float(self.logits.abs().max()))


def check_subject(subject: Subject, split: DataSplit) -> tuple[Diagnostic, ...]:
    """Runs the subject on the first 256 samples of a split, and says what a reader of its numbers should know.

    The subject, its buffers and torch's random state are left as they were found. Codes: `saturated`,
    `nondeterministic`, `batch_dependent`, `amplified_rounding`, `stateful`, `no_gradient`, `nonfinite_gradient`,
    `zero_gradient`.

    Args:
        subject: as loaded.
        split: images of the subject's shape, with labels below its number of classes.

    Raises:
        DataError: when there are no samples, or their pixels do not fit the subject.
        SubjectError: when outputs are NaN or Inf, or are not one row of logits an image.
        PrerequisiteError: when not even one image fits into memory.
    """
    if len(split) == 0:
        raise DataError("Expected at least one sample to check the model on, got an empty split. Choose another.")
    before = {name: buffer.detach().clone() for name, buffer in subject.model.named_buffers()}
    found: list[Diagnostic] = []
    with _random_state_kept(subject.device), subject.untouched(), memory_for_one():
        seen = _look(subject, split)
        repeated, spread = _repeated(subject, seen)
        found += [
            *_saturated(seen),
            *repeated,
            *_alone(subject, seen, spread),
            *(gradient_diagnostics(subject, seen.batch) if "gradients" in subject.access else ()),
        ]
        found += _stateful(subject, before)
    return tuple(found)


def adapted(subject: Subject, diagnostics: tuple[Diagnostic, ...]) -> Subject:
    """The subject with the access that the diagnostics leave: without gradients after `no_gradient`."""
    found = [diagnostic.text for diagnostic in diagnostics if diagnostic.code == "no_gradient"]
    if not found:
        return subject
    why = subject.why_limited or found[0].partition(";")[0]
    return dataclasses.replace(subject, access=subject.access - {"gradients"}, why_limited=why)


@contextlib.contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _look(subject: Subject, split: DataSplit) -> _Seen:
    batching = Batching(BATCH_SIZE)
    seen = batching.parts(min(len(split), MOST_SAMPLES), lambda rows: _answered(subject, split, rows))
    batches = [batch for batch, _ in seen]
    rows = torch.cat([logits for _, logits in seen])
    broken = (~torch.isfinite(rows)).any(1).nonzero()[:, 0].tolist()
    if broken:
        first = f"{split.sample_ids(broken[:1])[0]} at position {broken[0]}"
        raise SubjectError(
            f"Expected finite logits, got NaN or Inf for {len(broken)} of {len(rows)} samples "
            f"({len(broken) / len(rows):.1%}), the first being {first}. "
            "Check weights and preprocessing; nothing can be measured on a NaN."
        )
    pixels = torch.cat([batch.pixels for batch in batches]).to(subject.device)
    labels = torch.cat([batch.labels for batch in batches]).to(subject.device)
    return _Seen(Batch(pixels, labels, range(len(rows))), rows, batching.most)


def _answered(subject: Subject, split: DataSplit, rows: slice) -> tuple[Batch, Tensor]:
    """A batch, and the subject's logits on it."""
    batch = split.batch(rows.start, rows.stop)
    _check_pixels(batch, subject)
    with torch.no_grad():
        logits = subject.logits(batch.pixels)
    if tuple(logits.shape) != (len(batch.labels), subject.num_classes):
        raise SubjectError(
            f"Expected logits of shape {(len(batch.labels), subject.num_classes)}, got {tuple(logits.shape)}. "
            "Return one row of logits an image, whatever the batch."
        )
    return batch, logits


def _check_pixels(batch: Batch, subject: Subject) -> None:
    problems = []
    shape = tuple(batch.pixels.shape[1:])
    if shape != subject.input_shape:
        problems.append(f"Expected images of {subject.input_shape}, got {shape}. Say the size with --preprocess.")
    low, high = float(batch.pixels.min()), float(batch.pixels.max())
    if not (low >= 0 and high <= 1):
        problems.append(f"Expected pixels in [0, 1], got {low:.3g} to {high:.3g}. Store them without normalisation.")
    if int(batch.labels.min()) < 0 or int(batch.labels.max()) >= subject.num_classes:
        found = f"{int(batch.labels.min())} to {int(batch.labels.max())}"
        problems.append(
            f"Expected labels 0 to {subject.num_classes - 1}, got {found}. Map them to the model's classes."
        )
    if problems:
        raise DataError("\n".join(problems))


def _saturated(seen: _Seen) -> list[Diagnostic]:
    top = seen.logits.topk(2, dim=1).values
    gap = float((top[:, 0] - top[:, 1]).median())
    certain = float((seen.logits.softmax(1).max(1).values == 1).float().mean())
    if gap <= SATURATED_GAP and certain <= SATURATED_SHARE:
        return []
    text = (
        f"logits are saturated: the median gap between the first two is {gap:.3g} and {certain:.1%} of samples have a "
        "confidence of exactly 1 in float32. Gradients of the cross-entropy vanish there, as after scaling by a low "
        "temperature; attacks that use it look weaker than they are."
    )
    return [Diagnostic(code="saturated", text=text)]


def _repeated(subject: Subject, seen: _Seen) -> tuple[list[Diagnostic], float]:
    """Whether a second forward gives the same, and by how much it differs."""
    pixels = seen.batch.pixels[: seen.at_once]
    with torch.no_grad():
        spread = float((subject.logits(pixels) - seen.logits[: len(pixels)]).abs().max())
    if spread == 0:
        return [], spread
    rounding = spread <= ROUNDING * seen.scale
    text = f"two forwards of the same images differ by up to {spread:.3g} in a logit"
    text += ", as rounding does" if rounding else ": the model is random; measured robustness may be noise"
    return [Diagnostic(code="nondeterministic", text=text, severity="info" if rounding else "warning")], spread


def _alone(subject: Subject, seen: _Seen, spread: float) -> list[Diagnostic]:
    """Whether an image's logits depend on the others of its batch."""
    pixels = seen.batch.pixels[:ALONE_SAMPLES]
    try:
        with torch.no_grad():
            alone = torch.cat([subject.logits(image[None]) for image in pixels])
    except Exception as error:
        if out_of_memory(error):
            raise
        cause = error.__cause__ or error
        reason = (str(cause).strip().splitlines() or [""])[0]
        text = f"the model fails on a single image ({type(cause).__name__}: {reason}), so it may use its batch"
        return [Diagnostic(code="batch_dependent", text=text)]
    difference = float((alone - seen.logits[: len(pixels)]).abs().max())
    if difference <= max(TOLERANCE * seen.scale, 3 * spread):
        return []
    if _vanishes_in_float64(subject.model, pixels):
        text = (
            f"an image's logits change by up to {difference:.3g} with the other images of its batch, and not at all in "
            "float64: the network amplifies rounding, so that its last digits mean nothing"
        )
        return [Diagnostic(code="amplified_rounding", text=text)]
    text = (
        f"an image's logits change by up to {difference:.3g} with the other images of its batch, as with batch "
        "statistics in training mode; every number depends on the batch size"
    )
    return [Diagnostic(code="batch_dependent", text=text)]


def _vanishes_in_float64(model: nn.Module, pixels: Tensor) -> bool:
    """Whether logits alone and in a batch are the same in float64; false where the network cannot be computed in it."""
    try:
        exact, wide = copy.deepcopy(model).double(), pixels.double()
        with torch.no_grad():
            together = exact(wide)
            alone = torch.cat([exact(image[None]) for image in wide])
    except Exception:  # a black box, or a program with its types written in
        return False
    scale = max(1.0, float(together.abs().max()))
    return together.dtype is torch.float64 and float((alone - together).abs().max()) <= FLOAT64_TOLERANCE * scale


def _stateful(subject: Subject, before: dict[str, Tensor]) -> list[Diagnostic]:
    after = dict(subject.model.named_buffers())
    changed = [name for name, buffer in before.items() if name in after and not torch.equal(after[name], buffer)]
    if not changed:
        return []
    text = (
        f"a forward in eval mode changes {len(changed)} buffers ({', '.join(changed[:3])}); results depend on the past"
    )
    return [Diagnostic(code="stateful", text=text)]
