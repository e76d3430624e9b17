"""Networks that a configuration makes larger than their weights could fill."""

import time

import pytest
import torch
from torch import nn

from audit.loading.bounded_building import Bounds, OutgrownError, build_bounded, check_size

SMALL = Bounds(tensors=10, parameters=1000)


def tower(layers, width=2):
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))


def test_what_fits_is_built():
    network = build_bounded(lambda: tower(5), SMALL)
    assert len(list(network.parameters())) == 10
    assert not any(parameter.is_meta for parameter in network.parameters())


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: tower(10**9), "a network of more than 10 tensors"),
        (lambda: tower(1, 2**22), "a network of more than 1,000 parameters"),
        (lambda: nn.Linear(1001, 1, bias=False), "a network of more than 1,000 parameters"),
    ],
)
def test_what_outgrows_is_stopped_at_once(make, text):
    start = time.monotonic()
    for build in (build_bounded, check_size):
        with pytest.raises(OutgrownError, match=text):
            build(make, SMALL)
    assert time.monotonic() - start < 5


def test_a_builder_that_needs_numbers_is_counted_as_it_is_built():
    def make(layers):
        if torch.linspace(0, 1, 3).sum().item() > 1:  # fails on the meta device
            return tower(layers)
        raise AssertionError

    assert len(build_bounded(lambda: make(2), SMALL)) == 2
    with pytest.raises(OutgrownError):
        build_bounded(lambda: make(10**9), SMALL)


def test_nothing_is_left_behind():
    before = torch.random.get_rng_state()
    check_size(lambda: tower(3), SMALL)
    assert torch.equal(before, torch.random.get_rng_state())
    with pytest.raises(ZeroDivisionError):
        build_bounded(lambda: 1 / 0, SMALL)
    assert len(tower(100)) == 100


def test_bounds_leave_room_for_honest_mistakes():
    bounds = Bounds.around({"weight": torch.zeros(10, 3), "bias": torch.zeros(10)})
    assert bounds == Bounds(1008, 50_000_160)
