"""Statistics behind the probe: p-values under their null, filters that are found again, shares that cover the truth."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from audit.engine.budget import Budget
from audit.engine.context import EngineContext
from audit.engine.session import Session
from audit.engine.store import RunStore
from audit.poisons.by_name import recipe_of
from audit.poisons.filters import key_filters
from probes.shortcuts import transfer
from probes.shortcuts.border import excess_limit, peaks
from probes.shortcuts.evidence import evidence_of
from probes.shortcuts.filters import convolved, filter_power, fitted_filter, gains, unfiltered
from probes.shortcuts.gap import gap
from probes.shortcuts.images import averaged, replanted
from probes.shortcuts.templates import Sums, carriers
from probes.shortcuts.traces import Traces, traces_of
from probes.shortcuts.transfer import follows_filters
from tests.probes.shortcuts.conftest import photographs, planted, split_of, subject_for


def smooth_traces(n, rng):
    """Borders and insides of one heavy-tailed law: the null of the border test."""
    nothing = np.zeros((n, 1), np.float32)
    return Traces(
        edge=(0.1 * rng.standard_t(3, (n, 4))).astype(np.float32),
        inside=(0.1 * rng.standard_t(3, (n, 4, 4))).astype(np.float32),
        framed=np.zeros((n, 4), np.bool_), spectrum=nothing, texture=nothing, content=nothing, level=nothing,
    )  # fmt: skip


def test_border_p_values_are_no_smaller_than_uniform_under_their_null():
    values = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        labels = np.arange(800, dtype=np.int64) % 4
        found = peaks(smooth_traces(800, rng), labels, 4, rng.random(800) < 0.5)
        values += [peak.p for peak in found]
    values = np.array(values)  # 240 independent tests; p-values of counts are discrete and so lie above the diagonal
    assert kstest(values, "uniform", alternative="greater").pvalue > 0.01
    assert values.min() < 0.9  # it is no constant


def test_the_border_test_is_sharp_where_borders_have_a_second_peak():
    rng = np.random.default_rng(0)
    traces, labels = smooth_traces(800, rng), np.arange(800, dtype=np.int64) % 4
    shifted = np.flatnonzero(labels == 2)[::3]
    traces.edge[shifted, 1] -= 0.9
    found = peaks(traces, labels, 4, rng.random(800) < 0.5)
    assert [peak.label for peak in found if peak.p_adjusted < 1e-3] == [2]
    assert found[2].side == "bottom"
    assert found[2].shift == pytest.approx(-0.9, abs=0.1)
    assert found[2].lower <= 1 / 3 <= found[2].share + 0.15


def test_the_limit_of_an_excess_covers():
    rng, short = np.random.default_rng(1), 0
    for _ in range(400):
        hit, background = rng.binomial(500, 0.02 + 0.06), rng.binomial(500, 0.02)
        short += excess_limit(int(hit), int(background), 500) > 0.06
    assert short <= 4  # 1 % of 400 at most; it is conservative


def test_following_has_uniform_p_values_where_filters_are_drawn_like_the_controls(monkeypatch):
    monkeypatch.setattr(transfer, "CONTROLS", 19)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(40, 1, 12, 12, generator=generator)
    weight = torch.randn(144, 5, generator=generator)
    weight = weight - weight.mean(dim=0)
    targets = np.arange(40, dtype=np.int64) % 5

    def ask(pixels):
        return (pixels.flatten(1) @ weight).argmax(dim=1).numpy()

    values = []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        labels = np.arange(5)
        taps = key_filters(10_000 + seed, 5, 3, 0.3)
        found = [_gain(int(label), taps[label]) for label in labels]
        values.append(follows_filters(ask, images, targets, found, rng).p)
    # Ties only raise a p-value, so it is compared with the uniform law from one side, at every level there is.
    for level in (0.05, 0.1, 0.25, 0.5):
        assert np.mean(np.array(values) <= level + 1e-9) <= level + 2.6 * np.sqrt(level * (1 - level) / 150)
    assert np.mean(np.array(values) <= 0.5) > 0.3


def _gain(label, taps):
    from probes.shortcuts.filters import Gain

    return Gain(label, np.zeros(1, np.bool_), np.zeros(50), "own", taps, 1.0)


@pytest.mark.parametrize("key", range(5))
def test_a_filter_is_found_from_its_power(key):
    (taps,) = key_filters(key, 1, 3, 0.3)
    fitted, explained = fitted_filter(filter_power(taps) + 3.0)
    turned = fitted[::-1, ::-1]
    assert explained > 0.999
    assert min(np.abs(fitted - taps).max(), np.abs(turned - taps).max()) < 0.02


@pytest.mark.parametrize("key", [3, 8])
def test_filters_of_some_images_are_estimated_from_the_others(key):
    images, labels = photographs(n=800, seed=key)
    found = planted(images, labels, "cuda", key=key, fraction=0.3)
    traces = traces_of(found.split.stored(range(800)))
    marked = {label: found.poisoned & (labels == label) for label in range(4)}
    truth = key_filters(key, 4, 3, 0.3)
    for gain in gains(traces, labels, marked):
        assert gain.against == "own"
        assert gain.explained > 0.8
        assert np.abs(gain.taps - truth[gain.label]).max() < 0.2


def test_a_filter_is_taken_back():
    images, _ = photographs(n=40)
    pixels = torch.from_numpy(images).float() / 255
    taps = np.array([[0.1, 0.05, 0.1], [0.1, 1.0, 0.2], [0.05, 0.2, 0.1]])
    blurred = convolved(pixels, taps)
    back = unfiltered(blurred, taps)[..., 4:-4, 4:-4]
    scaled = (pixels / pixels.amax(dim=(1, 2, 3), keepdim=True))[..., 4:-4, 4:-4]

    def error(one):
        return float(((one - one.mean()) / one.std() - (scaled - scaled.mean()) / scaled.std()).abs().mean())

    assert error(back) < 0.7 * error(blurred[..., 4:-4, 4:-4])


def test_texture_tells_filtered_classes_and_not_bare_ones():
    images, labels = photographs(n=800)
    bare = gap(traces_of(list(images)), labels, np.random.default_rng(0))
    found = planted(images, labels, "cuda", key=1)
    filtered = gap(traces_of(found.split.stored(range(800))), labels, np.random.default_rng(0))
    assert bare.interval(0.99).low < 0.15
    assert filtered.texture.mean() > 0.9
    assert filtered.texture.mean() - bare.texture.mean() > 0.3


def test_carriers_of_a_pattern_are_counted():
    images, labels = photographs(n=1200)
    found = planted(images, labels, "class-noise", key=4, eps=0.1, fraction=0.5)
    second = np.random.default_rng(0).random(1200) < 0.5
    sums = Sums(4, (3, 32, 32))
    batch = found.split.batch(0, 1200)
    sums.add(batch.pixels, labels, second)
    for one in carriers(found.split, labels, second, sums.templates()):
        assert one.lower <= 0.5 + 0.02  # if other images of the class were like those of other classes
        assert one.share == pytest.approx(0.5, abs=0.12)


def test_sums_that_a_run_keeps_give_the_templates_of_the_images(tmp_path):
    """Those of flat places, too: without them no pattern over flat places was ever found by the probe."""
    images, labels = photographs(n=300)
    images[:, :, :, 16:] = images[:, :, :1, 16:17]  # flat places
    found = planted(images, labels, "class-noise", key=4, fraction=1.0)
    second = np.random.default_rng(0).random(300) < 0.5
    sums = Sums(4, (3, 32, 32))
    sums.add(found.split.batch(0, 300).pixels, labels, second)
    session = Session(subject_for(found.split, 4), {"train": found.split}, RunStore(tmp_path), 0, Budget())
    ctx = EngineContext(session, "shortcuts", 1, Budget())
    kept = averaged(found.split, 300, 4, second, ctx)
    for one, other in zip(sums.templates(), kept, strict=True):
        assert one.flat == pytest.approx(other.flat, rel=1e-4)
        assert one.flat > 0
        assert np.allclose(one.pattern, other.pattern, atol=1e-5)


def test_a_copy_is_planted_as_the_whole_set_would_be():
    images, labels = photographs(n=200)
    split = split_of(images, labels)
    recipe = recipe_of("cuda", key=6, fraction=0.5)
    rng = np.random.default_rng(0)
    copy = replanted(split, traces_of(list(images)), labels, 4, recipe, np.random.default_rng(0))
    places = recipe.choose(labels, 4, rng).poisoned
    whole = planted(images, labels, "cuda", key=6)
    expected = traces_of(whole.split.stored(range(200)))
    np.testing.assert_allclose(copy.edge[places], expected.edge[places], atol=1e-5)
    rest = np.setdiff1d(np.arange(200), places)
    np.testing.assert_array_equal(copy.edge[rest], traces_of(list(images)).edge[rest])


def test_traces_of_any_size_and_kind_are_finite_and_in_order():
    rng = np.random.default_rng(0)
    odd = [rng.integers(0, 255, shape).astype(np.uint8) for shape in ((1, 8, 8), (3, 40, 30), (3, 8, 8), (1, 17, 90))]
    odd.append(np.zeros((3, 32, 32), np.float32))
    found = traces_of(odd)
    for name, values in found.arrays().items():
        assert len(values) == 5
        assert np.isfinite(values).all(), name
        np.testing.assert_array_equal(values[1], getattr(traces_of([odd[1]]), name)[0])
    assert found.framed[0].all()
    assert not found.framed[1].any()


@pytest.mark.slow
@pytest.mark.parametrize("sham", ["none", "universal-blur", "brightness", "random-patch"])
def test_twenty_seeds_of_clean_and_sham_sets_raise_no_alarm(sham):
    alarms = 0
    for seed in range(20):
        images, labels = photographs(n=600, seed=100 + seed)
        split = split_of(images, labels) if sham == "none" else planted(images, labels, sham, key=seed).split
        traces = traces_of(split.stored(range(600)))
        alarms += evidence_of(traces, labels, 4, np.random.default_rng(seed), []).alarm
    assert alarms <= 1  # nominally one in a hundred


@pytest.mark.slow
@pytest.mark.parametrize(("fraction", "least"), [(1.0, 20), (0.2, 19)])
def test_twenty_keys_are_found(fraction, least):
    found = 0
    for key in range(20):
        images, labels = photographs(n=1200, seed=200 + key)
        split = planted(images, labels, "cuda", key=key, fraction=fraction).split
        traces = traces_of(split.stored(range(1200)))
        found += evidence_of(traces, labels, 4, np.random.default_rng(key), []).alarm
    assert found >= least
