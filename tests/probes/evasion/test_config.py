import pytest
import torch
from pydantic import ValidationError
from torch import nn

from probes.evasion import evasion
from probes.evasion.config import EvasionConfig, cost
from tests.probes.evasion.conftest import StubContext, split_of, subject_of


def test_defaults_are_the_documented_protocol():
    config = EvasionConfig()
    assert config.norms == ("linf", "l2")
    assert config.eps_linf == ("1/255", "2/255", "4/255", "8/255")
    assert config.eps_l2 == ("0.25", "0.5", "1")
    assert (config.steps, config.targets, config.queries, config.restarts, config.samples) == (100, 9, 5000, 1, 512)
    assert config.attacks == ("fgsm", "fmn", "pgd", "apgd-ce", "apgd-t", "square")
    assert config.attack_text(10) == (
        "FGSM; FMN, 100 steps (10 if that breaks the smallest radius); PGD on the margin, 20 steps, 1 random start and "
        "one from the nearest image found before; APGD-CE, 100 steps, 1 random start; APGD-T on 9 targets, 10 steps, "
        "then 100 on the nearest 3; Square, 200 queries on what stands and, if it breaks any, all 5000; one draw of "
        "noise; on the first 64 samples APGD on the margin, 200 steps, 2 random starts; on 32 of them Square, 5000 "
        "queries"
    )


def test_a_gpu_is_given_more_samples_at_once_the_smaller_the_images_are():
    assert [EvasionConfig().at_once("cuda", 3 * side**2) for side in (32, 50, 224)] == [4096, 2236, 1024]
    assert EvasionConfig().at_once("cpu", 3072) == 128
    assert EvasionConfig(chunk=7).at_once("cuda", 3072) == 7


def test_the_text_says_what_is_done():
    few = EvasionConfig(attacks="pgd,apgd-t", restarts=2, steps=10, queries=80).attack_text(3)
    assert few == (
        "PGD on the margin, 20 steps, 2 random starts; APGD-T on 2 targets, 1 step, then 10 on the nearest 2; one "
        "draw of noise; on the first 64 samples APGD on the margin, 100 steps, 2 random starts; on 32 of them Square, "
        "80 queries"
    )
    assert "APGD-T on 1 target, 10 steps, then 100 on the nearest 1" in EvasionConfig().attack_text(2)


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
        ({"norms": ["l3"]}, "linf"),
        ({"norms": ["linf", "linf"]}, "once"),
        ({"norms": []}, "at least 1"),
        ({"attacks": ["pdg"]}, "got 'pdg'. Did you mean pgd"),
        ({"attacks": "torchattacks:DeepFol"}, "Did you mean DeepFool"),
        ({"attacks": "torchattacks:LGV"}, "torchattacks:NAME"),
        ({"attacks": "torchattacks:"}, "torchattacks:NAME"),
        ({"steps": 0}, "greater than or equal to 1"),
        ({"targets": 0}, "greater than or equal to 1"),
        ({"step_factor": 2.5}, "Extra inputs"),
        ({"stepz": 3}, "Extra inputs"),
    ],
)
def test_other_settings_are_refused(settings, words):
    with pytest.raises(ValidationError, match=words):
        EvasionConfig(**settings)


def test_an_empty_radius_list_of_an_unused_norm_is_fine():
    assert EvasionConfig(norms="linf", eps_l2=[]).radii("linf")


def test_cost_grows_with_what_decides_it():
    base = cost(EvasionConfig(), {"eval": 100})
    # Of each sample and of 64 in the control, in both norms: FMN long and short, PGD twice, APGD-CE, APGD-T, and two
    # gradients of each census; FGSM at all seven radii and in the control; 64 samples searched longer.
    each = 101 + 11 + 2 * 21 + 101 + 9 * 11 + 3 * 101 + 4
    assert base.backwards == 2 * 164 * each + 2 * (100 * 7 + 128) + 2 * 64 * (2 * 201 + 2)
    assert cost(EvasionConfig(samples=50), {"eval": 100}).backwards < base.backwards
    assert cost(EvasionConfig(steps=200), {"eval": 100}).backwards > 1.8 * base.backwards
    assert cost(EvasionConfig(attacks="fgsm,fmn"), {"eval": 100}).forwards < base.forwards / 3
    assert cost(EvasionConfig(norms="linf"), {"eval": 100}).forwards < base.forwards


@pytest.mark.parametrize(
    "attacks", ["fgsm,fmn", "cw", "pgd,apgd-ce,apgd-t", "square", "fgsm,fmn,pgd,apgd-ce,apgd-t,square"]
)
def test_cost_is_not_below_what_is_done(attacks):
    """Of a model that nothing breaks, with every forward and backward pass counted."""
    asked = {"forwards": 0, "backwards": 0}

    class Unbroken(nn.Module):
        def forward(self, pixels):
            asked["forwards"] += len(pixels)
            if pixels.requires_grad:
                pixels.register_hook(
                    lambda gradient: asked.__setitem__("backwards", asked["backwards"] + len(gradient))
                )
            sums = pixels.flatten(1).sum(dim=1, keepdim=True)
            return torch.cat([1e4 + sums, sums, sums - 1, sums - 2, sums - 3], dim=1)

    config = EvasionConfig(
        attacks=attacks, steps=10, targets=3, queries=40, cw_steps=10, samples=32, chunk=32, eps_linf="1/255,8/255",
        norms="l2" if attacks == "cw" else "linf,l2",
    )  # fmt: skip
    split = split_of(torch.full((32, 1, 4, 4), 0.5), torch.zeros(32))
    list(evasion.run(subject_of(Unbroken(), (1, 4, 4), 5), {"eval": split}, config, StubContext()))
    expected = cost(config, {"eval": 32})
    assert expected.backwards / 1.3 < asked["backwards"] <= expected.backwards + 64
    assert asked["forwards"] <= expected.forwards
