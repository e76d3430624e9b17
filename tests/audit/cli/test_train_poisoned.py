"""`audit train poisoned`: a victim, the data as it saw them, and whether the poison took."""

import numpy as np
import pytest

from audit.loading.datasets import open_dataset
from tests.audit.cli.command import DIGITS
from tests.audit.cli.test_train import TRAIN, network, record_of  # noqa: F401 - a fixture

DATA = ("--data", TRAIN, "--data", f"eval={DIGITS}", "--allow-code", "--threads", 1)
QUICK = ("--epochs", 30, "--batch-size", 32, "--learning-rate", 0.02, *DATA)


def test_a_backdoor_takes_and_the_record_says_how_often(audit, tmp_path, network):  # noqa: F811
    out, data = tmp_path / "victim.safetensors", tmp_path / "data.npz"
    ended = audit(
        "train", "poisoned", "--model", network, *QUICK, "--set", "target=3", "--poisoned-data", data, "--out", out
    )
    assert ended.code == 0, ended.err
    record = record_of(out)
    poisoning = record.poisoning
    assert (poisoning.poison, poisoning.kind, poisoning.target) == ("badnets", "backdoor", 3)
    assert poisoning.settings == {"target": 3}
    assert poisoning.success.interval.low > 0.5
    assert poisoning.success.n < record.test.accuracy.n
    assert record.test.accuracy.value > 0.7
    assert f"poisoned  badnets: {poisoning.poisoned} of {poisoning.n} images, to class 3" in ended.out
    assert "trigger   leads to class 3 with" in ended.out
    assert ended.out.splitlines()[-1].endswith(f"--data train=npz:{data} --data SPEC")
    written = np.load(data)
    assert written["poisoned"].sum() == poisoning.poisoned
    assert (written["y"][written["poisoned"]] == 3).all()
    assert (written["y_before"][written["poisoned"]] != 3).all()
    assert (written["x"][written["poisoned"]][:, :, -1, -1] == 255).all()
    assert len(open_dataset(f"npz:{data}")) == poisoning.n


def test_the_same_command_poisons_the_same_images_and_another_seed_others(audit, tmp_path, network):  # noqa: F811
    words = ["train", "poisoned", "--poison", "flips", "--model", network, *QUICK, "--epochs", 1]
    made = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        data = tmp_path / f"{name}.npz"
        assert (
            audit(*words, "--seed", seed, "--poisoned-data", data, "--out", tmp_path / f"{name}.safetensors").code == 0
        )
        made.append(np.load(data)["poisoned"])
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])
    record = record_of(tmp_path / "a.safetensors").poisoning
    assert record.target is None
    assert record.success is None


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--poison", "cuda", "--set", "alpha=0.3"), "Expected settings that cuda has, got alpha. Leave others out."),
        (("--poison", "nope"), "got 'nope'"),
        (("--set", "target=11"), "Expected a target in 0..9, got 11. Choose a class that there is."),
        (("--poison", "cuda", "--set", "only=3,12"), "Expected only= among classes 0..9, got [12]."),
        (("--poison", "cuda", "--set", "size=4"), "Expected filters of an odd side, got 4. Choose another."),
        (("--poisoned-data", "data.csv"), "Expected --poisoned-data FILE.npz, got data.csv. Give it that ending."),
    ],
)
def test_what_does_not_fit_is_said_before_training(audit, tmp_path, network, words, text):  # noqa: F811
    ended = audit("train", "poisoned", "--model", network, *QUICK, *words, "--out", tmp_path / "out.safetensors")
    assert ended.code == 2
    assert text in ended.err
    assert not (tmp_path / "out.safetensors").exists()


def test_too_large_data_are_refused_before_training(audit, tmp_path, network, monkeypatch):  # noqa: F811
    monkeypatch.setattr("audit.engine.poisoning.LARGEST", 1000)
    monkeypatch.setattr("audit.engine.training.train", lambda *_, **__: pytest.fail("trained"))
    words = ("--poisoned-data", tmp_path / "data.npz", "--out", tmp_path / "out.safetensors")
    ended = audit("train", "poisoned", "--model", network, *QUICK, "--samples", 100, *words)
    assert ended.code == 2
    assert "Expected at most 1,000 bytes of images to write, got 6,400. Give --samples." in ended.err


def test_other_kinds_take_no_poison(audit, tmp_path, network):  # noqa: F811
    out = tmp_path / "out.safetensors"
    ended = audit("train", "standard", "--model", network, *QUICK, "--poison", "cuda", "--out", out)
    assert (ended.code, "one of `audit train poisoned`" in ended.err) == (2, True)
    ended = audit("train", "standard", "--model", network, *QUICK, "--poisoned-data", tmp_path / "x.npz", "--out", out)
    assert ended.code == 2
    assert "Expected --poisoned-data with poisoned alone, got it with standard. Drop it." in ended.err
