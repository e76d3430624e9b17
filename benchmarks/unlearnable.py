"""What a network learns from data whose classes each have a filter of their own (CUDA, arXiv 2303.04278).

The suite `unlearnable` of `benchmarks/gpu.py`. The paper's ResNet-18 on CIFAR-10 (SGD, 100 epochs) is right on 18 % of
clean test images, on nearly all that have their class's filter, and on hardly any that have another class's.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from audit.api import DataSplit
from audit.poisons.filters import Cuda, filtered
from audit.poisons.planting import plant
from audit.toolkit.statistics import proportion

KEY, AT_ONCE = 0, 256


def poisoned(split: DataSplit, classes: int) -> DataSplit:
    """The split with every image filtered by its class's filter."""
    return plant(split, Cuda(key=KEY), classes, np.random.default_rng(0)).split


def looked_at(model: nn.Module, split: DataSplit, classes: int, device: torch.device) -> dict[str, Any]:
    """Accuracy on clean images, with their own class's filter, and with another's; and whom the last are taken for."""
    filters = torch.from_numpy(Cuda(key=KEY).filters(classes, split.batch(0, 1).pixels.shape[-1])).float()
    one_on = [(label + 1) % classes for label in range(classes)]
    shown: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "clean": lambda pixels, _: pixels,
        "own filters": lambda pixels, labels: filtered(pixels, filters[labels]),
        "permuted filters": lambda pixels, labels: filtered(pixels, filters[torch.tensor(one_on)[labels]]),
    }
    hits, follow, n = dict.fromkeys(shown, 0), 0, len(split)
    with torch.inference_mode():
        for start in range(0, n, AT_ONCE):
            batch = split.batch(start, start + AT_ONCE)
            for name, change in shown.items():
                said = model(change(batch.pixels, batch.labels).to(device)).argmax(dim=1).cpu()
                hits[name] += int((said == batch.labels).sum())
                if name == "permuted filters":
                    follow += int((said == torch.tensor(one_on)[batch.labels]).sum())
    hits["permuted filters, taken for the filter's class"] = follow
    return {
        f"unlearnable: {name}": {"share": round(found / n, 4), "n": n, "interval": _interval(found, n)}
        for name, found in hits.items()
    }


def _interval(found: int, n: int) -> list[float]:
    interval = proportion(found, n)
    return [round(interval.low, 4), round(interval.high, 4)]
