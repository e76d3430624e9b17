"""What a search climbs does not change when logits are shifted or scaled, and points at a wrong answer."""

from typing import get_args

import pytest
import torch

from audit.attacks import losses
from audit.attacks.rows import Jobs


def jobs_of(logits, labels, targets):
    n = len(labels)
    nothing = torch.zeros(n, 1, 1, 1)
    return Jobs(
        torch.arange(n), nothing, labels, targets, torch.zeros(n), torch.zeros(n, dtype=torch.long),
        losses.logit_scale(logits), nothing, torch.zeros(n, dtype=torch.bool),
    )  # fmt: skip


def drawn(n, classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=generator) * 3
    labels = torch.randint(classes, (n,), generator=generator)
    targets = (labels + 1 + torch.randint(classes - 1, (n,), generator=generator)) % classes
    return logits, labels, targets


BLIND_TO_SCALE = [name for name in get_args(losses.Loss) if name != "plain-ce"]


@pytest.mark.parametrize("classes", [2, 3, 4, 10, 1000])
@pytest.mark.parametrize("name", BLIND_TO_SCALE)
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("factor", "shift"), [(1, -50), (1e3, 0), (1e-3, 0), (100, 7)])
def test_shift_and_scale_change_nothing(classes, name, targeted, factor, shift):
    logits, labels, targets = drawn(50, classes)
    targets = targets if targeted else torch.full_like(targets, -1)
    other = (logits.double() * factor + shift).float()
    before = losses.of(name, logits, jobs_of(logits, labels, targets))
    after = losses.of(name, other, jobs_of(other, labels, targets))
    # Storing logits of 3e3 or at -50 in float32 moves them by up to 1e-4 of their spread.
    assert torch.allclose(before, after, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
@pytest.mark.parametrize("name", BLIND_TO_SCALE)
def test_gradient_lowers_the_label_and_is_never_zero(classes, name):
    logits, labels, _ = drawn(50, classes)
    logits = (logits * 1000).requires_grad_(True)
    jobs = jobs_of(logits.detach(), labels, torch.full_like(labels, -1))
    gradient = torch.autograd.grad(losses.of(name, logits, jobs).sum(), logits)[0]
    right = logits.detach().argmax(dim=1) == labels
    assert right.any()
    assert (gradient.gather(1, labels[:, None]) < 0)[right].all()
    assert (gradient.sum(dim=1).abs() < 1e-6).all()  # shift changes nothing


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
@pytest.mark.parametrize("name", BLIND_TO_SCALE)
def test_a_target_is_what_is_climbed_to(classes, name):
    logits, labels, targets = drawn(50, classes)
    logits = logits.requires_grad_(True)
    gradient = torch.autograd.grad(losses.of(name, logits, jobs_of(logits.detach(), labels, targets)).sum(), logits)[0]
    # Where the target leads already, DLR's own denominator falls with it.
    behind = logits.detach().argmax(dim=1) == labels
    assert behind.any()
    assert (gradient.gather(1, targets[:, None]) > 0)[behind].all()


def test_margin_is_zero_where_two_classes_tie():
    logits = torch.tensor([[2.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 2.0, 1.0]])
    assert losses.margin(logits, torch.tensor([0, 0, 0])).tolist() == [0, -1, 1]


def test_equal_or_infinite_logits_have_scale_one():
    logits = torch.tensor([[5.0, 5.0], [torch.inf, 0.0], [torch.nan, 0.0], [0.0, 2.0]])
    assert losses.logit_scale(logits).tolist() == [1, 1, 1, 1]


def test_dlr_is_that_of_the_paper():
    logits = torch.tensor([[5.0, 3.0, 2.0, 1.0, 0.0]])
    untargeted = jobs_of(logits, torch.tensor([0]), torch.tensor([-1]))
    assert losses.of("dlr", logits, untargeted).item() == pytest.approx(-(5 - 3) / (5 - 2))
    targeted = jobs_of(logits, torch.tensor([0]), torch.tensor([3]))
    assert losses.of("dlr", logits, targeted).item() == pytest.approx(-(5 - 1) / (5 - (2 + 1) / 2))


def test_the_plain_cross_entropy_is_the_one_that_a_scale_makes_flat():
    """By which an attack that a saturated softmax fools is shown."""
    logits = torch.tensor([[3.0, 1.0, 0.0, -1.0]], requires_grad=True)
    label = torch.tensor([0])
    jobs = Jobs.untargeted(torch.zeros(1, 1, 1, 1), label, 0.1, torch.zeros(1, dtype=torch.int64), torch.ones(1))
    plain = losses.of("plain-ce", logits, jobs)
    assert torch.equal(plain, torch.nn.functional.cross_entropy(logits, label, reduction="none"))
    flat = losses.of("plain-ce", logits * 1000, jobs)
    assert not torch.autograd.grad(flat.sum(), logits)[0].any()
