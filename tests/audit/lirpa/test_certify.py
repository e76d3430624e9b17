import pytest
import torch
from torch import nn

from audit.lirpa import certify
from audit.lirpa.certify import Certifier
from audit.lirpa.region import Region
from tests.audit.lirpa.networks import perceptron
from tests.audit.lirpa.soundness import graph_of


def linear(weight):
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        module[1].weight.copy_(torch.tensor(weight))
    return graph_of(module, (1, 2, 2))


def radius(graph, images, labels, radii, halvings=0, norm="linf", slack=0.0):
    certifier = Certifier(graph, norm, ("ibp", "crown-ibp", "crown"))
    return certifier.radius(images, labels, torch.full((len(images),), slack).double(), radii, halvings)


def test_a_linear_classifier_is_certified_to_its_own_radius_and_no_further():
    graph = linear([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    images = torch.full((3, 1, 2, 2), 0.5, dtype=torch.float64)
    images[:, 0, 0] = torch.tensor([[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]])
    labels = torch.zeros(3, dtype=torch.int64)

    found = radius(graph, images, labels, [0.05, 0.15, 0.25, 0.35])
    halved = radius(graph, images, labels, [0.05, 0.15, 0.25, 0.35], halvings=12)

    assert found.tolist() == [0.05, 0.15, 0.25]
    assert bool((halved < torch.tensor([0.1, 0.2, 0.3])).all())
    torch.testing.assert_close(halved, torch.tensor([0.1, 0.2, 0.3]).double(), rtol=0, atol=1e-4)


def test_pixels_end_at_black_and_white():
    graph = linear([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    images = torch.tensor([[[[0.9, 0.5], [0.5, 0.8]]]], dtype=torch.float64)

    assert radius(graph, images, torch.tensor([0]), [0.049, 0.1]).tolist() == [0.049]
    graph = linear([[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.5]])  # right as long as the last pixel is not black
    assert radius(graph, images, torch.tensor([0]), [0.1, 0.79, 0.9]).tolist() == [0.79]


def test_a_radius_shrinks_until_something_is_certified():
    graph = graph_of(perceptron(), (2, 4, 4))
    images = torch.rand(6, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = graph.run(images).argmax(1)

    found = radius(graph, images, labels, [0.9], halvings=8)

    assert bool((found > 0).all())
    assert bool((found < 0.9).all())
    certifier = Certifier(graph, "linf", ("crown",))
    assert bool(certifier.certified(images, labels, found, torch.zeros(6)).all()), "each was certified as it is"


def test_wrong_labels_and_slack_leave_nothing():
    graph = graph_of(perceptron(), (2, 4, 4))
    images = torch.rand(6, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    right = graph.run(images).argmax(1)

    assert radius(graph, images, (right + 1) % 3, [0.001], halvings=3).tolist() == [0.0] * 6
    assert radius(graph, images, right, [0.001], halvings=3, slack=1e3).tolist() == [0.0] * 6


@pytest.mark.parametrize(("method", "radius"), [("ibp", 0.002), ("crown-ibp", 0.01), ("crown", 0.01)])
def test_what_is_certified_is_what_has_no_margin_below_the_slack(method, radius):
    graph = graph_of(perceptron(classes=7), (2, 4, 4))
    images = torch.rand(60, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = graph.run(images).argmax(1)
    certifier, eps = Certifier(graph, "linf", (method,)), torch.full((60,), radius).double()
    slack = torch.linspace(0, 0.3, 60).double()

    found = certifier.certified(images, labels, eps, slack)

    margins = certifier.margins(Region.ball(images, "linf", eps), labels, method)
    nearest = graph.run(images).topk(2).indices[:, 1]
    assert torch.equal(found, margins.amin(1) > slack)
    assert 10 < int(found.sum()) < 50
    least = margins.argmin(1) + (margins.argmin(1) >= labels)
    assert bool((least != nearest).any()), "where the first class alone would not have done"


def test_where_the_nearest_class_cannot_be_ruled_out_no_other_one_is_asked(monkeypatch):
    graph = graph_of(perceptron(classes=50), (2, 4, 4))
    images = torch.rand(6, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels, asked = graph.run(images).argmax(1), []

    def counted(*args, **settings):
        found = bounds_from(*args, **settings)
        asked.append(found.numel())
        return found

    bounds_from = certify.bounds_from
    monkeypatch.setattr(certify, "bounds_from", counted)
    certifier = Certifier(graph, "linf", ("crown-ibp",))
    assert not certifier.certified(images, labels, torch.ones(6).double(), torch.zeros(6)).any()
    assert asked == [6]
