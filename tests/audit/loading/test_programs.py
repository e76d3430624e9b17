"""`script:FILE` and `export:FILE`: behind `--allow-code`, with gradients where the program has them."""

import copy
import hashlib
import pickle
import warnings
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from audit.errors import AuditError, SubjectError, UnsafeArtefactError, UsageError
from audit.loading.preprocess import Normalisation
from audit.loading.program_export import load_export
from audit.loading.program_script import load_script
from tests import programs
from tests.programs import FREE, export, images, script, small
from tests.user_models import codes, load

FULL = {"weights", "gradients", "logits", "labels"}
SCRIPTED = {
    "scripted": lambda: torch.jit.script(small()),
    "scripted in training mode": lambda: torch.jit.script(small().train()),
    "traced": lambda: torch.jit.trace(small(), images(2)),
    "frozen": lambda: torch.jit.freeze(torch.jit.script(small())),
}
RANGE = {"dynamic_shapes": ({0: torch.export.Dim("batch", min=3, max=16)},)}
SIDE = torch.export.Dim("side", min=4, max=64)
EXPORTED = {
    "any batch": ((5,), FREE),
    "one image": ((1,), {}),
    "two images": ((2,), {}),
    "3 to 16 images": ((4,), RANGE),
    "any size": ((5,), {"dynamic_shapes": ({0: programs.BATCH, 2: SIDE, 3: SIDE},)}),
    "decomposed": ((5,), {**FREE, "decomposed": True}),
}


def derivatives(network, pixels):
    """Logits, and first and second derivatives of them by the pixels."""
    pixels = pixels.clone().requires_grad_()
    logits = network(pixels)
    first = torch.autograd.grad(logits[:, 0].sum(), pixels, create_graph=True)[0]
    second = torch.autograd.grad(first.square().sum(), pixels)[0]
    return logits.detach(), first.detach(), second


def assert_same(network, expected, count=37):
    for found, wanted in zip(derivatives(network, images(count)), derivatives(expected, images(count)), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)
        assert found.flatten(1).abs().amax(1).min() > 0


@pytest.mark.parametrize("name", SCRIPTED)
def test_torchscript_computes_what_its_network_does(tmp_path: Path, name: str) -> None:
    loaded = load(script(tmp_path, SCRIPTED[name]))
    assert_same(loaded.subject.logits, small())
    frozen = name == "frozen"
    assert loaded.subject.access == (FULL - {"weights"} if frozen else FULL)
    assert loaded.info.parameters == (0 if frozen else sum(p.numel() for p in small().parameters()))
    assert any("are constants of its code (frozen)" in note for note in loaded.notes) == frozen
    assert "random_weights" not in codes(loaded)


@pytest.mark.parametrize("name", EXPORTED)
def test_an_exported_program_computes_what_its_network_does(tmp_path: Path, name: str) -> None:
    (count,), options = EXPORTED[name]
    loaded = load(export(tmp_path, small(), images(count), **options))
    for batch in (1, 2, 16, 17, 37):
        assert_same(loaded.subject.logits, small(), batch)
    assert loaded.subject.access == FULL
    assert loaded.info.parameters == sum(p.numel() for p in small().parameters())
    pieces = f"export:model.pt2 takes batches of {count} alone; others are run in pieces of that size"
    assert (pieces in loaded.notes) == (count in (1, 2))


def test_the_graph_says_the_size_of_the_input(tmp_path: Path) -> None:
    loaded = load(export(tmp_path, small(1), images(2, 1, 12), **FREE), native_shape=(3, 20, 20))
    assert loaded.subject.input_shape == (1, 12, 12)
    assert any("images of 20x20 are brought to 12x12" in note for note in loaded.notes)


def test_torchscript_says_its_channels(tmp_path: Path) -> None:
    for made in (lambda: torch.jit.script(small(1)), lambda: torch.jit.freeze(torch.jit.script(small(1)))):
        assert load(script(tmp_path, made)).subject.input_shape == (1, 8, 8)
    spec = script(tmp_path, lambda: torch.jit.script(programs.Bins()))
    assert load(f"{spec}?in_chans=1").subject.input_shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("write", "size"), [(lambda folder: script(folder, SCRIPTED["scripted"]), "a TorchScript archive"),
                        (lambda folder: export(folder, small(), images(2), **FREE), "a torch.export (.pt2) archive")]
)  # fmt: skip
def test_nothing_is_loaded_without_permission(tmp_path: Path, monkeypatch, write, size: str) -> None:
    spec = write(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it was loaded")

    monkeypatch.setattr(torch.jit, "load", refuse)
    monkeypatch.setattr(torch.export, "load", refuse)
    with pytest.raises(UnsafeArtefactError) as caught:
        load(spec, allow_code=False)
    said = str(caught.value)
    assert caught.value.exit_code == 4
    file = Path(spec.partition(":")[2]).name
    assert f"{file} is {size}, a program that runs on this machine" in said
    assert "add --allow-code, and the report will say so" in said
    assert f"`audit convert {spec.partition(':')[2]} --allow-pickle --out weights.safetensors`" in said


def test_permission_does_not_lift_danger(tmp_path: Path) -> None:
    for spec in (script(tmp_path, SCRIPTED["traced"]), export(tmp_path, small(), images(2), **FREE)):
        path = Path(spec.partition(":")[2])
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(f"{archive.namelist()[0].partition('/')[0]}/extra.pkl", b"cos\nsystem\n(S'true'\ntR.")
        with pytest.raises(UnsafeArtefactError, match=r"Nothing of it was loaded") as caught:
            load(spec, allow_code=True)
        assert "system" in str(caught.value)
        assert caught.value.exit_code == 4


def test_the_bytes_that_were_loaded_are_in_the_record(tmp_path: Path) -> None:
    loaded = load(script(tmp_path, SCRIPTED["traced"]))
    digest = hashlib.sha256((tmp_path / "model.pt").read_bytes()).hexdigest()
    assert loaded.trust_exceptions == (f"--allow-code: script:model.pt (sha256 {digest})",)
    assert [(file.name, file.sha256) for file in loaded.info.files] == [("model.pt", digest)]


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    exported, scripted = export(tmp_path, small(), images(2), **FREE), script(tmp_path, SCRIPTED["traced"])
    safetensors.torch.save_file(small().state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "notes.txt").write_text("hello there")
    for spec, said in (
        (f"script:{exported.partition(':')[2]}", f"Name it export:{exported.partition(':')[2]}."),
        (f"export:{scripted.partition(':')[2]}", f"Name it script:{scripted.partition(':')[2]}."),
        (f"script:{tmp_path}/weights.safetensors", f"the file with --weights {tmp_path}/weights.safetensors."),
        (f"export:{tmp_path}/notes.txt", "got notes.txt, text. Correct the path"),
    ):
        with pytest.raises(SubjectError) as caught:
            load(spec)
        assert said in str(caught.value)
    with pytest.raises(UsageError, match="got a folder"):
        load(f"script:{tmp_path}")
    with pytest.raises(UsageError, match="got the arguments size"):
        load(f"{exported}?size=8")
    with pytest.raises(UsageError, match="Expected script:FILE alone, got --weights"):
        load(scripted, weights=tmp_path / "weights.safetensors")


@pytest.mark.parametrize("scheme", ["script", "export"])
def test_damaged_files(tmp_path: Path, scheme: str, capfd: pytest.CaptureFixture[str]) -> None:
    spec = script(tmp_path, SCRIPTED["traced"]) if scheme == "script" else export(tmp_path, small(), images(2), **FREE)
    path = Path(spec.partition(":")[2])
    broken = tmp_path / f"broken{path.suffix}"
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(broken, "w") as part:
        for name in whole.namelist():
            keep = name.endswith(("version", "archive_format", "constants.pkl", "byteorder"))
            part.writestr(name, whole.read(name) if keep else b"{}")
    with pytest.raises(AuditError, match=r"Expected .*broken"):
        load(f"{scheme}:{broken}")
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (
            lambda folder: script(folder, lambda: torch.jit.script(programs.TwoInputs())),
            r"got \(x: Tensor, bias: Tensor",
        ),
        (lambda folder: export(folder, programs.TwoInputs(), images(2), torch.zeros(3)), r"got x \[2, 3, 8, 8\] torch"),
        (lambda folder: export(folder, nn.Linear(4, 3), torch.zeros(2, 4)), r"got input \[2, 4\] torch.float32"),
        (lambda folder: export(folder, nn.AvgPool2d(2), torch.zeros(2, 8, 8, 4)), "their 1 or 3 channels first"),
    ],
)
def test_programs_that_take_something_else(tmp_path: Path, write, said: str) -> None:
    with pytest.raises(SubjectError, match=said):
        load(write(tmp_path))


def test_programs_that_return_a_dict_or_take_images_by_name(tmp_path: Path) -> None:
    inputs = {"kwargs": {"pixel_values": images(2)}, "dynamic_shapes": {"pixel_values": {0: programs.BATCH}}}
    assert_same(load(export(tmp_path, programs.ByName(), **inputs)).subject.logits, small())
    for write in (
        lambda: script(tmp_path, lambda: torch.jit.script(programs.Bigger())),
        lambda: export(tmp_path, programs.Bigger(), images(2), **FREE),
        lambda: export(tmp_path, programs.Bigger(), images(2)),
    ):
        loaded = load(write())
        assert "output_field" in codes(loaded)
        assert_same(loaded.subject.logits, small())


def test_training_mode_that_is_baked_in_is_said(tmp_path: Path) -> None:
    said = "was compiled in training mode and cannot be switched: 1 batch_norm, 1 dropout behave as in training"
    trained = small().train()
    traced = load(script(tmp_path, lambda: torch.jit.trace(trained, images(4), check_trace=False)))
    exported = load(export(tmp_path, trained, images(4), **FREE))
    for loaded in (traced, exported):
        assert any(said in note for note in loaded.notes)
        assert not torch.equal(loaded.subject.logits(images(4)), loaded.subject.logits(images(4)))
    for name in ("scripted in training mode", "traced", "frozen"):
        assert not any("training mode" in note for note in load(script(tmp_path, SCRIPTED[name])).notes)


def test_half_precision(tmp_path: Path) -> None:
    """Parameters of half precision become float32; a program that casts inside cannot."""
    for spec in (
        script(tmp_path, lambda: torch.jit.script(small().half())),
        export(tmp_path, small().half(), images(2).half(), **FREE),
    ):
        loaded = load(spec)
        assert "the network's float16 parameters are brought to float32" in loaded.notes
        torch.testing.assert_close(loaded.subject.logits(images(3)), small()(images(3)), atol=1e-3, rtol=1e-2)
    for spec in (
        script(tmp_path, lambda: torch.jit.trace(programs.HalfInside(), images(2))),
        export(tmp_path, programs.HalfInside(), images(2), **FREE),
    ):
        with pytest.raises(SubjectError, match=r"to compute in float32, got float16 inside \(.*model.float\(\)"):
            load(spec)


def test_programs_without_gradients(tmp_path: Path) -> None:
    loaded = load(export(tmp_path, programs.Closed(), images(2), **FREE))
    assert loaded.subject.access == FULL - {"gradients"}
    assert "no gradient reaches the input of export:model.pt2 (it runs without gradients inside" in " ".join(
        loaded.notes
    )
    loaded = load(export(tmp_path, programs.Bins(), images(2), **FREE))
    assert loaded.subject.access == FULL - {"gradients"}


@pytest.mark.filterwarnings("ignore")
def test_quantised_torchscript_is_a_black_box(tmp_path: Path) -> None:
    quantise = torch.ao.quantization
    dynamic = quantise.quantize_dynamic(small(), {nn.Linear}, dtype=torch.qint8)
    layers = [quantise.QuantStub(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    static = nn.Sequential(*layers, nn.Linear(4, 3), quantise.DeQuantStub()).eval()
    torch.backends.quantized.engine = next(e for e in ("x86", "fbgemm", "qnnpack") if e in torch.backends.quantized.supported_engines)  # fmt: skip # noqa: E501
    static.qconfig = quantise.get_default_qconfig(torch.backends.quantized.engine)
    quantise.prepare(static, inplace=True)
    static(images(8))
    quantise.convert(static, inplace=True)
    for made in (dynamic, static):
        loaded = load(script(tmp_path, lambda made=made: torch.jit.script(made)))
        assert loaded.subject.access == {"logits", "labels"}
        assert "computes in integers (quantized::" in " ".join(loaded.notes)
        torch.testing.assert_close(loaded.subject.logits(images(3)), made(images(3)))


def test_a_device_in_the_code_is_named(tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match=r"Expected script:model.pt to run on cpu, got cuda:0 named in its own code"):
        load(script(tmp_path, lambda: torch.jit.script(programs.OnGpu())))


def test_devices_in_an_exported_program_move_with_it(tmp_path: Path) -> None:
    export(tmp_path, programs.Constants(), images(2), **FREE)
    content = (tmp_path / "model.pt2").read_bytes()
    network = load_export(content, "export:model.pt2").network
    assert_same(network, programs.Constants())
    assert network.to("meta")(images(2).to("meta")).device.type == "meta"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_program_that_was_exported_on_a_gpu(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its graph is brought to the CPU; tensors that lie on a GPU cannot be read without one, and that is said."""
    export(tmp_path, programs.Constants(), images(2), **FREE)

    def moved(*ends: str) -> bytes:
        with zipfile.ZipFile(tmp_path / "model.pt2") as old, zipfile.ZipFile(tmp_path / "gpu.pt2", "w") as new:
            for name in old.namelist():
                text = old.read(name)
                new.writestr(name, text.replace(b'"cpu"', b'"cuda"') if name.endswith(ends) else text)
        return (tmp_path / "gpu.pt2").read_bytes()

    assert_same(load_export(moved("models/model.json"), "export:gpu.pt2").network, programs.Constants())
    with pytest.raises(SubjectError, match="It was exported on a GPU: move it before saving"):
        load_export(moved(".json"), "export:gpu.pt2")
    assert capfd.readouterr().err == ""


def test_torch_says_nothing_of_its_deprecations(tmp_path: Path) -> None:
    specs = [script(tmp_path, SCRIPTED["frozen"]), export(tmp_path, small(), images(1))]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for spec in specs:
            assert_same(load(spec).subject.logits, small())
    assert not [warning for warning in caught if warning.category is not ResourceWarning]


def test_programs_are_left_as_found_and_can_be_copied(tmp_path: Path) -> None:
    for spec in (script(tmp_path, SCRIPTED["scripted"]), export(tmp_path, small(), images(2), **FREE)):
        loaded = load(spec)
        with loaded.subject.untouched() as model:
            for module in model.modules():
                module.training = True
        assert not any(module.training for module in model.modules())
        other = copy.deepcopy(loaded.remake(Normalisation((0.0,) * 3, (1.0,) * 3)))
        assert not any(parameter.requires_grad for parameter in (*model.parameters(), *other.parameters()))
        assert_same(other.requires_grad_(), small())
    saved = load_script((tmp_path / "model.pt").read_bytes(), "script:model.pt").network
    assert_same(pickle.loads(pickle.dumps(saved)).requires_grad_(), small())


def test_the_digest_tells_programs_apart(tmp_path: Path) -> None:
    first = load(export(tmp_path, small(), images(2), **FREE)).subject.digest
    assert load(f"export:{tmp_path / 'model.pt2'}").subject.digest == first
    other = small()
    nn.init.zeros_(other.head.bias)
    assert load(export(tmp_path, other, images(2), **FREE)).subject.digest != first
