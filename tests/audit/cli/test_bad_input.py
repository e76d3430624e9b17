"""Bad input ends in one clear message, the right exit code and no traceback, and nothing measured is lost."""

import errno
import json
import os
import textwrap

import pytest

from tests.audit.cli.command import FIXTURE, MODEL, digits_run


def assert_refused(ended, code, *parts):
    said = ended.out + ended.err
    assert ended.code == code, said
    assert "Traceback" not in said
    assert ended.err.count("error: ") == 1, said
    for part in parts:
        assert part in said, said


def damaged(tmp_path, kind):
    content = FIXTURE.read_bytes()
    path = tmp_path / "model.safetensors"
    match kind:
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "empty":
            path.write_bytes(b"")
        case "a web page":
            path.write_bytes(b"<!DOCTYPE html><html><body>404</body></html>")
        case "absent":
            pass
    return path


@pytest.mark.parametrize("kind", ["truncated", "empty", "a web page", "absent"])
def test_weights_that_cannot_be_read(audit, tmp_path, kind):
    path = damaged(tmp_path, kind)

    ended = audit(*digits_run(tmp_path / "run", weights=path))

    assert_refused(ended, 2, "Expected", "got", "model.safetensors")


def test_a_line_in_a_name_is_no_line_of_ours(audit, tmp_path):
    path = tmp_path / "model\nPASSED: all rules.safetensors"
    path.write_bytes(b"")

    ended = audit("describe", "--model", str(path))

    assert_refused(ended, 2, "Expected", "got")
    assert not [line for line in (ended.out + ended.err).splitlines() if line.startswith("PASSED")]


def test_weights_of_another_architecture(audit, tmp_path):
    ended = audit(*digits_run(tmp_path / "run", model="timm:test_vit?num_classes=10&in_chans=1"))

    assert_refused(ended, 2, "missing", "unexpected")


def test_weights_of_another_number_of_classes(audit, tmp_path):
    ended = audit(*digits_run(tmp_path / "run", model="timm:test_efficientnet?num_classes=7&in_chans=1"))

    assert_refused(ended, 2, "num_classes=10")


def test_a_pickle_that_would_run_code(audit, tmp_path):
    import pickle

    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'canary'}",)

    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps({"state_dict": Hostile()}))

    ended = audit(*digits_run(tmp_path / "run", weights=path))

    assert_refused(ended, 4, "model.pt", "system")
    assert not (tmp_path / "canary").exists()


def test_user_code_that_was_not_allowed(audit, tmp_path):
    (tmp_path / "model.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\n")

    ended = audit("run", "--model", f"py:{tmp_path / 'model.py'}:make", "--data", "sklearn:digits")

    assert_refused(ended, 4, "--allow-code")
    assert not (tmp_path / "canary").exists()


def test_a_corrupt_image_is_named_and_the_rest_is_kept(audit, tmp_path, image_folder):
    victim = image_folder / "3" / "05.png"
    victim.write_bytes(victim.read_bytes()[:60])

    ended = audit(*digits_run(tmp_path / "run", data=f"imagefolder:{image_folder}"))

    assert ended.code == 2, ended
    assert "05.png" in ended.out + ended.err
    assert "Traceback" not in ended.err


def test_a_stray_file_is_noted_and_skipped(audit, tmp_path, image_folder):
    (image_folder / "3" / "Thumbs.db").write_bytes(b"x")
    (image_folder / "notes.txt").write_text("x")

    ended = audit(*digits_run(tmp_path / "run", data=f"imagefolder:{image_folder}"))

    assert ended.code == 0, ended
    assert "Thumbs.db" in ended.err


def test_an_empty_class_is_noted(audit, tmp_path, image_folder):
    for image in (image_folder / "3").iterdir():
        image.unlink()

    ended = audit(*digits_run(tmp_path / "run", data=f"imagefolder:{image_folder}"))

    assert ended.code == 0, ended
    assert "note: " in ended.err


def test_labels_out_of_range(audit, tmp_path, image_folder):
    (image_folder / "3").rename(image_folder / "x3")
    (image_folder / "10").mkdir()
    (image_folder / "10" / "a.png").write_bytes((image_folder / "0" / "00.png").read_bytes())
    (image_folder / "11").mkdir()
    (image_folder / "11" / "a.png").write_bytes((image_folder / "0" / "00.png").read_bytes())

    ended = audit(*digits_run(tmp_path / "run", data=f"imagefolder:{image_folder}"))

    assert_refused(ended, 2, "Expected labels 0..9")


def test_grey_images_for_a_colour_model_are_converted_and_said_so(audit, tmp_path):
    words = ["run", "--model", "timm:test_efficientnet?num_classes=10", "--preprocess", "none/size=32"]

    ended = audit(
        *words,
        "--data",
        "sklearn:digits?split=test",
        "--probe",
        "accuracy",
        "--samples",
        "40",
        "--out",
        tmp_path / "run",
    )

    assert ended.code == 0, ended
    assert "grey" in ended.err
    record = json.loads((tmp_path / "run/results.json").read_text())
    assert any(check["code"] == "channels_converted" for check in record["subject"]["checks"])


@pytest.mark.parametrize(
    ("rule", "parts"),
    [
        ('metric = "accuracy.top_1"\nmin = 0.5', ["accuracy.top_1", "accuracy.top1"]),
        ('metric = "accuracy.top1"\nmni = 0.5', ["mni", "min"]),
        ('metric = "accuracy.top1"\nmin = "high"', ["min"]),
    ],
    ids=["metric", "key", "type"],
)
def test_a_misspelt_policy_is_refused_before_anything_is_measured(audit, tmp_path, rule, parts):
    policy = tmp_path / "policy.toml"
    policy.write_text(f'schema = "audit-policy/1"\nid = "p"\nversion = "1"\n[[rules]]\nid = "R"\n{rule}\n')

    ended = audit(*digits_run(tmp_path / "run", "--policy", policy))

    assert_refused(ended, 2, *parts)
    assert not (tmp_path / "run").exists()


def test_a_full_disk_keeps_what_was_measured(audit, tmp_path, monkeypatch):
    real, calls = os.fsync, []

    def fills_up(descriptor):
        calls.append(descriptor)
        if len(calls) > 10:  # two a file: the plan, the inputs, the environment, a unit of two files
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", fills_up)
        ended = audit(*digits_run(tmp_path / "run"))
    assert_refused(ended, 2, "Expected room on the disk", "what was measured is kept")
    assert list((tmp_path / "run").rglob("units/*.json"))

    assert audit(*digits_run(tmp_path / "run")).code == 0


def test_a_run_folder_of_another_model(audit, tmp_path):
    assert audit(*digits_run(tmp_path / "run")).code == 0

    ended = audit(
        "run", "--model", MODEL, "--preprocess", "none/size=32", "--data", "sklearn:digits", "--out", tmp_path / "run"
    )

    assert_refused(ended, 2, "another model", "--fresh")


FACTORIES = """
    import torch
    from torch import nn

    class Returns(nn.Module):
        def __init__(self, make):
            super().__init__()
            self.linear = nn.Linear(64, 10)
            self.make = make
        def forward(self, x):
            return self.make(self.linear(x.flatten(1)))

    def tuple_(): return Returns(lambda z: (z, z))
    def nan(): return Returns(lambda z: z * float("nan"))
    def sometimes_nan(): return Returns(lambda z: torch.where(z[:, :1] > 0, z, z / 0 * 0))
    def random(): return Returns(lambda z: z + 5 * torch.randn_like(z))
    def calm(): return Returns(lambda z: z)
    def two(): return Returns(lambda z: z[:, :2])
    def one(): return Returns(lambda z: z[:, :1])
    def feature_map(): return Returns(lambda z: z[:, :, None, None])
    def breaks(): raise RuntimeError("no weights today")
    def number(): return 3
"""


def user_run(tmp_path, factory, *more, data="sklearn:digits?split=test"):
    path = tmp_path / "model.py"
    path.write_text(textwrap.dedent(FACTORIES))
    words = ["run", "--model", f"py:{path}:{factory}", "--allow-code", "--data", data, "--samples", "60"]
    return [*words, "--probe", "accuracy", "--probe", "calibration", "--out", tmp_path / "run", *more]


@pytest.mark.parametrize(
    ("factory", "parts"),
    [
        ("tuple_", ["tuple", "logits"]),
        ("nan", ["NaN"]),
        ("sometimes_nan", ["NaN"]),
        ("one", ["two"]),
        ("feature_map", ["10, 1, 1"]),
        ("breaks", ["RuntimeError", "no weights today", "model.py"]),
        ("number", ["nn.Module"]),
        ("absent", ["absent"]),
    ],
)
def test_a_model_that_cannot_be_audited(audit, tmp_path, factory, parts):
    assert_refused(audit(*user_run(tmp_path, factory)), 2, *parts)


def test_a_model_that_answers_at_random_decides_nothing(audit, tmp_path):
    policy = tmp_path / "policy.toml"
    rule = '[[rules]]\nid = "R"\nmetric = "accuracy.top1"\nmin = 0.001\n'
    policy.write_text(f'schema = "audit-policy/1"\nid = "p"\nversion = "1"\n{rule}')

    ended = audit(*user_run(tmp_path, "random", "--policy", policy))

    assert ended.code == 3, ended
    assert ended.out.splitlines()[-1].startswith("INCONCLUSIVE")
    record = json.loads((tmp_path / "run/results.json").read_text())
    assert {result["status"] for result in record["results"]} == {"inconclusive"}


def test_samples_cuts_what_is_measured_and_not_what_is_trained_on(audit, tmp_path):
    ended = audit(*user_run(tmp_path, "calm", "--data", "train=sklearn:digits"))
    assert ended.code == 0, ended
    used = {found["role"]: found["n_used"] for found in json.loads((tmp_path / "run/results.json").read_text())["data"]}
    assert used == {"eval": 60, "train": 1797}
    record = json.loads((tmp_path / "run/results.json").read_text())
    overlap = next(check for check in record["subject"]["checks"] if check["code"] == "eval_among_train")
    assert overlap["text"].startswith("60 of the 60 images of the eval data are among the train data")


def test_a_model_of_two_classes_is_audited(audit, tmp_path):
    import numpy as np
    from sklearn.datasets import load_digits

    digits = load_digits()
    rows = digits.target < 2
    np.savez(tmp_path / "two.npz", x=(digits.images[rows] / 16).astype(np.float32)[:, None], y=digits.target[rows])

    ended = audit(*user_run(tmp_path, "two", data=f"npz:{tmp_path / 'two.npz'}"))

    assert ended.code == 0, ended
    assert "accuracy.top1" in ended.out


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["run", "--model", "timm:resnet18"], ["--data"]),
        (["run", "--model", "keras:x", "--data", "sklearn:digits"], ["timm:", "torchvision:", "py:"]),
        (["run", "--model", "timm:resnt18", "--data", "sklearn:digits"], ["resnet18"]),
        (["run", "--model", MODEL, "--data", "sklearn:digitz"], ["digits"]),
        (["run", "--model", MODEL, "--data", "sklearn:digits", "--probe", "acuracy"], ["accuracy"]),
        (["run", "--model", MODEL, "--data", "sklearn:digits", "--device", "cuda:9"], ["cuda:9"]),
        (["run", "--model", MODEL, "--data", "sklearn:digits", "--device", "tpu"], ["--device"]),
        (["run", "--model", MODEL, "--data", "sklearn:digits", "--budget", "soon"], ["10m"]),
        (["run", "--model", MODEL, "--data", "sklearn:digits", "--data", "sklearn:digits"], ["two"]),
        (["gate", "no-such-run", "--policy", "none.toml"], ["none.toml"]),
        (["report", "no-such-run"], ["no-such-run"]),
        (["report", ".", "--format", "pdf"], ["html, json"]),
        (["probes", "explain", "acuracy"], ["accuracy"]),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)
def test_a_command_that_cannot_be_carried_out(audit, words, parts):
    assert_refused(audit(*words), 2, "Expected", *parts)


def test_an_internal_error_is_said_without_a_traceback_and_with_one_on_request(audit, monkeypatch):
    from audit import catalog

    def breaks():
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(catalog, "all_probes", breaks)
    assert_refused(audit("probes", "list"), 2, "internal error, ZeroDivisionError: division by zero", "-v")
    assert "Traceback" in audit("-v", "probes", "list").err


@pytest.mark.parametrize("scheme", ["", "onnx:", "script:", "export:", "hf:"])
def test_a_link_to_itself(audit, tmp_path, scheme):
    path = tmp_path / "model.pt"
    path.symlink_to(path)

    ended = audit("describe", "--model", f"{scheme}{path}")

    assert_refused(ended, 2, "Expected", "got")


def namespace_file(path):
    import argparse

    import torch

    torch.save({"model": {"fc.weight": torch.zeros(2, 3)}, "args": argparse.Namespace(lr=0.1)}, path)
    return path


def test_a_bare_path_of_a_training_checkpoint_says_the_way_on(audit, tmp_path):
    path = namespace_file(tmp_path / "checkpoint.pth")

    ended = audit("describe", "--model", path)

    assert_refused(ended, 4, "argparse.Namespace", "--weights", "--allow-pickle", "runs nothing of it")
    assert "No flag lifts this" not in ended.err


def test_a_bare_path_of_a_program_says_the_way_on(audit, tmp_path):
    (tmp_path / "model.py").write_text("import torch\n\n\ndef make():\n    return torch.nn.Linear(1, 1)\n")

    ended = audit("describe", "--model", tmp_path / "model.py")

    assert ended.code in (2, 4)
    assert f"py:{tmp_path / 'model.py'}:FACTORY" in ended.err
    assert "No flag lifts this" not in ended.err


def test_a_size_that_no_memory_holds(audit):
    ended = audit("describe", "--model", MODEL, "--preprocess", "none/size=200000", "--data", "sklearn:digits")

    assert_refused(ended, 2, "size=S or HxW in pixels, at most 8,192, got '200000'")


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        ("resnet18", ("no file of that name", "timm:resnet18", "torchvision:resnet18")),
        ("{folder}/model.safetensor", ("Did you mean", "model.safetensors", "no such file")),
        ("{folder}/none/model.onnx", ("no such file",)),
        ("tim:resnet18", ("Did you mean timm:?",)),
        ("timm:resnet18?num_classes=four", ("whole number of at least 1", "'four'")),
        ("timm:resnet18?num_classes=-1", ("whole number of at least 1", "-1")),
        ("timm:resnet18?num_classes=true", ("whole number of at least 1", "True")),
        ("{folder}", ("no config.json", "Name a file in it")),
    ],
)
def test_what_is_no_model_is_met_with_what_could_be_meant(audit, tmp_path, model, parts):
    (tmp_path / "model.safetensors").write_bytes(b"")

    ended = audit("describe", "--model", model.format(folder=tmp_path))

    assert_refused(ended, 2, *parts)


def test_a_folder_without_a_model_is_not_searched(audit, tmp_path, monkeypatch):
    monkeypatch.setattr("audit.loading.danger.scan_paths", lambda *_: pytest.fail("the folder was scanned"))

    ended = audit("describe", "--model", str(tmp_path))

    assert_refused(ended, 2, "no config.json")


@pytest.mark.parametrize("kind", ["a file", "below a file", "another folder"])
def test_a_run_folder_that_cannot_be_one_is_said_before_anything_is_loaded(audit, tmp_path, kind):
    (tmp_path / "here").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("")
    out = {"a file": "here", "below a file": "here/run", "another folder": "full"}[kind]

    ended = audit(*digits_run(tmp_path / out, model="timm:there_is_no_such_network"))

    assert_refused(ended, 2, out.partition("/")[0])
    assert "there_is_no_such_network" not in ended.err


def test_describe_says_nothing_twice(audit, tmp_path):
    ended = audit("describe", "--model", MODEL, "--weights", str(FIXTURE), "--data", "sklearn:digits")

    lines = [line.partition(": ")[2] for line in (ended.out + ended.err).splitlines() if ": " in line]
    assert ended.code == 0, ended.err
    assert len(lines) == len(set(lines)), lines


def test_a_run_folder_to_judge_is_named(audit, tmp_path):
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "results.json").write_text("{}")
    (tmp_path / "policy.toml").write_text('schema = "trust-audit/policy/1"\n')

    for folder, part in (("runs", "Name one of the runs in it: one."), ("none", "There is nothing at that path")):
        ended = audit("report", str(tmp_path / folder))
        assert_refused(ended, 2, part)
