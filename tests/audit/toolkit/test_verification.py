"""Cheating attacks are planted here; none of their candidates may count."""

import pytest
import torch
from torch import nn

from audit.api import Subject
from audit.errors import SubjectError
from audit.toolkit.verification import decide, survives_8bit, verify

EPS = 0.1


class Brightness(nn.Module):
    """Class 1 when the mean is above one half; NaN when the first pixel is above 0.9. Refuses training mode."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)

    def forward(self, pixels):
        assert not self.norm.training
        margin = (pixels.mean(dim=(1, 2, 3)) - 0.5) * 10
        margin = torch.where(pixels[:, 0, 0, 0] > 0.9, torch.nan, margin)
        return torch.stack([-margin, margin], dim=1)


def subject_of(model, shape=(1, 4, 4), classes=2):
    model = model.eval().requires_grad_(False)
    return Subject(model, "planted", classes, (), shape, torch.device("cpu"), "0" * 64)


@pytest.fixture
def subject():
    return subject_of(Brightness())


CLEAN = torch.full((1, 1, 4, 4), 0.45)
LABEL = torch.tensor([0])
HONEST = torch.full((1, 1, 4, 4), 0.53)


def moved(**places):
    """The honest candidate with its first pixel set."""
    candidate = HONEST.clone()
    candidate[0, 0, 0, 0] = places["first"]
    return candidate


def test_an_honest_candidate_counts(subject):
    found = verify(subject, CLEAN, LABEL, HONEST, "linf", EPS)
    assert found.success.all()
    assert survives_8bit(subject, CLEAN, LABEL, HONEST, "linf", EPS).all()
    assert found.rejected == 0
    assert found.distance.item() == pytest.approx(0.08)
    assert found.predicted.item() == 1
    assert found.confidence.item() == pytest.approx(torch.sigmoid(torch.tensor(0.6)).item(), abs=1e-4)


@pytest.mark.parametrize(
    ("name", "candidate", "norm", "why"),
    [
        ("outside the ball", torch.full((1, 1, 4, 4), 0.6), "linf", "in_ball"),
        ("just outside the ball", torch.full((1, 1, 4, 4), 0.45 + EPS * 1.001), "linf", "in_ball"),
        ("outside the l2 ball", HONEST, "l2", "in_ball"),
        ("above the box", moved(first=1.00001), "linf", "in_box"),
        ("below the box", moved(first=-1e-7), "linf", "in_box"),
        ("NaN pixel", moved(first=float("nan")), "linf", "finite"),
        ("infinite pixel", moved(first=float("inf")), "linf", "finite"),
        ("claims success without it", CLEAN + 0.01, "linf", "misclassified"),
    ],
)
def test_a_cheater_never_counts(subject, name, candidate, norm, why):
    found = verify(subject, CLEAN, LABEL, candidate, norm, EPS)
    assert not getattr(found, why).any(), name
    assert not found.success.any()
    assert not found.nan_inside.any()
    assert found.rejected == (why != "misclassified")


@pytest.mark.parametrize("pixel", [-1e-7, 1.0000002])
def test_box_alone_decides_at_a_large_radius(subject, pixel):
    candidate = torch.full((1, 1, 4, 4), 0.6)
    assert verify(subject, CLEAN, LABEL, candidate, "linf", 0.7).success.all()
    candidate[0, 0, 3, 3] = pixel
    found = verify(subject, CLEAN, LABEL, candidate, "linf", 0.7)
    assert found.in_ball.all()
    assert found.misclassified.all()
    assert not found.success.any()
    assert found.rejected == 1


def test_nan_logits_are_neither_success_nor_robust(subject):
    found = verify(subject, CLEAN, LABEL, moved(first=0.95), "linf", 0.6)
    assert found.nan_inside.all()
    assert not found.success.any()
    assert found.predicted.item() == -1
    outside = verify(subject, CLEAN, LABEL, moved(first=0.95), "linf", EPS)
    assert not outside.nan_inside.any()


def test_the_edge_of_the_ball_counts(subject):
    pixels = torch.full((1, 1, 4, 4), 114 / 255)
    for eps in (16 / 255, 32 / 255):
        assert verify(subject, pixels, LABEL, pixels + eps, "linf", eps).in_ball.all()


def test_rounding_to_8_bits_can_undo_an_example(subject):
    pixels = torch.full((1, 1, 4, 4), 127 / 255)
    firm = torch.full((1, 1, 4, 4), 127.6 / 255)  # rounds to 128 everywhere: still above one half
    frail = torch.full((1, 1, 4, 4), 127.45 / 255)
    frail[0, 0, 0] = 127.9 / 255  # mean 127.56 before rounding, 127.25 after
    both = pixels.repeat(2, 1, 1, 1), LABEL.repeat(2), torch.cat([firm, frail]), "linf", 1 / 255
    assert verify(subject, *both).success.tolist() == [True, True]
    assert survives_8bit(subject, *both).tolist() == [True, False]
    off_grid = pixels + 0.4 / 255, LABEL, firm, "linf", 0.3 / 255
    assert verify(subject, *off_grid).success.all()
    assert not survives_8bit(subject, *off_grid).any()  # 128/255 is 0.6/255 away, outside the ball


def test_a_tie_at_the_top_is_not_correct():
    tied = decide(subject_of(nn.Sequential(nn.Flatten(), nn.Linear(16, 2), Zero())), CLEAN, LABEL)
    assert tied.finite.all()
    assert not tied.correct.any()
    assert tied.predicted.item() == 1


class Zero(nn.Module):
    def forward(self, values):
        return values * 0


def test_shape_must_be_that_of_the_images(subject):
    with pytest.raises(ValueError, match=r"Expected candidates like \(1, 1, 4, 4\), got \(2, 1, 4, 4\)"):
        verify(subject, CLEAN, LABEL, HONEST.repeat(2, 1, 1, 1), "linf", EPS)


def test_flags_left_behind_by_an_attack_do_not_decide(subject):
    subject.model.train()  # the model asserts that its normalisation is in eval mode
    assert verify(subject, CLEAN, LABEL, HONEST, "linf", EPS).success.all()
    assert subject.model.norm.training  # found so, left so


def test_mixed_batch_keeps_rows_apart(subject):
    candidates = torch.cat([HONEST, CLEAN, moved(first=float("nan")), HONEST + 0.2])
    found = verify(subject, CLEAN.repeat(4, 1, 1, 1), LABEL.repeat(4), candidates, "linf", EPS)
    assert found.success.tolist() == [True, False, False, False]
    assert found.rejected == 2
    assert found.only(torch.tensor([0])).success.tolist() == [True]


def test_what_does_not_fit_into_memory_is_looked_at_in_parts(subject):
    class Tight(Brightness):
        sizes = ()

        def forward(self, pixels):
            self.sizes = (*self.sizes, len(pixels))
            if len(pixels) > 3:
                raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes")
            return super().forward(pixels)

    tight = Tight()
    candidates = torch.cat([HONEST, CLEAN] * 5)
    arguments = CLEAN.repeat(10, 1, 1, 1), LABEL.repeat(10), candidates, "linf", EPS
    assert torch.equal(verify(subject_of(tight), *arguments).success, verify(subject, *arguments).success)
    assert tight.sizes == (10, 5, 2, 2, 2, 2, 2)
    with pytest.raises(SubjectError, match="ValueError from it: shape"):  # any other error is none of memory
        decide(subject_of(Misshapen()), CLEAN, LABEL)


class Misshapen(nn.Module):
    def forward(self, pixels):
        raise ValueError("shape")
