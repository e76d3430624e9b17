"""Training: what is learnt, what is kept, and that it is the same however often it is interrupted."""

import copy
import random

import pytest
import torch
from torch import nn

from audit.errors import DataError, TrainingError, UsageError
from audit.toolkit.tensors import tensors_of, tensors_sha256
from audit.training.config import AdversarialConfig, DistillationConfig, TrainingConfig
from audit.training.loop import train
from audit.training.recipes import adversarial, filled, standard, student, teacher

SHORT = {"epochs": 4, "batch_size": 32}


def accuracy(model, split):
    batch = split.batch(0, len(split))
    with torch.no_grad():
        return float((model(batch.pixels).argmax(dim=1) == batch.labels).float().mean())


def test_it_learns_and_leaves_the_model_given_alone(model, split, context):
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state(), random.getstate()
    trained = train(standard(model, split, TrainingConfig(epochs=10, batch_size=32)), context())
    assert accuracy(filled(model, trained.weights), split) > 0.9  # four well separated patterns; chance is a quarter
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]
    log = trained.log
    assert (log.n_train, log.n_held_out, log.ending, len(log.epochs)) == (360, 40, "completed", 10)
    assert log.initial_sha256 == tensors_sha256(tensors_of(model))
    assert log.weights_sha256 == tensors_sha256(trained.weights) != log.initial_sha256
    assert log.held_out.value == log.epochs[log.kept_epoch - 1].held_out_accuracy
    best = max(log.epochs, key=lambda epoch: (epoch.held_out_accuracy, -epoch.held_out_loss))
    assert log.kept_epoch == best.epoch


def test_what_is_frozen_stays(model, split, context):
    trained = train(standard(model, split, TrainingConfig(**SHORT)), context())
    assert torch.equal(trained.weights["0.bias"], model[0].bias)
    assert not torch.equal(trained.weights["0.weight"], model[0].weight)


@pytest.mark.parametrize("stop", [1, 13, 25, 44])
def test_interrupted_at_any_step_it_ends_with_the_same_weights_and_log(model, split, context, tmp_path, stop):
    task = standard(model, split, TrainingConfig(augmentation="flip-crop", **SHORT))
    whole = train(task, context())
    with pytest.raises(KeyboardInterrupt):
        train(task, context(stop=stop), state_file=tmp_path / "state")
    again = train(task, context(), state_file=tmp_path / "state")
    assert again.log == whole.log
    assert all(torch.equal(again.weights[name], whole.weights[name]) for name in whole.weights)


def test_the_seed_decides(model, split, context):
    first, same, other = (
        train(standard(model, split, TrainingConfig(**SHORT)), context(seed)).log.weights_sha256 for seed in (0, 0, 1)
    )
    assert first == same != other


def test_a_state_of_another_training_is_refused(model, split, context, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(standard(model, split, TrainingConfig(**SHORT)), context(stop=20), state_file=tmp_path / "state")
    for task, ctx in (
        (standard(model, split, TrainingConfig(epochs=5, batch_size=32)), context()),
        (standard(model, split.first(300), TrainingConfig(**SHORT)), context()),
        (standard(model, split, TrainingConfig(**SHORT)), context(seed=1)),
    ):
        with pytest.raises(UsageError, match="this very training, got one of other settings"):
            train(task, ctx, state_file=tmp_path / "state")
    (tmp_path / "state").write_bytes(b"no state")
    with pytest.raises(UsageError, match="damaged file"):
        train(standard(model, split, TrainingConfig(**SHORT)), context(), state_file=tmp_path / "state")


def test_a_state_that_would_run_code_does_not(model, split, context, tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").write_text, ("x",))

    torch.save({"fingerprint": Evil()}, tmp_path / "state")
    with pytest.raises(UsageError, match="damaged file"):
        train(standard(model, split, TrainingConfig(**SHORT)), context(), state_file=tmp_path / "state")
    assert not (tmp_path / "ran").exists()


def test_patience_and_budget_end_it(model, split, context):
    config = TrainingConfig(epochs=50, batch_size=32, patience=2, learning_rate=0.02, schedule="constant")
    log = train(standard(model, split, config), context()).log
    assert log.ending == "early_stopping"
    assert len(log.epochs) == log.kept_epoch + 2 < 50
    log = train(standard(model, split, TrainingConfig(**SHORT)), context(clock=(10, 5, 0))).log
    assert (log.ending, len(log.epochs)) == ("budget", 3)


def test_a_loss_that_goes_astray_is_an_error_with_advice(model, split, context):
    config = TrainingConfig(epochs=3, batch_size=32, optimizer="sgd", learning_rate=1e18, clip=1e30)
    with pytest.raises(TrainingError, match=r"a loss of nan in epoch 1. Lower the learning rate"):
        train(standard(model, split, config), context())


def test_too_few_images_or_nothing_to_train_is_refused(model, split, context):
    with pytest.raises(DataError, match="at least 20 images"):
        train(standard(model, split.first(19), TrainingConfig()), context())
    with pytest.raises(DataError, match="at most half of them held out"):
        train(standard(model, split, TrainingConfig(held_out=0.6)), context())
    with pytest.raises(TrainingError, match="none that require gradients"):
        train(standard(model.requires_grad_(False), split, TrainingConfig()), context())


def test_a_last_batch_of_one_image_is_left_out(model, split, context):
    """Batch normalisation over one value a channel fails; 321 images in batches of 64 leave one."""
    part = split.first(357)
    log = train(standard(model, part, TrainingConfig(epochs=1, batch_size=64)), context()).log
    assert log.n_train == 321
    narrow = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    train(standard(narrow, part, TrainingConfig(epochs=1, batch_size=64)), context())


def test_adversarial_training_gives_what_ordinary_training_does_not(model, split, context):
    config = AdversarialConfig(epochs=12, batch_size=32, eps="0.15", steps=5)
    robust = train(adversarial(model, split, config), context())
    plain = train(standard(model, split, TrainingConfig(epochs=12, batch_size=32)), context())
    epoch = robust.log.epochs[robust.log.kept_epoch - 1]
    assert epoch.robust_accuracy == max(found.robust_accuracy for found in robust.log.epochs)
    shares = [under_pgd(filled(model, trained.weights), split, 0.15) for trained in (robust, plain)]
    assert shares[0] > shares[1] + 0.2, shares


def under_pgd(model, split, eps):
    """Accuracy under 20 steps of signed gradients, written here anew."""
    batch = split.batch(0, len(split))
    change = torch.zeros_like(batch.pixels)
    for _ in range(20):
        change.requires_grad_(True)
        loss = nn.functional.cross_entropy(model(batch.pixels + change), batch.labels)
        step = torch.autograd.grad(loss, change)[0].sign() * eps / 8
        change = (batch.pixels + (change.detach() + step).clamp(-eps, eps)).clamp(0, 1) - batch.pixels
    with torch.no_grad():
        return float((model(batch.pixels + change).argmax(dim=1) == batch.labels).float().mean())


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_the_other_norms_and_one_step_train_too(model, split, context, norm):
    for recipe in ("pgd", "fgsm-rs"):
        config = AdversarialConfig(
            recipe=recipe, norm=norm, eps="0.5", **({"steps": 3} if recipe == "pgd" else {}), **SHORT
        )
        log = train(adversarial(model, split, config), context()).log
        assert log.epochs[-1].robust_accuracy > 0.25


def test_distillation_makes_logits_as_many_times_larger(model, split, context):
    """Papernot et al. 2016: trained at temperature T, used at 1, logits are about T times as large."""
    twin = train(standard(model, split, TrainingConfig(epochs=20, batch_size=32)), context())
    config = DistillationConfig(epochs=20, batch_size=32, temperature=20, learning_rate=0.02)
    taught_by = filled(model, train(teacher(model, split, config), context()).weights)
    pupil = train(student(model, taught_by, split, config), context())
    assert pupil.log.kind == "distillation"
    models = [filled(model, trained.weights) for trained in (twin, pupil)]
    assert min(accuracy(found, split) for found in models) > 0.9
    pixels = split.batch(0, 200).pixels
    spreads = [float(found(pixels).std(dim=1).median()) for found in models]
    assert spreads[1] > 5 * spreads[0]
    other = filled(model, twin.weights)
    assert student(model, other, split, config).origin != student(model, taught_by, split, config).origin


def test_mixed_precision_and_memory_format_are_said_and_learn(model, split, context):
    config = TrainingConfig(epochs=10, batch_size=32, precision="bfloat16", channels_last="on")
    trained = train(standard(model, split, config), context())
    assert trained.log.settings["precision"].startswith("bfloat16")
    assert trained.log.settings["memory_format"] == "channels_last"
    assert all(tensor.dtype != torch.bfloat16 for tensor in trained.weights.values())
    assert accuracy(filled(model, trained.weights), split) > 0.9


def test_where_compilation_fails_training_goes_on(model, split, context, monkeypatch):
    def broken(module):
        def call(pixels):
            raise RuntimeError("no compiler here")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    ctx = context()
    log = train(standard(model, split, TrainingConfig(compile="on", **SHORT)), ctx).log
    assert log.settings["compile"] == "off"
    assert "no compiler here" in ctx.said["not_compiled"]
