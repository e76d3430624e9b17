"""The smoothing probe on planted truth: it certifies what holds, nothing else, and says when it cannot tell."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.special import ndtri
from torch import nn

from audit.api import Tally
from audit.engine.budget import Budget
from audit.engine.plan import missing_need
from audit.testing import run_probe
from probes.certified import certified
from probes.smoothing import SmoothingConfig, certificate, contradiction, noise, smoothing, units
from probes.smoothing.config import cost
from probes.smoothing.outcome import Outcome
from tests.audit.loading.test_onnx_black_box import quantised, saved
from tests.onnx_files import random_images
from tests.probes.smoothing.conftest import Side, at_distances, subject_of
from tests.splits import array_split
from tests.user_models import load

QUICK = {"n": 200, "n0": 30, "checked": 2}


def test_radii_are_those_of_a_classifier_that_smoothing_does_not_change(smooth):
    distances = np.linspace(-0.45, 0.45, 24)
    pixels, labels = at_distances(distances)
    labels[3] = 1 - labels[3]

    result = smooth(Side(), pixels, labels, eps_l2="0,0.1,0.25")

    assert result.status == "measured", result.reason
    radius = np.array([np.nan if found is None else found for found in result.table()["certified_radius"]])
    assert not (radius > np.abs(distances)).any()
    far = (np.abs(distances) > 0.3) & (np.abs(distances) < 0.4)
    assert (radius[far] > 0.5 * np.abs(distances)[far]).all()
    right = np.arange(24) != 3
    for eps, value in result.values("certified_accuracy").items():
        assert value == np.mean(right & (radius >= float(eps)))
    assert result.values("accuracy") == {0.25: np.mean(right & (radius > 0))}
    assert result.values("abstained") == {0.25: np.mean(np.isnan(radius))}
    assert 0 < result.values("abstained")[0.25] < 0.5
    assert {"known-radius-0.25", "fresh-noise-0.25"} == set(result.controls)
    assert all(control.passed for control in result.controls.values())


def test_claims_and_words_say_what_is_certified(smooth):
    result = smooth(Side(), *at_distances([0.3, -0.3, 0.4]), sigmas="0.12,0.25", **QUICK)

    claims = {fact.metric: fact.claim.value for fact in result.found.measurements}
    assert claims == {
        "smoothing.certified_accuracy": "lower_bound",
        "smoothing.accuracy": "lower_bound",
        "smoothing.abstained": "estimate",
    }
    assert "not the model answered but its smoothed classifier" in smoothing.card.question
    assert "another classifier than the model as it is deployed" in smoothing.card.how_to_read
    assert "no certificate of the model as deployed" in smoothing.card.limits[0]
    assert "(not the model as deployed)" in result.figures["certified-accuracy"].caption
    assert all("not of the model as deployed" in fact.assumptions[0] for fact in result.found.measurements)
    assert all("of the run hold together with probability 0.999" in f.assumptions[1] for f in result.found.measurements)
    assert "certificates of the smoothed classifier" in result.said["smoothed-classifier"]
    assert "not the model as deployed" in smoothing.card.metrics[0].meaning
    for series in result.figures["certified-accuracy"].series:
        assert list(series.y) == sorted(series.y, reverse=True)
        assert series.y[-1] == 0 or series.name.startswith("sigma 0.25")


def test_each_certificates_own_alpha_is_said_to_be_that(smooth):
    together = smooth(Side(), *at_distances([0.9] * 8), **QUICK)
    alone = smooth(Side(), *at_distances([0.9] * 8), folder="alone", together=False, **QUICK)

    assert together.table()["certified_radius"][0] == pytest.approx(0.25 * ndtri((0.001 / 8) ** (1 / 200)))
    assert alone.table()["certified_radius"][0] == pytest.approx(0.25 * ndtri(0.001 ** (1 / 200)))
    assert "of 1,000, 1 may be wrong" in alone.found.measurements[0].assumptions[1]


def test_the_cap_of_the_draws_is_told(smooth):
    result = smooth(Side(), *at_distances([0.9, 0.1, -0.9]), eps_l2="0.1,2", **QUICK)

    assert result.said["at-cap-0.25"].startswith("At sigma 0.25 2 of 3 samples kept their class in all 200 draws")
    assert "more draws (smoothing.n) would raise it" in result.said["at-cap-0.25"]
    assert "the zeros at 2 say nothing" in result.said["beyond-cap-0.25"]


def test_radii_that_are_all_beyond_the_cap_are_not_called_vacuous_but_out_of_reach(smooth):
    result = smooth(Side(), *at_distances([0.9, -0.9]), sigmas="0.03", **QUICK)

    assert "vacuous-0.03" not in result.said
    assert "no radius above 0.0" in result.said["beyond-cap-0.03"]
    assert next(note for note in result.found.diagnostics if note.code == "beyond-cap-0.03").severity == "warning"


# ------------------------------------------------------------------------------------ planted failures


def without_bound(successes, n, sigma, alpha):
    share = min(successes / n, 1 - 1e-9)
    return sigma * float(ndtri(share)) if share > 0.5 else math.nan


def by_deviation(successes, n, sigma, alpha):
    share = successes / n
    return sigma * (share - 3 * math.sqrt(share * (1 - share) / n)) if share > 0.5 else math.nan


def both_classes(successes, n, sigma, alpha):
    return 2 * certificate.certified_radius(successes, n, sigma, alpha)


def timid(successes, n, sigma, alpha):
    return 0.3 * certificate.certified_radius(successes, n, sigma, alpha)


@pytest.mark.parametrize("wrong", [without_bound, by_deviation, both_classes, timid])
def test_a_wrong_certificate_fails_the_control_and_voids_the_result(smooth, monkeypatch, wrong):
    for module in ("outcome", "control"):
        monkeypatch.setattr(f"probes.smoothing.{module}.certified_radius", wrong)

    result = smooth(Side(), *at_distances([0.3, -0.3]))

    assert not result.controls["known-radius-0.25"].passed
    assert result.status == "inconclusive"
    assert result.reason.code == "control_failed"
    assert "are void, as checks of them failed (known-radius-0.25" in result.said["smoothed-classifier"]


def test_noise_that_is_smaller_than_said_fails_the_control(smooth, monkeypatch):
    votes = noise.Noisy.votes
    monkeypatch.setattr(noise.Noisy, "votes", lambda self, image, sigma, n, rng: votes(self, image, sigma / 2, n, rng))

    result = smooth(Side(), *at_distances([0.3, -0.3]))

    assert not result.controls["known-radius-0.25"].passed


def test_a_certificate_that_is_wrong_on_the_samples_alone_is_contradicted_by_fresh_noise(smooth, monkeypatch):
    monkeypatch.setattr(
        "probes.smoothing.outcome.certified_radius", lambda *found: 4 * certificate.certified_radius(*found)
    )

    result = smooth(Side(), *at_distances([0.3, -0.3, 0.35, -0.4]))

    assert result.controls["known-radius-0.25"].passed
    assert not result.controls["fresh-noise-0.25"].passed
    assert result.status == "inconclusive"


@pytest.mark.parametrize(
    ("kept", "agrees"),
    [
        ((195, 60, 45, 70), True),
        ((180, 60, 60, 60), False),  # at the image 0.977 of copies are claimed
        ((195, 60, 10, 60), False),  # at the radius a half
        ((195, 60, 30, 60), True),  # a half as well, as chance may leave at level 1e-6
    ],
)
def test_fresh_counts_are_held_against_what_the_certificate_says(kept, agrees):
    none = np.zeros(1, dtype=np.int64)
    outcome = Outcome(0.25, 1e-5, 500, {"labels": none}, np.array([0.5]), 0.6)  # a radius of two sigmas

    control = contradiction.judged(Tally(arrays={"kept": np.array([kept])}), outcome, [0])

    assert control.passed == agrees
    assert control.observed.startswith(f"{int(not agrees)} of 1 samples contradicted")


class Turning(nn.Module):
    """Another classifier from so many images on."""

    def __init__(self, after):
        super().__init__()
        self.after, self.seen = after, 0

    def forward(self, pixels):
        self.seen += len(pixels)
        return Side()(pixels) * (1 if self.seen < self.after else -1)


def test_a_model_that_changes_under_the_audit_is_contradicted_by_fresh_noise(smooth):
    pixels, labels = at_distances([0.4] * 3)

    result = smooth(Turning(3 * (30 + 200 + 9)), pixels, labels, **QUICK)

    assert result.values("accuracy") == {0.25: 1.0}
    assert not result.controls["fresh-noise-0.25"].passed


def test_honest_models_pass_all_controls_at_many_seeds(smooth):
    for seed in range(12):
        result = smooth(Side(), *at_distances([0.1, -0.2, 0.3]), seed=seed, sigmas="0.1,0.5", **QUICK)
        assert result.status == "measured", result.reason


class Recording(Side):
    """Keeps what it is asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, pixels):
        self.asked.append(pixels.clone())
        return super().forward(pixels)


def test_no_draw_is_used_twice_and_noise_is_whole(smooth):
    module = Recording()
    smooth(module, *at_distances([0.3, -0.4], shape=(1, 8, 8)), sigmas="0.3,0.6", n=400, n0=50, checked=0)

    rows = torch.cat(module.asked).flatten(1).numpy()
    noisy = np.unique(rows, axis=0)
    assert len(noisy) == 2 + 2 * 2 * (
        400 + 50 + 1
    )  # the images, and for each and each sigma its copies and one repeated
    background = noisy[:, 1:].astype(float) - np.float32(0.4)
    assert background.min() < -1  # far outside of [0, 1]: nothing is cut
    spread = np.array([row.std() for row in background])
    small, large = spread[(spread > 0.1) & (spread < 0.42)], spread[spread >= 0.42]
    assert np.sqrt((small**2).mean()) == pytest.approx(0.3, rel=0.02)
    assert np.sqrt((large**2).mean()) == pytest.approx(0.6, rel=0.02)


# ------------------------------------------------------------------------------------ what results hang on


class Waves(nn.Module):
    """Three classes whose regions are wound."""

    def forward(self, pixels):
        flat = pixels.flatten(1)
        return torch.stack([(flat * (3 + k)).sin().sum(1) for k in range(3)], 1)


def waves(n=12):
    pixels = np.random.default_rng(0).random((n, 1, 3, 3), dtype=np.float32)
    return pixels, Waves()(torch.from_numpy(pixels)).argmax(1).numpy()


def test_results_hang_neither_on_chunks_nor_on_batches_nor_on_other_samples(smooth, monkeypatch):
    settings = {"sigmas": "0.05,0.2", **QUICK}
    first = smooth(Waves(), *waves(), 3, **settings)
    chunked = smooth(Waves(), *waves(), 3, folder="chunked", chunk=5, **settings)
    fewer = smooth(Waves(), *waves(), 3, folder="fewer", samples=5, **settings)
    monkeypatch.setattr(noise, "rows_at_once", lambda subject: 7)
    batched = smooth(Waves(), *waves(), 3, folder="batched", **settings)

    assert len(set(first.table(0.2)["successes"])) > 4
    assert first.found.measurements == chunked.found.measurements == batched.found.measurements
    assert first.found.controls == chunked.found.controls == batched.found.controls
    for sigma in (0.05, 0.2):
        whole = first.table(sigma)
        assert whole == chunked.table(sigma) == batched.table(sigma)
        for name in ("id", "chosen", "successes", "unanswered"):
            assert fewer.table(sigma)[name] == whole[name][:5]


def test_seeds_and_sigmas_have_noise_of_their_own(smooth):
    counts = [
        tuple(smooth(Waves(), *waves(), 3, seed=seed, sigmas="0.2,0.2001", **QUICK).table(sigma)["successes"])
        for seed in range(2)
        for sigma in (0.2, 0.2001)
    ]
    assert len(set(counts)) == 4


def test_a_second_run_of_the_same_folder_gives_the_same_without_asking_the_model(smooth):
    pixels, labels = at_distances([0.3, -0.2])
    first = smooth(Recording(), pixels, labels, **QUICK)
    module = Recording()
    second = smooth(module, pixels, labels, **QUICK)

    assert second.found == first.found
    assert not module.asked


# ------------------------------------------------------------------------------------ hostile and poor subjects


def test_a_class_is_the_strictly_largest_of_finite_logits():
    rows = [[0, 2, 1], [2, 2, 1], [math.nan, 2, 1], [0, math.inf, 1], [-math.inf, 2, 1], [math.inf] * 3, [0, 0, 0.1]]

    assert noise.classes_of(torch.tensor(rows)).tolist() == [1, -1, -1, -1, -1, -1, 2]


class NaNUnderNoise(Side):
    """NaN wherever the last pixel is high, which half of all noise makes it."""

    def forward(self, pixels):
        logits = super().forward(pixels)
        logits[pixels.flatten(1)[:, -1] > 0.4] = torch.nan
        return logits


def test_nan_is_no_class_and_never_a_success(smooth):
    result = smooth(NaNUnderNoise(), *at_distances([2.0, -2.0]), **QUICK)

    assert result.status == "measured", result.reason
    assert result.values("abstained") == {0.25: 1.0}
    assert all(60 < found < 140 for found in result.table()["successes"])
    assert "got no class (logits that are NaN or infinite, or tied at the top)" in result.said["unanswered-0.25"]


class Constant(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, pixels):
        return torch.full((len(pixels), 4), self.value)


@pytest.mark.parametrize("value", [1.0, math.nan, math.inf])
def test_a_model_that_gives_no_class_certifies_nothing_and_says_so(smooth, value):
    result = smooth(Constant(value), np.full((3, 1, 2, 2), 0.5), np.zeros(3), 4, **QUICK)

    assert result.status == "measured", result.reason
    assert result.values("accuracy") == {0.25: 0.0}
    assert result.values("abstained") == {0.25: 1.0}
    assert result.said["vacuous-0.25"].startswith("Vacuous at sigma 0.25 at every radius from 0.1 on")
    assert "abstains on all 3 samples: it could not be told" in result.said["vacuous-0.25"]
    assert "fresh-noise-0.25" not in result.controls


def test_what_noise_destroys_is_said_to_say_nothing_of_the_model(smooth):
    pixels, labels = waves()

    result = smooth(Waves(), pixels, labels, 3, sigmas="3", **QUICK)

    assert result.values("certified_accuracy") == {"0.1": 0.0, "0.25": 0.0, "0.5": 0.0}
    assert "could not be told" in result.said["vacuous-3"] or "says nothing of the model" in result.said["vacuous-3"]
    assert "(100.0% of the same images without noise)" in result.said["smoothed-classifier"]


class Strict(Side):
    def forward(self, pixels):
        if pixels.min() < 0 or pixels.max() > 1:
            raise ValueError("pixels must lie in [0, 1]")
        return super().forward(pixels)


class Broken(nn.Module):
    def forward(self, pixels):
        raise RuntimeError("no luck today")


def test_a_model_that_refuses_pixels_out_of_range_is_told_apart_from_a_broken_one(smooth):
    pixels, labels = at_distances([0.3, -0.3])

    refused = smooth(Strict(), pixels, labels, **QUICK)
    assert refused.status == "inconclusive"
    assert refused.reason.code == "out_of_range"
    assert "outside of [0, 1]" in refused.reason.text
    assert "(ValueError: pixels must lie in [0, 1]). Wrap it so that it clips its input" in refused.reason.text
    assert not refused.found.measurements

    broken = smooth(Broken(), pixels, labels, folder="broken", **QUICK)
    assert broken.status == "failed"
    assert broken.reason.code == "subject_error"
    assert "no luck today" in broken.reason.text


class Clipping(Side):
    def forward(self, pixels):
        return super().forward(pixels.clamp(0, 1))


def test_a_model_that_clips_is_smoothed_with_its_clipping(smooth):
    pixels, labels = at_distances([0.3, -0.3, 0.45])

    clipped = smooth(Clipping(), pixels, labels, **QUICK)
    plain = smooth(Side(), pixels, labels, folder="plain", **QUICK)

    assert clipped.status == "measured", clipped.reason
    assert clipped.table()["successes"] == plain.table()["successes"]  # the first pixel's side is the same


def test_samples_fewer_than_asked_are_enough(smooth):
    result = smooth(Side(), *at_distances([0.3, -0.3]), samples=500, **QUICK)

    assert {fact.n for fact in result.found.measurements} == {2}
    assert "budget" not in result.said


def test_one_label_alone_is_checked_as_well(smooth):
    result = smooth(Side(), *at_distances([0.4, 0.4]), **QUICK)

    assert result.controls["fresh-noise-0.25"].passed


def test_time_that_ends_cuts_samples(smooth):
    ticks = iter(range(10**6))
    distances = np.linspace(0.2, 0.4, 40)

    budget = Budget(20.5, lambda: next(ticks))
    result = smooth(Side(), *at_distances(distances), samples=40, sigmas="0.1,0.2", budget=budget, **QUICK)

    assert result.status == "measured", result.reason
    assert 1 <= result.found.measurements[0].n < 40
    assert "of 40 samples" in result.said["budget"]
    assert "known-radius-0.1" in result.controls
    assert "The budget ended before fresh noise" in result.said["budget-fresh"]


class OwnNoise(Side):
    """Adds noise of its own, for each image or the same for a whole batch."""

    def __init__(self, shared):
        super().__init__()
        self.shared = shared

    def forward(self, pixels):
        own = torch.randn(1 if self.shared else len(pixels), *pixels.shape[1:])
        return super().forward(pixels + 0.1 * own)


def test_a_random_model_is_told_and_void_where_its_batches_share_what_it_draws(smooth):
    pixels, labels = at_distances([0.3, -0.3, 0.4])

    own = smooth(OwnNoise(shared=False), pixels, labels, **QUICK)
    again = smooth(OwnNoise(shared=False), pixels, labels, folder="again", chunk=2, **QUICK)
    assert own.status == "measured", own.reason
    assert own.controls["independent-draws"].passed
    assert "The model answers at random" in own.said["random"]
    assert own.found.measurements == again.found.measurements
    assert own.table() == again.table()

    shared = smooth(OwnNoise(shared=True), pixels, labels, folder="shared", **QUICK)
    assert not shared.controls["independent-draws"].passed
    assert shared.status == "inconclusive"


def test_a_black_box_that_gives_logits_is_enough():
    subject = subject_of(Side(), (1, 2, 2), access=frozenset({"logits", "labels"}))
    data = {"eval": array_split(*at_distances([0.3]))}

    assert missing_need(smoothing, subject, data) is None
    assert missing_need(certified, subject, data) is not None


def test_an_onnx_black_box_whose_graph_clips_is_smoothed(tmp_path):
    pytest.importorskip("onnxruntime")
    path = saved(tmp_path, *quantised(["n", 3, 8, 8], 3))  # rounds pixels to 8 bits, which cuts them to [0, 1]
    subject = load(f"onnx:{path}").subject
    pixels = random_images()
    labels = subject.logits(torch.from_numpy(pixels)).argmax(1).numpy()
    data = {"eval": array_split(pixels, labels)}

    found = run_probe(smoothing, tmp_path / "run", subject, data)

    assert subject.access == {"logits", "labels"}
    assert found.status.value == "measured", found.reason
    assert {control.name: control.passed for control in found.controls}["known-radius-0.25"]
    assert missing_need(certified, subject, data) is not None


def test_the_cost_is_what_the_model_is_asked(smooth):
    module, settings = Recording(), {"sigmas": "0.1,0.25", **QUICK}
    pixels, labels = at_distances([0.3, -0.3, 0.35, 0.4])
    smooth(module, pixels, labels, **settings)

    asked = sum(len(part) for part in module.asked)
    assert cost(SmoothingConfig(**settings), {"eval": 4}).forwards == asked


def stream(run, purpose):
    return np.random.default_rng([run, *purpose.encode()])


def test_calibration_of_the_whole_path_on_a_known_probability():
    """Over many streams the radius exceeds the distance in no more than alpha of them (false alarm: 1e-6)."""
    config, alpha, runs = SmoothingConfig(n=100, n0=20), 0.1, 600
    image = torch.full((1, 2, 2), 0.4)
    image[0, 0, 0] = 0.5 + 0.25 * 1.5
    noisy, wrong, chosen = noise.Noisy(subject_of(Side(), (1, 2, 2))), 0, 0
    for run in range(runs):
        streams = partial(stream, run)
        found = units.count(noisy, image, 0.25, config, streams, "x")
        wrong += certificate.certified_radius(found.successes, config.n, 0.25, alpha) > 0.25 * 1.5
        chosen += found.chosen == 1
    assert chosen == runs
    assert wrong <= 101  # P(Bin(600, 0.1) > 101) < 1e-6
    assert wrong >= 5


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"eps_l2": "0"}, "Expected a radius above 0 in eps_l2, got none. Give one."),
        ({"sigmas": ()}, "at least 1 item"),
        ({"sigmas": "0"}, "greater than 0"),
        ({"sigmas": "nan"}, "finite number"),
        ({"n": 10}, "greater than or equal to 100"),
        ({"n0": 1}, "greater than or equal to 20"),
        ({"alpha": 0.5}, "less than or equal to 0.1"),
    ],
)
def test_settings_that_do_not_do(settings, said):
    with pytest.raises(ValueError, match=said):
        SmoothingConfig(**settings)
