"""Training on bounds: what it reaches, beside what a training without reaches, and its parts."""

import itertools
import math

import pytest
import torch
from torch import nn

from audit.engine.prepare import set_exact_numerics
from audit.errors import TrainingError
from audit.lirpa.certify import Certifier
from audit.lirpa.intervals import propagate
from audit.lirpa.lowering import lower
from audit.lirpa.region import Region
from audit.toolkit.modes import evaluating
from audit.training import placing
from audit.training.batch_statistics import recorded
from audit.training.bounded import Bounded, graph_of, program_of
from audit.training.config import CertifiedConfig, TrainingConfig
from audit.training.loop import train
from audit.training.preparing import begin_narrow, penalty
from audit.training.recipes import certified, filled, standard
from audit.training.widening import share_of_radius

EPS = "0.12"
FOUND: list[float] = []
SETTINGS = {"epochs": 12, "batch_size": 32, "eps": EPS}


def proven(model, split, eps=float(EPS)):
    """Share of images certified by interval bounds or CROWN-IBP in float64."""
    batch = split.batch(0, len(split))
    graph = lower(model, tuple(batch.pixels.shape[1:])).bound(torch.float64)
    radii = torch.full((len(batch.labels),), eps, dtype=torch.float64)
    holds = Certifier(graph, "linf", ("ibp", "crown-ibp")).certified(
        batch.pixels.double(), batch.labels, radii, torch.zeros_like(radii)
    )
    return float(holds.double().mean())


@pytest.fixture
def plain(model, split, context):
    """What is proven of a training without bounds, which all tests share."""
    if not FOUND:
        trained = train(standard(model, split, TrainingConfig(epochs=12, batch_size=32)), context())
        FOUND.append(proven(filled(model, trained.weights), split))
    return FOUND[0]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"recipe": "crown-ibp"},
        {"recipe": "sabr", "box": 0.7},
        pytest.param({"recipe": "mtl-ibp", "weight": 0.7}, marks=pytest.mark.slow),
        pytest.param({"l1": 1e-5, "penalty": 0}, marks=pytest.mark.slow),
    ],
)
def test_it_gives_certificates_that_a_training_without_does_not(model, split, context, plain, settings):
    trained = train(certified(model, split, CertifiedConfig(**SETTINGS, **settings)), context())
    found = proven(filled(model, trained.weights), split)
    assert found > plain + 0.25
    log = trained.log
    assert (log.kind, log.config["recipe"]) == ("certified", settings.get("recipe", "ibp"))
    kept = log.epochs[log.kept_epoch - 1]
    assert log.kept_epoch >= 6, "the radius was whole from the sixth on"
    assert kept.certified_accuracy == max(epoch.certified_accuracy for epoch in log.epochs[5:])
    assert kept.certified_accuracy == pytest.approx(found, abs=0.2)


@pytest.mark.parametrize("settings", [{"augmentation": "flip-crop"}, {"channels_last": "on"}])
def test_images_of_any_memory_format_are_trained_on(settings, split, context):
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 4))
    config = CertifiedConfig(epochs=2, batch_size=64, eps="0.01", **settings)
    log = train(certified(network, split, config), context()).log
    assert log.epochs[-1].certified_accuracy is not None
    assert log.settings["memory_format"] == ("channels_last" if "channels_last" in settings else "contiguous")


class Flattening(nn.Module):
    """Flattens by `view`, and standardises the weights of its convolution by views of them."""

    def __init__(self, *, view):
        super().__init__()
        self.conv, self.second, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(16, 4)
        self.view = view

    def forward(self, pixels):
        weight = self.conv.weight.reshape(4, -1)
        weight = (weight - weight.mean(1, keepdim=True)).reshape_as(self.conv.weight)
        found = self.second(nn.functional.conv2d(pixels, weight, self.conv.bias).relu())
        return self.head(found.view(len(pixels), -1) if self.view else found.flatten(1))


@pytest.mark.parametrize("view", [False, True])
@pytest.mark.parametrize("on_bounds", [False, True])
def test_a_network_that_needs_the_usual_memory_format_is_trained_in_it(view, on_bounds, split, context, monkeypatch):
    monkeypatch.setattr(placing, "_wanted", lambda switch, pays: switch == "auto")  # as on a GPU
    settings = {"epochs": 2, "batch_size": 64}
    network = Flattening(view=view)
    task = (
        certified(network, split, CertifiedConfig(eps="0.01", **settings))
        if on_bounds
        else standard(network, split, TrainingConfig(compile="off", **settings))
    )
    log = train(task, context()).log
    assert log.settings["memory_format"] == ("contiguous" if view else "channels_last")


@pytest.mark.parametrize(("precision", "coarse"), [("tf32", True), ("float32", False)])
def test_steps_are_coarse_on_tensor_cores_and_what_is_held_out_is_not(
    precision, coarse, model, split, context, monkeypatch
):
    monkeypatch.setattr(placing, "has_tensor_cores", lambda device: True)
    seen = []
    for name in ("loss", "certified"):
        plain = getattr(Bounded, name)

        def noted(*args, plain=plain, name=name):
            seen.append((name, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
            return plain(*args)

        monkeypatch.setattr(Bounded, name, noted)
    set_exact_numerics()
    config = CertifiedConfig(**SETTINGS | {"epochs": 1}, precision=precision)
    log = train(certified(model, split, config), context()).log
    assert set(seen) == {("loss", coarse, coarse), ("certified", False, False)}
    assert log.settings["precision"] == ("TF32 passes, float32 weights" if coarse else "float32")


def test_interrupted_it_ends_with_the_same_weights(model, split, context, tmp_path):
    task = certified(model, split, CertifiedConfig(epochs=4, batch_size=64, eps=EPS))
    whole = train(task, context())
    with pytest.raises(KeyboardInterrupt):
        train(task, context(stop=13), state_file=tmp_path / "state")
    again = train(certified(model, split, CertifiedConfig(epochs=4, batch_size=64, eps=EPS)), context(),
                  state_file=tmp_path / "state")  # fmt: skip
    assert again.log == whole.log


def test_a_model_and_its_own_weights_are_left_alone(model, split, context):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    own = certified(model, split, CertifiedConfig(**SETTINGS, initial="own"))
    assert own.model is model
    certified(model, split, CertifiedConfig(**SETTINGS))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class Sorted(nn.Module):
    """Sorts, of which no bounds are known."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(36, 4)

    def forward(self, pixels):
        return self.head(pixels.flatten(1).sort(1).values)


class Branching(nn.Module):
    """Decides by the pixels, and so is no fixed graph."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(36, 4)

    def forward(self, pixels):
        return self.head(pixels.flatten(1)) * (1 if pixels.mean() > 0.5 else 2)


@pytest.mark.parametrize("network", [Sorted(), Branching()])
def test_a_network_without_bounds_is_refused_before_the_first_step(network, split):
    with pytest.raises(TrainingError, match="Expected a network whose bounds can be trained, got one without"):
        certified(network, split, CertifiedConfig(**SETTINGS))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"eps": "0"}, "Expected a radius above 0"),
        ({"warm_up": 0.5}, "Expected warm_up below ramp"),
        ({"compile": "on"}, "off"),
        ({"precision": "bfloat16"}, "float32"),
        ({"norm": "l2"}, "norm"),
        ({"box": 0.5}, "Expected box with sabr alone, got it with ibp"),
        ({"recipe": "sabr", "weight": 0.1}, "Expected weight with mtl-ibp alone, got it with sabr"),
        ({"recipe": "crown-ibp", "steps": 3}, "Expected steps with sabr or mtl-ibp alone"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        CertifiedConfig(**settings)


def test_a_network_whose_bounds_are_infinite_is_refused_with_the_operator(split):
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.LeakyReLU(2.0), nn.Linear(8, 4))
    with pytest.raises(TrainingError, match=r"Expected finite bounds to train on, got infinite ones from leaky_relu"):
        certified(network, split, CertifiedConfig(**SETTINGS))


def test_the_radius_widens_without_a_jump_or_a_kink():
    places = [place / 1000 for place in range(1001)]
    shares = [share_of_radius(place, 0.1, 0.6) for place in places]
    steps = [after - before for before, after in itertools.pairwise(shares)]
    assert set(shares[:101]) == {0.0}
    assert set(shares[600:]) == {1.0}
    assert all(step >= 0 for step in steps)
    assert max(steps) < 2.5 / 500  # linear, it would be 1 / 500 everywhere
    bends = [abs(after - before) for before, after in itertools.pairwise(steps[:598])]
    assert max(bends) < max(steps) / 20


def test_statistics_of_the_batch_make_the_graph_answer_as_training_does(model, split):
    images = split.batch(0, 50).pixels
    model[4].p = 0.0
    model.train()
    with recorded(model) as statistics:
        logits = model(images)
    assert set(statistics) == {"1.running_mean", "1.running_var"}
    program = program_of(model, (1, 6, 6))
    assert model.training
    graph = graph_of(program, model, statistics)
    torch.testing.assert_close(graph.run(images), logits, rtol=1e-4, atol=1e-5)
    gradients = [
        torch.autograd.grad(each.square().sum(), model[0].weight, retain_graph=True)
        for each in (logits, graph.run(images))
    ]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-3)
    with evaluating(model):
        torch.testing.assert_close(graph_of(program, model, {}).run(images), model(images), rtol=1e-4, atol=1e-5)


class Deep(nn.Module):
    """Ten layers, two of them after sums of branches."""

    def __init__(self, width=64):
        super().__init__()
        self.first = nn.Linear(64, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(8))
        self.last = nn.Linear(width, 3)

    def forward(self, pixels):
        values = self.first(pixels.flatten(1)).relu()
        for place, layer in enumerate(self.layers):
            found = layer(values)
            values = (found + values).relu() if place in (2, 5) else found.relu()
        return self.last(values)


def test_narrow_weights_keep_the_width_of_intervals_and_usual_ones_do_not():
    torch.manual_seed(0)
    widths = {}
    for name in ("own", "narrow"):
        network = Deep()
        before = network.last.weight.clone()
        graph = lower(network, (1, 8, 8)).of(dict(network.named_parameters()))
        if name == "narrow":
            begin_narrow(network, graph, torch.Generator().manual_seed(0))
        known = propagate(graph, Region.ball(torch.rand(20, 1, 8, 8), "linf", 0.01))
        relus = [op.operands[0] for op in graph.operations if op.kind == "relu"]
        widths[name] = float(
            known.intervals[relus[-1]].radius.detach().mean() / known.intervals[graph.pixels].radius.mean()
        )
        assert torch.equal(network.last.weight, before), "the last layer decides nothing about widths"
    assert 0.3 < widths["narrow"] < 3
    assert widths["own"] > 20


def test_the_penalty_is_nothing_where_intervals_are_narrow_and_relus_balanced():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.diag(torch.tensor([1.0, 1.0, -1.0, -1.0])))

    def found(eps):
        graph = lower(network, (1, 2, 2)).of(dict(network.named_parameters()))
        region = Region.ball(torch.full((3, 1, 2, 2), 0.5), "linf", eps)
        return float(penalty(graph, propagate(graph, region)).detach())

    assert found(0.1) == pytest.approx(0, abs=1e-4)
    with torch.no_grad():
        network[1].weight.mul_(8)  # as wide as one eighth allows, where half is tolerated
    assert found(0.1) == pytest.approx((0.5 - 1 / 8) / 0.5, abs=1e-3)
    with torch.no_grad():
        network[1].weight.copy_(torch.diag(torch.tensor([1.0, 1.0, 1.0, -0.1])))
    # means 3 to 0.1; centres .5, .5, .5, -.05: their mean is .3625, squares .0189 three times, and .170
    means, squares = 0.1 / 3, 3 * (0.5 - 0.3625) ** 2 / (0.3625 + 0.05) ** 2
    expected = (0.5 - means) / 0.5 + max(0.5 - squares, 0) / 0.5
    assert found(0.01) == pytest.approx(expected, rel=1e-2)
    assert math.isfinite(found(0.5))
