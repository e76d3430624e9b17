"""Specs and files to a `Subject` and to `DataSplit`s."""
