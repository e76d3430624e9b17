"""The pool keeps batches full, lets broken samples go, and gives every job what it would have got alone."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from audit.api import Inconclusive
from audit.attacks.apgd import APGD
from audit.attacks.fmn import FMN
from audit.attacks.pgd import PGD
from audit.attacks.pool import Pool
from audit.attacks.rows import Jobs
from audit.attacks.target import opened
from audit.errors import SubjectError
from tests.probes.evasion.conftest import subject_of


@pytest.mark.parametrize("attack", [APGD("linf", "dlr", 31), FMN("l2", 30), PGD.of("linf", "margin", 10)])
def test_a_job_ends_the_same_whatever_it_shares_a_batch_with(linear, jobs_for, attack):
    model, subject, pixels, labels = linear(n=23)
    jobs = jobs_for(subject, pixels, labels, model.nearest(pixels, labels, attack.norm) * 1.02)
    with opened(subject) as target:
        together = Pool(target, attack, jobs, batch=64).run()
        by_fives = Pool(target, attack, jobs, batch=5).run()
        order = torch.randperm(23, generator=torch.Generator().manual_seed(2))
        shuffled = Pool(target, attack, jobs.take(order), batch=7).run()
    assert torch.allclose(together.images, by_fives.images, atol=1e-4)
    assert torch.allclose(together.images[order], shuffled.images, atol=1e-4)
    assert torch.equal(together.fooled[order], shuffled.fooled)


class Recording(nn.Module):
    """Class 1 for bright images, and the sizes of all batches."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, pixels):
        self.sizes.append(len(pixels))
        mean = pixels.mean(dim=(1, 2, 3))
        return torch.stack([0.6 - mean, mean - 0.6], dim=1)


def test_batches_are_full_until_nothing_waits(jobs_for):
    model = Recording()
    subject = subject_of(model, (1, 4, 4), 2)
    pixels = torch.full((50, 1, 4, 4), 0.3)
    pixels[::2] = 0.59  # every other one breaks with the first step
    jobs = jobs_for(subject, pixels, torch.zeros(50, dtype=torch.long), 0.05)
    model.sizes.clear()
    with opened(subject) as target:
        found = Pool(target, PGD.of("linf", "margin", 9), jobs, batch=10).run()
    assert found.fooled.tolist() == [True, False] * 25
    last = model.sizes.index(next(size for size in model.sizes if size < 10))
    assert all(size == 10 for size in model.sizes[:last])
    assert len(model.sizes) - last <= 10, "short batches only once nothing waits"


def test_a_broken_sample_takes_its_other_jobs_with_it(linear, jobs_for):
    model, subject, pixels, labels = linear(n=10)
    one = jobs_for(subject, pixels, labels, model.nearest(pixels, labels, "linf") * 2)
    with opened(subject) as target:
        Pool(target, APGD("linf", "margin", 50), one, batch=10).run()
        once = target.forwards
        found = Pool(target, APGD("linf", "margin", 50), Jobs.join([one] * 5), batch=10).run()
        assert target.forwards - once <= once + 10
    ran = found.loss.view(5, 10) > -torch.inf
    assert ran[0].all()
    assert not ran[1:].any()
    assert torch.equal(found.images.view(5, 10, *pixels.shape[1:])[4], pixels)


def test_what_breaks_a_sample_first_does_not_hang_on_the_batch(linear, jobs_for):
    """Of several jobs of a sample the first in order to succeed is the same one, with the same image, in any batch."""
    model, subject, pixels, labels = linear(n=9, classes=10)
    eps = model.nearest(pixels, labels, "linf") * 1.3  # some targets are within reach, some are not
    jobs = Jobs.join([jobs_for(subject, pixels, labels, eps, (labels + place) % 10) for place in range(1, 10)])
    winners = []
    with opened(subject) as target:
        for batch in (4, 9, 20, 100):
            found = Pool(target, APGD("linf", "dlr", 41), jobs, batch=batch).run()
            fooled = found.fooled.view(9, 9)
            first = fooled.int().argmax(dim=0)
            images = found.images.view(9, 9, *pixels.shape[1:])[first, torch.arange(9)]
            winners.append((fooled.any(dim=0), first, images))
    assert winners[0][0].all()
    assert len(set(winners[0][1].tolist())) > 2
    for any_fooled, first, images in winners[1:]:
        assert torch.equal(any_fooled, winners[0][0])
        assert torch.equal(first, winners[0][1])
        assert torch.allclose(images, winners[0][2], atol=1e-4)


class Memory(nn.Module):
    """Holds so many rows at once; torch's own words on a CPU."""

    def __init__(self, inner, most):
        super().__init__()
        self.inner, self.most, self.tried = inner, most, []

    def forward(self, pixels):
        self.tried.append(len(pixels))
        if len(pixels) > self.most:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: not enough memory")
        return self.inner(pixels)


def test_what_does_not_fit_is_halved(linear, jobs_for):
    model, plain, pixels, labels = linear(n=40)
    jobs = jobs_for(plain, pixels, labels, model.nearest(pixels, labels, "linf") * 1.02)
    tight = Memory(model, 6)
    with opened(plain) as target:
        expected = Pool(target, APGD("linf", "dlr", 21), jobs, batch=40).run()
    with opened(subject_of(tight, (2, 4, 4), 4)) as target:
        found = Pool(target, APGD("linf", "dlr", 21), jobs, batch=40).run()
    assert torch.equal(found.fooled, expected.fooled)
    assert sum(size > 6 for size in tight.tried) == 3, "40, 20 and 10 are tried once each"
    with pytest.raises(Inconclusive) as error, opened(subject_of(Memory(model, 0), (2, 4, 4), 4)) as target:
        Pool(target, APGD("linf", "dlr", 21), jobs, batch=40).run()
    assert error.value.code == "memory"


def test_other_errors_are_not_taken_for_memory(linear, jobs_for):
    _, subject, pixels, labels = linear(n=4)

    class Wrong(nn.Module):
        def forward(self, pixels):
            raise RuntimeError("shapes do not match")

    jobs = jobs_for(subject, pixels, labels, 0.1)
    with pytest.raises(SubjectError, match="shapes do not match"), opened(subject_of(Wrong(), (2, 4, 4), 4)) as target:
        Pool(target, APGD("linf", "dlr", 5), jobs, batch=4).run()


def test_a_model_without_gradients_is_said_to_have_none(linear, jobs_for):
    model, plain, pixels, labels = linear(n=4)

    class Masked(nn.Module):
        def forward(self, pixels):
            return model(pixels).detach()

    jobs = jobs_for(plain, pixels, labels, 0.1)
    with pytest.raises(Inconclusive) as error, opened(subject_of(Masked(), (2, 4, 4), 4)) as target:
        Pool(target, APGD("linf", "dlr", 5), jobs, batch=4).run()
    assert error.value.code == "no_gradients"


def test_the_subject_is_left_as_found_even_by_a_model_that_changes(linear, jobs_for):
    model, plain, pixels, labels = linear(n=8)

    class Changing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.norm = model, nn.BatchNorm2d(2)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, pixels):
            self.calls += 1
            return self.inner(self.norm(pixels)) + 0 * torch.rand(())

    changing = Changing().train()
    changing.norm.weight.requires_grad_(True)
    subject = replace(subject_of(Changing(), (2, 4, 4), 4), model=changing)
    before = {name: value.clone() for name, value in changing.state_dict().items()}
    state = torch.get_rng_state()
    with opened(subject, seed=3) as target:
        Pool(target, APGD("linf", "ce", 5), jobs_for(plain, pixels, labels, 0.1), batch=4).run()
    assert changing.training
    assert changing.norm.training
    assert changing.norm.weight.requires_grad
    assert all(parameter.grad is None for parameter in changing.parameters())
    assert all(torch.equal(value, before[name]) for name, value in changing.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_mean_of_several_looks_sees_through_noise(jobs_for):
    class Noisy(nn.Module):
        def forward(self, pixels):
            mean = pixels.mean(dim=(1, 2, 3)) + 0.5 * torch.randn(len(pixels))
            return torch.stack([0.6 - mean, mean - 0.6], dim=1)

    subject = subject_of(Noisy(), (1, 4, 4), 2)
    pixels = torch.full((20, 1, 4, 4), 0.5)
    jobs = jobs_for(subject, pixels, torch.zeros(20, dtype=torch.long), 0.05)
    with opened(subject, draws=400) as target:
        found = Pool(target, PGD.of("linf", "margin", 5), jobs, batch=20).run()
    # The truth: no image of the ball has a mean above 0.55, and the noise of 400 draws is 0.025 a look.
    assert found.fooled.float().mean() < 0.5
    with opened(subject) as target:
        assert Pool(target, PGD.of("linf", "margin", 5), jobs, batch=20).run().fooled.float().mean() > 0.8
