"""benchmarks/model_coverage.py: what is a pass, the search for the smallest input, and that nothing is left out."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
GOOD = {
    "family": "timm",
    "group": "resnet",
    "name": "test_resnet",
    "crash": False,
    "asked": ["accuracy", "calibration", "evasion"],
    "probes": {"accuracy": "measured", "calibration": "measured", "evasion": "measured"},
    "exit_codes": {"describe": 0, "run": 0},
    "strict_weights": True,
    "preprocessing_origin": "timm's configuration of test_resnet, --preprocess auto/size=32",
    "output": "logits",
    "gradients": True,
    "accuracy": 0.75,
    "accuracy_expected": 0.75,
    "described_accuracy": 0.75,
    "message": "",
    "seconds": {"prepare": 1.0, "describe": 2.0, "run": 3.0},
}


@pytest.fixture(scope="module")
def benchmark():
    """The script as a module; its folder is on the path only while it is imported."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("coverage_benchmark", BENCHMARKS / "model_coverage.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


@pytest.fixture(scope="module")
def subjects(benchmark):
    return benchmark.coverage_subjects


def test_a_whole_pass(benchmark):
    assert benchmark.problems(GOOD) == []
    assert benchmark.outcome(GOOD) == "passed"


@pytest.mark.parametrize(
    ("flaw", "said"),
    [
        ({"probes": {**GOOD["probes"], "evasion": "skipped"}}, "evasion: skipped"),
        ({"probes": {**GOOD["probes"], "calibration": "inconclusive"}}, "calibration: inconclusive"),
        ({"probes": {"accuracy": "measured", "calibration": "measured"}}, "evasion: no result"),
        ({"probes": {}}, "no results"),
        ({"exit_codes": {"describe": 0, "run": 2}}, "run ended with 2"),
        ({"exit_codes": {"describe": -1, "run": 0}}, "describe ended with -1"),
        ({"strict_weights": False}, "the weights are not in the record"),
        ({"preprocessing_origin": "--preprocess none"}, "preprocessing: --preprocess none"),
        ({"preprocessing_origin": ""}, "preprocessing: unknown"),
        ({"output": "probabilities"}, "output: probabilities"),
        ({"gradients": False}, "no usable gradients"),
        ({"accuracy": 0.5, "described_accuracy": 0.5}, "accuracy 0.5, by the library itself 0.75"),
        ({"described_accuracy": None}, "describe says accuracy None"),
        ({"error": "not prepared, ValueError: no size"}, "not prepared, ValueError: no size"),
    ],
)
def test_anything_less_is_no_pass(benchmark, flaw, said):
    record = {**GOOD, **flaw}
    assert said in benchmark.problems(record)
    assert benchmark.outcome(record) == "failed"


def test_a_traceback_is_the_worst(benchmark):
    assert benchmark.outcome({**GOOD, "crash": True}) == "traceback"
    assert benchmark.CRASH.search("Traceback (most recent call last):\n  File ...")
    assert benchmark.CRASH.search("error: internal error, KeyError: 'x'. This is a defect of audit; -v shows where.")
    assert not benchmark.CRASH.search("error: Expected finite logits, got NaN or Inf.")


def test_the_share_and_the_table(benchmark):
    records = [
        {**GOOD, "outcome": "passed"},
        {**GOOD, "name": "other", "probes": {}, "outcome": "failed", "message": "error: a | b"},
    ]
    figures = benchmark.describe_all(records)
    assert figures["share passed"] == 0.5
    assert figures["timm: passed"] == "1 of 2"
    assert figures["timm modules covered"].startswith("1 of ")
    worst, best = benchmark.table(records).splitlines()[2:]
    assert "failed: no results; error: a / b" in worst
    assert best.endswith("| 6 | passed |")


def test_what_a_run_left_is_read(benchmark, subjects, tmp_path):
    evasion = {"probe": "evasion", "status": "skipped", "diagnostics": [], "measurements": [],
               "reason": {"code": "needs", "text": "no gradients"}}  # fmt: skip
    checks = [{"code": "zero_gradient", "text": "masked", "severity": "warning"}]
    content = {"subject": {"access": ["gradients"], "checks": checks, "files": []}, "results": [evasion]}
    (tmp_path / "results.json").write_text(json.dumps(content))
    found = benchmark.read_run(tmp_path)
    assert found["probes"] == {"evasion": "skipped"}
    assert not found["gradients"]
    assert not found["strict_weights"]
    assert found["reason"] == "evasion: needs: no gradients; masked"
    assert benchmark.read_run(tmp_path / "nowhere")["probes"] == {}


def test_messages_are_found(benchmark):
    assert benchmark.described_accuracy("output  logits\naccuracy       75.0% of 192 images (68.3% to 80.9%)") == 0.75
    assert benchmark.described_accuracy("model  resnet18") is None
    assert benchmark.first_error("note: a\nerror: Expected b, got c. Do d.\nmore") == "error: Expected b, got c. Do d."
    assert benchmark.first_error("Traceback (most recent call last):\n  File x\nKeyError: 'y'\n") == "KeyError: 'y'"
    assert benchmark.first_error("note: nothing wrong") == ""


def test_a_stopped_run_goes_on(benchmark, tmp_path):
    stored = tmp_path / "coverage.json"
    book = benchmark.Book(stored, resume=False, failed_again=False)
    book.add(GOOD)
    book.add({**GOOD, "group": "vgg", "name": "vgg11", "gradients": False})
    again = benchmark.Book(stored, resume=True, failed_again=False)
    assert again.done == {("timm", "resnet", "test_resnet"), ("timm", "vgg", "vgg11")}
    assert benchmark.Book(stored, resume=True, failed_again=True).done_groups == {("timm", "resnet")}
    assert benchmark.Book(stored, resume=False, failed_again=False).done == set()
    assert "no usable gradients" in stored.with_suffix(".md").read_text()


@pytest.mark.parametrize(
    ("accepts", "declared", "found"),
    [
        (lambda size, by_argument: size >= 64, 224, (64, False)),
        (lambda size, by_argument: by_argument and size % 48 == 0, 224, (48, True)),
        (lambda size, by_argument: size >= 32, 24, None),
        (lambda size, by_argument: size == 299, 299, (299, False)),
        (lambda size, by_argument: size > 224, 224, None),
    ],
)
def test_the_smallest_size(subjects, accepts, declared, found):
    assert subjects.smallest_size(accepts, declared) == found


@pytest.mark.parametrize(("name", "found"), [("test_resnet", (32, False)), ("vit_tiny_patch16_224", (32, True))])
def test_the_smallest_size_of_a_real_model(subjects, name, found):
    sizes = subjects.Sizes(subjects.Candidate("timm", "named", name))
    assert subjects.smallest_size(sizes.accepts, 160) == found
    assert not sizes.accepts(0, by_argument=False)
    assert sizes.complaint


def test_a_network_that_answers_alike_is_brought_to_life(subjects):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, subjects.CLASSES))
    network[1].running_var.fill_(1e12)  # as where activations vanish
    network[3].bias.data[3] = 5.0
    inputs = torch.rand(64, 3, 8, 8)
    network.eval()
    assert set(subjects.answers(network, inputs)) == {3}
    subjects.enliven(network, inputs)
    assert len(set(subjects.answers(network, inputs))) == subjects.CLASSES
    with torch.no_grad():
        assert network(inputs).std(0).mean() == pytest.approx(subjects.SPREAD, rel=1e-3)
    assert not any(module.training for module in network.modules())
    assert network[1].momentum == 0.1


def test_dead_units_are_brought_to_life(subjects):
    """Negative biases leave some images no living unit before the last layer, and so no gradient."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, subjects.CLASSES)
    )
    network[1].bias.data.fill_(-0.6)
    inputs = torch.rand(64, 3, 8, 8)
    network.eval()
    subjects._take_statistics(network, inputs)
    dead = subjects._without_gradient(network, inputs)
    assert dead > 0
    subjects.enliven(network, inputs)
    assert subjects._without_gradient(network, inputs) < dead
    assert network[1].bias.tolist() == pytest.approx([-0.1] * 4)
    with torch.no_grad():
        assert network(inputs).std(0).mean() == pytest.approx(subjects.SPREAD, rel=1e-3)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_pointwise_convolutions_come_near_the_identity(subjects):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1))
    drawn = [layer.weight.detach().clone() for layer in network if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        subjects._calm(network)
    added = network[0].weight.detach() - subjects.CALM * drawn[0]
    torch.testing.assert_close(added[:, :, 0, 0], torch.eye(4).repeat(2, 1))
    torch.testing.assert_close(network[1].weight, drawn[1])
    without = nn.Sequential(nn.Conv2d(8, 8, 1))
    kept = without[0].weight.detach().clone()
    subjects._calm(without)
    torch.testing.assert_close(without[0].weight, kept)


def test_every_module_and_every_builder_is_there(subjects):
    import timm
    import torchvision

    assert len(list(subjects.candidates(("timm",)))) == len(timm.list_modules()) + len(subjects.NAMED)
    assert [name for name in subjects.NAMED if not timm.is_model(name)] == []
    audited, left_out = subjects.torchvision_names()
    assert sorted(audited + left_out) == sorted(torchvision.models.list_models(module=torchvision.models))
    assert len(left_out) < 8
    assert len(list(subjects.candidates(("torchvision",)))) == len(audited)
    assert [found.name for found in subjects.candidates(("torchvision",), only="vgg1?")] == [
        "vgg11",
        "vgg13",
        "vgg16",
        "vgg19",
    ]
    assert list(subjects.candidates(("timm",), only="pit", done_groups={("timm", "pit")})) == []
    assert (
        list(subjects.candidates(("torchvision",), only="vgg11", done={("torchvision", "torchvision", "vgg11")})) == []
    )
    assert subjects.resolved(next(subjects.candidates(("timm",), only="pit"))).name == "pit_ti_224"
