"""Whether the declared preprocessing is the one the model was trained with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import bdtr
from torch import nn

from audit.api import DataSplit
from audit.errors import PrerequisiteError
from audit.loading.models import LoadedSubject
from audit.loading.preprocess import Geometry, Normalisation, Preprocessing
from audit.loading.preprocess_choice import Shape
from audit.loading.preprocess_option import CIFAR, IMAGENET
from audit.schema import Diagnostic
from audit.toolkit.batching import Batching, memory_for_one

SplitMaker = Callable[[Geometry], DataSplit]
"""The same samples in the same order, read under another geometry."""

MOST_SAMPLES = 512
LEAST_DIFFERENCE = 0.05
SIGNIFICANCE = 0.01
FIRST_LOOK, FAR_BEHIND = 32, 6
"""Samples of a first look, and by how many right answers an alternative must lie behind there to be given up: one that
is truly better by 8 points, and differs on a third of all samples, is so with a probability below 1 %."""
STATISTICS = {
    "no normalisation": Normalisation(),
    "ImageNet statistics": IMAGENET,
    "mean and deviation 0.5": Normalisation((0.5,), (0.5,)),
    "CIFAR statistics": CIFAR,
    "pixels from 0 to 255": Normalisation((0.0,), (1 / 255,)),
}
OF_GREY = {"MNIST statistics": Normalisation((0.1307,), (0.3081,))}
"""Further ones for networks of one channel."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another preprocessing, and what to call it."""

    name: str
    preprocessing: Preprocessing


def preprocessing_selftest(
    loaded: LoadedSubject,
    make_split: SplitMaker,
    *,
    native_shape: Shape | None = None,
    n: int = MOST_SAMPLES,
    batch_size: int = 64,
) -> tuple[Diagnostic, ...]:
    """Compares accuracy under the declared preprocessing with that under the usual others, on the same samples.

    The others: no normalisation, ImageNet, 0.5/0.5 and CIFAR statistics, of grey images MNIST's, and pixels from 0 to
    255, as networks take them that rescale by themselves; blue first in place of red; and images at their native size
    where the declared geometry resizes them and the network takes it. A warning is given when the best of them is
    better than the declared by more than 5 points *and* an exact two-sided McNemar test on the paired answers rejects
    equality at 1 %, shared among the alternatives (Bonferroni): a rightly declared preprocessing, no worse than any
    other, is warned about with a probability of at most 1 %. An alternative that is far behind on the first 32 samples
    is followed no further, which can only take warnings away.

    Args:
        loaded: the subject, with the means to put another normalisation before its network.
        make_split: `make_split(geometry)` gives the same samples in the same order, read under that geometry.
        native_shape: (c, h, w) of the stored images when they all share it.
        n: most samples to use.
        batch_size: images a forward.

    Returns:
        One diagnostic `preprocessing`: a warning that names the `--preprocess` value to try, or information with the
        accuracies; empty without samples.
    """
    split = make_split(loaded.preprocessing.geometry).first(n)
    if len(split) == 0:
        return ()
    declared = _correct(loaded.subject.model, split, loaded.subject.device, batch_size)
    least = int(declared[:FIRST_LOOK].sum()) - FAR_BEHIND
    results: dict[str, npt.NDArray[np.bool_]] = {}
    options: dict[str, str] = {}
    for alternative in alternatives(loaded.preprocessing, native_shape):
        model = loaded.remake(alternative.preprocessing.normalisation)
        geometry = alternative.preprocessing.geometry
        other = split if geometry == loaded.preprocessing.geometry else make_split(geometry).first(n)
        try:
            results[alternative.name] = _correct_unless_far_behind(
                model, other, loaded.subject.device, batch_size, least
            )
        except Exception as error:  # networks and guards of compiled programs raise any kind
            if isinstance(error, PrerequisiteError) or "CUDA error" in str(error):  # after which nothing works there
                raise
            continue  # the network takes no images of the native size, or no such pixels, as one that looks them up
        options[alternative.name] = alternative.preprocessing.option()
    return (_judge(declared, results, options),)


def alternatives(declared: Preprocessing, native_shape: Shape | None) -> Iterator[Alternative]:
    """Preprocessings to compare with, each differing from the declared in one thing."""
    channels = declared.geometry.channels
    order = declared.normalisation.channel_order
    for name, statistics in {**STATISTICS, **(OF_GREY if channels == 1 else {})}.items():
        mean, std = (_for_channels(values, channels) for values in (statistics.mean, statistics.std))
        other = Normalisation(mean, std, order)
        if not _same(other, declared.normalisation, channels):
            yield Alternative(name, dataclasses.replace(declared, normalisation=other))
    if channels == 3:
        swapped = dataclasses.replace(declared.normalisation, channel_order="bgr" if order == "rgb" else "rgb")
        name = "blue first" if order == "rgb" else "red first"
        yield Alternative(name, dataclasses.replace(declared, normalisation=swapped))
    size = declared.geometry.output_size(None)
    if native_shape is not None and declared.geometry.resize is not None and native_shape[1:] != size:
        native = Geometry(channels, resize=native_shape[1:], interpolation=declared.geometry.interpolation)
        yield Alternative("native size", dataclasses.replace(declared, geometry=native))


def mcnemar(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    """Exact two-sided p-value of the hypothesis that two classifiers are right equally often, on the same samples.

    Source: McNemar 1947, Psychometrika 12(2), with the binomial in place of the chi-squared approximation.
    """
    gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
    return min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5)))


def _for_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) == channels:
        return values
    return (sum(values) / len(values),) * channels


def _same(left: Normalisation, right: Normalisation, channels: int) -> bool:
    def numbers(normalisation: Normalisation) -> list[float]:
        return [*_for_channels(normalisation.mean, channels), *_for_channels(normalisation.std, channels)]

    return bool(np.allclose(numbers(left), numbers(right), atol=1e-3))


def _correct(model: nn.Module, split: DataSplit, device: torch.device, batch_size: int) -> npt.NDArray[np.bool_]:
    """Which samples are right; a row with NaN is wrong."""

    def right(rows: slice) -> npt.NDArray[np.bool_]:
        batch = split.batch(rows.start, rows.stop)
        with torch.no_grad():
            logits = model(batch.pixels.to(device))
        finite = torch.isfinite(logits).all(1)
        found: npt.NDArray[np.bool_] = ((logits.argmax(1) == batch.labels.to(device)) & finite).cpu().numpy()
        return found

    with memory_for_one():
        return np.concatenate(Batching(batch_size).parts(len(split), right))


def _correct_unless_far_behind(
    model: nn.Module, split: DataSplit, device: torch.device, batch_size: int, least: int
) -> npt.NDArray[np.bool_]:
    """Which samples are right; of the first look alone where no more than so many of these are."""
    first = _correct(model, split.first(FIRST_LOOK), device, batch_size)
    return (
        first if int(first.sum()) <= least or len(first) == len(split) else _correct(model, split, device, batch_size)
    )


def _judge(
    declared: npt.NDArray[np.bool_], results: dict[str, npt.NDArray[np.bool_]], options: dict[str, str]
) -> Diagnostic:
    n = len(declared)
    table = ", ".join(
        f"{name} {correct.mean():.1%}" + ("" if len(correct) == n else f" (of the first {len(correct)})")
        for name, correct in results.items()
    )
    facts = f"accuracy on {n} samples: declared {declared.mean():.1%}; {table or 'no other was taken by the network'}"
    whole = [name for name, correct in results.items() if len(correct) == n]
    best = max(whole, key=lambda name: float(results[name].mean()), default=None)
    if best is None:
        return Diagnostic(code="preprocessing", text=facts, severity="info")
    p_value = mcnemar(declared, results[best])
    difference = results[best].mean() - declared.mean()
    if difference <= LEAST_DIFFERENCE or p_value * len(results) > SIGNIFICANCE:
        return Diagnostic(code="preprocessing", text=facts, severity="info")
    text = (
        f"THE PREPROCESSING IS PROBABLY WRONG: {best} is better than what is declared by {difference * 100:.1f} points "
        f"(McNemar p = {p_value:.2g}). Try --preprocess {options[best]}; {facts}"
    )
    return Diagnostic(code="preprocessing", text=text)
