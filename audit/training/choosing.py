"""Which epoch is kept."""

from __future__ import annotations

from audit.training.config import CertifiedConfig, TrainingConfig
from audit.training.log import Epoch


def merit(epoch: Epoch, config: TrainingConfig) -> tuple[float, ...]:
    """What an epoch is kept by: certified or robust accuracy where there is one, else accuracy; then a small loss.

    Of certified training, epochs before the radius was whole come last: while bounds say nothing, they tell no epoch
    from another.
    """
    if isinstance(config, CertifiedConfig):
        whole = epoch.epoch >= config.ramp * config.epochs
        return float(whole), epoch.certified_accuracy or 0.0, -epoch.held_out_loss
    share = epoch.held_out_accuracy if epoch.robust_accuracy is None else epoch.robust_accuracy
    return share, -epoch.held_out_loss
