"""Planted truth: what must break breaks, what cannot break never does, and blind attacks are noticed."""

import io
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

from audit.api import Claim, Inconclusive
from audit.attacks import target as targets
from audit.schema import Measurement
from audit.toolkit.norms import parse_eps
from fixtures import masked
from probes.evasion import EvasionConfig, evasion
from probes.evasion.config import finders
from tests.audit.attacks.test_target import Rounded, in_bfloat16

SHORT = {"steps": 20, "pgd_steps": 10, "targets": 3, "queries": 100}
LINF = {"norms": "linf", "eps_linf": "2/255,8/255,0.1,0.3", "samples": 96, "chunk": 40, **SHORT}
L2 = {"norms": "l2", "eps_l2": "0.25,1,3", "samples": 96, "chunk": 40, **SHORT}


class Scaled(nn.Module):
    def __init__(self, model, factor):
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, pixels):
        return self.model(pixels) * self.factor


@pytest.fixture(scope="module")
def undefended(audited, digits):
    """One run over both norms, looked at by several tests."""
    pixels, labels, model = digits
    return audited(model, pixels, labels, classes=10, **{**LINF, **L2, "norms": "linf,l2"})


def test_l1_has_the_whole_of_it(audited, digits):
    pixels, labels, model = digits
    settings = {"norms": "l1", "eps_l1": "1,4,12", "samples": 64, "chunk": 64, **SHORT}
    found = audited(model, pixels, labels, classes=10, **settings)
    robust = found.measured("robust_accuracy", "l1")
    assert robust["12"].value <= 0.02
    assert robust["1"].value > 0.3
    assert found.verdict == "RELIABLE"
    assert found.figures["accuracy-l1"].x_label.startswith("L1 radius")
    # An L1 ball lies in the L2 ball of the same radius, and holds that of radius / sqrt(64).
    euclidean = audited(model, pixels, labels, classes=10, norms="l2", eps_l2="1,0.125", samples=64, chunk=64, **SHORT)
    assert robust["1"].value >= euclidean.measured("robust_accuracy", "l2")["1"].value
    assert robust["1"].value <= euclidean.measured("robust_accuracy", "l2")["0.125"].value


def test_searching_coarsely_breaks_as_many(audited, monkeypatch):
    """As on a GPU's tensor cores, here in bfloat16; on a network that was trained to withstand."""
    pixels, labels = (part[masked.TRAINING : masked.TRAINING + 64] for part in masked.digits())
    settings = {**LINF, "eps_linf": "0.1,0.2", "samples": 64, "chunk": 64}
    model = Rounded(masked.adversarial(3))
    exact = audited(model, pixels, labels, classes=10, **settings)
    monkeypatch.setattr(targets, "tensor_cores", in_bfloat16)
    monkeypatch.setattr(targets, "has_tensor_cores", lambda device: True)
    audited(model, pixels, labels, classes=10, **{**settings, "samples": 12}, attacks="pgd", precision="float32")
    assert not model.passes[True]
    before = model.passes[False]
    quick = audited(model, pixels, labels, classes=10, **settings)
    assert model.passes[True] > 2 * (model.passes[False] - before)
    assert quick.verdict == exact.verdict == "RELIABLE"
    for eps, found in exact.measured("robust_accuracy", "linf").items():
        assert quick.measured("robust_accuracy", "linf")[eps].value == pytest.approx(found.value, abs=1.5 / 64)


def test_ties_are_not_right_and_that_is_said(audited, digits):
    pixels, labels, model = digits
    found = audited(Clamped(model), pixels, labels, classes=10, norms="linf", eps_linf="0.1", samples=40, **SHORT)
    right = (Clamped(model)(pixels[:40]) == 1).sum(dim=1) == 1
    tied = int((~right).sum())
    assert tied > 5
    assert f"{tied} of 40 samples in linf" in found.ctx.diagnostics["tied"].text
    assert (
        "tied"
        not in audited(model, pixels, labels, classes=10, norms="linf", eps_linf="0.1", samples=40, **SHORT).codes
    )


class Clamped(nn.Module):
    """Logits of at most 1, as a class that is likely and one that is very likely alike."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixels):
        return self.model(pixels).clamp(-1, 1)


def test_at_radius_zero_nothing_is_attacked_and_that_is_said(audited, digits):
    pixels, labels, model = digits
    found = audited(model, pixels, labels, classes=10, norms="linf", eps_linf="0", samples=40, **SHORT)
    assert found.measured("robust_accuracy", "linf")["0"].value == found.measured("clean_accuracy").value
    assert found.ctx.diagnostics["evaluation"].text.startswith("Nothing was attacked")


def test_carlini_wagner_by_name(audited, digits):
    pixels, labels, model = digits
    settings = {"norms": "linf,l2", "eps_linf": "0.1", "eps_l2": "0.5,3", "samples": 32, "attacks": "cw,pgd"}
    found = audited(model, pixels, labels, classes=10, **settings, **{**SHORT, "cw_steps": 60})
    rows = pq.read_table(io.BytesIO(found.ctx.files["samples-l2.parquet"])).to_pylist()
    assert sum(row["attack"] == "cw" for row in rows) >= 10
    assert found.measured("robust_accuracy", "l2")["3"].value == 0
    rows = pq.read_table(io.BytesIO(found.ctx.files["samples-linf.parquet"])).to_pylist()
    assert {row["attack"] for row in rows} <= {"pgd", "longer", "noise", None}


def test_attacks_of_torchattacks_by_name(audited, digits):
    pytest.importorskip("torchattacks")
    pixels, labels, model = digits
    settings = {"norms": "linf,l2", "eps_linf": "0.1,0.3", "eps_l2": "0.5,3", "samples": 16}
    names = "torchattacks:PGD,torchattacks:PGDL2,torchattacks:DeepFool"
    found = audited(model, pixels, labels, classes=10, **settings, attacks=names, **SHORT)
    by = {}
    for norm in ("linf", "l2"):
        rows = pq.read_table(io.BytesIO(found.ctx.files[f"samples-{norm}.parquet"])).to_pylist()
        by[norm] = {row["attack"] for row in rows} - {None}
        assert found.measured("robust_accuracy", norm)["0.3" if norm == "linf" else "3"].value <= 0.1
    assert "torchattacks:DeepFool" in by["l2"]
    assert "torchattacks:PGD" in by["linf"]
    assert "torchattacks:PGD" not in by["l2"]
    assert "torchattacks:PGDL2" not in by["linf"]
    again = audited(model, pixels, labels, classes=10, **settings, attacks=names, **SHORT)
    assert [fact.model_dump() for fact in found.facts] == [fact.model_dump() for fact in again.facts]


@pytest.mark.parametrize(("norm", "largest"), [("linf", "0.3"), ("l2", "3")])
def test_undefended_net_falls_to_nothing(undefended, norm, largest):
    robust = undefended.measured("robust_accuracy", norm)
    assert undefended.measured("clean_accuracy").value > 0.85
    assert robust[largest].value <= 0.02
    assert robust[largest].claim is Claim.UPPER_BOUND
    assert robust[largest].n == 96
    assert robust[largest].where == {"norm": norm, "eps": largest}
    assert undefended.measured("attack_success", norm)[largest].value >= 0.98
    assert undefended.measured("attack_success", norm)[largest].claim is Claim.LOWER_BOUND
    assert undefended.controls[f"grey-radius-{norm}"].passed
    assert not undefended.codes


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_accuracy_only_falls_with_the_radius(undefended, norm):
    found = undefended.measured("robust_accuracy", norm)
    values = [undefended.measured("clean_accuracy").value, *(fact.value for fact in found.values())]
    assert values == sorted(values, reverse=True)
    curve = undefended.figures[f"accuracy-{norm}"]
    attacked, noise = curve.series
    at = dict(zip(attacked.x, attacked.y, strict=True))
    assert list(noise.x) == pytest.approx(
        [0, *(parse_eps(eps, norm) * (255 if norm == "linf" else 1) for eps in found)]
    )
    assert [at[radius] for radius in noise.x] == pytest.approx(values)
    assert all(at[radius] <= share for radius, share in zip(noise.x, noise.y, strict=True))
    assert list(attacked.y) == sorted(attacked.y, reverse=True)
    assert len(attacked.x) > 40
    half = math.sqrt(math.log(2 / 0.05) / (2 * 96))
    assert attacked.low[0] == pytest.approx(attacked.y[0] - half)


def test_success_and_accuracy_tell_the_same_story(undefended):
    for norm in ("linf", "l2"):
        for eps, robust in undefended.measured("robust_accuracy", norm).items():
            success = undefended.measured("attack_success", norm)[eps]
            assert success.n * (1 - success.value) == pytest.approx(robust.n * robust.value)


def test_every_metric_is_declared_and_has_its_interval(undefended):
    declared = {metric.id for metric in evasion.card.metrics}
    stated = [fact for fact in undefended.facts if isinstance(fact, Measurement)]
    assert {fact.metric for fact in stated} == declared
    assert all(fact.interval.low <= fact.value <= fact.interval.high for fact in stated)
    assert all(any("APGD-CE, 20 steps" in text for text in fact.assumptions) for fact in stated if "eps" in fact.where)


def test_examples_are_pictures_of_what_was_found(undefended):
    for norm in ("linf", "l2"):
        grid = undefended.figures[f"examples-{norm}"]
        assert len(grid.rows) == 3
        for row in grid.rows:
            assert "taken for" in row[1].label
            assert "amplified" in row[2].label
            for tile in row:
                picture = Image.open(io.BytesIO(undefended.ctx.files[tile.path.removeprefix("probes/evasion/")]))
                assert picture.mode == "L"
                assert min(picture.size) >= 64


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_table_has_every_sample_and_agrees_with_the_numbers(undefended, norm):
    rows = pq.read_table(io.BytesIO(undefended.ctx.files[f"samples-{norm}.parquet"])).to_pylist()
    assert len(rows) == 96
    for eps, fact in undefended.measured("robust_accuracy", norm).items():
        known = list(undefended.measured("robust_accuracy", norm))
        later = set(known[known.index(eps) + 1 :]) | {None}
        assert sum(row["clean_correct"] and row["breaking_eps"] in later for row in rows) / 96 == pytest.approx(
            fact.value
        )
    broken = [row for row in rows if row["breaking_eps"]]
    assert all(row["attack"] in finders(EvasionConfig().attacks) and row["predicted"] != row["label"] for row in broken)


def test_same_seed_same_facts(audited, digits, stub_context):
    pixels, labels, model = digits
    settings = {**LINF, "samples": 40}
    first, again = (audited(model, pixels, labels, classes=10, **settings) for _ in range(2))
    assert [fact.model_dump() for fact in first.facts] == [fact.model_dump() for fact in again.facts]
    assert first.ctx.files == again.ctx.files


def test_subject_is_left_as_found(audited, digits):
    pixels, labels, model = digits
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    audited(model, pixels, labels, classes=10, **{**LINF, "samples": 20})
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)


class Unbreakable(nn.Module):
    """Reads its answer from four bits that no change below 0.2 can flip; constant margins, hence no gradient."""

    def forward(self, pixels):
        bits = (pixels.flatten(1)[:, :2] > 0.5).float() + 0 * pixels.flatten(1)[:, :2]
        index = bits[:, 0] + 2 * bits[:, 1]
        return 10 - 5 * (index[:, None] - torch.arange(4.0)).abs()


def test_exactly_robust_model_is_never_reported_broken(audited):
    generator = torch.Generator().manual_seed(0)
    pixels = (torch.rand(64, 1, 4, 4, generator=generator) > 0.5).float()
    labels = (pixels[:, 0, 0, 0] + 2 * pixels[:, 0, 0, 1]).long()
    found = audited(
        Unbreakable(), pixels, labels, classes=4, eps_linf="8/255,0.19", eps_l2="0.25,0.4", samples=64, **SHORT
    )
    for norm in ("linf", "l2"):
        assert all(fact.value == 1 for fact in found.measured("robust_accuracy", norm).values())
        assert all(fact.value == 0 for fact in found.measured("attack_success", norm).values())
        assert f"examples-{norm}" not in found.figures
    assert "zero_gradient" in found.codes  # and the reader is told that nothing was proved


def test_saturated_net_is_noticed_and_attacked_down_to_the_truth(audited, digits):
    # Logits times 1000 decide the same, but softmax is exactly 1 in float32 and its gradient underflows to zero.
    pixels, labels, model = digits
    found = audited(Scaled(model, 1000), pixels, labels, classes=10, **LINF)
    honest = audited(model, pixels, labels, classes=10, **LINF)
    assert "zero_gradient" in found.codes
    assert "linf" in found.ctx.diagnostics["zero_gradient"].text
    assert "zero_gradient" not in honest.codes
    for eps, fact in honest.measured("robust_accuracy", "linf").items():
        assert found.measured("robust_accuracy", "linf")[eps].value == pytest.approx(fact.value, abs=2 / 96)


class Astray(nn.Module):
    """Decides by one pixel alone, while its gradient points the other way."""

    def forward(self, pixels):
        margin = (pixels[:, 0, 0, 0].detach() > 0.5).float() * 8 - 4 - 0.001 * pixels[:, 0, 0, 0]
        return torch.stack([-margin, margin], dim=1)


def test_masked_gradients_fail_the_control(audited):
    pixels, labels = torch.full((64, 1, 6, 6), 0.5), torch.arange(64) % 2
    pixels[:, 0, 0, 0] = labels.float()
    found = audited(Astray(), pixels, labels, classes=2, norms="linf", eps_linf="0.1", attacks="pgd", **SHORT)
    control = found.controls["grey-radius-linf"]
    assert not control.passed
    assert "of 64 stayed correct" in control.observed


class NanUnderAttack(nn.Module):
    """Right about every image, and NaN where its mean rises by more than 0.02."""

    def forward(self, pixels):
        mean = pixels.mean(dim=(1, 2, 3))
        margin = torch.where(mean > 0.52, torch.nan, 1 - mean)
        return torch.stack([margin, -margin], dim=1)


def test_nan_under_attack_is_not_robust_and_not_fooled(audited):
    pixels, labels = torch.full((30, 1, 4, 4), 0.5), torch.zeros(30)
    found = audited(NanUnderAttack(), pixels, labels, classes=2, norms="linf", eps_linf="0.01,0.05", **SHORT)
    robust, success = found.measured("robust_accuracy", "linf"), found.measured("attack_success", "linf")
    assert robust["0.01"].value == 1
    assert robust["0.05"].value == 0
    assert success["0.05"].value == 0
    assert "30 of 30 correct samples in linf" in found.ctx.diagnostics["nan_under_attack"].text


class WrongThenNan(nn.Module):
    """Wrong where the mean is above 0.515, and NaN where it is above 0.54."""

    def forward(self, pixels):
        mean = pixels.mean(dim=(1, 2, 3))
        margin = torch.where(mean > 0.54, torch.nan, 0.515 - mean)
        return torch.stack([margin, -margin], dim=1)


def test_a_nan_at_a_large_radius_does_not_hide_an_example_at_a_smaller_one(audited):
    pixels, labels = torch.full((20, 1, 4, 4), 0.5), torch.zeros(20)
    settings = {"norms": "linf", "eps_linf": "0.02,0.2", "attacks": "apgd-ce", **SHORT}
    found = audited(WrongThenNan(), pixels, labels, classes=2, **settings)
    assert found.measured("attack_success", "linf")["0.02"].value == 1
    assert found.measured("robust_accuracy", "linf")["0.2"].value == 0


class Tight(nn.Module):
    """Holds six images at once."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixels):
        if len(pixels) > 6:
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 10 bytes")
        return self.model(pixels)


def test_little_memory_changes_no_number(audited, digits):
    pixels, labels, model = digits
    settings = {**LINF, "samples": 24, "eps_linf": "0.1"}
    plenty, little = (audited(net, pixels, labels, classes=10, **settings) for net in (model, Tight(model)))
    stated = [[fact.value for fact in found.facts if isinstance(fact, Measurement)] for found in (plenty, little)]
    assert stated[0] == pytest.approx(stated[1], abs=1 / 24)
    assert little.verdict == "RELIABLE"


class Noisy(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixels):
        return self.model(pixels + 0.05 * torch.randn_like(pixels))


def test_a_random_model_gives_the_same_facts_twice_and_is_suspect(audited, digits):
    pixels, labels, model = digits
    settings = {**LINF, "samples": 16, "eps_linf": "0.1", "attacks": "fgsm,fmn,pgd"}
    state = torch.get_rng_state()
    first, again = (audited(Noisy(model), pixels, labels, classes=10, **settings) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert [fact.model_dump() for fact in first.facts] == [fact.model_dump() for fact in again.facts]
    assert first.verdict == "SUSPECT"
    assert not first.controls["deterministic"].passed


class NanGradient(nn.Module):
    """The inner model's decisions; the gradient of one pixel is NaN."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixels):
        first = pixels[:, :, :1, :1]
        lost = torch.where(first < 0, first.sqrt(), first)  # the branch not taken still passes its NaN back
        return self.model(torch.cat([torch.cat([lost, pixels[:, :, :1, 1:]], dim=3), pixels[:, :, 1:]], dim=2))


def test_a_nan_in_the_gradient_loses_one_pixel_and_not_the_search(audited, digits):
    pixels, labels, model = digits
    settings = {**LINF, "samples": 48, "eps_linf": "0.1,0.3"}
    found = audited(NanGradient(model), pixels, labels, classes=10, **settings)
    honest = audited(model, pixels, labels, classes=10, **settings)
    assert "nonfinite_gradient" in found.codes
    assert found.verdict == "BROKEN-EVALUATION"
    for eps, fact in honest.measured("robust_accuracy", "linf").items():
        assert found.measured("robust_accuracy", "linf")[eps].value <= fact.value + 4 / 48


def test_clean_wrong_samples_count_as_not_robust(audited, digits):
    pixels, labels, model = digits
    wrong = labels.clone()
    wrong[:30] = (wrong[:30] + 1) % 10
    found = audited(model, pixels, wrong, classes=10, **{**LINF, "samples": 60, "eps_linf": "0,1e-6"})
    clean = found.measured("clean_accuracy")
    robust = found.measured("robust_accuracy", "linf")
    assert clean.value < 0.55
    assert robust["0"].value == clean.value
    assert robust["0"].n == 60
    assert found.measured("attack_success", "linf")["0"].n == round(clean.value * 60)


def test_nothing_right_is_inconclusive(audited, digits):
    pixels, _, model = digits
    with torch.no_grad():
        wrong = (model(pixels).argmax(dim=1) + 1) % 10
    with pytest.raises(Inconclusive) as error:
        audited(model, pixels, wrong, classes=10, **LINF)
    assert error.value.code == "no_correct_samples"


class Rounding(nn.Module):
    def forward(self, pixels):
        return torch.stack([(pixels.mean(dim=(1, 2, 3)) > 0.5).float(), torch.full((len(pixels),), 0.5)], dim=1)


def test_no_gradient_at_all_is_inconclusive(audited):
    with pytest.raises(Inconclusive) as error:
        audited(Rounding(), torch.ones(8, 1, 4, 4), torch.zeros(8), classes=2, **LINF)
    assert error.value.code == "no_gradients"


def test_budget_cuts_samples_and_says_so(audited, digits, stub_context):
    pixels, labels, model = digits
    ctx = stub_context(most=2 + 3)  # two controls, a chunk in each norm, and another in linf
    settings = {**LINF, **L2, "norms": "linf,l2"}
    found = audited(model, pixels, labels, classes=10, ctx=ctx, **settings)
    assert {fact.n for fact in found.measured("robust_accuracy", "linf").values()} == {80}
    assert {fact.n for fact in found.measured("robust_accuracy", "l2").values()} == {40}
    assert "80 of 96 samples in linf, 40 of 96 samples in l2" in ctx.diagnostics["budget"].text
    with pytest.raises(Inconclusive) as error:
        audited(model, pixels, labels, classes=10, ctx=stub_context(most=3), **settings)
    assert error.value.code == "budget"


def test_units_carry_all_that_decides_their_result(audited, digits):
    pixels, labels, model = digits
    found = audited(model, pixels, labels, classes=10, **{**LINF, "samples": 50})
    names = [unit.name for unit in found.ctx.units]
    assert names == ["control/linf", "linf/0-40", "linf/40-50"]
    assert found.ctx.units[1].params == {
        "norm": "linf",
        "eps": ["2/255", "8/255", "0.1", "0.3"],
        "attacks": list(EvasionConfig().attacks),
        "restarts": 1,
        "cw_steps": 200,
        "pressed": 64,
        "precision": "auto",
        "twin": "",
        **SHORT,
    }


def test_more_restarts_never_raise_accuracy(audited, digits):
    pixels, labels, model = digits
    few, many = (
        audited(
            model,
            pixels,
            labels,
            classes=10,
            **{**LINF, "samples": 40, "steps": 3, "attacks": "apgd-ce", "restarts": restarts},
        )
        for restarts in (1, 3)
    )
    for eps, fact in many.measured("robust_accuracy", "linf").items():
        assert fact.value <= few.measured("robust_accuracy", "linf")[eps].value


class NoiseBeats(nn.Module):
    """Class 0 until any pixel leaves its place by more than 0.04, seen by no gradient."""

    def forward(self, pixels):
        moved = ((pixels - 0.5).abs() > 0.04).flatten(1).any(dim=1)
        margin = torch.where(moved, -1.0, 1.0) + 0 * pixels.sum(dim=(1, 2, 3))
        return torch.stack([margin, -margin], dim=1)


def test_noise_that_beats_the_attack_counts_and_is_said(audited):
    pixels, labels = torch.full((20, 1, 4, 4), 0.5), torch.zeros(20)
    found = audited(
        NoiseBeats(), pixels, labels, classes=2, norms="linf", eps_linf="0.03,0.05", attacks="fgsm", **SHORT
    )
    robust = found.measured("robust_accuracy", "linf")
    assert (robust["0.03"].value, robust["0.05"].value) == (1, 0)
    assert "20 of 20 correct samples in linf" in found.ctx.diagnostics["noise_beats_attack"].text
    assert found.figures["accuracy-linf"].series[1].y == (1, 1, 0)
    assert not found.controls["noise-linf"].passed


@pytest.mark.parametrize("classes", [2, 3, 1000])
def test_any_number_of_classes_and_channels(audited, classes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, classes))
        pixels = torch.rand(40, 3, 8, 8)
    with torch.no_grad():
        labels = model(pixels).argmax(dim=1)
    found = audited(model, pixels, labels, classes=classes, samples=40, eps_l2="2", **SHORT)
    assert found.measured("clean_accuracy").value == 1
    values = [fact.value for fact in found.measured("robust_accuracy", "linf").values()]
    assert values == sorted(values, reverse=True)
    assert np.isfinite(values).all()
