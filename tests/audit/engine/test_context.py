import threading
from dataclasses import replace

import numpy as np
import pytest

from audit.api import Tally, Unit
from audit.engine.budget import Budget
from audit.engine.context import EngineContext
from audit.engine.session import Interrupted, Session
from audit.engine.store import RunStore
from audit.testing import synthetic


def context(folder, *, seed=0, budget=None, stop=None, probe="p", version=1):
    subject, data = synthetic(n=40)
    session = Session(subject, data, RunStore(folder), seed, budget or Budget(), stop=stop or threading.Event())
    return EngineContext(session, probe, version, session.budget)


def units(count=4, **params):
    return [Unit(f"u/{place}", params, positions=range(place * 5, place * 5 + 5)) for place in range(count)]


def drawn(unit, ctx):
    ctx.diagnose("seen", f"saw {unit.name}")
    return Tally(values={"name": unit.name}, arrays={"draw": ctx.rng("x").normal(size=3)})


def test_units_draw_the_same_whatever_their_order(tmp_path):
    forward = context(tmp_path / "a").map(drawn, units())
    backward = context(tmp_path / "b").map(drawn, units()[::-1])[::-1]

    for one, other in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(one.arrays["draw"], other.arrays["draw"])
    draws = np.concatenate([tally.arrays["draw"] for tally in forward])
    assert len(np.unique(draws)) == draws.size  # no two units share a stream


def test_streams_differ_by_seed_probe_and_purpose(tmp_path):
    base = context(tmp_path).rng("x").normal()

    assert context(tmp_path).rng("x").normal() == base
    assert context(tmp_path).rng("y").normal() != base
    assert context(tmp_path, seed=1).rng("x").normal() != base
    assert context(tmp_path, probe="q").rng("x").normal() != base


def test_finished_units_are_not_run_again_and_keep_what_they_noticed(tmp_path):
    context(tmp_path).map(drawn, units())

    again = context(tmp_path)
    tallies = again.map(lambda unit, ctx: pytest.fail("ran again"), units())

    assert [tally.values["name"] for tally in tallies] == [unit.name for unit in units()]
    assert again.diagnostics["seen"].text == "saw u/0"


def test_what_is_shared_is_done_once_for_all_probes(tmp_path):
    first, second = (context(tmp_path, probe=name) for name in ("p", "q"))

    tallies = first.shared().map(drawn, units())
    again = second.shared().map(lambda unit, ctx: pytest.fail("ran again"), units())

    for one, other in zip(tallies, again, strict=True):
        np.testing.assert_array_equal(one.arrays["draw"], other.arrays["draw"])
    assert first.diagnostics["seen"].text == second.diagnostics["seen"].text == "saw u/0"
    assert first.shared().rng("x").normal() == second.shared().rng("x").normal() != first.rng("x").normal()
    ran = []
    first.shared().map(lambda unit, ctx: ran.append(unit.name) or Tally(), units(other=1))
    assert len(ran) == 4  # parameters decide


CHANGES = ["seed", "probe", "version", "config", "unit", "params", "samples", "subject", "data", "packages", "numerics"]


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_decides_a_result_is_in_its_key(tmp_path, change):
    base = context(tmp_path)
    unit = units(eps="8/255")[0]
    other, other_unit = base, unit
    match change:
        case "seed":
            other = context(tmp_path, seed=1)
        case "version":
            other = context(tmp_path, version=2)
        case "params":
            other_unit = units(eps="4/255")[0]
        case "samples":
            other_unit = Unit(unit.name, unit.params, positions=range(4))
        case "probe":
            other = context(tmp_path, probe="q")
        case "config":
            other = EngineContext(base.session, "p", 1, Budget(), config={"steps": 3})
        case "unit":
            other_unit = Unit("other", unit.params, positions=unit.positions)
        case "subject":
            other = changed(base, subject=replace(base.session.subject, digest="other"))
        case "data":
            split = replace(base.session.data["eval"], digest="other")
            other = changed(base, data={"eval": split})
        case "packages":
            other = changed(base, versions={"torch": "0.1"})
        case "numerics":
            other = context(tmp_path)
            other.session.numerics = {"threads": 99}

    assert base.unit_key(unit) == context(tmp_path).unit_key(unit)
    assert base.unit_key(unit) != other.unit_key(other_unit)


def changed(base, **what):
    """A context of the same session but for something."""
    session = base.session
    given = {"subject": session.subject, "data": session.data, "store": session.store, **what}
    return EngineContext(Session(**given), "p", 1, Budget())


def test_when_the_budget_ends_a_prefix_comes_back(tmp_path):
    now = iter([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    ctx = context(tmp_path, budget=Budget(deadline=1.5, clock=lambda: next(now)))

    tallies = ctx.map(drawn, units())

    assert [tally.values["name"] for tally in tallies] == ["u/0", "u/1"]


def test_stored_units_cost_no_budget(tmp_path):
    context(tmp_path).map(drawn, units())
    spent = context(tmp_path, budget=Budget(deadline=0.0, clock=lambda: 1.0))

    assert len(spent.map(drawn, units())) == 4


def test_a_wish_to_stop_is_heard_between_units(tmp_path):
    stop = threading.Event()

    def stops_in_the_second(unit, ctx):
        if unit.name == "u/1":
            stop.set()
        return drawn(unit, ctx)

    with pytest.raises(Interrupted):
        context(tmp_path, stop=stop).map(stops_in_the_second, units())

    done = []
    context(tmp_path).map(lambda unit, ctx: (done.append(unit.name), drawn(unit, ctx))[1], units())
    assert done == ["u/2", "u/3"]  # the unit in progress was finished and kept
