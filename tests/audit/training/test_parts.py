"""The parts of a training, each by itself."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from audit.toolkit.modes import evaluating
from audit.toolkit.norms import distance, radius_with_slack
from audit.training import feed
from audit.training.config import AdversarialConfig, TrainingConfig
from audit.training.feed import Feed, augmented
from audit.training.inner import worst_case
from audit.training.log import Epoch
from audit.training.overfitting import catastrophic


@pytest.mark.parametrize("kept", ["device", "source"])
def test_a_feed_gives_every_image_once_wherever_it_is_kept(split, context, monkeypatch, kept):
    monkeypatch.setattr(feed, "_where", lambda *_: kept)
    images = Feed(split, range(10, 110), context())
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    batches = list(images.batches(order, 33, drop_single=True))
    assert [len(labels) for _, labels in batches] == [33, 33, 33]  # the hundredth would be alone
    expected = split.take([10 + int(place) for place in order[:99]])
    assert torch.equal(torch.cat([pixels for pixels, _ in batches]), expected.pixels)
    assert torch.equal(torch.cat([labels for _, labels in batches]), expected.labels)


def test_augmentation_moves_and_flips_each_image_on_its_own():
    pixels = torch.rand(64, 3, 16, 16)
    generator = torch.Generator().manual_seed(0)
    flipped = augmented(pixels, "flip", generator)
    same = (flipped == pixels).flatten(1).all(dim=1)
    assert torch.equal(flipped[~same], pixels[~same].flip(3))
    assert 16 < int(same.sum()) < 48  # a fair coin, 64 times: outside with a probability of 3e-5
    moved = augmented(pixels, "crop", generator)
    for before, after in zip(pixels, moved, strict=True):
        padded = torch.nn.functional.pad(before, (2, 2, 2, 2))
        places = [
            (top, left) for top in range(5) for left in range(5)
            if torch.equal(padded[:, top : top + 16, left : left + 16], after)
        ]  # fmt: skip
        assert places
    assert torch.equal(augmented(pixels, "none", generator), pixels)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.7), ("l1", 3.0)])
@pytest.mark.parametrize("start", [True, False])
def test_worst_case_images_lie_in_ball_and_box_and_raise_the_loss(model, split, norm, eps, start):
    model.eval()
    batch = split.batch(0, 100)
    generator = torch.Generator().manual_seed(0) if start else None
    images = worst_case(
        model, batch.pixels, batch.labels, norm=norm, eps=eps, steps=5, step=0.5, generator=generator
    )  # fmt: skip
    assert float(distance(images, batch.pixels, norm).max()) <= radius_with_slack(eps, norm, 36)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    with torch.no_grad():
        after, before = (
            float(torch.nn.functional.cross_entropy(model(shown), batch.labels)) for shown in (images, batch.pixels)
        )
    assert after > before + 0.01


def test_evaluating_puts_each_module_back(model):
    model.train()
    model[1].eval()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert model[0].training
    assert not model[1].training


def epoch(number, robust, single):
    return Epoch(
        epoch=number, learning_rate=0.1, train_loss=1, train_accuracy=0.5, held_out_loss=1, held_out_accuracy=0.8,
        robust_accuracy=robust, single_step_accuracy=single,
    )  # fmt: skip


def test_catastrophic_overfitting_is_a_fall_under_many_steps_alone():
    good = [epoch(1, 0.30, 0.40), epoch(2, 0.40, 0.50)]
    assert catastrophic([*good, epoch(3, 0.02, 0.85)], 500)
    assert not catastrophic([*good, epoch(3, 0.02, 0.10)], 500)  # bad at both: an ordinary bad epoch
    assert not catastrophic([*good, epoch(3, 0.35, 0.50)], 500)
    assert not catastrophic([*good, epoch(3, 0.25, 0.55)], 50)  # within the noise of so few images
    assert not catastrophic([epoch(1, None, None)], 500)


def test_it_is_never_called_where_nothing_changed():
    """A model that is as robust in every epoch, seen through n images a time: no alarm in 2,000 trainings of 30."""
    rng, n = np.random.default_rng(0), 512
    robust = rng.binomial(n, 0.4, (2000, 30)) / n
    single = np.minimum(robust + rng.binomial(n, 0.1, (2000, 30)) / n, 1)
    alarms = sum(
        catastrophic([epoch(place + 1, *pair) for place, pair in enumerate(zip(one, two, strict=True))], n)
        for one, two in zip(robust[:200], single[:200], strict=True)
    )
    assert alarms == 0


def test_settings_that_cannot_be_are_refused():
    for wrong in ({"epochs": 0}, {"batch_size": 1}, {"held_out": 0}, {"learning_rate": -1}, {"momentum": 0.5}):
        with pytest.raises(ValidationError):
            TrainingConfig(**wrong)
    for wrong in ({"eps": 0}, {"eps": "-8/255"}, {"eps": 2}, {"eps": "nan"}, {"norm": "l3"}):
        with pytest.raises(ValidationError):
            AdversarialConfig(**wrong)
    assert AdversarialConfig(eps=8 / 255).eps == AdversarialConfig(eps="8/255").eps == "8/255"
    assert math.isclose(AdversarialConfig(eps="8/255").radius, 8 / 255)
    assert AdversarialConfig(recipe="fgsm-rs").relative_step == 1.25
