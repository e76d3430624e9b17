import numpy as np

from audit.api import Tally
from probes.evasion.config import EvasionConfig
from probes.evasion.outcome import Outcome
from probes.evasion.samples import NEVER


def tally(broken, broke_down, correct, shown):
    return Tally(
        values={"zero_gradients": 1, "nonfinite_gradients": 0, "proposed": 5, "rejected": 2},
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
    joined = Outcome.join(EvasionConfig(), "linf", [first, second])
    assert joined.n == 5
    assert joined.arrays["shown_rows"].tolist() == [0, 2]
    assert joined.values == {"zero_gradients": 2, "nonfinite_gradients": 0, "proposed": 10, "rejected": 4}
    assert joined.robust(0).tolist() == [False, True, True, True, False]
    assert joined.robust(1).tolist() == [False, True, False, False, False]
    assert joined.fooled(1).tolist() == [True, False, True, False, False]
