"""Every probe that is found passes every conformance check; a new probe needs no line here.

Evasion and label noise are checked at less than their documented strength, which takes longer and decides none of
these checks.
"""

from dataclasses import replace

import pytest

from audit.catalog import all_probes
from audit.testing import probe_checks
from probes.evasion import EvasionConfig
from probes.label_noise import LabelNoiseConfig


class WeakEvasion(EvasionConfig):
    """The protocol with fewer steps."""

    steps: int = 20
    queries: int = 200


class QuickLabelNoise(LabelNoiseConfig):
    """The protocol with fewer and shorter trainings."""

    folds: int = 2
    epochs: int = 8


PROBES = all_probes()
PROBES["label-noise"] = replace(PROBES["label-noise"], config=QuickLabelNoise)
PROBES["evasion"] = replace(PROBES["evasion"], config=WeakEvasion)


@pytest.mark.parametrize("check", probe_checks(), ids=lambda check: check.__name__)
@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_probe_conforms(probe, check, tmp_path):
    check(probe, tmp_path)
