"""Training inside of a run: stored once for all probes, and interrupted as any other work."""

import copy
import threading
from dataclasses import replace

import pytest
import torch
from torch import nn

from audit.engine.budget import Budget
from audit.engine.context import EngineContext
from audit.engine.reporter import Silent
from audit.engine.session import Interrupted, Session
from audit.engine.store import RunStore
from audit.errors import Inconclusive
from audit.testing import synthetic
from audit.training.config import TrainingConfig
from audit.training.quick import fitted
from audit.training.recipes import standard
from audit.training.units import batch_size_for, initial_model, undefended_twin


class Stopping(Silent):
    """A user who asks to stop after some steps."""

    def __init__(self, after=None):
        self.after, self.stop = after, threading.Event()

    def advance(self, steps=1, *, restored=False):
        self.after = None if self.after is None else self.after - 1
        if self.after == 0:
            self.stop.set()


def context(folder, after=None, probe="p", budget=None):
    subject, data = synthetic()

    def untrained(seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))

    user = Stopping(after)
    session = Session(
        replace(subject, untrained=untrained), data, RunStore(folder), 0, budget or Budget(), user, user.stop
    )
    return EngineContext(session, probe, 1, session.budget)


def twin(ctx, epochs=6):
    subject, data = ctx.session.subject, ctx.session.data
    return undefended_twin(subject, initial_model(subject, ctx), data["train"], epochs, ctx)


def test_it_is_trained_once_for_all_probes(tmp_path, monkeypatch):
    first = twin(context(tmp_path))
    monkeypatch.setattr("audit.training.units.train", lambda *_, **__: pytest.fail("trained again"))
    second = twin(context(tmp_path, probe="q"))
    assert first.digest == second.digest
    pixels = torch.rand(5, 1, 6, 6)
    assert torch.equal(first.logits(pixels), second.logits(pixels))
    assert first.untrained is None
    assert not any(parameter.requires_grad for parameter in first.model.parameters())


def test_a_probe_s_own_training_is_found_again_and_other_images_are_trained_on_anew(tmp_path, monkeypatch):
    from audit.training import units

    times = []
    monkeypatch.setattr(
        units, "train", lambda *given, _train=units.train, **how: times.append(1) or _train(*given, **how)
    )
    ctx = context(tmp_path)
    split, initial = ctx.session.data["train"], initial_model(ctx.session.subject, ctx)
    parts = [split, split, split.first(100), replace(split, digest="planted"), replace(split, order=split.order[::-1])]
    nets = [fitted(standard(initial, part, TrainingConfig(epochs=1), "a/judge"), ctx) for part in parts]
    assert len(times) == 4
    first, again, *others = [torch.cat([value.flatten() for value in net.parameters()]) for net in nets]
    assert torch.equal(first, again)
    assert not torch.equal(first, others[0])
    assert not list((tmp_path / "probes/p").glob("*.unfinished"))


def test_a_probe_s_own_training_that_was_not_begun_is_inconclusive(tmp_path):
    ctx = context(tmp_path, budget=Budget(deadline=0.0))
    task = standard(
        initial_model(ctx.session.subject, ctx), ctx.session.data["train"], TrainingConfig(epochs=1), "judge"
    )
    with pytest.raises(Inconclusive, match="The budget ended before judge was trained"):
        fitted(task, ctx)


def test_it_learns(tmp_path):
    ctx = context(tmp_path)
    batch = ctx.session.data["eval"].batch(0, 160)
    right = twin(ctx, 20).logits(batch.pixels).argmax(dim=1) == batch.labels
    assert right.float().mean() > 0.5  # chance is a quarter


def test_it_lies_where_the_subject_does(tmp_path):
    ctx = context(tmp_path)
    elsewhere = replace(ctx.session.subject, device=torch.device("meta"))
    made = undefended_twin(elsewhere, initial_model(elsewhere, ctx), ctx.session.data["train"], 1, ctx)
    assert {tensor.device.type for tensor in made.model.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("after", [2, 25, 45])
def test_interrupted_within_it_goes_on_to_the_same_weights(tmp_path, after):
    whole = twin(context(tmp_path / "whole"))
    with pytest.raises(Interrupted):
        twin(context(tmp_path / "cut", after=after))
    kept = list((tmp_path / "cut/probes/shared").glob("*.unfinished"))
    assert len(kept) == (after > 9)  # steps of an epoch
    again = twin(context(tmp_path / "cut"))
    assert again.digest == whole.digest
    assert not list((tmp_path / "cut/probes/shared").glob("*.unfinished"))


def test_a_budget_that_ends_within_it_is_said_and_it_goes_on_later(tmp_path):
    ticks = iter(range(10**6))
    budget = Budget(deadline=4, clock=lambda: float(next(ticks)))
    with pytest.raises(Inconclusive, match="The budget ended within the training of the twin"):
        twin(context(tmp_path, budget=budget), 50)
    assert list((tmp_path / "probes/shared").glob("twin-*.unfinished"))
    assert twin(context(tmp_path, budget=Budget(deadline=0.0)), 50) is None
    assert twin(context(tmp_path), 50).digest == twin(context(tmp_path / "whole"), 50).digest


def test_the_model_that_is_audited_is_left_alone(tmp_path):
    ctx = context(tmp_path)
    before = copy.deepcopy(ctx.session.subject.model.state_dict())
    twin(ctx)
    assert all(torch.equal(value, before[name]) for name, value in ctx.session.subject.model.state_dict().items())


def test_batches_are_small_where_there_are_few_images():
    assert [batch_size_for(images) for images in (20, 1000, 2000, 50000)] == [16, 31, 62, 128]
