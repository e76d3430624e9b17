import math

import pytest
import torch

from audit.schema import same_setting
from audit.toolkit.norms import (
    NORMS,
    ROUNDING,
    canonical_eps,
    distance,
    eps_text,
    grey_radius,
    in_box,
    noisy,
    parse_eps,
    radius_with_slack,
    to_8bit,
    widest,
)


@pytest.mark.parametrize(
    ("given", "text", "value"),
    [
        ("8/255", "8/255", 8 / 255),
        (" 8 / 255 ", "8/255", 8 / 255),
        ("0.0314", "0.0314", 0.0314),
        (0.0314, "0.0314", 0.0314),
        (8 / 255, "8/255", 8 / 255),
        ("0.0313725490", "8/255", 8 / 255),
        ("0.5/255", "1/510", 0.5 / 255),
        ("0.25", "0.25", 0.25),
        ("51/255", "0.2", 0.2),
        ("1.0", "1", 1.0),
        (0, "0", 0.0),
        ("-0", "0", 0.0),
        ("1e-10", "1e-10", 1e-10),
    ],
)
def test_eps_is_read_and_printed(given, text, value):
    assert canonical_eps(given, "linf") == text
    assert parse_eps(given, "linf") == pytest.approx(value, rel=1e-12)
    assert parse_eps(text, "linf") == parse_eps(given, "linf")  # printing loses nothing
    assert canonical_eps(text, "linf") == text
    assert same_setting("eps", text, repr(value))  # a policy may write it either way


@pytest.mark.parametrize(
    ("given", "norm", "words"),
    [
        ("-1/255", "linf", "at least 0"),
        (8, "linf", "at most 1"),
        ("nan", "l2", "finite number"),
        (float("inf"), "l2", "finite number"),
        ("8/0", "linf", "finite number"),
        ("eight", "linf", "such as 8/255"),
        ("1/2/3", "linf", "such as 8/255"),
        (True, "linf", "such as 8/255"),
    ],
)
def test_eps_is_refused(given, norm, words):
    with pytest.raises(ValueError, match=f"Expected a .*radius.*{words}|{words}") as error:
        parse_eps(given, norm)
    assert str(error.value).startswith("Expected a ")


def test_l2_radius_may_exceed_one():
    assert canonical_eps("27.71281292110204", "l2") == "27.71281292110204"


def test_distances_of_a_known_difference():
    clean = torch.zeros(2, 1, 2, 2)
    other = clean.clone()
    other[0, 0, 0] = torch.tensor([0.3, -0.4])
    other[1, 0, 0, 0] = torch.nan
    assert distance(clean, other, "linf")[0].item() == pytest.approx(0.4)
    assert distance(clean, other, "l2")[0].item() == pytest.approx(0.5)
    assert distance(clean, other, "l1")[0].item() == pytest.approx(0.7)
    assert distance(clean, other, "linf").dtype == torch.float64
    assert all(distance(clean, other, norm)[1].isnan() for norm in NORMS)
    assert in_box(other).tolist() == [False, False]
    assert in_box(clean).all()


@pytest.mark.parametrize("norm", NORMS)
def test_slack_covers_float32_rounding_and_no_more(norm):
    # The largest error that storing x + delta in float32 can make, found by trying a million pairs.
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(400, 1, 50, 50, generator=generator)
    eps = 4 / 255
    moved = (clean + eps * torch.randn(clean.shape, generator=generator).sign()).clamp(0, 1)
    worst = distance(moved, clean, "linf").max().item()
    assert worst > eps  # rounding does push past the radius
    assert worst <= eps + ROUNDING
    assert radius_with_slack(eps * widest(norm, (2500,)), norm, 2500) < eps * widest(norm, (2500,)) * 1.0005
    assert radius_with_slack(0, "l2", 2500) == pytest.approx(50 * ROUNDING)


@pytest.mark.parametrize("norm", NORMS)
def test_noise_has_the_radius_asked_for(norm):
    pixels = torch.full((5, 3, 8, 8), 0.5)
    moved = noisy(pixels, norm, 0.1, torch.Generator().manual_seed(1))
    assert torch.allclose(distance(moved, pixels, norm), torch.full((5,), 0.1, dtype=torch.float64), atol=1e-6)
    assert torch.equal(moved, noisy(pixels, norm, 0.1, torch.Generator().manual_seed(1)))
    edge = noisy(torch.ones(5, 3, 8, 8), norm, 0.1, torch.Generator().manual_seed(1))
    assert in_box(edge).all()


def test_8_bit_rounding_keeps_8_bit_images():
    levels = (torch.arange(256, dtype=torch.float32) / 255).view(1, 1, 16, 16)
    assert torch.equal(to_8bit(levels), levels)
    assert torch.equal(to_8bit(levels + 0.4 / 255), levels)


def test_every_image_reaches_grey_at_the_grey_radius():
    image = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).expand(1, 3, 4, 2)
    for norm in NORMS:
        assert distance(image, torch.full_like(image, 0.5), norm).item() <= grey_radius(norm, (3, 4, 2))
    assert grey_radius("l2", (3, 32, 32)) == pytest.approx(0.5 * math.sqrt(3072))
    assert parse_eps(eps_text(grey_radius("l2", (3, 32, 32))), "l2") == grey_radius("l2", (3, 32, 32))
