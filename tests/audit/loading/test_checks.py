"""Behaviour on samples: planted oddities must be found, and a sound subject must stay unremarked."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from audit.api import DataSplit, Subject
from audit.api.subject import out_of_memory
from audit.engine.plan import measure_speed
from audit.errors import DataError, PrerequisiteError, SubjectError
from audit.loading.checks import adapted, check_subject
from tests.splits import array_split

RNG = np.random.default_rng(1)
SPLIT = array_split(RNG.random((96, 3, 8, 8), dtype=np.float32), RNG.integers(0, 3, 96))


class Net(nn.Module):
    """A linear classifier whose logits, or pixels, a function changes."""

    def __init__(
        self,
        after: Callable[[Tensor], Tensor] = lambda z: z,
        before: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("weight", torch.randn(192, 3, generator=generator) / 14)
        self.register_buffer("calls", torch.zeros(()))
        self.after, self.before = after, before

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.before(x).flatten(1) @ self.weight)


class Counting(Net):
    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


def subject(model: nn.Module) -> Subject:
    return Subject(model.eval(), "net", 3, (), (3, 8, 8), torch.device("cpu"), "0" * 64)


def found(model: nn.Module, split: DataSplit = SPLIT) -> dict[str, str]:
    return {diagnostic.code: diagnostic.text for diagnostic in check_subject(subject(model), split)}


def test_a_sound_subject_is_not_remarked_on() -> None:
    assert found(Net()) == {}


def noisy(z: Tensor) -> Tensor:
    return z + torch.randn_like(z)


def with_rounding_noise(z: Tensor) -> Tensor:
    return z + 1e-7 * torch.randn_like(z)


def centred_over_the_batch(z: Tensor) -> Tensor:
    return z - z.mean(0)


def never_alone(z: Tensor) -> Tensor:
    if len(z) == 1:
        raise ValueError("Expected more than 1 value per channel")
    return z


def cancelling_a_large_term(z: Tensor) -> Tensor:
    """Independent of the batch but for rounding, which float32 makes visible and float64 does not."""
    return (z + 1e6 * z.mean(0)) - 1e6 * z.mean(0)


def without_graph(z: Tensor) -> Tensor:
    return z.detach()


@pytest.mark.parametrize(
    ("model", "code", "said"),
    [
        (Net(noisy), "nondeterministic", "the model is random"),
        (Net(centred_over_the_batch), "batch_dependent", "with the other images of its batch"),
        (Net(never_alone), "batch_dependent", "fails on a single image (ValueError: Expected more than 1 value"),
        (Net(cancelling_a_large_term), "amplified_rounding", "not at all in float64"),
        (Counting(), "stateful", "changes 1 buffers (calls)"),
        (Net(without_graph), "no_gradient", "probes that need gradients are not run"),
        (Net(before=lambda x: (x * 255).round() / 255), "zero_gradient", "exactly zero for 100.0% of 64 samples"),
        (Net(lambda z: 1000 * z), "saturated", "the median gap between the first two"),
        (Net(before=lambda x: (x - x).sqrt() + x), "nonfinite_gradient", "NaN or Inf for 100.0% of 64 samples"),
    ],
)
def test_planted_oddities_are_found(model: nn.Module, code: str, said: str) -> None:
    diagnostics = found(model)
    assert said in diagnostics[code]
    assert set(diagnostics) - {code} <= {"zero_gradient"}


def test_rounding_noise_is_information() -> None:
    diagnostics = check_subject(subject(Net(with_rounding_noise)), SPLIT)
    assert [(diagnostic.code, diagnostic.severity) for diagnostic in diagnostics] == [("nondeterministic", "info")]


def test_training_mode_in_hiding() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten(), nn.Linear(192, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    assert "batch_dependent" in found(Hidden())


def test_only_missing_gradients_reduce_access() -> None:
    sound, blind = subject(Net()), subject(Net(without_graph))
    assert adapted(sound, check_subject(sound, SPLIT)) is sound
    reduced = adapted(blind, check_subject(blind, SPLIT))
    assert reduced.access == {"weights", "logits", "labels"}
    assert dataclasses.replace(reduced, access=blind.access).digest == blind.digest


def of_small_memory(x: Tensor) -> Tensor:
    if len(x) > 5:
        raise torch.OutOfMemoryError("full")
    return x


def test_images_that_do_not_fit_at_once_are_taken_in_parts() -> None:
    assert found(Net(before=of_small_memory)) == {}
    assert found(Net(before=of_small_memory, after=noisy)).keys() == {"nondeterministic"}


@pytest.mark.parametrize("error", [
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 40 bytes"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
], ids=str)  # fmt: skip
def test_memory_ends_in_many_words(error) -> None:
    assert out_of_memory(error)

    def small(x: Tensor) -> Tensor:
        if len(x) > 5:
            raise error
        return x

    assert found(Net(before=small)) == {}
    assert not out_of_memory(ValueError(str(error)))


def test_what_this_machine_says_when_memory_ends_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert out_of_memory(caught.value)


def test_time_is_measured_on_as_many_as_fit() -> None:
    speed = measure_speed(subject(Net(before=of_small_memory)), {"eval": SPLIT})
    assert 0 < speed.forward < 1


def test_time_is_measured_on_noise_where_no_images_are_audited_on() -> None:
    small = subject(Net())
    for data in ({}, {"train": SPLIT}):
        assert measure_speed(small, data).forward > 0


def test_memory_for_no_image_at_all() -> None:
    with pytest.raises(PrerequisiteError, match="Expected memory for one image at a time"):
        check_subject(subject(Net(before=lambda x: of_small_memory(x.repeat(6, 1, 1, 1)))), SPLIT)


def test_nothing_is_left_changed() -> None:
    model = Counting(noisy)
    state = torch.random.get_rng_state()
    found(model)
    assert model.calls == 0
    assert torch.equal(state, torch.random.get_rng_state())


def test_broken_outputs_are_counted() -> None:
    bad = SPLIT.batch(0, 96).pixels[:, 0, 0, 0] > 0.9
    first = int(bad.nonzero()[0, 0])
    model = Net(before=lambda x: torch.where(x[:, :1, :1, :1] > 0.9, torch.nan, x))
    with pytest.raises(SubjectError) as caught:
        check_subject(subject(model), SPLIT)
    text = str(caught.value)
    assert f"got NaN or Inf for {int(bad.sum())} of 96 samples ({bad.float().mean():.1%})" in text
    assert f"the first being {SPLIT.ids[first]} at position {first}" in text


def test_rows_must_match_images() -> None:
    with pytest.raises(SubjectError, match=r"Expected logits of shape \(32, 3\), got \(1, 3\)"):
        check_subject(subject(Net(lambda z: z.sum(0, keepdim=True))), SPLIT)


def test_data_that_do_not_fit_are_explained_at_once() -> None:
    split = array_split(RNG.random((4, 3, 9, 9), dtype=np.float32) * 255, np.array([0, 1, 2, 7]))
    with pytest.raises(DataError) as caught:
        check_subject(subject(Net()), split)
    text = str(caught.value)
    assert "Expected images of (3, 8, 8), got (3, 9, 9)" in text
    assert "Expected pixels in [0, 1], got" in text
    assert "Expected labels 0 to 2, got 0 to 7" in text


def test_an_empty_split() -> None:
    with pytest.raises(DataError, match="Expected at least one sample"):
        check_subject(subject(Net()), SPLIT.first(0))
