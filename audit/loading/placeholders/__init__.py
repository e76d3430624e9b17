"""Tensors out of pickles without running what they name: every class and function is a placeholder.

Runs in a process apart (`audit.sandbox`) and needs neither torch nor any class that the file names. Unpickling makes
records alone: a tensor is a description of where its numbers lie, which is checked, and the numbers are copied from the
file at the end.
"""
