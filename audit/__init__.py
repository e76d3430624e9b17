"""Audit a classifier checkpoint: measure, judge, report."""

__version__ = "0.1.0"
