"""Backdoored CIFAR-10 classifiers and their clean twins, by the checkpoint alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from audit.api import Subject
from audit.loading.datasets import fit, open_dataset
from audit.loading.preprocess import Geometry
from audit.poisons.by_name import recipe_of
from audit.poisons.planting import plant
from audit.testing import run_probe
from probes.backdoor_model import backdoor_model
from tests.probes.backdoor_model.test_backdoor_model import trained

CIFAR = Path(__file__).parents[4] / "shared/data/cifar10/train.parquet"
IMAGES = 5000
pytestmark = [
    pytest.mark.shared,
    pytest.mark.slow,
    pytest.mark.skipif(not CIFAR.is_file(), reason="the real images are not beside the project"),
]


@pytest.fixture
def verdict(tmp_path):
    def of(seed, target=None):
        split = fit(open_dataset(f"parquet:{CIFAR}"), "train", Geometry(channels=3), seed=seed, samples=IMAGES)
        if target is not None:
            recipe = recipe_of("badnets", target=target)
            split = plant(split, recipe, 10, np.random.default_rng(seed)).split
        net = trained(split, seed, batch_size=64, width=16)
        subject = Subject(net, "net", 10, (), (3, 32, 32), torch.device("cpu"), f"net-{seed}-{target}")
        (note,) = [note for note in run_probe(backdoor_model, tmp_path, subject, {}).diagnostics if note.conclusion]
        return note.text

    return of


@pytest.mark.parametrize(("seed", "target"), [(50, 1), (51, 8), (52, 5)])
def test_a_backdoored_checkpoint_alone_is_flagged_with_its_target(verdict, seed, target):
    text = verdict(seed, target)
    assert text.startswith(("DETECTED", "SUSPICIOUS"))
    assert f"class {target} " in text


@pytest.mark.parametrize("seed", [50, 51, 52])
def test_its_cleanly_trained_twin_is_not(verdict, seed):
    assert verdict(seed).startswith("CANNOT TELL")
