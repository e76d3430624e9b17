"""The distillation probe on planted truth: who hides a gradient is found out, and who does not is left alone."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from audit.engine.budget import Budget
from audit.engine.plan import Step
from audit.engine.run import run_step
from audit.engine.session import Session
from audit.engine.store import RunStore
from audit.loading.preprocess import Normalisation
from audit.loading.wrapper import Normalised
from fixtures import masked
from probes.distillation import DistillationProbeConfig, distillation
from probes.distillation.config import cost
from probes.distillation.outcome import Outcome, fooled, gone_around, judged
from tests.splits import array_split

QUICK = {"samples": 64, "chunk": 64, "steps": 20, "cw_steps": 10, "queries": 150}


@pytest.fixture(scope="module")
def base():
    return masked.ordinary(5)


@pytest.fixture(scope="module")
def data():
    pixels, labels = masked.digits()
    pixels, labels = np.rint(pixels.numpy() * 255).astype(np.uint8), labels.numpy()
    return {
        "eval": array_split(pixels[masked.TRAINING :], labels[masked.TRAINING :]),
        "train": array_split(pixels[: masked.TRAINING], labels[: masked.TRAINING]),
    }


@pytest.fixture
def examined(tmp_path, data):
    """`examined(model, **settings)`: the probe's result."""
    from audit.api import Subject

    def examine(model, *, output="logits", untrained=None, roles=("eval",), budget=None, **settings):
        wrapped = Normalised(model, Normalisation(), output).eval().requires_grad_(False)
        subject = Subject(
            wrapped, "s", 10, (), (1, 8, 8), torch.device("cpu"), "0" * 64, output=output, untrained=untrained
        )
        session = Session(
            subject, {role: data[role] for role in roles}, RunStore(tmp_path / "run"), 0, budget or Budget()
        )
        config = DistillationProbeConfig(**{**QUICK, **settings})
        return run_step(Step(distillation, config, 0.0), session, session.budget)[0]

    return examine


def verdict(result):
    return next(found.text for found in result.diagnostics if found.code == "masking")


def undecided(result):
    return next(found.undecided for found in result.diagnostics if found.conclusion)


def value(result, metric, model="subject", **where):
    return next(
        found.value
        for found in result.measurements
        if found.metric == f"distillation.{metric}"
        and found.where["model"] == model
        and all(found.where[key] == wanted for key, wanted in where.items())
    )


@pytest.mark.parametrize("kind", ["distilled", "logits-times-1000"])
def test_a_saturated_softmax_is_detected(examined, base, kind):
    model = masked.distilled(5) if kind == "distilled" else masked.masked_versions(base, 5)[kind]
    result = examined(model)
    assert result.status.value == "measured", result.reason
    assert verdict(result).startswith("Masking DETECTED: a saturated softmax")
    assert value(result, "zero_gradient_share") > 0.5
    assert value(result, "hidden_share", masking="saturation") > 0.3
    plain, adaptive = (value(result, "robust_accuracy", attack=name) for name in ("pgd", "pgd-scaled"))
    assert plain > adaptive + 0.3


@pytest.mark.parametrize("kind", ["flat-gradient", "wrong-gradient"])
def test_a_useless_gradient_is_detected(examined, base, kind):
    result = examined(masked.masked_versions(base, 5)[kind])
    assert verdict(result).startswith("Masking DETECTED: gradients that say nothing")
    assert value(result, "useless_gradient_share") > 0.5


def test_a_gradient_that_is_right_at_the_images_alone_is_suspicious(examined, base):
    result = examined(masked.Gate(base, 5))
    assert verdict(result).startswith("Masking SUSPICIOUS: gradients")


def test_answers_at_random_are_suspicious(examined, base):
    assert verdict(examined(masked.Noise(base, 0.1))).startswith("Masking SUSPICIOUS")


@pytest.mark.parametrize("kind", ["ordinary", "adversarial", "int8", "softmax", "log-softmax", "logits-minus-50"])
def test_who_hides_nothing_is_left_alone(examined, base, kind):
    models = {"ordinary": base, "int8": masked.Int8(base), **masked.masked_versions(base, 5)}
    model = masked.adversarial(5) if kind == "adversarial" else models[kind]
    output = {"softmax": "probabilities", "log-softmax": "log-probabilities"}.get(kind, "logits")
    result = examined(model, output=output)
    assert result.status.value == "measured", result.reason
    assert verdict(result).startswith("Masking NOT DETECTED")
    assert not undecided(result)
    assert value(result, "zero_gradient_share") == 0


def test_the_reference_pair_shows_what_distillation_does(examined, base):
    def untrained(seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Normalised(masked.network(), Normalisation()).train()

    settings = {"untrained": untrained, "roles": ("eval", "train"), "epochs": 15}
    result = examined(base, **settings)
    said = {found.code: found.text for found in result.diagnostics}
    assert "student against twin on 64 images: under FGSM" in said["experiment"]
    assert said["experiment"].count("(significantly higher)") >= 2  # FGSM and PGD: the protection that is none
    assert "attacks that know of it" in said["experiment"]
    assert said["resemblance"].endswith("it is nearer to the twin's.")
    assert value(result, "median_gap", "student") > 10 * value(result, "median_gap", "twin")
    assert value(result, "zero_gradient_share", "student") > 0.5
    assert value(result, "zero_gradient_share", "twin") == 0
    assert value(result, "robust_accuracy", attack="transfer") < value(result, "clean_accuracy") - 0.1
    again = examined(base, **settings)  # from what is stored
    assert again == result


def test_without_what_it_takes_the_pair_is_left_out_and_that_is_said(examined, base):
    for settings in ({"roles": ("eval",)}, {"roles": ("eval", "train")}):
        result = examined(base, **settings)
        assert any(found.code == "no_reference" for found in result.diagnostics)
        assert {found.where["model"] for found in result.measurements} == {"subject"}
    result = examined(base, roles=("eval", "train"), reference="off")
    assert not any(found.code == "no_reference" for found in result.diagnostics)


def test_an_architecture_that_cannot_be_trained_does_not_lose_the_rest(examined, base):
    from audit.errors import SubjectError

    def untrained(seed):
        raise SubjectError("Expected a factory that works twice, got an error. Mend it.")

    result = examined(base, untrained=untrained, roles=("eval", "train"))
    assert result.status.value == "measured"
    assert any("a factory that works twice" in found.text for found in result.diagnostics)
    assert verdict(result)


def test_a_model_that_is_mostly_wrong_cannot_be_told(examined):
    torch.manual_seed(3)
    result = examined(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    assert verdict(result).startswith("Masking CANNOT TELL: only")
    assert undecided(result)


def test_radii_as_given_are_used_and_impossible_ones_refused(examined, base):
    result = examined(base, eps="8/255", eps_l2="0.5")
    radii = {found.where["eps"] for found in result.measurements if "eps" in found.where}
    assert radii == {"8/255", "0.5"}
    for wrong in ({"eps": "-1/255"}, {"eps": "2"}, {"eps": "far"}, {"temperature": 0.5}, {"reference": "on"}):
        with pytest.raises(ValueError, match="validation error"):
            DistillationProbeConfig(**wrong)


class Steep(nn.Module):
    """The base's decisions, by logits whose gradient leads a search for the nearest example astray."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, pixels):
        logits = self.inner(pixels)
        return -((logits.amax(dim=1, keepdim=True) - logits + 1e-12) ** 0.1)


def test_a_gradient_that_misleads_does_not_choose_the_radius(examined, base):
    """At a radius where everything breaks, as such a search would choose, nothing could be seen."""
    result = examined(Steep(base))
    radius = max(float(found.where["eps"]) for found in result.measurements if found.where.get("norm") == "linf")
    assert radius < 0.3
    assert "NOT DETECTED" not in verdict(result)


def test_a_random_model_is_said_to_be_random(examined, base):
    result = examined(masked.Noise(base, 0.2))
    assert verdict(result) == "Masking SUSPICIOUS: answers that change from call to call."
    hidden = [found for found in result.measurements if found.metric == "distillation.hidden_share"]
    assert {found.claim.value for found in hidden} == {"estimate"}  # it differs by chance as well
    torch.manual_seed(17)
    assert examined(masked.Noise(base, 0.2)) == result  # whatever else has drawn meanwhile


def test_at_a_radius_where_nothing_breaks_nothing_is_said(examined, base):
    """Two searches that both find nothing agree, and that says nothing."""
    result = examined(base, eps="0.0001", eps_l2="0.5")
    assert verdict(result).startswith("Masking CANNOT TELL: at this radius")
    assert [control.name for control in result.controls if not control.passed] == ["planted-fooled"]


def test_tests_need_more_than_chance_and_more_than_little():
    assert fooled(20, 0, 100)
    assert not fooled(9, 0, 100)  # 2 ** -9 is more than a thousandth
    assert fooled(10, 0, 100)
    assert not fooled(30, 20, 100)
    assert not fooled(15, 0, 1000)  # significant, and too little to matter
    assert gone_around(10, 100)
    assert not gone_around(6, 100)
    assert not gone_around(0, 0)


def test_no_alarm_where_two_losses_are_equally_good():
    """Of 20,000 models on which either search breaks 1 in 10 that the other does not, at most 1 in 1,000."""
    rng = np.random.default_rng(0)
    counts = rng.multinomial(128, [0.1, 0.1, 0.8], 20000)
    alarms = sum(fooled(int(more), int(less), 128) for more, less, _ in counts)
    assert alarms <= 40  # twice the level: 99.99 % of the time when the level is kept


def test_verdicts_follow_from_both_signs():
    def outcome(zero, hidden, n=60):
        flags = np.arange(n) < zero
        nothing = np.zeros(n, dtype=bool)
        census = {"ce_zero": flags, "margin_zero": nothing, "nonfinite": nothing, "changed": np.zeros(n)}
        arrays = {"correct": ~nothing, "broken_pgd": nothing, "broken_pgd-scaled": np.arange(n) < hidden}
        arrays |= {f"census_{name}": array for name, array in census.items()}
        return Outcome(arrays | {"census_rose": np.ones((n, 3), dtype=np.float32)})

    assert judged(outcome(60, 50), controls_passed=True)[0] == "DETECTED"
    assert judged(outcome(60, 0), controls_passed=True)[0] == "SUSPICIOUS"
    assert judged(outcome(0, 50), controls_passed=True)[0] == "SUSPICIOUS"
    assert judged(outcome(0, 1), controls_passed=True)[0] == "NOT DETECTED"
    assert judged(outcome(60, 50), controls_passed=False)[0] == "CANNOT TELL"
    assert judged(outcome(10, 10, n=10), controls_passed=True)[0] == "CANNOT TELL"
    assert judged(outcome(0, 1), controls_passed=True, behaviour_shown=False)[0] == "CANNOT TELL"
    assert judged(outcome(60, 50), controls_passed=True, behaviour_shown=False)[0] == "DETECTED"


def test_the_estimate_grows_with_what_is_asked():
    little = cost(DistillationProbeConfig(), {"eval": 100})
    with_pair = cost(DistillationProbeConfig(), {"eval": 100, "train": 1000})
    assert with_pair.backwards > 2 * little.backwards
    assert cost(DistillationProbeConfig(reference="off"), {"eval": 100, "train": 1000}) == little
    assert cost(DistillationProbeConfig(samples=50), {"eval": 100}).forwards < little.forwards


def test_the_subject_is_left_as_it_was(examined, base):
    model = nn.Sequential(base, nn.BatchNorm1d(10, affine=False))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    examined(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_time_is_inconclusive(examined, base):
    result = examined(base, budget=dataclasses.replace(Budget(), deadline=0.0))
    assert result.status.value == "inconclusive"
    assert result.reason.code == "budget"


def test_the_interval_of_a_median_covers_it():
    """Between the second and the ninth of ten values, as in any table; and in at least 95 % of samples."""
    from probes.distillation.figures import _median_interval

    found = _median_interval(np.arange(10.0))
    assert (found.low, found.high) == (1.0, 8.0)
    rng = np.random.default_rng(0)
    intervals = [_median_interval(np.sort(rng.exponential(size=64))) for _ in range(2000)]
    covered = np.mean([found.low <= np.log(2) <= found.high for found in intervals])
    assert covered > 0.95 - 3 * np.sqrt(0.05 * 0.95 / 2000)


def test_what_either_search_breaks_alone_is_set_off():
    """7 against 5 of 94 is noise; 60 against 1 is not. Neither limit may be overstated."""
    from probes.distillation.figures import _difference

    assert _difference(7, 5, 94).low == 0
    assert _difference(5, 7, 94).low == 0
    found = _difference(60, 1, 94)
    assert 0.4 < found.low < 59 / 94 < found.high < 0.8
    rng = np.random.default_rng(0)
    draws = rng.multinomial(94, [0.3, 0.1, 0.6], 1000)
    intervals = [_difference(int(more), int(less), 94) for more, less, _ in draws]
    covered = np.mean([interval.low <= 0.2 <= interval.high for interval in intervals])
    assert covered > 0.95 - 3 * np.sqrt(0.05 * 0.95 / 1000)


def test_every_number_points_the_way_it_is_known(examined, base):
    claims = {"hidden_share": "lower_bound", "robust_accuracy": "upper_bound"}
    for found in examined(base).measurements:
        assert found.claim.value == claims.get(found.metric.split(".")[1], "estimate")


def test_a_gradient_that_is_zero_throughout_counts_as_zero(examined, base):
    result = examined(masked.FlatGradient(base))
    assert value(result, "zero_gradient_share") == 1
    assert value(result, "useless_gradient_share") == 1
