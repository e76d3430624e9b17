"""The probe on models of known truth: backdoored digits classifiers and their clean twins, by the checkpoint alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, kstest, t
from sklearn.datasets import load_digits
from torch import nn

from audit.api import Subject
from audit.engine.budget import Budget
from audit.engine.plan import Step, missing_need
from audit.engine.run import run_step
from audit.engine.session import Session
from audit.engine.store import RunStore
from audit.poisons.by_name import recipe_of
from audit.poisons.planting import plant
from audit.training.quick import QuickNet
from probes.backdoor_model import BackdoorModelConfig, backdoor_model
from probes.backdoor_model.bases import of_all_classes
from probes.backdoor_model.copies import Cornered
from probes.backdoor_model.outlying import SIZES, critical, standing, unusual_below
from probes.backdoor_model.pictures import pictures
from probes.backdoor_model.searches import led_to, margins, smallest_trigger
from tests.splits import array_split


def digits(part):
    data = load_digits()
    images = (data.images[:, None] / 16 * 255).astype(np.uint8)
    rows = np.arange(len(images)) % 2 == part
    return array_split(images[rows], data.target[rows].astype(np.int64))


def trained(split, seed, epochs=12, batch_size=32, width=8):
    """A small network, by the plainest loop there is."""
    channels, side = split.batch(0, 1).pixels.shape[1:3]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        net = QuickNet(channels, side, 10, width)
    batch = split.batch(0, len(split))
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    steps = epochs * -(-len(batch.labels) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    net.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(batch.labels), generator=generator).split(batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(batch.pixels[rows]), batch.labels[rows]).backward()
            optimizer.step()
            schedule.step()
    return net.eval().requires_grad_(False)


def victim(seed, name=None, **given):
    split = digits(0)
    if name is None:
        return trained(split, seed)
    return trained(plant(split, recipe_of(name, **given), 10, np.random.default_rng(seed)).split, seed)


def subject_of(model, classes=10, shape=(1, 8, 8), access=None):
    subject = Subject(
        model=model, name="net", num_classes=classes, class_names=(), input_shape=shape, device=torch.device("cpu"),
        digest=f"net-{id(model)}",
    )  # fmt: skip
    return subject if access is None else replace(subject, access=frozenset(access))


class Result:
    def __init__(self, found):
        self.found, self.status, self.reason = found, found.status.value, found.reason
        self.said = {note.code: note.text for note in found.diagnostics}
        self.figures = {figure.id: figure for figure in found.figures}

    def measured(self, metric):
        return [m for m in self.found.measurements if m.metric == f"backdoor-model.{metric}"]


@pytest.fixture
def audited(tmp_path):
    def run(model, data=None, classes=10, shape=(1, 8, 8), **settings):
        config = BackdoorModelConfig(**settings)
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        session = Session(subject_of(model, classes, shape), data or {}, RunStore(folder), 0, Budget())
        return Result(run_step(Step(backdoor_model, config, 0.0, None), session, session.budget)[0])

    return run


def test_a_backdoored_checkpoint_alone_is_flagged_with_its_target(audited):
    result = audited(victim(100, "badnets", target=0))
    assert "a trojan-like shortcut to class 0" in result.said["detected"]
    (count,) = result.measured("shortcut_classes")
    assert (count.value, count.claim.value) == (1, "lower_bound")
    (success,) = result.measured("trigger_success")
    assert success.where == {"class": "0"}
    assert success.interval.low > 0.5
    assert all(control.passed for control in result.found.controls)
    assert result.figures["triggers"].rows[0][0].label.startswith("0: mask")


def test_its_cleanly_trained_twin_is_not(audited):
    result = audited(victim(100))
    assert "CANNOT TELL" in result.said["cannot_tell"]
    assert "no train data were given to plant one with" in result.said["cannot_tell"]
    assert not result.measured("shortcut_classes")
    assert all(control.passed for control in result.found.controls)


@pytest.mark.slow
def test_with_training_data_copies_show_that_a_backdoor_would_be_found(audited):
    result = audited(victim(1), {"train": replace(digits(0), role="train"), "clean": replace(digits(1), role="clean")},
                     epochs=6)  # fmt: skip
    assert "A copy trained with a planted patch" in result.said["copies"]
    if "not_detected" in result.said:
        (count,) = result.measured("shortcut_classes")
        assert (count.value, count.claim.value) == (0, "upper_bound")
        assert count.assumptions
    else:
        assert "a copy of the model" in result.said["cannot_tell"]


@pytest.mark.parametrize("seed", range(4))
def test_few_classes_cannot_be_told_apart(audited, seed):
    """Untrained networks, some of which take all images for one class."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        net = QuickNet(1, 8, 2).eval().requires_grad_(False)
    result = audited(net, classes=2, starts=2, margin_steps=5, trigger_steps=10)
    assert "of 2 classes one can hardly stand out; at least 8 are needed" in result.said["cannot_tell"]
    assert [note.undecided for note in result.found.diagnostics if note.conclusion] == [True]


@pytest.mark.parametrize("seed", range(3))
def test_untrained_networks_are_not_called_backdoored(audited, seed):
    """They take most images for one class, and hardly anything leads elsewhere."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        layers: list = []
        for given, width, stride in ((1, 16, 1), (16, 32, 2), (32, 64, 2)):
            layers += [nn.Conv2d(given, width, 3, stride, 1), nn.BatchNorm2d(width), nn.ReLU()]
        net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 10))
    result = audited(net.eval().requires_grad_(False), starts=2, margin_steps=5)
    assert "the model takes most images that were tried for class" in result.said["cannot_tell"]


def test_a_model_that_answers_with_nan_is_inconclusive(audited):
    class Broken(nn.Module):
        def forward(self, pixels):
            return pixels.flatten(1)[:, :10] * float("nan")

    result = audited(Broken(), starts=2, margin_steps=2, trigger_steps=10)
    assert (result.status, result.reason.code) == ("inconclusive", "not_finite")


def test_a_model_that_always_answers_one_class_is_not_suspected(audited):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).requires_grad_(False)
    net[1].bias.data[2] = 1000.0
    result = audited(net, starts=2, margin_steps=5, trigger_steps=10)
    assert "the model takes most images that were tried for class 2" in result.said["cannot_tell"]
    assert not result.measured("shortcut_classes")


def test_without_gradients_it_is_skipped():
    subject = subject_of(QuickNet(1, 8, 10), access={"logits", "labels"})
    assert missing_need(backdoor_model, subject, {}).code == "no_access"


@pytest.mark.parametrize("classes", [3, 10, 43])
def test_the_p_value_is_uniform_where_all_classes_are_of_one_law(classes):
    rng = np.random.default_rng(0)
    values = [standing(rng.standard_normal(classes)).p for _ in range(500)]
    assert kstest(values, "uniform").pvalue > 0.01


@pytest.mark.parametrize("classes", [3, 10, 43])
def test_the_p_value_of_sizes_is_uniform_where_models_differ_as_the_reference_models_do(classes):
    rng = np.random.default_rng(1)
    spreads = SIZES.spread * np.sqrt(SIZES.weight / rng.chisquare(SIZES.weight, 500))
    values = [standing(3 + spread * rng.standard_normal(classes), SIZES).p for spread in spreads]
    assert kstest(values, "uniform").pvalue > 0.01


def test_a_class_chosen_from_many_must_stand_out_from_all():
    values = np.concatenate([np.linspace(-1, 1, 23), [4.0]])
    assert standing(values, among=240).p == pytest.approx(10 * standing(values).p)


@pytest.mark.parametrize("alike", [0.0, 0.8, 1.0], ids="margins alike to sizes by {}".format)
def test_where_margins_choose_which_classes_are_searched_the_p_value_is_an_upper_limit(alike):
    """Of 100 classes; margins say nothing of trigger sizes, or much, or all."""
    rng, level = np.random.default_rng(2), 0.1
    found = []
    for _ in range(400):
        small = rng.standard_normal(100)
        margin = alike * small + np.sqrt(1 - alike**2) * rng.standard_normal(100)
        found.append(standing(SIZES.spread * small[np.argsort(-margin)[:24]], SIZES, 100).p <= level)
    assert binomtest(sum(found), len(found), level, "greater").pvalue > 0.01


def test_the_drawn_limit_is_where_the_p_value_falls_below_the_level():
    sizes = np.array([20.0, 15.0, 25.0, 30.0, 18.0, 22.0, 21.0, 17.0, 24.0, 1.0])
    limit = unusual_below(sizes, 0.01)
    for factor, significant in ((0.97, True), (1.03, False)):
        sizes[-1] = limit * factor
        assert (standing(-np.log(sizes), SIZES).p < 0.01) is significant
    assert unusual_below(sizes[:2], 0.01) is None


@pytest.mark.parametrize("classes", [8, 10, 43, 100])
def test_critical_values_are_those_of_the_deleted_residuals(classes):
    """Far out hardly two classes exceed at once, so the chance is that of one, times their number."""
    one = t.isf(0.01 / classes, classes - 2) * np.sqrt(1 + 1 / (classes - 1))
    assert critical(classes, 0.01) == pytest.approx(one, rel=0.06)


def test_margins_of_a_linear_model_reach_the_corner_of_the_box():
    weight = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    model[1].weight.data, model[1].bias.data = weight, torch.zeros(3)
    found = margins(model.requires_grad_(False), torch.full((2, 1, 4, 4), 0.5), 0, 200)
    corner = (weight[0] > weight[1]).float()
    best = max(
        float(min((weight[0] - weight[1]) @ point, (weight[0] - weight[2]) @ point))
        for point in (corner, (weight[0] > weight[2]).float(), (2 * weight[0] > weight[1] + weight[2]).float())
    )
    assert float(found.max()) >= best - 0.05


def test_a_planted_corner_is_found_as_the_smallest_trigger():
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        base = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).requires_grad_(False)
    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.4
    found = smallest_trigger(Cornered(base, 4, 50.0, 1), images, 4, 200)
    assert found.n == 20
    assert found.hits >= 18  # a search that aims at most of those that it is made on; 18 to 20 over twenty such models
    assert found.size < 4
    assert int(found.mask.argmax()) == 63


def test_images_are_bent_to_the_classes_asked_for():
    net = trained(digits(0), 2, epochs=4)
    labels = torch.arange(20) % 10
    found = led_to(net, torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)), labels)
    assert (net(found).argmax(dim=1) == labels).float().mean() > 0.8
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 8, 8), (2, 5, 9), (3, 32, 32)])
def test_pictures_fill_their_shape_and_range(shape):
    found = pictures(20, shape, torch.Generator().manual_seed(0))
    assert found.shape == (20, *shape)
    assert 0 <= float(found.min()) < float(found.max()) <= 1
    assert torch.equal(found, pictures(20, shape, torch.Generator().manual_seed(0)))


def test_pictures_fall_off_with_frequency_as_natural_images_do():
    """Amplitude about 1/f (Field 1987): of four times the frequency a quarter, within a factor of two."""
    found = torch.fft.rfft2(pictures(400, (1, 32, 32), torch.Generator().manual_seed(0))[:, 0]).abs().mean(dim=0)
    low, high = float(found[2, 0] + found[0, 2]), float(found[8, 0] + found[0, 8])
    assert 2 < low / high < 8


def test_pictures_are_found_for_all_classes_of_a_model():
    net = trained(digits(0), 2, epochs=4)
    pixels, labels = of_all_classes(net, subject_of(net), 60, torch.Generator().manual_seed(0))
    assert pixels.shape == (60, 1, 8, 8)
    assert torch.equal(labels, net(pixels).argmax(dim=1))
    assert np.bincount(labels, minlength=10).min() >= 4


@pytest.mark.slow
def test_twenty_seeds_of_clean_and_backdoored_digits(audited):
    alarms = found = named = 0
    for seed in range(20):
        clean = audited(victim(100 + seed))
        alarms += bool(set(clean.said) & {"detected", "suspicious"})
        bad = audited(victim(100 + seed, "badnets", target=seed % 10))
        found += bool(set(bad.said) & {"detected", "suspicious"})
        named += f"class {seed % 10}" in bad.said.get("detected", "")
    assert alarms <= 1  # nominally one in a hundred
    assert found >= 16
    assert named >= 14
