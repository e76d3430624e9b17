"""Whether single-step training has stopped to defend against several steps.

Source: Wong, Rice & Kolter 2020, section 5, arXiv 2001.03994 (a fall of accuracy under PGD on training images from one
epoch to the next).
Differs from source: held-out images, the best epoch so far instead of the one before, and the single step beside it:
    a fall under both is an ordinary bad epoch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from audit.training.log import Epoch

FALL = 0.1


def catastrophic(epochs: Sequence[Epoch], n: int) -> bool:
    """Whether the last epoch lost what an earlier one had against several steps, yet not against one.

    Args:
        epochs: so far, with `robust_accuracy` and `single_step_accuracy` on the same n images each.
        n: images behind them; with few of them a larger fall is asked for (three standard errors of a difference).
    """
    last = epochs[-1]
    if last.robust_accuracy is None or last.single_step_accuracy is None or n < 1:
        return False
    best = max(epochs, key=lambda epoch: epoch.robust_accuracy or 0.0)
    assert best.robust_accuracy is not None
    assert best.single_step_accuracy is not None
    most = max(FALL, 3 * math.sqrt(0.5 / n))
    fell = best.robust_accuracy - last.robust_accuracy
    opened = (last.single_step_accuracy - last.robust_accuracy) - (best.single_step_accuracy - best.robust_accuracy)
    return fell > most and opened > most
