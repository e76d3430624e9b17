import numpy as np
import pytest
import torch

from audit.toolkit.detection import exact_p
from probes.backdoor_data.content import Agreement, Content
from probes.backdoor_data.examine import Tile, adjusted, controls_for, tile_tested
from probes.backdoor_data.findings import Finding
from probes.backdoor_data.network import Network, suspect
from probes.backdoor_data.samples import Samples
from probes.backdoor_data.taught import Taught
from probes.backdoor_data.tiles import Group
from probes.backdoor_data.transfer import Transfer, added, compared, followed, pasted, residuals
from tests.probes.backdoor_data.conftest import Prototypes, subject_of


class Direction:
    """A network of two classes: class 1 where the image's inner product with a direction is above a threshold."""

    def __init__(self, direction, threshold):
        self.network = Network("own", self.ask)
        self.direction, self.threshold = direction, threshold

    def ask(self, pixels):
        score = (pixels - 0.5).flatten(1) @ self.direction - self.threshold
        logits = torch.stack([-score, score], dim=1)
        return logits, logits


def noise_case(seed, n=160, side=6):
    """Images without any trigger, and a network that has nothing to do with them."""
    rng = np.random.default_rng(seed)
    pixels = 0.5 + 0.12 * rng.standard_normal((n, 1, side, side))
    samples = Samples(np.rint(255 * pixels.clip(0, 1)).astype(np.uint8), np.arange(n) % 2, 2)
    network = Direction(torch.from_numpy(rng.standard_normal(side * side).astype(np.float32)), 0.0).network
    return samples, network, rng


def test_p_is_uniform_where_the_group_is_a_random_part_of_its_class():
    """Of 300 data sets, the shares of p-values up to four levels are within 4 standard errors of the levels."""
    p = []
    for seed in range(300):
        samples, network, rng = noise_case(seed)
        group = rng.permutation(np.flatnonzero(samples.labels == 1))[:20]
        cells = Content.of(samples.images, samples.labels, 2).without(None)
        made = residuals(samples, cells, rng.standard_normal((160, 4)), group, 1, 20, 19, rng)
        targets = samples.pixels(np.flatnonzero(samples.labels == 0)[:30])
        scores = [followed(network, targets, 1, added(change))[1] for change in (made.group, *made.controls)]
        p.append(exact_p(scores[0], scores[1:]))
    for level in (0.05, 0.1, 0.25, 0.5):
        error = np.sqrt(level * (1 - level) / len(p))
        assert abs(np.mean(np.array(p) <= level + 1e-9) - level) < 4 * error


def test_p_of_a_tile_is_uniform_where_it_is_what_a_random_image_has_there():
    p = []
    for seed in range(300):
        samples, network, rng = noise_case(seed)
        rows = np.flatnonzero(samples.labels == 1)
        carrier = rng.permutation(rows)[:1]
        group = Group(1, 2, 3, 1, carrier, 1.0, 0.5)
        targets = samples.pixels(np.flatnonzero(samples.labels == 0)[:30])
        tile = Tile(group, Agreement(0.5, 0.5, 0.5, 0.5, 0.5))
        score = {}

        def always(network, pixels, label, change, controls, rivals, score=score):
            found = [followed(network, pixels, label, each)[1] for each in (change, *controls)]
            score["p"] = exact_p(found[0], found[1:])
            return Transfer(0, 0, float("nan"), None)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("probes.backdoor_data.examine.compared", always)
            tile_tested(network, samples, tile, targets, 19, rng)
        p.append(score["p"])
    for level in (0.05, 0.1, 0.25, 0.5):
        error = np.sqrt(level * (1 - level) / len(p))
        assert abs(np.mean(np.array(p) <= level + 1e-9) - level) < 4 * error


def test_a_change_that_leads_to_the_class_beats_all_controls():
    generator = torch.Generator().manual_seed(0)
    trigger = torch.rand(1, 6, 6, generator=generator) - 0.5
    network = Direction(trigger.flatten() / trigger.norm(), 1.0).network
    targets = 0.5 + 0.05 * torch.randn(80, 1, 6, 6, generator=generator)
    controls = [added(0.1 * torch.randn(1, 6, 6, generator=generator)) for _ in range(99)]
    found = compared(network, targets, 1, added(trigger), controls, controls[:5])
    assert (found.hits, found.n, found.p, found.rival) == (80, 80, 0.01, 0.0)
    assert found.strong
    assert found.unrivalled
    weak = compared(network, targets, 1, added(0.1 * trigger), controls, controls[:5])
    assert (weak.hits, weak.p) == (0, None)
    assert not weak.strong
    rivalled = compared(network, targets, 1, added(trigger), controls, [added(trigger)])
    assert rivalled.p == 0.01
    assert not rivalled.unrivalled


def test_images_that_have_the_class_already_are_not_asked():
    network = Direction(torch.ones(36), 0.0).network
    targets = torch.cat([torch.full((5, 1, 6, 6), 0.9), torch.full((7, 1, 6, 6), 0.1)])
    assert compared(network, targets, 1, added(torch.full((1, 6, 6), 0.8)), [], []).n == 7
    assert compared(network, targets[:5], 1, added(torch.zeros(1, 6, 6)), [], []).rate == 0


def test_controls_that_do_the_same_leave_nothing_of_significance():
    network = Direction(torch.ones(36), 0.0).network
    targets = torch.full((40, 1, 6, 6), 0.3)
    same = added(torch.full((1, 6, 6), 0.4))
    assert compared(network, targets, 1, same, [same] * 99, []).p == 1.0


def test_a_tile_is_pasted_where_it_was():
    made = pasted(torch.ones(1, 2, 2), 3, 4)(torch.zeros(2, 1, 6, 6))
    assert made.sum() == 8
    assert made[:, 0, 3:5, 4:6].min() == 1


def finding(
    p=None, *, hits=100, gain=0.5, contradiction=0.0, scatter=1.0, taught=None, residual=None, place=None, rival=0.1
):
    agreement = Agreement(0.5, 0.5 - 0.4 * contradiction, 0.5, 0.1, min(contradiction, scatter))
    residual = torch.zeros(1, 8, 8) if residual is None else residual
    transfer = Transfer(hits, 100, rival, p)
    return Finding("own", 1, np.arange(30), 100, place, gain, agreement, residual, transfer, p, taught)


def test_holm_goes_over_all_groups_and_networks():
    found = adjusted([finding(0.001), finding(0.02), finding(None)], 2)
    assert [each.p for each in found] == [pytest.approx(0.006), pytest.approx(0.08), None]
    assert adjusted([], 1) == []
    assert 2 * 3 / (controls_for(2 * 3, 99) + 1) == pytest.approx(0.01)


def test_the_verdict_of_a_group():
    assert finding(0.01).found == "DETECTED"
    assert finding(0.02).found == "NOT DETECTED"
    assert finding(0.01, hits=55).found == "SUSPICIOUS"  # at least half is not certain
    assert finding(0.01, hits=35).found == "NOT DETECTED"  # as natural clusters may do
    assert finding(0.01, hits=55, rival=0.4).found == "NOT DETECTED"
    assert finding(0.01, hits=80, rival=0.7).found == "NOT DETECTED"
    assert finding(None, hits=55).found == "NOT DETECTED"
    assert finding(None, hits=0, contradiction=1.0, gain=0.5).found == "NOT DETECTED"
    assert finding(None, hits=0, contradiction=1.0, gain=1.0).found == "SUSPICIOUS"
    assert finding(None, hits=0, contradiction=1.0, place=(0, 0, 2)).found == "SUSPICIOUS"
    assert finding(None, hits=0, taught=Taught(29, 2, 30, 7)).found == "SUSPICIOUS"
    assert finding(None, hits=0, taught=Taught(29, 2, 30, 25)).found == "NOT DETECTED"  # like one class
    assert finding(None, hits=0, taught=Taught(20, 12, 30, 4)).found == "NOT DETECTED"
    assert finding(None, hits=0, taught=Taught(5, 0, 5, 1)).found == "NOT DETECTED"


def test_images_that_teach_a_label_foreign_to_each_of_them_are_detected():
    strong = Taught(29, 2, 30, 7)
    found = finding(None, hits=0, gain=np.nan, contradiction=1.0, scatter=0.8, taught=strong)
    assert found.found == "DETECTED"
    assert found.kind.startswith("a trigger, which no added pattern explains well; a warp would do so")
    faint = finding(
        0.01, hits=51, rival=0.34, gain=np.nan, contradiction=1.0, taught=strong, residual=torch.ones(1, 9, 9)
    )
    assert faint.found == "DETECTED"
    assert faint.kind.startswith("an additive pattern over the whole image")
    style = finding(None, hits=0, gain=np.nan, contradiction=1.0, scatter=0.4, taught=strong)
    assert style.found == "SUSPICIOUS"
    assert finding(None, hits=0, contradiction=1.0, taught=Taught(6, 4, 30, 7)).found == "NOT DETECTED"


def test_where_several_classes_cannot_be_told_it_is_suspicious():
    foreign = {"hits": 0, "gain": np.nan, "contradiction": 1.0}
    assert finding(None, **foreign, taught=Taught(29, 2, 30, 28)).found == "SUSPICIOUS"  # of two classes, to the other
    assert finding(None, **foreign, taught=Taught(14, 1, 30, 7)).found == "SUSPICIOUS"  # taught, but rarely
    assert finding(None, **foreign, scatter=0.4, taught=Taught(29, 2, 30, 28)).found == "NOT DETECTED"


def test_what_refutes():
    assert Taught(8, 4, 30, 7).refutes(foreign=True)  # mistakes: they teach nothing
    assert not Taught(28, 24, 30, 3).refutes(foreign=True)  # what was left of the group teaches
    assert Taught(28, 24, 30, 3).refutes(foreign=False)  # a natural part, known without the others


def test_content_that_hardly_tells_classes_apart_makes_nothing_foreign():
    assert Agreement(0.5, 0.1, 0.5, 0.1, 1.0).foreign
    assert not Agreement(0.5, 0.1, 0.18, 0.1, 1.0).foreign
    assert Agreement(0.5, 0.1, 0.18, 0.1, -2.0).contradicts  # that a tile is on foreign content shows all the same


def test_kinds_are_named():
    corner, wave = torch.zeros(1, 9, 9), torch.ones(1, 9, 9)
    corner[:, 7:, 7:] = 1
    assert finding(0.01, residual=corner).kind.startswith("a change at the lower right")
    assert finding(0.01, residual=wave).kind.startswith("an additive pattern over the whole image")
    assert "warp" in finding(None, hits=0, contradiction=1.0).kind
    assert finding(place=(0, 0, 3)).kind.startswith("a static patch at the upper left")
    assert "other classes" in finding(contradiction=1.0).kind
    assert "may well be" in finding(contradiction=0.0).kind


def test_features_are_what_the_last_layer_is_given_and_the_subject_stays_as_it_was():
    module = Prototypes(torch.rand(3, 1, 6, 6))
    module.train()
    subject = subject_of(module, (1, 6, 6), 3)
    pixels = torch.rand(5, 1, 6, 6)
    with suspect(subject, 0) as network:
        logits, features = network.ask(pixels)
    assert torch.equal(logits, module(pixels))
    assert features.shape == (5, 4)
    assert not any(len(part._forward_hooks) for part in module.modules())


def test_without_a_linear_layer_logits_are_the_features():
    class Plain(torch.nn.Module):
        def forward(self, pixels):
            return pixels.flatten(1)[:, :3]

    with suspect(subject_of(Plain(), (1, 6, 6), 3), 0) as network:
        logits, features = network.ask(torch.rand(4, 1, 6, 6))
    assert torch.equal(logits, features)


def test_logits_that_are_not_finite_are_no_class():
    class Broken(torch.nn.Module):
        def forward(self, pixels):
            return torch.full((len(pixels), 3), torch.nan)

    with suspect(subject_of(Broken(), (1, 6, 6), 3), 0) as network:
        assert network.classes_of(torch.rand(4, 1, 6, 6)).tolist() == [-1] * 4
