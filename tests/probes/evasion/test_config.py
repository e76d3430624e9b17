import pytest
from pydantic import ValidationError

from probes.evasion.config import EvasionConfig, cost


def test_defaults_are_the_documented_protocol():
    config = EvasionConfig()
    assert config.norms == ("linf", "l2")
    assert config.eps_linf == ("1/255", "2/255", "4/255", "8/255")
    assert config.eps_l2 == ("0.25", "0.5", "1")
    assert (config.attacks, config.steps, config.restarts, config.samples) == (("fgsm", "pgd"), 40, 1, 512)
    assert config.attack_text() == "FGSM; PGD with 40 steps of 2.5*eps/40, 1 random start, best iterate kept"


@pytest.mark.parametrize("given", ["8/255, 0.1,1/255", ["8/255", 0.1, "0.1", "1/255"], ("0.1", "8/255", 1 / 255)])
def test_radii_are_sorted_unique_and_canonical(given):
    assert EvasionConfig(eps_linf=given).eps_linf == ("1/255", "8/255", "0.1")


def test_a_single_number_and_zero_are_allowed():
    assert EvasionConfig(eps_linf=0).eps_linf == ("0",)
    assert EvasionConfig(norms="linf", attacks="pgd").norms == ("linf",)


def test_stored_settings_read_back_the_same():
    config = EvasionConfig(eps_linf=["0.0314", "4/255"], eps_l2=[2])
    assert EvasionConfig.model_validate_json(config.model_dump_json()) == config


def test_all_bad_radii_are_named_at_once():
    with pytest.raises(ValidationError) as error:
        EvasionConfig(eps_linf=["-1/255", 8, "nan"], eps_l2=["x"])
    text = str(error.value)
    for words in ("at least 0, got '-1/255'", "at most 1", "got 'nan'", "got 'x'"):
        assert words in text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"eps_l2": []}, "Expected at least one radius in eps_l2"),
        ({"norms": ["l1"]}, "linf"),
        ({"norms": ["linf", "linf"]}, "once"),
        ({"norms": []}, "at least 1"),
        ({"attacks": ["cw"]}, "pgd"),
        ({"steps": 0}, "greater than or equal to 1"),
        ({"step_factor": "nan"}, "finite"),
        ({"stepz": 3}, "Extra inputs"),
    ],
)
def test_other_settings_are_refused(settings, words):
    with pytest.raises(ValidationError, match=words):
        EvasionConfig(**settings)


def test_an_empty_radius_list_of_an_unused_norm_is_fine():
    assert EvasionConfig(norms="linf", eps_l2=[]).radii("linf")


def test_cost_grows_with_what_decides_it():
    base = cost(EvasionConfig(), 100)
    assert base.backwards == pytest.approx((100 * 7 + 128) * 41 + 328)
    assert cost(EvasionConfig(samples=50), 100).backwards < base.backwards
    assert cost(EvasionConfig(steps=80), 100).backwards > 1.9 * base.backwards
    assert cost(EvasionConfig(norms="linf"), 100).forwards < base.forwards
