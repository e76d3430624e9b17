"""Builds a network that a file describes, and stops where it outgrows the weights that are to fill it.

A configuration of a few bytes can ask for a billion layers or for terabytes. Such a network is first built on torch's
meta device, where parameters take no memory, and counted as it grows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook


class OutgrownError(Exception):
    """A network is larger than its bounds; the text says by which measure."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How large a network may be.

    Attributes:
        tensors: that its parameters lie in.
        parameters: single numbers, in all tensors together.
    """

    tensors: int = 100_000
    parameters: int = 2**32

    @classmethod
    def around(cls, tensors: Mapping[str, Tensor]) -> Bounds:
        """Four times what the file's tensors could fill, and some room.

        A configuration of the next larger size is still built, so that the mismatch of an honest mistake is named.
        """
        return cls(1000 + 4 * len(tensors), 50_000_000 + 4 * sum(tensor.numel() for tensor in tensors.values()))


def check_size(make: Callable[[], object], bounds: Bounds) -> None:
    """Builds a network on the meta device and throws it away; torch's random state is left as it was.

    Builders that need numbers fail there, which says nothing: the real attempt does.

    Raises:
        OutgrownError: when it grows beyond the bounds.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"), counted(bounds):
            make()
    except OutgrownError:
        raise
    except Exception:
        return


def build_bounded(make: Callable[[], nn.Module], bounds: Bounds) -> nn.Module:
    """The network, counted on the meta device and again as it is really built.

    Raises:
        OutgrownError: when it grows beyond the bounds.
        Exception: whatever the builder raises.
    """
    check_size(make, bounds)
    with counted(bounds):
        return make()


@contextlib.contextmanager
def counted(bounds: Bounds) -> Iterator[None]:
    """While it lasts, `OutgrownError` is raised once the modules built, by any thread, exceed the bounds."""
    tensors = parameters = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal tensors, parameters
        tensors += 1
        parameters += 0 if parameter is None else parameter.numel()
        if tensors > bounds.tensors:
            raise OutgrownError(f"a network of more than {bounds.tensors:,} tensors")
        if parameters > bounds.parameters:
            raise OutgrownError(f"a network of more than {bounds.parameters:,} parameters")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
