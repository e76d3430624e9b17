"""Finds the state dict inside a weights file and fits its keys to the network's, strictly.

Nothing is left to chance in silence: every guess (which dict of the file, which prefix) becomes a note, and whatever
does not fit is named at once, with the likely cause.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from audit.errors import SubjectError
from audit.loading.sources import counted
from audit.loading.state_dicts import (
    Tensors,
    candidates,
    describe,
    prefixes,
    stated_dict,
    stated_prefix,
    without_wrappers,
)

USUAL_NAMES = (
    "state_dict", "model_state_dict", "model", "net", "network", "model_state", "params", "weights", "module",
)  # fmt: skip
"""Where a file usually keeps the weights; only settles ties between dicts that fit equally well."""
AVERAGED = re.compile(r"(^|[._])(ema|swa|averaged|avg|teacher|shadow)([._]|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """How a dict of tensors fits a network once a prefix is stripped.

    Attributes:
        path: where in the file the dict lies, such as `state_dict` or `models.0`; empty for the file itself.
        prefix: stripped from its keys.
        tensors: what remains, by the network's names where they fit.
        missing: keys that the network has alone.
        unexpected: keys that the dict has alone.
        mismatched: keys of both, with the shape (or dtype) in the file and in the network.
        outside: keys that do not carry the prefix.
        untracked: missing `num_batches_tracked`, which decide nothing in eval mode.
        matched: number of keys that fit.
    """

    path: str
    prefix: str
    tensors: Tensors
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: Mapping[str, tuple[str, str]]
    outside: tuple[str, ...]
    untracked: tuple[str, ...]
    matched: int

    @property
    def complete(self) -> bool:
        """Whether it can be loaded."""
        return not (self.missing or self.unexpected or self.mismatched) and self.matched > 0

    @property
    def averaged(self) -> bool:
        """Whether its name says that it is a running average of the weights, or a teacher."""
        return bool(AVERAGED.search(self.path) or AVERAGED.search(self.prefix))

    @property
    def rank(self) -> tuple[bool, bool, int, int, int]:
        """Better fits are greater: whole ones first, then the weights themselves before their averages."""
        name = self.path.split(".")[-1]
        wrong = len(self.unexpected) + len(self.mismatched) + len(self.outside)
        there = self.matched + len(self.untracked)
        familiar = 1 if not self.path else -USUAL_NAMES.index(name) if name in USUAL_NAMES else -len(USUAL_NAMES)
        return self.complete, self.complete and not self.averaged, there, -wrong, familiar


def find_state_dict(
    content: object, network: Tensors, key: str | None = None, prefix: str | None = None
) -> tuple[Fit, tuple[str, ...]]:
    """The dict of the file that fits the network best.

    Args:
        content: what the file holds.
        network: the network's own state dict.
        key: dotted path of the dict, when stated.
        prefix: what to strip from its keys, when stated.

    Returns:
        The best fit, complete or not (see `mismatch.check_fit`), and notes on the guesses taken.

    Raises:
        UsageError: when the stated key or prefix is not in the file.
        SubjectError: when the file holds no tensors by name, or several dicts of them fit equally well.
    """
    dicts = dict(candidates(content)) if key is None else {key: stated_dict(content, key)}
    if not dicts:
        raise SubjectError(
            f"Expected tensors by name in the weights file, got {describe(content)}. Save model.state_dict()."
        )
    stripped = None if prefix is None else stated_prefix(dicts, prefix)
    fits = []
    for path, stored in dicts.items():
        clean = stored if stored.keys() == network.keys() else without_wrappers(stored)
        tried = prefixes(clean, len(network)) if stripped is None else [stripped]
        fits += [fit_to(path, clean, network, candidate) for candidate in tried]
    fits.sort(key=lambda fit: (fit.rank, -len(fit.prefix)), reverse=True)
    best = fits[0]
    _check_single(best, fits[1:])
    return best, tuple(_guesses(best, fits[1:], stated_key=key is not None, stated_prefix=prefix is not None))


def _check_single(best: Fit, others: list[Fit]) -> None:
    """Two dicts of other numbers that fit equally well, neither of a usual name: only the user can tell them apart."""
    equal = [other for other in others if best.complete and other.rank == best.rank]
    rivals = [other for other in equal if not _same(best.tensors, other.tensors)]
    if rivals:
        places = ", ".join(f"`{fit.path or 'top'}` with prefix `{fit.prefix}`" for fit in (best, *rivals))
        raise SubjectError(
            f"Expected one set of weights that fits the network, got {len(rivals) + 1} that differ: {places}. "
            "Choose with --weights-key or --strip-prefix."
        )


def _same(left: Tensors, right: Tensors) -> bool:
    return all(torch.equal(tensor, right[name]) for name, tensor in left.items() if name in right)


def fit_to(path: str, tensors: Tensors, network: Tensors, prefix: str) -> Fit:
    """Compares keys, shapes and kinds of numbers after stripping the prefix."""
    inside = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    absent = [key for key in network if key not in inside]
    mismatched = {key: clash for key in network if key in inside and (clash := _clash(inside[key], network[key]))}
    missing = tuple(key for key in absent if not key.endswith("num_batches_tracked"))
    return Fit(
        path=path,
        prefix=prefix,
        tensors=inside,
        missing=missing,
        unexpected=tuple(key for key in inside if key not in network),
        mismatched=mismatched,
        outside=tuple(key for key in tensors if not key.startswith(prefix)),
        untracked=tuple(key for key in absent if key.endswith("num_batches_tracked")),
        matched=len(network) - len(absent) - len(mismatched),
    )


def _clash(stored: Tensor, wanted: Tensor) -> tuple[str, str] | None:
    if stored.shape != wanted.shape:
        return str(tuple(stored.shape)), str(tuple(wanted.shape))
    if wanted.dtype.is_floating_point and not stored.dtype.is_floating_point:
        return str(stored.dtype).removeprefix("torch."), str(wanted.dtype).removeprefix("torch.")
    return None


def _guesses(best: Fit, others: list[Fit], *, stated_key: bool, stated_prefix: bool) -> Iterator[str]:
    if best.path and not stated_key:
        yield f"weights are taken from `{best.path}` of the file"
    if best.prefix and not stated_prefix:
        yield f"prefix `{best.prefix}` is stripped from the keys"
    if best.complete and best.outside:
        named = ", ".join(best.outside[:3])
        yield f"left out, since without the prefix `{best.prefix}`: {counted(len(best.outside), 'key')} ({named})"
    if best.untracked:
        yield f"{len(best.untracked)} num_batches_tracked are not in the file; they decide nothing in eval mode"
    if best.averaged and not stated_key:
        yield "only an averaged (EMA) copy of the weights fits; it is audited"
    for other in others:
        if other.path != best.path and other.complete and best.complete and not stated_key:
            where, option = (f"`{other.path}`", other.path) if other.path else ("tensors at its top", "''")
            yield f"this file also holds {where} (fits); --weights-key {option} takes it"


def _broken(stored: Tensor, own: Tensor) -> bool:
    """Whether there is a NaN, or an Inf where the network itself begins with another number; limits begin as Inf."""
    intended = torch.isinf(stored) & (stored == own.to(stored.dtype))
    return not bool((torch.isfinite(stored) | intended).all())


def to_load(fit: Fit, network: Tensors) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a complete fit as the network wants them: float32, nothing missing; and notes.

    Raises:
        SubjectError: naming the tensors that hold NaN or Inf.
    """
    broken = [
        name for name, tensor in fit.tensors.items() if tensor.is_floating_point() and _broken(tensor, network[name])
    ]
    if broken:
        raise SubjectError(
            f"Expected finite weights, got NaN or Inf in {len(broken)} of {len(fit.tensors)} tensors: "
            f"{', '.join(broken[:8])}. The training diverged or the file is damaged; take another checkpoint."
        )
    kinds = Counter(
        str(tensor.dtype).removeprefix("torch.")
        for tensor in fit.tensors.values()
        if tensor.is_floating_point() and tensor.dtype != torch.float32
    )
    notes = [f"{count} tensors of {kind} are brought to float32" for kind, count in kinds.items()]
    ready = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in fit.tensors.items()}
    return {**{name: network[name] for name in fit.untracked}, **ready}, notes
