import numpy as np

from audit.api import Tally
from audit.toolkit.norms import parse_eps, radius_with_slack
from probes.evasion.config import EvasionConfig
from probes.evasion.outcome import Outcome
from probes.evasion.samples import NEVER


def tally(broken, broke_down, correct, shown):
    return Tally(
        values={"proposed": 5, "rejected": 2},
        arrays={
            "labels": np.zeros(len(broken), dtype=np.int64),
            "broken": np.array(broken, dtype=np.int16),
            "broke_down": np.array(broke_down, dtype=np.int16),
            "clean_correct": np.array(correct),
            "shown_rows": np.array(shown, dtype=np.int64),
        },
    )


def test_chunks_are_joined_in_the_order_of_the_split():
    first = tally([0, NEVER], [NEVER, NEVER], [True, True], [0])
    second = tally([1, NEVER, NEVER], [NEVER, 1, NEVER], [True, True, False], [0])
    joined = Outcome.join(EvasionConfig(), "linf", 4, [first, second])
    assert joined.n == 5
    assert joined.arrays["shown_rows"].tolist() == [0, 2]
    assert joined.values == {"proposed": 10, "rejected": 4}
    assert joined.robust(0).tolist() == [False, True, True, True, False]
    assert joined.robust(1).tolist() == [False, True, False, False, False]
    assert joined.fooled(1).tolist() == [True, False, True, False, False]


def test_the_curve_agrees_with_the_listed_radii_and_never_rises_between_them():
    eps = parse_eps("8/255", "linf")
    edge = radius_with_slack(eps, "linf", 4)
    arrays = {
        "clean_correct": np.ones(4, dtype=bool),
        "broken": np.array([0, 0, NEVER, NEVER]),
        "broke_down": np.full(4, NEVER),
        "distance": np.array([eps / 2, edge, edge * 1.001, np.inf]),
        "down_distance": np.full(4, np.inf),
    }
    outcome = Outcome("linf", ("8/255",), ("fgsm",), 4, arrays, {})
    assert outcome.robust_within(eps).tolist() == outcome.robust(0).tolist() == [False, False, True, True]
    around = np.linspace(eps * 0.9, eps * 1.1, 50)
    standing = [outcome.robust_within(radius).sum() for radius in around]
    assert standing == sorted(standing, reverse=True)
    assert outcome.robust_within(0.0).all()
