"""The self-checks call blind evaluations by their name and leave honest ones alone."""

import functools

import numpy as np
import pytest
import torch

from audit.api import Inconclusive
from audit.loading.preprocess import Normalisation
from audit.loading.wrapper import Normalised
from fixtures import masked
from probes.evasion.outcome import Outcome
from probes.evasion.selfchecks import LEVEL, MISLED, MISSED, check_gradients, check_share, check_strength, judge

QUICK = {
    "norms": "linf", "eps_linf": "0.05,0.2", "samples": 48, "chunk": 48, "steps": 12, "targets": 2, "queries": 200,
}  # fmt: skip


@pytest.fixture(scope="module")
def base():
    return masked.ordinary(7)


@pytest.fixture(scope="module")
def examined(audited):
    """Runs the probe on digits that no network has seen."""
    pixels, labels = masked.digits()

    def run(model, output="logits", **settings):
        wrapped = Normalised(model, Normalisation((0.0,), (1.0,)), output)
        return audited(
            wrapped,
            pixels[masked.TRAINING :],
            labels[masked.TRAINING :],
            classes=10,
            output=output,
            **{**QUICK, **settings},
        )

    return run


@pytest.fixture(scope="module")
def honest(base, examined):
    return examined(base)


@pytest.mark.parametrize("train", [masked.ordinary, masked.adversarial])
def test_honest_models_are_reliable(examined, train):
    found = examined(train(3))
    failed = [control for control in found.controls.values() if not control.passed]
    assert found.verdict == "RELIABLE", failed
    assert not found.codes
    assert set(found.controls) == {
        "grey-radius-linf", "gradient", "direction", "gradient-in-linf", "direction-in-linf", "cross-entropy",
        "deterministic", "noise-linf", "converged-linf", "black-box-linf", "right-samples",
    }  # fmt: skip


@pytest.mark.parametrize("train", [pytest.param(masked.ordinary, marks=pytest.mark.slow), masked.adversarial])
def test_low_precision_is_no_masking(examined, train):
    base = train(2)
    found, plain = examined(masked.Int8(base)), examined(base)
    assert found.verdict == "RELIABLE", found.ctx.diagnostics["evaluation"].text
    for eps, fact in plain.measured("robust_accuracy", "linf").items():
        assert found.measured("robust_accuracy", "linf")[eps].value <= fact.value + 3 / 64


def test_a_softmax_sure_of_itself_is_no_masking(examined):
    found = examined(torch.nn.Sequential(masked.ordinary(0, epochs=60), torch.nn.Softmax(dim=1)), "probabilities")
    assert found.verdict == "RELIABLE"


@pytest.mark.parametrize(
    ("name", "verdict", "check"),
    [
        ("logits-times-1000", "SUSPECT", "cross-entropy"),
        ("quantised-input", "BROKEN-EVALUATION", "gradient"),
        ("gate", "BROKEN-EVALUATION", "direction-in-linf"),
        ("flat-gradient", "BROKEN-EVALUATION", "black-box-linf"),
        ("flat-gradient", "BROKEN-EVALUATION", "gradient"),
        ("wrong-gradient", "BROKEN-EVALUATION", "direction"),
    ],
)
def test_masked_models_are_called_so(base, examined, honest, name, verdict, check):
    found = examined(masked.masked_versions(base, 0)[name])
    assert found.verdict == verdict
    assert not found.controls[check].passed
    assert check in found.ctx.diagnostics["evaluation"].text
    if name in masked.SAME_DECISIONS:  # nothing is ever broken that the network itself withstands
        for eps, fact in honest.measured("robust_accuracy", "linf").items():
            assert found.measured("robust_accuracy", "linf")[eps].value >= fact.value - 2 / 64


def test_a_random_layer_is_suspect(base, examined):
    found = examined(
        masked.masked_versions(base, 0)["noise-layer"], samples=24, attacks="fgsm,pgd", pgd_steps=4, queries=50
    )
    stated = [fact for fact in found.facts if getattr(fact, "metric", "").endswith("accuracy")]
    assert len(stated) > 1
    assert all(any("most of 5 calls" in text for text in fact.assumptions) for fact in stated)
    assert found.verdict == "SUSPECT"
    assert not found.controls["deterministic"].passed


def test_a_distilled_network_is_suspect(examined):
    found = examined(masked.distilled(1))
    assert found.verdict == "SUSPECT"
    assert not found.controls["cross-entropy"].passed
    assert found.measured("robust_accuracy", "linf")["0.2"].value <= 0.1, "and attacked down to nothing all the same"


@pytest.mark.parametrize(
    ("name", "output"),
    [("softmax", "probabilities"), ("log-softmax", "log-probabilities"), ("logits-minus-50", "logits")],
)
def test_other_outputs_are_attacked_down_to_the_truth(base, examined, honest, name, output):
    found = examined(masked.masked_versions(base, 0)[name], output)
    assert found.verdict == "RELIABLE"
    for eps, fact in honest.measured("robust_accuracy", "linf").items():
        assert found.measured("robust_accuracy", "linf")[eps].value == pytest.approx(fact.value, abs=2 / 64)


def test_probabilities_of_exactly_nothing_are_broken(base, examined):
    """Those of all wrong classes underflow, and their logarithms with them."""
    found = examined(torch.nn.Sequential(base, Times(40), torch.nn.Softmax(dim=1)), "probabilities")
    assert found.verdict == "BROKEN-EVALUATION"
    assert not found.controls["gradient"].passed


@pytest.mark.parametrize(
    ("settings", "check"),
    [
        ({"attacks": "fgsm"}, "converged-linf"),
        ({"attacks": "apgd-ce", "steps": 1}, "converged-linf"),
        pytest.param({"attacks": "square", "queries": 30}, "converged-linf", marks=pytest.mark.slow),
        pytest.param({"attacks": "fgsm,pgd", "pgd_steps": 1}, "converged-linf", marks=pytest.mark.slow),
    ],
)
def test_attacks_that_are_too_weak_are_suspect(examined, settings, check):
    """A network trained against one step of the gradient alone, which longer searches break."""
    found = examined(fast(0), eps_linf="0.2", **settings)
    assert found.verdict == "SUSPECT"
    assert not found.controls[check].passed


@functools.cache
def fast(seed, eps=0.15):
    """Trained on the fast gradient without a random start, so that it fools just that."""
    pixels, labels = (part[: masked.TRAINING] for part in masked.digits())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = masked.network()
        optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
        for _ in range(40):
            for rows in torch.split(torch.randperm(len(labels)), 100):
                images = pixels[rows].clone().requires_grad_(True)
                loss = torch.nn.functional.cross_entropy(model(images), labels[rows])
                images = (images + eps * torch.autograd.grad(loss, images)[0].sign()).clamp(0, 1).detach()
                optimiser.zero_grad()
                torch.nn.functional.cross_entropy(model(images), labels[rows]).backward()
                optimiser.step()
    return model


def test_few_right_samples_are_not_called_reliable(examined, base):
    """On a single one, no share can be significantly above anything."""
    found = examined(base, samples=8, chunk=8)
    assert found.verdict == "SUSPECT"
    assert [name for name, control in found.controls.items() if not control.passed] == ["right-samples"]
    assert "far lower" not in found.ctx.diagnostics["evaluation"].text


def test_numbers_do_not_hang_on_the_chunks(examined, base):
    whole, parts = (examined(base, chunk=chunk, attacks="fgsm,apgd-ce", steps=3) for chunk in (48, 16))
    assert whole.verdict == parts.verdict
    for eps, fact in whole.measured("robust_accuracy", "linf").items():
        assert parts.measured("robust_accuracy", "linf")[eps].value == pytest.approx(fact.value, abs=2 / 64)
    assert [control.observed.split(" of ")[1] for control in whole.controls.values()] == [
        control.observed.split(" of ")[1] for control in parts.controls.values()
    ]


def census_of(n, **fields):
    arrays = {
        "ce_zero": np.zeros(n, bool), "margin_zero": np.zeros(n, bool), "nonfinite": np.zeros(n, bool),
        "gap": np.ones(n), "changed": np.zeros(n), "rose": np.ones((n, 3)),
    }  # fmt: skip
    return {f"{prefix}_{name}": array for prefix in ("census", "away") for name, array in arrays.items()} | fields


@pytest.mark.parametrize(
    ("fields", "failed"),
    [
        ({}, set()),
        ({"census_rose": np.array([[9.0, -1.0, 1.0]] * 50)}, set()),  # one step of three is enough
        ({"census_rose": np.array([[0.0, 1.0, 99.0]] * 50)}, set()),
        ({"census_rose": np.array([[9.0, -1.0, 0.1]] * 50)}, {"direction"}),
        ({"away_rose": np.zeros((50, 3))}, {"direction-in-linf"}),
        ({"census_margin_zero": np.ones(50, bool), "census_rose": np.ones((50, 3))}, {"gradient"}),
        ({"away_nonfinite": np.arange(50) < 8}, {"gradient-in-linf"}),
        ({"census_ce_zero": np.arange(50) < 8}, {"cross-entropy"}),
        ({"census_changed": np.full(50, 0.1)}, {"deterministic"}),
        ({"census_rose": np.array([[0.0] * 3] * 3 + [[1.0] * 3] * 47)}, set()),  # 3 of 50 are not yet significant
    ],
)
def test_each_finding_fails_its_own_check(fields, failed):
    arrays = census_of(50, **fields) | {"clean_correct": np.ones(50, bool), "attack": np.zeros(50, int)}
    values = dict.fromkeys(
        ("longer_broke", "longer_tried", "square_broke", "square_tried", "transfer_broke", "transfer_tried"), 0
    )
    outcome = Outcome("linf", ("8/255",), ("fgsm",), 4, arrays, values)
    checks = check_gradients(outcome) + check_strength(outcome)
    assert {check.control.name for check in checks if not check.control.passed} == failed


def test_a_count_beyond_its_base_is_a_defect():
    with pytest.raises(ValueError, match="Expected a count of 0 to 8, got 9"):
        check_share("x", "x", "x", 9, 8, 0.1, fatal=True)


def test_what_a_check_could_have_seen_is_said():
    text = check_share("x", "x", "x", 0, 64, MISLED, fatal=True).control.expected
    share = int(text.split("; ")[1].split("%")[0]) / 100
    rng = np.random.default_rng(1)
    counts = rng.binomial(64, share, 4000)
    caught = np.mean(
        [not check_share("x", "x", "x", int(count), 64, MISLED, fatal=True).control.passed for count in counts]
    )
    assert 0.86 < caught < 0.94
    assert "too few samples for it to fail" in check_share("x", "x", "x", 0, 1, 0.01, fatal=True).control.expected


class Times(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, values):
        return values * self.factor


def test_detached_preprocessing_is_refused(base, examined):
    with pytest.raises(Inconclusive) as error:
        examined(masked.masked_versions(base, 0)["detached-preprocessing"])
    assert error.value.code == "no_gradients"


@pytest.mark.parametrize("most", [MISSED, 0.01, MISLED])
@pytest.mark.parametrize("n", [8, 64, 512])
def test_false_alarms_are_rare(most, n):
    """Where the share is what a check allows, it fails with a probability of at most its level."""
    draws = np.random.default_rng(0).binomial(n, most, 20_000)
    failed = np.mean(
        [not check_share("x", "x", "x", int(count), n, most, fatal=True).control.passed for count in draws]
    )
    assert failed <= LEVEL + 4 * (LEVEL / 20_000) ** 0.5


def test_what_is_far_above_the_share_fails():
    assert not check_share("x", "x", "x", 8, 8, 0.1, fatal=True).control.passed
    assert not check_share("x", "x", "x", 20, 64, 0.1, fatal=True).control.passed
    assert check_share("x", "x", "x", 0, 0, 0.1, fatal=True).control.passed
    assert "on 20 of 64" in check_share("x", "x", "x", 20, 64, 0.1, fatal=True).control.observed


def test_the_worst_check_decides():
    fine, bad, fatal = (check_share(str(i), "x", "x", 8 * (i > 0), 8, 0.01, fatal=i == 2) for i in range(3))
    assert judge([fine]) == "RELIABLE"
    assert judge([fine, bad]) == "SUSPECT"
    assert judge([bad, fatal, fine]) == "BROKEN-EVALUATION"


@pytest.fixture(scope="module")
def with_twin(examined):
    """Runs the probe with training data and an architecture to train."""

    def untrained(seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Normalised(masked.network(), Normalisation()).train()

    pixels, labels = masked.digits()
    train = pixels[: masked.TRAINING], labels[: masked.TRAINING]

    def run(model, untrained=untrained, **settings):
        return examined(model, untrained=untrained, train=train, **settings)

    return run


def test_the_attacks_break_an_undefended_twin_and_nothing_transfers_that_they_miss(with_twin, base):
    found = with_twin(base, twin_epochs=15)
    assert found.verdict == "RELIABLE", found.ctx.diagnostics["evaluation"].text
    assert found.controls["twin-linf"].passed
    assert "of the first 64 images" in found.ctx.diagnostics["twin"].text


def test_images_of_the_twin_break_what_masked_gradients_hide(with_twin, base):
    """One step along a gradient that says nothing breaks little; the twin's images need none."""
    model = masked.WrongGradient(base, 0)
    found = with_twin(model, twin_epochs=15, attacks="fgsm", eps_linf="0.15")
    control = found.controls["transfer-linf"]
    assert not control.passed
    assert found.controls["twin-linf"].passed
    assert found.verdict == "BROKEN-EVALUATION"
    alone = with_twin(model, twin="off", attacks="fgsm", eps_linf="0.15")
    assert "transfer-linf" not in alone.controls
    lower, higher = (seen.measured("robust_accuracy", "linf")["0.15"].value for seen in (found, alone))
    assert lower < higher  # what transfers counts


def test_without_an_architecture_there_is_no_twin_and_that_is_said(with_twin, base):
    found = with_twin(base, untrained=None)
    assert "cannot be built anew" in found.ctx.diagnostics["no_twin"].text
    assert "twin-linf" not in found.controls


def test_a_twin_that_learnt_nothing_shows_nothing(with_twin, base):
    found = with_twin(base, twin_epochs=1, twin_samples=20)
    assert "too few to compare with" in found.ctx.diagnostics["no_twin"].text
    assert "twin-linf" not in found.controls
    assert found.verdict == "RELIABLE"
