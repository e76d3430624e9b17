"""`audit train`: from specs to weights that every other command takes, and a record of how they came to be."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from audit.toolkit.writing import writing_alone
from audit.training.record import TrainingRecord
from tests.audit.cli.command import DIGITS, FIXTURE, MODEL, PREPROCESS

TRAIN = "train=sklearn:digits?split=train"
SUBJECT = ("--model", MODEL, "--preprocess", PREPROCESS)
QUICK = ("--epochs", 2, "--samples", 256)
NETWORK = """
from torch import nn


def make(width=8):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def stateful():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 10)
            self.calls = 0.0

        def forward(self, x):
            if self.training:
                self.calls += 1.0
            return self.layer(x.flatten(1)) + self.calls * x.flatten(1)[:, :10]

    return Hidden()
"""


@pytest.fixture
def network(tmp_path):
    (tmp_path / "network.py").write_text(NETWORK)
    return f"py:{tmp_path / 'network.py'}:make"


def record_of(path):
    return TrainingRecord.model_validate_json(path.with_suffix(".training.json").read_bytes())


def test_it_trains_what_describe_then_takes(audit, tmp_path):
    out = tmp_path / "new/weights.safetensors"
    ended = audit("train", "standard", *SUBJECT, "--data", TRAIN, "--data", f"eval={DIGITS}", *QUICK, "--from", FIXTURE,
                  "--learning-rate", 1e-4, "--out", out)  # fmt: skip
    assert ended.code == 0, ended.err
    record = record_of(out)
    log = record.trainings[0]
    assert record.test is not None
    assert record.test.also_trained_on == 0
    assert record.test.accuracy.value > 0.9  # the weights it began with are right on more
    assert (log.n_train, log.n_held_out, len(log.epochs)) == (230, 26, 2)
    assert record.weights.bytes == out.stat().st_size
    assert set(load_file(out)) == set(load_file(FIXTURE))
    assert f"{record.test.accuracy.value:.1%}" in ended.out
    assert "epoch 2 of 2" in ended.err
    assert sorted(path.name for path in out.parent.iterdir()) == ["weights.safetensors", "weights.training.json"]
    described = audit("describe", *SUBJECT, "--weights", out, "--data", DIGITS)
    assert described.code == 0
    assert "accuracy" in described.out


def test_the_same_command_gives_the_same_bytes_and_another_seed_others(audit, tmp_path, network):
    files = [tmp_path / f"{name}.safetensors" for name in ("first", "same", "other")]
    for out, seed in zip(files, (0, 0, 1), strict=True):
        words = ("--model", network, "--allow-code", "--preprocess", "none", "--data", TRAIN, *QUICK, "--seed", seed)
        assert audit("train", "adversarial", "--eps", 0.1, *words, "--out", out).code == 0
    first, same, other = (out.read_bytes() for out in files)
    assert first == same
    assert first != other
    records = [json.loads(out.with_suffix(".training.json").read_bytes()) for out in files[:2]]
    for record in records:
        del record["argv"], record["weights"]["name"]
    assert records[0] == records[1]
    assert "--allow-code" in records[0]["trust_exceptions"][0]


def test_what_is_trained_on_bounds_has_something_to_prove(audit, tmp_path, network):
    words = ("--model", f"{network}?width=64", "--allow-code", "--preprocess", "none")
    out, run = tmp_path / "proven.safetensors", tmp_path / "run"
    ended = audit(
        "train", "certified", *words, "--data", TRAIN, "--eps", 0.05, "--epochs", 20, "--batch-size", 32, "--out", out
    )
    assert ended.code == 0, ended.err
    log = record_of(out).trainings[0]
    kept = log.epochs[log.kept_epoch - 1]
    n = min(256, log.n_held_out)
    said = f"bounds hold for {kept.certified_accuracy:.1%} of {n} of them within linf 0.05, which chose the epoch"
    assert said in ended.out
    assert f", certified {kept.certified_accuracy:.1%}" in ended.err
    assert "bounds hold for none" not in ended.err
    settings = ("--set", "certified.eps_linf=0.05", "--set", "certified.method=crown-ibp")
    settings += ("--set", "certified.samples=100", "--set", "certified.second_opinion=0")
    data = ("--data", DIGITS, "--probe", "certified", "--out", run)
    ended = audit("run", *words, "--weights", out, *data, *settings)
    assert ended.code == 0, ended.err
    (result,) = json.loads((run / "results.json").read_text())["results"]
    shares = {fact["metric"]: fact["value"] for fact in result["measurements"]}
    assert shares["certified.certified_accuracy"] > 0.5
    assert shares["certified.certified_accuracy"] == pytest.approx(kept.certified_accuracy, abs=0.2)


def test_a_training_that_leaves_nothing_proven_says_so(audit, tmp_path, network):
    words = ("--model", network, "--allow-code", "--preprocess", "none", "--data", TRAIN, "--eps", 0.9, "--epochs", 1)
    ended = audit("train", "certified", *words, "--out", tmp_path / "vacuous.safetensors")
    assert ended.code == 0, ended.err
    n = min(256, record_of(tmp_path / "vacuous.safetensors").trainings[0].n_held_out)
    assert f"warning: bounds hold for none of {n} held-out images within linf 0.9: train longer" in ended.err


def test_bounds_are_not_trained_with_settings_of_attacks_nor_on_what_has_none(audit, tmp_path, network):
    words = (
        "--model",
        network,
        "--allow-code",
        "--preprocess",
        "none",
        "--data",
        TRAIN,
        "--out",
        tmp_path / "w.safetensors",
    )
    ended = audit("train", "certified", *words, "--norm", "l2")
    assert ended.code == 2
    assert "got 'norm', one of `audit train adversarial`" in ended.err
    ended = audit("train", "certified", *words, "--recipe", "pgd")
    assert ended.code == 2
    assert "'ibp', 'crown-ibp', 'mtl-ibp' or 'sabr'" in ended.err


def test_distillation_trains_a_teacher_or_takes_one(audit, tmp_path, network):
    words = ("--model", network, "--allow-code", "--preprocess", "none", "--data", TRAIN, *QUICK)
    out, other = tmp_path / "student.safetensors", tmp_path / "second.safetensors"
    assert audit("train", "distill", *words, "--temperature", 20, "--out", out).code == 0
    record = record_of(out)
    assert [log.name for log in record.trainings] == ["teacher", "student"]
    assert record.trainings[1].config["temperature"] == 20
    assert record.teacher is None
    wide = ("--teacher", tmp_path / "wide.safetensors", "--teacher-model", f"{network}?width=32")
    made = ("--model", f"{network}?width=32", "--allow-code", "--preprocess", "none", "--data", TRAIN, *QUICK)
    assert audit("train", "standard", *made, "--out", wide[1]).code == 0
    ended = audit("train", "distill", *words, *wide, "--out", other)
    assert ended.code == 0, ended.err
    assert [log.name for log in record_of(other).trainings] == ["student"]
    assert record_of(other).teacher.spec.endswith("width=32")


def test_interrupted_it_says_how_to_go_on_and_ends_alike(audit, tmp_path, network, monkeypatch):
    words = ["--model", network, "--allow-code", "--preprocess", "none", "--data", TRAIN, "--epochs", "3"]
    whole, out = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    assert audit("train", "distill", *words, "--out", whole).code == 0
    from audit.training import loop

    original, seen = loop._Training._note, []

    def interrupted(self, epoch):
        original(self, epoch)
        seen.append(epoch)
        if len(seen) == 4:  # the student's first
            raise KeyboardInterrupt

    monkeypatch.setattr(loop._Training, "_note", interrupted)
    ended = audit("train", "distill", *words, "--out", out)
    assert ended.code == 130
    assert f"audit train distill --model {network}" in ended.err
    assert not out.exists()
    assert len(list(tmp_path.glob("*.unfinished"))) == 2
    ended = audit("train", "distill", *words, "--out", out)
    assert ended.code == 0
    assert "student, from epoch 2 on ..." in ended.err
    assert len(seen) == 6  # none of the teacher's epochs again, and two of the student's
    assert out.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("*.unfinished"))


def test_a_budget_that_ends_is_said_and_the_training_goes_on_later(audit, tmp_path, network):
    words = ["--model", network, "--allow-code", "--preprocess", "none", "--data", TRAIN, "--epochs", "3"]
    whole, out = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    assert audit("train", "standard", *words, "--out", whole).code == 0
    ended = audit("train", "standard", *words, "--out", out, "--budget", "0.01s")
    assert ended.code == 0, ended.err
    assert "ended after 1 of 3 epochs" in ended.err
    assert "--force" in ended.err
    assert record_of(out).trainings[0].ending == "budget"
    ended = audit("train", "standard", *words, "--out", out, "--force")
    assert "epoch 2 of 3" in ended.err
    assert "epoch 1 of 3" not in ended.err
    assert out.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("*.unfinished"))


def test_one_file_is_written_by_one_training_at_a_time(audit, tmp_path, network):
    words = ["--model", network, "--allow-code", "--preprocess", "none", "--data", TRAIN, *QUICK]
    out = tmp_path / "weights.safetensors"
    with writing_alone(out):
        ended = audit("train", "standard", *words, "--out", out)
    assert ended.code == 2
    assert "another process is at it" in ended.err
    assert audit("train", "standard", *words, "--out", out).code == 0


def test_a_folder_that_cannot_be_written_is_said_before_training(audit, tmp_path, network, monkeypatch):
    monkeypatch.setattr("audit.engine.training.train", lambda *_, **__: pytest.fail("trained"))
    (tmp_path / "file").write_text("no folder")
    words = ["--model", network, "--allow-code", "--preprocess", "none", "--data", TRAIN, *QUICK]
    ended = audit("train", "standard", *words, "--out", tmp_path / "file" / "weights.safetensors")
    assert ended.code not in (0, 1)
    assert "Expected to be able to write" in ended.err


def test_images_that_are_tested_on_and_trained_on_are_counted(audit, tmp_path, network):
    out = tmp_path / "w.safetensors"
    words = ("--model", network, "--allow-code", "--preprocess", "none", "--data", TRAIN, "--epochs", 1)
    ended = audit("train", "standard", *words, "--data", "eval=sklearn:digits", "--out", out)
    assert ended.code == 0
    assert record_of(out).test.also_trained_on == 898
    assert "898 of the 1797 images of the eval data are among the training data" in ended.err


def test_state_outside_of_tensors_is_found_out(audit, tmp_path, network):
    model = network.replace(":make", ":stateful")
    ended = audit("train", "standard", "--model", model, "--allow-code", "--preprocess", "none", "--data", TRAIN,
                  *QUICK, "--out", tmp_path / "w.safetensors")  # fmt: skip
    assert ended.code == 2
    assert "Expected the file to answer as the model that was trained, got other answers" in ended.err


def test_more_outputs_than_classes_is_said(audit, tmp_path):
    for label in (0, 1):
        (tmp_path / f"images/{label}").mkdir(parents=True)
        for place in range(15):
            pixels = np.full((8, 8), 100 * label + place, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"images/{label}/{place}.png")
    ended = audit("train", "standard", *SUBJECT, "--data", f"train=imagefolder:{tmp_path / 'images'}", "--epochs", 1,
                  "--out", tmp_path / "w.safetensors")  # fmt: skip
    assert ended.code == 0
    assert "the model has 10 outputs and the training data 2 classes" in ended.err


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("--data", DIGITS), 2, "Expected --data train=SPEC"),
        (("--data", TRAIN, "--data", TRAIN), 2, "Expected --data train=SPEC"),
        (("--data", TRAIN, "--set", "epoch=3"), 2, "Did you mean epochs?"),
        (("--data", TRAIN, "--set", "epochs"), 2, "Expected KEY=VALUE, got 'epochs'"),
        (("--data", TRAIN, "--epochs", 0), 2, "epochs: Expected a number greater than or equal to 1, got 0."),
        (("--data", TRAIN, "--eps", "8/255"), 2, "got 'eps', one of `audit train adversarial`"),
        (("--data", TRAIN, "--set", "temperature=9"), 2, "got 'temperature', one of `audit train distill`"),
        (("--data", TRAIN, "--teacher", "t.safetensors"), 2, "Expected --teacher with distill alone"),
        (("--data", TRAIN, "--teacher-model", MODEL), 2, "Expected --teacher WEIGHTS with --teacher-model"),
        (("--data", TRAIN, "--out", "w.pt"), 2, "Expected --out FILE.safetensors, got w.pt"),
        (("--data", TRAIN, "--from", "absent.pt"), 2, "absent.pt"),
        (("--data", TRAIN, "--out", FIXTURE), 2, "which exists. Choose another, or add --force"),
        (("--data", TRAIN, "--budget", "never"), 2, "Expected a duration"),
        (("--data", TRAIN, "--samples", 19), 2, "Expected at least 20 images"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_with_advice(audit, tmp_path, words, code, text):
    out = () if "--out" in words else ("--out", tmp_path / "w.safetensors")
    ended = audit("train", "standard", *SUBJECT, *words, *out)
    assert ended.code == code
    assert text in ended.err
    assert not (tmp_path / "w.safetensors").exists()


def test_a_graph_is_no_architecture(audit, tmp_path):
    program = torch.jit.script(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)))
    program.save(tmp_path / "program.pt")
    ended = audit("train", "standard", "--model", f"script:{tmp_path / 'program.pt'}", "--allow-code", "--preprocess",
                  "none", "--data", TRAIN, "--out", tmp_path / "w.safetensors")  # fmt: skip
    assert ended.code == 2
    assert "Expected an architecture to train (timm:, torchvision:, py:)" in ended.err


def test_code_is_not_run_unasked(audit, tmp_path, network):
    ended = audit("train", "standard", "--model", network, "--data", TRAIN, "--out", tmp_path / "w.safetensors")
    assert ended.code == 4


def test_good_weights_outlive_a_training_that_fails(audit, tmp_path, network):
    out = tmp_path / "w.safetensors"
    words = ("--allow-code", "--preprocess", "none", "--data", TRAIN, *QUICK, "--out", out)
    assert audit("train", "standard", "--model", network, *words).code == 0
    good, record = out.read_bytes(), out.with_suffix(".training.json").read_bytes()
    assert audit("train", "standard", "--model", network.replace(":make", ":stateful"), *words, "--force").code == 2
    assert out.read_bytes() == good
    assert out.with_suffix(".training.json").read_bytes() == record
    assert not list(tmp_path.glob(".unchecked*"))


def test_a_record_is_not_overwritten_unasked(audit, tmp_path, network):
    (tmp_path / "w.training.json").write_text("mine")
    ended = audit("train", "standard", "--model", network, "--allow-code", "--preprocess", "none", "--data", TRAIN,
                  *QUICK, "--out", tmp_path / "w.safetensors")  # fmt: skip
    assert ended.code == 2
    assert (tmp_path / "w.training.json").read_text() == "mine"


def test_test_data_that_cannot_be_read_is_said_before_training(audit, tmp_path, network):
    ended = audit("train", "standard", "--model", network, "--allow-code", "--preprocess", "none", "--data", TRAIN,
                  "--data", "eval=npz:absent.npz", *QUICK, "--out", tmp_path / "w.safetensors")  # fmt: skip
    assert ended.code == 2
    assert "absent.npz" in ended.err
    assert "epoch 1" not in ended.err


def test_changed_code_with_the_same_tensors_is_another_training(audit, tmp_path, network, monkeypatch):
    from audit.training import loop

    original = loop._Training._note

    def interrupted(self, epoch):
        original(self, epoch)
        raise KeyboardInterrupt

    words = ("--model", network, "--allow-code", "--preprocess", "none", "--data", TRAIN, *QUICK)
    out = tmp_path / "w.safetensors"
    monkeypatch.setattr(loop._Training, "_note", interrupted)
    assert audit("train", "standard", *words, "--out", out).code == 130
    monkeypatch.setattr(loop._Training, "_note", original)
    (tmp_path / "network.py").write_text(NETWORK.replace("nn.ReLU()", "nn.Tanh()"))
    ended = audit("train", "standard", *words, "--out", out)
    assert ended.code == 2
    assert "got one of other settings" in ended.err


def test_auxiliary_heads_are_trained_past(audit, tmp_path):
    (tmp_path / "heads.py").write_text("""
from collections import namedtuple
from torch import nn

Both = namedtuple("Both", ["logits", "aux"])


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        z = self.layer(x.flatten(1))
        return Both(z, z) if self.training else z


class Pair(Heads):
    def forward(self, x):
        z = self.layer(x.flatten(1))
        return (z, z) if self.training else z
""")
    words = ("--allow-code", "--preprocess", "none", "--data", TRAIN, *QUICK, "--out", tmp_path / "w.safetensors")
    assert audit("train", "standard", "--model", f"py:{tmp_path / 'heads.py'}:Heads", *words).code == 0
    ended = audit("train", "standard", "--model", f"py:{tmp_path / 'heads.py'}:Pair", *words, "--force")
    assert ended.code == 2
    assert "Expected the network to return logits in training mode" in ended.err


def digit_folders(root, names, *, first):
    """Folders of the digits 0, 1, ... of the given names, 30 images each from the given place."""
    from sklearn.datasets import load_digits

    found = load_digits()
    for digit, name in names.items():
        (root / name).mkdir(parents=True)
        for place, image in enumerate(found.images[found.target == digit][first : first + 30]):
            Image.fromarray((image * 15.9).astype(np.uint8)).save(root / name / f"{place}.png")
    return f"imagefolder:{root}"


def test_images_of_some_classes_are_tested_on_those(audit, tmp_path):
    """Folders are numbered by their own order; the classes are those of the training data, by name."""
    (tmp_path / "three.py").write_text(
        "from torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))\n"
    )
    train = digit_folders(tmp_path / "train", {0: "cat", 1: "dog", 2: "eel"}, first=0)
    part = digit_folders(tmp_path / "part", {1: "dog", 2: "eel"}, first=40)
    foreign = digit_folders(tmp_path / "foreign", {1: "dog", 5: "fox"}, first=40)
    words = ("--model", f"py:{tmp_path / 'three.py'}:make", "--allow-code", "--preprocess", "none", "--epochs", 30)
    words += (
        "--learning-rate",
        0.02,
        "--batch-size",
        16,
        "--data",
        f"train={train}",
        "--out",
        tmp_path / "w.safetensors",
    )
    ended = audit("train", "standard", *words, "--data", f"eval={part}")
    assert ended.code == 0, ended.err
    assert "matched to the model's classes by name" in ended.err
    assert record_of(tmp_path / "w.safetensors").test.accuracy.value > 0.5  # by folders' own order at most the rest
    ended = audit("train", "standard", *words, "--data", f"eval={foreign}", "--force")
    assert ended.code == 2
    assert "fox, which it does not have" in ended.err
    assert "epoch 1" not in ended.err


MISBEHAVED = """
import torch
from torch import nn


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)


class Random(Base):
    def forward(self, x):
        return self.layer(nn.functional.dropout(x.flatten(1), 0.5))


class Blind(Base):
    @torch.no_grad()
    def forward(self, x):
        return self.layer(x.flatten(1))


class Detached(Base):
    def forward(self, x):
        return self.layer(x.detach().flatten(1))


class Small(Base):
    def forward(self, x):
        if len(x) > 40:
            raise torch.OutOfMemoryError("full")
        return self.layer(x.flatten(1))


class Narrow(Base):
    def forward(self, x):
        if len(x) > 16:
            raise RuntimeError("batch too big")
        return self.layer(x.flatten(1))
"""


@pytest.mark.parametrize(("name", "text"), [
    ("Random", "answers the same twice in evaluation mode"),
    ("Blind", "depend on the weights in a way that can be differentiated"),
    ("Narrow", "got RuntimeError from it: batch too big"),
])  # fmt: skip
def test_a_model_that_misbehaves_is_told_before_it_is_trained(audit, tmp_path, name, text):
    (tmp_path / "bad.py").write_text(MISBEHAVED)
    words = ("--allow-code", "--preprocess", "none", "--data", TRAIN, *QUICK, "--out", tmp_path / "w.safetensors")
    ended = audit("train", "standard", "--model", f"py:{tmp_path / 'bad.py'}:{name}", *words)
    assert ended.code == 2
    assert text in ended.err
    assert "internal error" not in ended.err


@pytest.mark.parametrize("name", ["Blind", "Detached"])
def test_what_cannot_be_attacked_is_not_trained_against_attacks(audit, tmp_path, name):
    (tmp_path / "bad.py").write_text(MISBEHAVED)
    words = ("--allow-code", "--preprocess", "none", "--data", TRAIN, *QUICK, "--out", tmp_path / "w.safetensors")
    ended = audit("train", "adversarial", "--model", f"py:{tmp_path / 'bad.py'}:{name}", *words)
    assert ended.code == 2
    assert "Expected logits that depend on the pixels" in ended.err


def test_memory_that_ends_in_training_is_a_matter_of_the_batch(audit, tmp_path):
    (tmp_path / "bad.py").write_text(MISBEHAVED)
    words = ("--model", f"py:{tmp_path / 'bad.py'}:Small", "--allow-code", "--preprocess", "none", "--data", TRAIN,
             *QUICK, "--out", tmp_path / "w.safetensors")  # fmt: skip
    ended = audit("train", "adversarial", *words)
    assert ended.code == 2
    assert "Expected memory for 128 images of training at once, got too little" in ended.err
    ended = audit("train", "adversarial", *words, "--batch-size", 40)
    assert ended.code == 0, ended.err


def test_a_model_that_learnt_nothing_is_not_handed_over_without_a_word(audit, tmp_path, network):
    words = ("--model", network, "--allow-code", "--preprocess", "none", "--data", TRAIN, "--batch-size", 32)
    ended = audit(
        "train", "standard", *words, "--epochs", 1, "--learning-rate", 1e-7, "--out", tmp_path / "w.safetensors"
    )
    assert "not clearly better than always answering the commonest label" in ended.err
    ended = audit("train", "standard", *words, "--epochs", 20, "--out", tmp_path / "v.safetensors")
    assert "commonest label" not in ended.err


def test_one_step_is_not_several(audit, tmp_path):
    words = ("--data", TRAIN, "--recipe", "fgsm-rs", "--set", "steps=5", "--out", tmp_path / "w.safetensors")
    ended = audit("train", "adversarial", *SUBJECT, *words)
    assert ended.code == 2
    assert "error: Expected no steps with fgsm-rs, which takes one, got 5" in ended.err


def test_what_another_kind_of_training_left_unfinished_is_left_alone(audit, tmp_path, network):
    out = tmp_path / "w.safetensors"
    theirs = tmp_path / "w.safetensors.teacher.unfinished"
    theirs.write_bytes(b"of a distillation")
    words = ("--model", network, "--allow-code", "--preprocess", "none", "--data", TRAIN, *QUICK)
    assert audit("train", "standard", *words, "--out", out, "--fresh").code == 0
    assert theirs.read_bytes() == b"of a distillation"


def test_a_teacher_is_not_overwritten(audit, tmp_path, network):
    words = ["--model", network, "--allow-code", "--preprocess", "none", "--data", TRAIN, *QUICK]
    out = tmp_path / "w.safetensors"
    assert audit("train", "standard", *words, "--out", out).code == 0
    ended = audit("train", "distill", *words, "--teacher", out, "--out", out, "--force")
    assert ended.code == 2
    assert "another file than --teacher" in ended.err
