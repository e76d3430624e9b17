"""State dicts inside files: found, stripped, fitted strictly, and explained where they do not fit."""

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from audit.errors import SubjectError, UsageError
from audit.loading.keys import Fit, find_state_dict, to_load
from audit.loading.mismatch import check_fit
from tests.architectures import tiny

STATE = {name: tensor.clone() for name, tensor in tiny().state_dict().items()}


def other(shift: float = 1.0) -> dict[str, Tensor]:
    return {name: tensor + shift for name, tensor in STATE.items()}


def prefixed(prefix: str, state: dict[str, Tensor] = STATE) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def explained(content: Any, network: nn.Module | None = None) -> str:
    wanted = (network or tiny()).state_dict()
    fit, _ = find_state_dict(content, wanted)
    with pytest.raises(SubjectError) as caught:
        check_fit(fit, wanted, spec="timm:thing", file="weights.pth")
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "path", "prefix"),
    [
        (STATE, "", ""),
        ({"state_dict": STATE, "epoch": 3}, "state_dict", ""),
        ({"state_dict": OrderedDict(prefixed("module."))}, "state_dict", "module."),
        ({"model": prefixed("module._orig_mod.")}, "model", "module."),
        (prefixed("net.backbone."), "", "net.backbone."),
        ({"state_dict": [STATE], "acc": torch.tensor(0.9)}, "state_dict.0", ""),
        ({"a": {"b": {"c": STATE}}}, "a.b.c", ""),
        ({"unheard_of": STATE, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}}, "unheard_of", ""),
        ({"model_ema": other(), "model": STATE}, "model", ""),
        ({"ema_state_dict": other(), "anything": prefixed("module.")}, "anything", "module."),
        ({"state_dict": STATE, "best": other()}, "state_dict", ""),
        ({"generator": {"x": torch.zeros(2)}, "classifier": STATE}, "classifier", ""),
        ({"model_ema": other()}, "model_ema", ""),
    ],
)
def test_the_right_dict_and_prefix_are_found(content: Any, path: str, prefix: str) -> None:
    fit, notes = find_state_dict(content, STATE)
    assert fit.complete
    assert (fit.path, fit.prefix) == (path, prefix)
    assert fit.tensors.keys() == STATE.keys()
    if path:
        assert f"weights are taken from `{path}` of the file" in notes
    if prefix:
        assert f"prefix `{prefix}` is stripped from the keys" in notes


def test_wrapper_segments_inside_keys_go() -> None:
    stored = {name.replace("0.", "0._orig_mod.", 1) if name[0] == "0" else name: value for name, value in STATE.items()}
    assert "0._orig_mod.weight" in stored
    fit, _ = find_state_dict(stored, STATE)
    assert fit.complete


def test_averaged_weights_are_offered_never_chosen() -> None:
    content = {"state_dict_ema": other(), "state_dict": {k: v for k, v in STATE.items() if "num_batches" not in k}}
    fit, notes = find_state_dict(content, STATE)
    assert fit.path == "state_dict"
    assert "this file also holds `state_dict_ema` (fits); --weights-key state_dict_ema takes it" in notes
    fit, notes = find_state_dict(content, STATE, key="state_dict_ema")
    assert fit.path == "state_dict_ema"
    assert notes == ()


def test_only_averaged_weights_are_noted() -> None:
    _, notes = find_state_dict({"model_ema": STATE}, STATE)
    assert "only an averaged (EMA) copy of the weights fits; it is audited" in notes


def test_the_student_is_taken_before_its_teacher() -> None:
    fit, _ = find_state_dict({**prefixed("teacher.", other()), **prefixed("student.")}, STATE)
    assert fit.prefix == "student."


@pytest.mark.parametrize(
    "content", [{**prefixed("left.", other()), **prefixed("right.")}, {"members": [STATE, other()]}]
)
def test_two_that_fit_alike_must_be_chosen_between(content: Any) -> None:
    with pytest.raises(SubjectError, match=r"got 2 that differ: .* Choose with --weights-key or --strip-prefix"):
        find_state_dict(content, STATE)


def test_the_same_tensors_twice_are_no_question() -> None:
    fit, _ = find_state_dict({"members": [STATE, STATE]}, STATE)
    assert fit.path == "members.0"


def test_keys_outside_the_prefix_are_left_out_and_named() -> None:
    content = {**prefixed("model."), "criterion.weight": torch.ones(3)}
    fit, notes = find_state_dict(content, STATE)
    assert fit.complete
    assert "left out, since without the prefix `model.`: 1 key (criterion.weight)" in notes


def test_a_stated_prefix_needs_no_dot() -> None:
    for stated in ("module", "module."):
        fit, notes = find_state_dict(prefixed("module."), STATE, prefix=stated)
        assert fit.complete
        assert notes == ()


def test_a_stated_prefix_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"got 'model\.', which begins none\. Prefixes found: `module\.` \(9 keys\)"):
        find_state_dict(prefixed("module."), STATE, prefix="model.")


def test_a_stated_key_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"got 'ema'\. Dicts of tensors in it: `state_dict`\. Take one of them"):
        find_state_dict({"state_dict": STATE}, STATE, key="ema")
    with pytest.raises(UsageError, match="Expected tensors by name at --weights-key epoch, got an int"):
        find_state_dict({"state_dict": STATE, "epoch": 3}, STATE, key="epoch")


def test_a_stated_key_may_lie_deep() -> None:
    fit, _ = find_state_dict({"runs": [{"x": STATE}, {"x": other()}]}, STATE, key="runs.1.x")
    assert torch.equal(fit.tensors["0.weight"], STATE["0.weight"] + 1)


@pytest.mark.parametrize("content", [{}, {"epoch": 1}, 3, torch.ones(3), [1, 2]])
def test_files_without_tensors_by_name(content: Any) -> None:
    with pytest.raises(SubjectError, match="Expected tensors by name in the weights file, got a"):
        find_state_dict(content, STATE)


def test_missing_counters_are_tolerated_with_a_note() -> None:
    stored = {name: tensor for name, tensor in STATE.items() if "num_batches" not in name}
    fit, notes = find_state_dict(stored, STATE)
    assert "1 num_batches_tracked are not in the file; they decide nothing in eval mode" in notes
    tensors, _ = to_load(fit, STATE)
    tiny().load_state_dict(tensors, strict=True)


def test_everything_wrong_is_said_at_once() -> None:
    stored = {name: tensor for name, tensor in STATE.items() if name != "1.weight"}
    stored["7.bias"] = torch.zeros(3)
    stored["0.weight"] = torch.zeros(9, 3, 3, 3)
    text = explained({"state_dict": stored})
    assert text.startswith(
        "Expected `state_dict` of weights.pth to hold exactly the 9 tensors of timm:thing, got 7 that fit, "
        "1 missing, 1 unexpected and 1 of another shape."
    )
    assert "missing (1): 1.weight" in text
    assert "unexpected (1): 7.bias" in text
    assert "other shape (1): 0.weight: file (9, 3, 3, 3), network (4, 3, 3, 3)" in text


def test_long_lists_are_cut_with_their_number() -> None:
    text = explained({f"layer.{n}": torch.zeros(2) for n in range(30)})
    assert "unexpected (30): layer.0, " in text
    assert "and 22 more" in text
    assert "another architecture: only 0 of 9 tensors fit. Correct --model." in text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (tiny(num_classes=7).state_dict(), "the head of the file has 7 classes. Say num_classes=7 in the spec."),
        (tiny(channels=1).state_dict(), "the first layer of the file takes 1 channels. Say in_chans=1 in the spec."),
        (tiny(width=8).state_dict(), "the same layers in another size"),
        ({**STATE, "aux.fc.weight": torch.zeros(3, 3)}, "auxiliary heads, which only training uses"),
        ({**STATE, "5.zero_point": torch.zeros(1)}, "the file is quantised"),
        ({**STATE, "0.weight": STATE["0.weight"].to(torch.int8)}, "integer weights in place of floating-point ones"),
        ({**STATE, "5.lora_A.weight": torch.zeros(2, 2)}, "LoRA adapters"),
        ({f"{name[0]}.body.{name[2:]}": value for name, value in STATE.items()}, "another architecture"),
    ],
)
def test_likely_causes(content: Any, said: str) -> None:
    assert said in explained(content)


def test_layers_under_other_names() -> None:
    assert "the same layers under other names" in explained(
        {"a.one.weight": torch.zeros(2, 2), "b.two.weight": torch.zeros(2, 2)},
        nn.ModuleDict({"c": nn.ModuleDict({"one": nn.Linear(2, 2, bias=False), "two": nn.Linear(2, 2, bias=False)})}),
    )


def test_image_size_of_position_embeddings() -> None:
    network = nn.Module()
    network.pos_embed = nn.Parameter(torch.zeros(1, 5, 8))
    network.head = nn.Linear(8, 3)
    text = explained({**network.state_dict(), "pos_embed": torch.zeros(1, 17, 8)}, network)
    assert "another image size. Say img_size=... in the spec" in text


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(kind: torch.dtype) -> None:
    stored = {name: value.to(kind) if value.is_floating_point() else value for name, value in STATE.items()}
    fit, _ = find_state_dict(stored, STATE)
    tensors, notes = to_load(fit, STATE)
    assert {value.dtype for value in tensors.values()} == {torch.float32, torch.int64}
    assert notes == [f"8 tensors of {str(kind).removeprefix('torch.')} are brought to float32"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_numbers_are_named(value: float) -> None:
    stored = {name: tensor.clone() for name, tensor in STATE.items()}
    stored["5.weight"][0, 0] = value
    fit, _ = find_state_dict(stored, STATE)
    with pytest.raises(SubjectError, match=r"got NaN or Inf in 1 of 9 tensors: 5\.weight\. The training diverged"):
        to_load(fit, STATE)


def test_infinite_limits_that_the_network_begins_with_are_no_damage() -> None:
    network = {**STATE, "limit": torch.tensor([-torch.inf, torch.inf])}
    fit, _ = find_state_dict(network, network)
    assert torch.isinf(to_load(fit, network)[0]["limit"]).all()
    for value in (torch.nan, -torch.inf):
        fit, _ = find_state_dict({**network, "limit": torch.tensor([-torch.inf, value])}, network)
        with pytest.raises(SubjectError, match="got NaN or Inf in 1 of 10 tensors: limit"):
            to_load(fit, network)


def test_rank_prefers_whole_fits() -> None:
    fit, _ = find_state_dict({"state_dict": {"0.weight": STATE["0.weight"]}, "zz": STATE}, STATE)
    assert isinstance(fit, Fit)
    assert fit.path == "zz"
