"""Calibration: whether confidences match the rate of being right, and whether they rank errors."""

from probes.calibration.probe import calibration

__all__ = ["calibration"]
