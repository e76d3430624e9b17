"""`hf:DIR`: folders of transformers."""

import json
import logging
import os
import shutil
import socket
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

pytest.importorskip("transformers")

from audit.errors import AuditError, SubjectError, UnsafeArtefactError, UsageError
from audit.loading import hf_config
from audit.loading.hf_weights import read_folder_weights
from tests.tiny_transformers import NAMES, RECIPES, edit, network, save
from tests.user_models import codes, load

PIXELS = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def loaded_of(spec: str, **options):
    return load(spec, **{"native_shape": (3, 32, 32), "allow_code": False, **options})


@pytest.fixture
def vit(tmp_path):
    save(network("ViT"), tmp_path / "vit")
    return tmp_path / "vit"


@pytest.mark.parametrize("name", RECIPES)
def test_logits_equal_those_of_transformers(tmp_path: Path, name: str) -> None:
    made = network(name)
    loaded = loaded_of(save(made, tmp_path), native_shape=(3, 64, 64) if "Levit" in name else (3, 32, 32))
    pixels = torch.rand(3, *loaded.subject.input_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(loaded.subject.logits(pixels), made(pixels).logits, atol=2e-6, rtol=1e-4)
    assert loaded.subject.class_names == NAMES
    assert loaded.subject.access == {"weights", "gradients", "logits", "labels"}
    assert loaded.trust_exceptions == ()
    assert not {"random_weights", "black_box"} & codes(loaded)
    assert [file.name for file in loaded.info.files] == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("name", ["ViT", "Swinv2", "Beit", "CLIP"])
def test_second_derivatives(tmp_path: Path, name: str) -> None:
    subject = loaded_of(save(network(name), tmp_path)).subject
    pixels = PIXELS.clone().requires_grad_()
    gradient = torch.autograd.grad(subject.logits(pixels)[:, 0].sum(), pixels, create_graph=True)[0]
    second = torch.autograd.grad(gradient.square().sum(), pixels)[0]
    assert (second.flatten(1).abs().amax(1) > 0).all()


def test_loading_says_nothing(vit: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import transformers

    transformers.logging.set_verbosity_info()
    transformers.logging.enable_progress_bar()
    loaded_of(f"hf:{vit}")
    assert capfd.readouterr() == ("", "")
    assert transformers.logging.get_verbosity() == logging.INFO
    assert transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()


@pytest.mark.parametrize("kind", ["safetensors", "sharded", "bin", "sharded bin"])
def test_every_layout_of_the_weights_gives_the_same(vit: Path, kind: str) -> None:
    expected = loaded_of(f"hf:{vit}").subject
    tensors = safetensors.torch.load_file(vit / "model.safetensors")
    (vit / "model.safetensors").unlink()
    write, end = (torch.save, "bin") if "bin" in kind else (safetensors.torch.save_file, "safetensors")
    stem = "pytorch_model" if end == "bin" else "model"
    if "sharded" in kind:
        keys = sorted(tensors)
        parts = {f"{stem}-1-of-2.{end}": keys[::2], f"{stem}-2-of-2.{end}": keys[1::2]}
        for file, inside in parts.items():
            write({key: tensors[key] for key in inside}, vit / file)
        places = {key: file for file, inside in parts.items() for key in inside}
        (vit / f"{stem}.{end}.index.json").write_text(json.dumps({"weight_map": places}))
    else:
        write(tensors, vit / f"{stem}.{end}")
    found = loaded_of(f"hf:{vit}").subject
    torch.testing.assert_close(found.logits(PIXELS), expected.logits(PIXELS), atol=0, rtol=0)


def test_safetensors_are_preferred_and_said(vit: Path) -> None:
    (vit / "pytorch_model.bin").write_bytes(b"nothing that could be read")
    assert "model.safetensors is taken; pytorch_model.bin lies beside it" in loaded_of(f"hf:{vit}").notes


def test_a_checkpoint_of_the_trainer(vit: Path) -> None:
    """Its other files are pickles of classes, and are never read."""
    import argparse

    checkpoint = vit.rename(vit.parent / "checkpoint-500")
    torch.save(argparse.Namespace(learning_rate=1e-3), checkpoint / "training_args.bin")
    torch.save({"state": {}, "param_groups": []}, checkpoint / "optimizer.pt")
    (checkpoint / "trainer_state.json").write_text("{}")
    assert loaded_of(f"hf:{checkpoint}").info.name == "checkpoint-500"


def test_half_precision_is_brought_to_float32(tmp_path: Path) -> None:
    loaded = loaded_of(save(network("ViT").half(), tmp_path))
    assert "tensors of float16 are brought to float32" in loaded.notes
    assert loaded.subject.logits(PIXELS).dtype == torch.float32


def test_weights_of_a_file_by_either_names(vit: Path, tmp_path: Path) -> None:
    """Names in memory differ from those on disk since transformers 5, and trainers add a prefix."""
    expected = loaded_of(f"hf:{vit}").subject.logits(PIXELS)
    stored = safetensors.torch.load_file(vit / "model.safetensors")
    in_memory = network("ViT").state_dict()
    assert stored.keys() != in_memory.keys()
    (vit / "model.safetensors").unlink()
    for tensors in (stored, in_memory, {f"net.{key}": value for key, value in stored.items()}):
        torch.save({"epoch": 3, "model": tensors}, tmp_path / "weights.pt")
        loaded = loaded_of(f"hf:{vit}", weights=tmp_path / "weights.pt")
        torch.testing.assert_close(loaded.subject.logits(PIXELS), expected, atol=0, rtol=0)
        assert [file.name for file in loaded.info.files] == ["weights.pt", "config.json"]
    torch.save({"vit.layer": torch.ones(2)}, tmp_path / "weights.pt")
    with pytest.raises(SubjectError, match="got 0 that fit"):
        loaded_of(f"hf:{vit}", weights=tmp_path / "weights.pt")


def changed_weights(folder: Path, change) -> None:
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    change(tensors)
    safetensors.torch.save_file(tensors, folder / "model.safetensors")


def test_a_missing_head_is_an_error(vit: Path) -> None:
    def headless(tensors):
        for key in [key for key in tensors if key.startswith("classifier")]:
            del tensors[key]

    changed_weights(vit, headless)
    with pytest.raises(SubjectError, match=r"missing \(2\): classifier.bias, classifier.weight") as caught:
        loaded_of(f"hf:{vit}")
    assert "What is missing would be random numbers" in str(caught.value)


def test_leftovers_and_other_shapes_are_errors(vit: Path) -> None:
    def changed(tensors):
        tensors["classifier.weight"] = torch.zeros(5, 16)
        tensors["second_head.weight"] = torch.zeros(2)

    changed_weights(vit, changed)
    with pytest.raises(SubjectError) as caught:
        loaded_of(f"hf:{vit}")
    assert "unexpected (1): second_head.weight" in str(caught.value)
    assert "of another shape (1): classifier.weight: file (5, 16), network (3, 16)" in str(caught.value)


def test_weights_that_are_not_finite(vit: Path) -> None:
    changed_weights(vit, lambda tensors: tensors["classifier.bias"].fill_(torch.nan))
    with pytest.raises(SubjectError, match=r"NaN or Inf in 1 of 40 tensors of model.safetensors: classifier.bias"):
        loaded_of(f"hf:{vit}")


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"auto_map": {"AutoModel": "modeling.Net"}}, UnsafeArtefactError, "auto_map in config.json names `modeling"),
        ({"model_type": "my_vit"}, SubjectError, "knows in config.json of vit, got 'my_vit'"),
        ({"model_type": None}, SubjectError, "got ''"),
        ({"architectures": ["ViTModel"]}, SubjectError, r"image classifier \(ViTForImageClassification\) as arch"),
        ({"architectures": ["MyViT"]}, SubjectError, r"got \['MyViT'\]"),
        ({"architectures": None}, SubjectError, "Save the fine-tuned classifier itself"),
        ({"model_type": "bert"}, SubjectError, "of which transformers has none for bert"),
        ({"problem_type": "multi_label_classification"}, SubjectError, "one label an image in vit, got problem_type"),
        ({"id2label": {"0": "score"}}, SubjectError, "two or more classes in vit, got num_labels 1, a regression"),
        ({"id2label": {"0": "cat", "7": "dog"}}, SubjectError, "id2label with the ids 0 to 1"),
        ({"id2label": {"0": "cat", "1" * 5000: "dog"}}, SubjectError, "id2label with the ids 0 to 1"),
        ({"id2label": 5}, SubjectError, "Expected id2label with a name for each id in config.json of vit, got 5. Corr"),
        ({"id2label": True}, SubjectError, "for each id in config.json of vit, got True"),
        ({"id2label": 1e308}, SubjectError, "for each id in config.json of vit, got 1e"),
        ({"num_labels": 10**9}, SubjectError, "at most 1,000,000 in config.json of vit, got more as num_labels. C"),
        ({"num_labels": 1e999}, SubjectError, "got more as num_labels"),
        ({"num_hidden_layers": 10**9}, SubjectError, "got more as num_hidden_layers. Correct it"),
        ({"vision_config": {"depths": [10**6, 1]}}, SubjectError, "got more as depths"),
        ({"num_labels": [1.5, -(10**400), float("nan")]}, SubjectError, "got more as num_labels"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, SubjectError, "got a quantised network"),
        ({"backbone": "resnet50", "use_timm_backbone": True}, SubjectError, "got backbone, use_timm_backbone"),
        ({"transformers_weights": "other.safetensors"}, SubjectError, r"'other.safetensors' in config.json"),
        ({"hidden_act": "swoosh"}, SubjectError, "to describe a ViTForImageClassification, got"),
        ({"hidden_size": "wide"}, SubjectError, "to describe a ViTForImageClassification, got"),
    ],
)
def test_configurations_that_are_refused(vit: Path, change: dict, error: type[AuditError], said: str) -> None:
    edit(vit, lambda values: values.update(change))
    with pytest.raises(error, match=said):
        loaded_of(f"hf:{vit}")


def test_more_labels_than_could_be_listed(vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_config, "MOST_COUNTED", 2)
    with pytest.raises(SubjectError, match=r"Expected counts of at most 2 in config.json of vit, got more as id2label"):
        loaded_of(f"hf:{vit}")


def test_code_of_the_folder_is_refused_with_two_ways_on(vit: Path) -> None:
    (vit / "modeling.py").write_text("raise SystemExit('it ran')")
    edit(vit, lambda values: values.update(model_type="mine", auto_map={"AutoModel": "modeling.Net"}))
    with pytest.raises(UnsafeArtefactError) as caught:
        loaded_of(f"hf:{vit}", allow_code=True)
    assert caught.value.exit_code == 4
    assert "save the weights as safetensors" in str(caught.value)
    assert "--model py:FILE:FUNCTION --allow-code" in str(caught.value)


@pytest.mark.parametrize("place", ["../other.safetensors", "/etc/passwd", "sub/model.safetensors", "..", "a\\b"])
def test_an_index_that_leads_out_of_the_folder(vit: Path, place: str) -> None:
    (vit / "model.safetensors").rename(vit.parent / "other.safetensors")
    (vit / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"classifier.bias": place}}))
    with pytest.raises(SubjectError, match=r"which lead out of it. Nothing was read"):
        read_folder_weights(vit, {}, allow_pickle=False)
    with pytest.raises(AuditError):  # the scan of the folder comes first
        loaded_of(f"hf:{vit}")


def test_shards_that_are_incomplete(vit: Path) -> None:
    tensors = safetensors.torch.load_file(vit / "model.safetensors")
    (vit / "model.safetensors").unlink()
    places = {"weight_map": dict.fromkeys([*tensors, "classifier.gamma"], "part.safetensors")}
    (vit / "model.safetensors.index.json").write_text(json.dumps(places))
    with pytest.raises(SubjectError, match=r"got none of part.safetensors. Copy the rest"):
        loaded_of(f"hf:{vit}")
    safetensors.torch.save_file(tensors, vit / "part.safetensors")
    with pytest.raises(SubjectError, match=r"part.safetensors, got a file without classifier.gamma"):
        loaded_of(f"hf:{vit}")


def test_folders_without_what_is_needed(vit: Path, tmp_path: Path) -> None:
    (vit / "model.safetensors").unlink()
    with pytest.raises(SubjectError, match=r"Expected model.safetensors or pytorch_model.bin in vit, got config.json"):
        loaded_of(f"hf:{vit}")
    (vit / "tf_model.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(SubjectError, match=r"those of another library \(tf_model.h5\)"):
        loaded_of(f"hf:{vit}")
    (vit / "adapter_config.json").write_text("{}")
    with pytest.raises(SubjectError, match=r"adapters \(LoRA\)"):
        loaded_of(f"hf:{vit}")
    (vit / "config.json").write_text("{")
    with pytest.raises(SubjectError, match=r"Expected JSON in config.json of vit"):
        loaded_of(f"hf:{vit}")
    (vit / "config.json").unlink()
    with pytest.raises(UsageError, match="got a folder without it"):
        loaded_of(f"hf:{vit}")
    with pytest.raises(UsageError, match="got nothing there"):
        loaded_of(f"hf:{tmp_path / 'nowhere'}")
    with pytest.raises(UsageError, match="Expected hf:DIR alone"):
        loaded_of(f"hf:{vit}?num_labels=3")


def test_settings_that_steer_the_loading_are_left_out(vit: Path) -> None:
    expected = loaded_of(f"hf:{vit}").subject.logits(PIXELS)
    steering = {
        "_name_or_path": "google/vit", "_attn_implementation": "kernels-community/flash", "torchscript": True,
        "attn_implementation": "flash_attention_2", "return_dict": False, "output_attentions": True,
        "fusion_config": {"patch_embeddings": True}, "dtype": "bfloat16", "torch_dtype": "float16",
        "_commit_hash": "0" * 40,
    }  # fmt: skip
    edit(vit, lambda values: values.update(steering))
    loaded = loaded_of(f"hf:{vit}")
    torch.testing.assert_close(loaded.subject.logits(PIXELS), expected, atol=0, rtol=0)
    assert "output_field" in codes(loaded)


_opened: list[str] = []
_watching = False


def _watch(event: str, arguments: tuple) -> None:
    if _watching and event == "open" and isinstance(arguments[0], str | os.PathLike):
        _opened.append(os.fspath(arguments[0]))


def test_loading_opens_no_connection_and_no_other_file(vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    global _watching  # noqa: PLW0603 - an audit hook cannot be taken off

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    decoy = shutil.copytree(vit, vit.parent / "decoy")
    edit(vit, lambda values: values.update(_name_or_path=str(decoy), name_or_path=str(decoy)))
    monkeypatch.chdir(vit.parent)
    loaded_of(f"hf:{vit}")  # whatever is imported for the first time
    sys.addaudithook(_watch)
    _opened.clear()
    _watching = True
    try:
        loaded_of(f"hf:{vit}")
    finally:
        _watching = False
    read = {path for path in _opened if path.startswith(str(vit.parent))}
    assert {Path(path).name for path in read if Path(path).is_file()} == {"config.json", "model.safetensors"}
    assert not [path for path in _opened if str(decoy) in path]


def test_names_that_are_placeholders(tmp_path: Path) -> None:
    labels = {f"LABEL_{place}": place for place in range(3)}
    made = network("ViT", id2label={place: name for name, place in labels.items()}, label2id=labels)
    assert loaded_of(save(made, tmp_path)).subject.class_names == ()


def test_eleven_classes_keep_the_order_of_their_ids(tmp_path: Path) -> None:
    names = [f"class {place}" for place in range(11)]
    made = network("ViT", id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)})
    spec = save(made, tmp_path)
    edit(tmp_path, lambda values: values.update(id2label=dict(sorted(values["id2label"].items()))))  # "10" before "2"
    assert loaded_of(spec).subject.class_names == tuple(names)


def test_the_size_of_a_network_without_a_processor(tmp_path: Path) -> None:
    """Parameters of one image size decide it; a convolutional network takes any."""
    loaded = loaded_of(save(network("ViT"), tmp_path / "vit"), native_shape=(3, 20, 24))
    assert loaded.subject.input_shape == (3, 32, 32)
    loaded = loaded_of(save(network("ResNet"), tmp_path / "resnet"), native_shape=(3, 40, 48))
    assert loaded.subject.input_shape == (3, 40, 48)
    assert any("nothing declares a preprocessing" in note for note in loaded.notes)
