"""P-values of detectors against their laws."""

import itertools

import numpy as np
import pytest

from audit.toolkit.detection import exact_p, sequential_p


def test_controls_are_drawn_no_longer_than_it_takes():
    drawn = []

    def controls(values):
        for value in values:
            drawn.append(value)
            yield value

    assert sequential_p(0.5, controls(itertools.cycle([0.0, 1.0])), enough=10) == 10 / 20
    assert len(drawn) == 20


def test_where_few_controls_reach_it_all_are_counted():
    rng = np.random.default_rng(0)
    for reached in range(10):
        controls = rng.permutation(np.concatenate([np.ones(reached), np.zeros(200 - reached)]))
        assert sequential_p(1.0, controls) == exact_p(1.0, controls) == (1 + reached) / 201
    assert sequential_p(1.0, []) == 1.0


def test_the_sequential_p_value_is_uniform_where_all_come_in_random_order():
    """Each value that it can take is as likely as it says, within 4 standard errors of 20,000 draws."""
    rng, enough, most = np.random.default_rng(1), 5, 60
    values = rng.random((20_000, most + 1))
    found = np.array([sequential_p(row[0], row[1:], enough) for row in values])
    for level in np.unique(found):
        error = np.sqrt(level * (1 - level) / len(found))
        assert abs(np.mean(found <= level + 1e-12) - level) <= 4 * error + 1e-12


@pytest.mark.parametrize("controls", [[np.nan, 1.0], [1.0]])
def test_what_has_no_value_has_no_place_in_an_order(controls):
    with pytest.raises(ValueError, match="got NaN"):
        sequential_p(np.nan if controls == [1.0] else 0.5, controls)
