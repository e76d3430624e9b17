"""The certified probe on planted truth: it certifies what holds, nothing else, and says when it cannot tell."""

import importlib.util
import re

import numpy as np
import pytest
import torch
from torch import nn

from audit.adapters.auto_lirpa_apart import Asked
from audit.engine.budget import Budget
from audit.lirpa import rules
from audit.lirpa.rules.relu import Bent
from audit.lirpa.rules.rule import Pulled
from tests.audit.lirpa.networks import Attention, Residual, perceptron

SHAPE = (2, 4, 4)


def images(n=12, shape=SHAPE, seed=0):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def answers(module, pixels):
    with torch.no_grad():
        return module.eval()(pixels).argmax(1)


class Sum(nn.Module):
    """Class 1 where the pixels of a 1x2x2 image add up to more than 2."""

    def forward(self, pixels):
        total = pixels.flatten(1).sum(1, keepdim=True) - 2
        return torch.cat([-total, total], 1)


def test_accuracies_are_those_of_a_classifier_whose_radii_are_known(certify):
    pixels = 0.5 + torch.linspace(0.01, 0.12, 12)[:, None, None, None].expand(12, 1, 2, 2)
    result = certify(
        Sum(), pixels, np.ones(12), 2, eps_linf=("0", "0.055", "0.095"), norms=("linf", "l2"), eps_l2="0.11"
    )

    assert result.status == "measured", result.reason
    assert result.values("certified_accuracy") == {"0": 1.0, "0.055": 7 / 12, "0.095": 3 / 12}
    assert result.values("attacked_accuracy") == {"0": 1.0, "0.055": 7 / 12, "0.095": 3 / 12}
    assert result.values("certified_accuracy", "l2") == {"0.11": 7 / 12}  # a step of eps / 2 on each of four pixels
    attacked, certified = (series.y for series in result.figures["bracket-linf"].series)
    assert max(high - low for high, low in zip(attacked, certified, strict=True)) <= 2 / 12, (
        "the nearest image is found"
    )
    assert len(set(attacked)) > 8
    assert all(control.passed for control in result.controls.values())
    assert {"known-radius-linf", "no-certificate-broken-linf"} <= set(result.controls)


@pytest.mark.parametrize("module", [perceptron(), Residual(), Attention()])
def test_the_bracket_holds_and_is_drawn(certify, module):
    shape = (2, 8, 8) if isinstance(module, Residual) else SHAPE
    pixels = images(shape=shape)
    labels = answers(module, pixels)
    labels[0] = (labels[0] + 1) % 3

    result = certify(module, pixels, labels, 3, eps_linf=("1/255", "8/255", "0.3"))

    assert result.status == "measured", result.reason
    low, high = result.values("certified_accuracy"), result.values("attacked_accuracy")
    assert all(low[eps] <= high[eps] <= 11 / 12 for eps in low)
    assert low["1/255"] > 0
    assert high["0.3"] < 11 / 12 or isinstance(module, Residual)
    figure = result.figures["bracket-linf"]
    assert [series.name for series in figure.series] == ["attacked (at most)", "certified (at least)"]
    for certified, attacked in zip(figure.series[1].y, figure.series[0].y, strict=True):
        assert certified <= attacked


def test_claims_are_a_lower_and_an_upper_bound(certify):
    module, pixels = perceptron(), images()
    result = certify(module, pixels, answers(module, pixels), 3, eps_linf="1/255")

    claims = {fact.metric: fact.claim.value for fact in result.found.measurements}
    assert claims == {"certified.certified_accuracy": "lower_bound", "certified.attacked_accuracy": "upper_bound"}


class HighLine(Bent):
    """A ReLU whose bounds claim more than holds."""

    def backward(self, op, rows, at):
        pulled = super().backward(op, rows, at)
        return Pulled(pulled.rows, pulled.rest + 100.0)


def test_bounds_that_are_wrong_are_found_out_by_both_controls(certify, monkeypatch):
    monkeypatch.setitem(rules._ALONE, "relu", HighLine())
    module, pixels = perceptron(), images()

    result = certify(module, pixels, answers(module, pixels), 3, eps_linf=("1/255", "1"))

    assert not result.controls["known-radius-linf"].passed
    assert not result.controls["no-certificate-broken-linf"].passed
    assert result.status != "measured"


def test_vacuous_bounds_are_called_so_with_where_and_from_when(certify):
    torch.manual_seed(0)
    layers = [nn.Flatten()]
    for _ in range(6):
        linear = nn.Linear(32, 32)
        nn.init.normal_(linear.weight, std=0.6)
        layers += [linear, nn.ReLU()]
    module = nn.Sequential(*layers, nn.Linear(32, 3))
    pixels = images()

    result = certify(module, pixels, answers(module, pixels), 3, eps_linf="0.2", method="ibp", halvings=8)

    assert result.values("certified_accuracy") == {"0.2": 0.0}
    assert result.said["vacuous-linf"].startswith("Vacuous in linf at every radius from 0.2 on: nothing is certified")
    assert "Certified radii are at most 0.0" in result.said["vacuous-linf"]
    assert re.search(r"Bounds first say little at (linear|relu) in \d\.", result.said["vacuous-linf"])


INSTALLED = importlib.util.find_spec("auto_LiRPA") is not None
needs_the_other = pytest.mark.skipif(not INSTALLED, reason="auto_LiRPA is not installed")


def once_asked(monkeypatch, region):
    """The other implementation is asked once, and from then on says what stands in the list that is returned."""
    told, said = getattr(Asked, region), []

    def asked(*args):
        if not said:
            said.append(told(*args))
        return said[0]

    monkeypatch.setattr(Asked, region, asked)
    return said


@needs_the_other
def test_a_second_opinion_confirms_and_a_planted_disagreement_voids_the_result(certify, monkeypatch):
    module, pixels = perceptron(), images()
    labels, said = answers(module, pixels), once_asked(monkeypatch, "box")

    agreed = certify(module, pixels, labels, 3, eps_linf="1/255", second_opinion=4)
    control = agreed.controls["second-opinion-linf"]
    assert control.passed
    assert (
        "by auto_LiRPA 0.3 and crown, at the certified radius of 4 samples, the same bounds to 0.0001"
        in control.expected
    )
    assert control.observed == "0 of 4 disagree; 4 of 4 are certified by it as well"

    said[0] = said[0] - 0.01
    voided = certify(module, pixels, labels, 3, eps_linf="1/255", seed=1, second_opinion=4)
    assert voided.controls["second-opinion-linf"].observed.startswith("4 of 4 disagree")
    assert voided.status == "inconclusive"
    assert voided.reason.code == "control_failed"


@needs_the_other
def test_where_ours_may_be_tighter_only_a_contradiction_is_a_disagreement(certify, monkeypatch):
    module, pixels = perceptron(), images()
    labels, settings = answers(module, pixels), {"norms": ("l2",), "eps_l2": "0.01", "second_opinion": 2}

    said = once_asked(monkeypatch, "ball")
    assert certify(module, pixels, labels, 3, **settings).controls["second-opinion-l2"].passed
    said[0] = said[0] - 0.01
    assert certify(module, pixels, labels, 3, seed=1, **settings).controls["second-opinion-l2"].passed
    said[0] = said[0] + 100  # its upper bounds lie below ours
    assert not certify(module, pixels, labels, 3, seed=2, **settings).controls["second-opinion-l2"].passed


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("audit.adapters.auto_lirpa_apart.SECONDS", 0.01, "took longer than 1 s"),
        ("sys.executable", "/bin/false", "ended its process with code 1"),
        ("probes.certified.second_opinion.MOST", 100, "are more than auto_LiRPA is given here"),
        ("importlib.util.find_spec", lambda _: None, "Expected the package auto_LiRPA 0.3, got none"),
    ],
)
def test_what_befalls_the_other_process_leaves_no_second_opinion_and_says_so(certify, monkeypatch, name, value, said):
    if not INSTALLED and "find_spec" not in name:
        pytest.skip("auto_LiRPA is not installed")
    module, pixels = perceptron(), images()
    monkeypatch.setattr(name, value)

    result = certify(module, pixels, answers(module, pixels), 3, eps_linf="1/255", second_opinion=4)

    assert result.status == "measured", result.reason
    assert said in result.said["no-second-opinion-linf"]


@needs_the_other
def test_without_a_second_opinion_the_reason_is_given(certify):
    pixels = images()
    module = nn.Sequential(nn.Flatten(), nn.Linear(32, 8), nn.GELU(), nn.Linear(8, 3))

    result = certify(module, pixels, answers(module, pixels), 3, eps_linf="1/255", second_opinion=4)

    assert result.status == "measured", result.reason
    assert result.said["no-second-opinion-linf"].startswith(
        "There is no second opinion on the bounds in linf: auto_LiRPA 0.3 ended in"
    )


class Sorting(nn.Module):
    def forward(self, pixels):
        return pixels.flatten(1).sort(1).values[:, :3]


class Deciding(nn.Module):
    def forward(self, pixels):
        return pixels.flatten(1)[:, :3] if pixels.sum() > 3 else -pixels.flatten(1)[:, :3]


class Noisy(nn.Module):
    def forward(self, pixels):
        return pixels.flatten(1)[:, :3] + torch.randn_like(pixels.flatten(1)[:, :3])


class Drifting(nn.Module):
    """Its answers drift with every call, outside of what a graph holds."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, pixels):
        self.calls += 1
        return pixels.flatten(1)[:, :3] * self.calls


@pytest.mark.parametrize(
    ("module", "code", "said"),
    [
        (Sorting(), "no_rule", "no bounds are known for the operator sort"),
        (Deciding(), "no_graph", "no fixed graph of operators"),
        (Noisy(), "no_rule", "which draws at random"),
        (Drifting(), "other_graph", "keep state"),
    ],
)
def test_what_cannot_be_bounded_is_inconclusive_and_says_why(certify, module, code, said):
    pixels = images()
    labels = pixels.flatten(1)[:, :3].argmax(1)

    result = certify(module, pixels, labels, 3, eps_linf="1/255")

    assert result.status == "inconclusive"
    assert result.reason.code == code
    assert said in result.reason.text


def test_nothing_right_is_nothing_certified(certify):
    module, pixels = perceptron(), images()

    result = certify(module, pixels, (answers(module, pixels) + 1) % 3, 3, eps_linf="1/255")

    assert result.values("certified_accuracy") == {"1/255": 0.0}
    assert result.values("attacked_accuracy") == {"1/255": 0.0}
    assert "vacuous-linf" not in result.said


def test_nan_weights_certify_nothing(certify):
    module, pixels = perceptron(), images()
    labels = answers(module, pixels)
    with torch.no_grad():
        module[3].weight[0, 0] = torch.nan

    result = certify(module, pixels, labels, 3, eps_linf="1/255")

    assert set(result.values("certified_accuracy").values()) <= {0.0}


def test_time_that_ends_cuts_samples(certify):
    module, pixels = perceptron(), images(40)
    ticks = iter(range(10**6))

    result = certify(
        module,
        pixels,
        answers(module, pixels),
        3,
        eps_linf="1/255",
        samples=40,
        chunk=8,
        budget=Budget(3.5, lambda: next(ticks)),
    )

    assert result.status == "measured", result.reason
    assert result.found.measurements[0].n in (8, 16, 24, 32)
    assert "of 40 samples" in result.said["budget"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"eps_linf": "0"}, "Expected a radius above 0 in eps_linf, got no other than 0"),
        ({"norms": "linf,linf"}, "Expected every norm once"),
        ({"eps_linf": "2"}, "at most 1, the range of pixels"),
        ({"norms": "l1"}, "Input should be 'linf' or 'l2'"),
    ],
)
def test_settings_that_do_not_do(certify, settings, said):
    with pytest.raises(ValueError, match=said):
        certify(perceptron(), images(), np.zeros(12), 3, **settings)
