"""Code of users: runs only when allowed, changes nothing, and fails with file and line."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from audit.errors import AuditError, UnsafeArtefactError, UsageError
from audit.loading.preprocess import Normalisation
from tests.user_models import HEAD, NETWORK, codes, load, write_code


@pytest.fixture
def code(tmp_path: Path) -> Callable[[str], str]:
    """Writes user code and gives the spec of its `make`."""
    return functools.partial(write_code, tmp_path)


def test_code_needs_permission(code: Callable[[str], str], tmp_path: Path) -> None:
    spec = code(f"open({str(tmp_path / 'canary')!r}, 'w')\ndef make(): return {NETWORK}\n")
    with pytest.raises(UnsafeArtefactError, match=r"py: runs the code of that file .* add --allow-code") as caught:
        load(spec, allow_code=False)
    assert caught.value.exit_code == 4
    assert not (tmp_path / "canary").exists()


def test_the_record_names_the_code_and_no_folder(code: Callable[[str], str], tmp_path: Path) -> None:
    loaded = load(code(f"def make(): return {NETWORK}\n"))
    assert loaded.info.spec == "py:model.py:make"
    assert loaded.trust_exceptions == (f"--allow-code: py:model.py:make (sha256 {loaded.info.files[0].sha256})",)
    assert str(tmp_path) not in loaded.info.model_dump_json()
    assert "factory_weights" in codes(loaded)
    assert loaded.info.parameters == 4 * 27 + 4 + 4 * 3 + 3


def test_the_subject_is_frozen_and_in_eval_mode(code: Callable[[str], str]) -> None:
    subject = load(code(f"def make(): return {NETWORK}.train()\n")).subject
    assert not any(module.training for module in subject.model.modules())
    assert not any(parameter.requires_grad for parameter in subject.model.parameters())
    pixels = torch.rand(2, 3, 8, 8, requires_grad=True)
    subject.logits(pixels).sum().backward()
    assert pixels.grad is not None


def test_a_factory_may_tell_preprocessing_and_classes(code: Callable[[str], str]) -> None:
    spec = code(
        f"def make(): return {{'model': {NETWORK}, 'classes': ['a', 'b', 'c'],\n"
        "    'preprocess': {'mean': [0.1, 0.2, 0.3], 'std': (1, 1, 2), 'size': 10, 'crop': (9, 8)}}\n"
    )
    loaded = load(spec)
    assert loaded.subject.class_names == ("a", "b", "c")
    assert loaded.subject.input_shape == (3, 9, 8)
    assert loaded.preprocessing.normalisation == Normalisation((0.1, 0.2, 0.3), (1.0, 1.0, 2.0))


def test_arguments_reach_the_factory(code: Callable[[str], str]) -> None:
    spec = code(
        "def make(n, deep, kind): return nn.Sequential(nn.Flatten(), nn.Linear(192, n + (deep is True) + len(kind)))\n"
    )
    assert load(spec + "?n=3&deep=true&kind=abc").subject.num_classes == 7


def test_neighbours_can_be_imported_and_are_forgotten(tmp_path: Path) -> None:
    for folder, width in (("one", 3), ("two", 4)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "layers.py").write_text(f"WIDTH = {width}\n")
        (tmp_path / folder / "probes.py").write_text("raise RuntimeError('stands in for the tool')\n")
        (tmp_path / folder / "net.py").write_text(
            HEAD + "from layers import WIDTH\nimport probes, audit.api\n"
            "def make(): return nn.Sequential(nn.Flatten(), nn.Linear(192, WIDTH))\n"
        )
    paths, modules = list(sys.path), set(sys.modules)
    one, two = (load(f"py:{tmp_path / folder / 'net.py'}:make") for folder in ("one", "two"))
    assert (one.subject.num_classes, two.subject.num_classes) == (3, 4)
    assert [file.name for file in one.info.files] == ["net.py", "layers.py"]
    assert sys.path == paths
    assert not {name for name in set(sys.modules) - modules if "layers" in name or "_audit_subject" in name}


def test_a_module_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "package_of_mine").mkdir()
    (tmp_path / "package_of_mine" / "nets.py").write_text(HEAD + f"def make(): return {NETWORK}\n")
    monkeypatch.chdir(tmp_path)
    loaded = load("py:package_of_mine.nets:make")
    assert loaded.info.spec == "py:package_of_mine.nets:make"
    assert [file.name for file in loaded.info.files] == ["nets.py"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def make(:\n", "got SyntaxError in model.py, line 4"),
        ("\nimport nothing_like_this\n", "got ModuleNotFoundError in model.py, line 5"),
        ("def make():\n    return nn.Linear(2, 'x')\n", "TypeError in model.py, line 5"),
        ("def make():\n    raise SystemExit('stop')\n", "got SystemExit in model.py, line 5: stop"),
        ("def build(): pass\n", "Expected a function 'make' in py:model.py:make, got none. Defined there: build"),
        ("make = 3\n", "got a int. Defined there: nothing that can be called"),
        ("def make(): return 3\n", "to return an nn.Module, or a dict of model, preprocess and classes, got a int"),
        ("def make(): return {'net': nn.Flatten()}\n", "got a dict with the keys ['net']"),
        (f"def make(): return {{'model': {NETWORK}, 'preprocess': 'imagenet'}}\n", "Expected a dict as preprocess"),
        (f"def make(): return {{'model': {NETWORK}, 'preprocess': {{'mean': 3}}}}\n", "mean and std together"),
        (
            f"def make(): return {{'model': {NETWORK}, 'classes': ['a']}}\n",
            "Expected 3 class names, one an output, got 1",
        ),
        ("def make(): return nn.Sequential(nn.LazyLinear(3))\n", "got lazy ones. Run it once in the factory"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_failing_factories_are_explained(code: Callable[[str], str], text: str, said: str) -> None:
    with pytest.raises(AuditError) as caught:
        load(code(text))
    assert said in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("")
    with pytest.raises(UsageError, match=r"got none \(other.py in its folder\)"):
        load(f"py:{tmp_path / 'model.py'}:make")


def test_user_code_cannot_change_torch_for_us(code: Callable[[str], str]) -> None:
    load(code(f"torch.set_default_dtype(torch.float64)\ntorch.set_grad_enabled(False)\ndef make(): return {NETWORK}\n"))
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
