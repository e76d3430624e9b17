"""From a request to a subject: outputs, digests, names."""

import copy
import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from audit.errors import SubjectError
from audit.loading.preprocess import Normalisation
from tests.architectures import tiny
from tests.user_models import codes, forward, load, write_code


@pytest.fixture
def code(tmp_path: Path) -> Callable[[str], str]:
    """Writes user code and gives the spec of its `make`."""
    return functools.partial(write_code, tmp_path)


@pytest.mark.parametrize(
    ("body", "kind", "code_"),
    [
        ("return z", "logits", None),
        ("return z.softmax(1)", "probabilities", "output_probabilities"),
        ("return z.log_softmax(1)", "log-probabilities", "output_log_probabilities"),
        ("return {'logits': z, 'features': x}", "logits", "output_field"),
        ("return namedtuple('Output', 'loss logits')(None, z)", "logits", "output_field"),
        ("return {'logits': z.softmax(1)}", "probabilities", "output_probabilities"),
    ],
)
def test_output_kinds(code: Callable[[str], str], body: str, kind: str, code_: str | None) -> None:
    plain = load(code(forward("return z")))
    loaded = load(code(forward(body)))
    assert loaded.subject.output == loaded.info.output == kind
    assert code_ is None or code_ in codes(loaded)
    pixels = torch.rand(4, 3, 8, 8)
    expected = plain.subject.logits(pixels).softmax(1)
    assert torch.allclose(loaded.subject.logits(pixels).softmax(1), expected, atol=1e-6)


def test_zero_probabilities_stay_finite(code: Callable[[str], str]) -> None:
    subject = load(code(forward("return (1e6 * z).softmax(1)"))).subject
    logits = subject.logits(torch.rand(4, 3, 8, 8))
    assert torch.isfinite(logits).all()
    assert torch.allclose(logits.softmax(1).sum(1), torch.ones(4))


def test_sigmoid_outputs_are_warned_about(code: Callable[[str], str]) -> None:
    loaded = load(code("def make(): return nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.Sigmoid())\n"))
    assert loaded.subject.output == "logits"
    assert "output_sigmoid" in codes(loaded)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return z, x", "got a tuple of (8, 3), (8, 3, 8, 8). Return the logits alone"),
        ("return {'out': z}", "got a dict of out (8, 3)"),
        ("return z[:, :1]", "return the two logits (0, z)"),
        (
            "return z[:, :, None]",
            "Expected py:model.py:make to return logits of shape (8, classes) for 8 images, got (8, 3, 1)",
        ),
        ("return z[0]", "got (3,)"),
        ("return z / 0", "got NaN or Inf for 8 of 8 images"),
        ("return None", "got a NoneType"),
        ("return z @ z", "mat1 and mat2 shapes cannot be multiplied (8x3 and 8x3). Give the size it was made for"),
    ],
)
def test_outputs_that_cannot_be_audited(code: Callable[[str], str], body: str, said: str) -> None:
    with pytest.raises(SubjectError) as caught:
        load(code(forward(body)))
    assert said in str(caught.value)


def test_two_classes(code: Callable[[str], str]) -> None:
    assert load(code(forward("return z[:, :2]"))).subject.num_classes == 2


def test_blue_first_reaches_the_network(code: Callable[[str], str]) -> None:
    spec = code(forward("return z"))
    pixels = torch.rand(2, 3, 8, 8)
    swapped = load(spec, preprocess="none/order=bgr").subject.logits(pixels)
    assert torch.allclose(swapped, load(spec, preprocess="none").subject.logits(pixels.flip(1)))


def test_another_normalisation_shares_the_weights(code: Callable[[str], str]) -> None:
    loaded = load(code(forward("return z")))
    other = loaded.remake(Normalisation((0.5,) * 3, (0.5,) * 3))
    pixels = torch.rand(2, 3, 8, 8)
    assert torch.allclose(other(pixels), loaded.subject.logits((pixels - 0.5) / 0.5))
    assert {p.data_ptr() for p in other.parameters()} == {p.data_ptr() for p in loaded.subject.model.parameters()}
    assert not other.training


def test_wrappers_around_the_network_are_taken_off(code: Callable[[str], str], tmp_path: Path) -> None:
    torch.save({"module." + key: value for key, value in tiny().state_dict().items()}, tmp_path / "w.pth")
    (tmp_path / "tiny.py").write_text(Path(tiny.__code__.co_filename).read_text())
    spec = code("from tiny import tiny\ndef make(): return nn.DataParallel(tiny().half())\n")
    loaded = load(spec, weights=tmp_path / "w.pth")
    assert "the network is taken out of its DataParallel" in loaded.notes
    assert "the network's float16 parameters are brought to float32" in loaded.notes
    assert loaded.subject.name == "make, w.pth"


def test_the_digest_covers_what_decides_the_output(code: Callable[[str], str], tmp_path: Path) -> None:
    spec = code(forward("return z"))
    state = {"a": {}, "b": {}}
    for name in state:
        state[name] = {
            k: torch.randn_like(v) for k, v in load(spec).remake(Normalisation()).network.state_dict().items()
        }
    torch.save(state, tmp_path / "w.pth")
    variants = [
        load(spec),
        load(spec, preprocess="imagenet"),
        load(spec, weights=tmp_path / "w.pth", weights_key="a"),
        load(spec, weights=tmp_path / "w.pth", weights_key="b"),
        load(code(forward("return 2 * z"))),
    ]
    assert len({loaded.subject.digest for loaded in variants}) == len(variants)
    assert load(code(forward("return z"))).subject.digest == variants[0].subject.digest


def test_class_names(code: Callable[[str], str]) -> None:
    spec = code(forward("return z"))
    assert load(spec, class_names=("x", "y", "z")).subject.class_names == ("x", "y", "z")
    assert load(spec, class_names=("x", "y")).subject.class_names == ()
    named = code(forward("return z").replace("return Net()", "return {'model': Net(), 'classes': ['x', 'y', 'z']}"))
    assert load(named, class_names=("1", "2", "3")).subject.class_names == ("x", "y", "z")
    wrong = code(forward("return z").replace("return Net()", "return {'model': Net(), 'classes': ['x', 'y']}"))
    with pytest.raises(SubjectError, match="Expected 3 class names, one an output, got 2"):
        load(wrong)


def test_subjects_can_be_exported_and_copied(code: Callable[[str], str]) -> None:
    subject = load(code(forward("return z")), preprocess="imagenet").subject
    pixels = torch.rand(2, 3, 8, 8)
    exported = torch.export.export(subject.model, (pixels,)).module()
    assert torch.allclose(exported(pixels), subject.logits(pixels), atol=1e-6)
    assert torch.equal(copy.deepcopy(subject.model)(pixels), subject.logits(pixels))


def test_modules_that_ask_for_their_version_get_it(tmp_path: Path) -> None:
    """As torchvision's MNASNet does."""
    import torchvision

    network = torchvision.models.mnasnet0_5(num_classes=3).eval()
    torch.save(network.state_dict(), tmp_path / "mnasnet.pth")
    loaded = load("torchvision:mnasnet0_5?num_classes=3", weights=tmp_path / "mnasnet.pth", preprocess="none/size=32")
    pixels = torch.rand(2, 3, 32, 32)
    assert torch.allclose(loaded.subject.logits(pixels), network(pixels), atol=1e-5)
