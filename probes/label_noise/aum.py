"""The area under the margin: which labels a network keeps resisting while it is trained on them.

Source: Pleiss, Zhang, Elenberg & Weinberger 2020, sections 3 and 4, arXiv 2001.10528.
Differs from source: one training, whose threshold samples are not judged, in place of two that judge all; a constant
learning rate with AdamW.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from audit.api import DataSplit, Inconclusive, RunContext, Tally, Unit
from audit.training.config import TrainingConfig
from audit.training.feed import Feed
from audit.training.quick import quick_net

PERCENTILE = 99
"""Of the threshold samples' areas, below which a label is suspected; the source's."""


@dataclass(frozen=True, slots=True, eq=False)
class Areas:
    """Areas under the margin.

    Attributes:
        value: (n,) mean over epochs of the label's logit less the largest other; low is suspicious.
        threshold_samples: (n,) bool, images that were given a class of their own: known to be mislabelled.
    """

    value: npt.NDArray[np.float64]
    threshold_samples: npt.NDArray[np.bool_]

    @property
    def threshold(self) -> float:
        """Percentile of the threshold samples' areas."""
        return float(np.percentile(self.value[self.threshold_samples], PERCENTILE))

    @property
    def suspects(self) -> npt.NDArray[np.bool_]:
        """Images other than threshold samples whose area is no larger than the threshold."""
        found: npt.NDArray[np.bool_] = ~self.threshold_samples & (self.value <= self.threshold)
        return found


def areas(split: DataSplit, classes: int, config: TrainingConfig, ctx: RunContext) -> Areas:
    """Measured in one training, a unit of the run; one of classes + 1 images gets the class that there is not.

    Raises:
        Inconclusive: `budget` when time ended before it was done.
    """
    unit = Unit("aum", {"config": config.model_dump(mode="json"), "data": split.digest, "n": len(split)})
    tallies = ctx.map(lambda _, inner: _measured(split, classes, config, inner), [unit], "area under the margin")
    if not tallies:
        raise Inconclusive("budget", "The budget ended before margins were measured. Raise --budget.")
    return Areas(tallies[0].arrays["value"], tallies[0].arrays["threshold_samples"].astype(np.bool_))


def _measured(split: DataSplit, classes: int, config: TrainingConfig, ctx: RunContext) -> Tally:
    """The training and its margins; arrays as in `Areas`."""
    n = len(split)
    feed = Feed(split, range(n), ctx)
    picked = ctx.rng("aum/threshold").permutation(n)[: max(2, n // (classes + 1))]
    labels = feed.labels.clone()
    labels[torch.from_numpy(picked).to(labels.device)] = classes
    net = quick_net(split, classes + 1, ctx, "aum").to(ctx.device)
    total = torch.zeros(n, dtype=torch.float64)
    for _ in ctx.progress(_epochs(net, feed, labels, config, ctx, total), "area under the margin", config.epochs):
        if ctx.seconds_left() <= 0:
            raise Inconclusive("budget", "The budget ended before margins were measured. Raise --budget.")
    marks = np.zeros(n, dtype=np.uint8)
    marks[picked] = 1
    return Tally(arrays={"value": total.numpy() / config.epochs, "threshold_samples": marks})


def _epochs(
    net: nn.Module, feed: Feed, labels: Tensor, config: TrainingConfig, ctx: RunContext, total: Tensor
) -> Iterator[None]:
    """Trains as it is iterated over, an item an epoch, and adds every image's margin at the time to `total`."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.highest_learning_rate, weight_decay=config.decay)
    net.train()
    for epoch in range(config.epochs):
        order = torch.randperm(len(feed), generator=ctx.torch_generator(f"aum/order/{epoch}"))
        parts = torch.split(order, config.batch_size)
        with torch.inference_mode(mode=False), torch.enable_grad():
            for part, (pixels, _) in zip(parts, feed.batches(order, config.batch_size), strict=True):
                given = labels[part.to(labels.device)]
                if len(part) < 2:  # a single image has no statistics, so that its margin of this epoch counts as 0
                    continue
                logits = net(pixels)
                optimizer.zero_grad(set_to_none=True)
                cross_entropy(logits, given).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                total[part] += margin(logits.detach(), given).double().cpu()
        yield


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The label's logit less the largest other, (n,)."""
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return logits.gather(1, labels[:, None])[:, 0] - others.amax(dim=1)
