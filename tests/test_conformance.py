"""Every probe that is found passes every conformance check; a new probe needs no line here.

Slow probes are checked at less than their documented strength, which takes longer and decides none of these checks.
"""

from dataclasses import replace

import pytest

from audit.catalog import all_probes
from audit.testing import probe_checks
from probes.certified import CertifiedConfig
from probes.distillation import DistillationProbeConfig
from probes.evasion import EvasionConfig
from probes.label_noise import LabelNoiseConfig


class WeakEvasion(EvasionConfig):
    """The protocol with fewer steps."""

    samples: int = 64
    steps: int = 10
    queries: int = 100


class QuickCertified(CertifiedConfig):
    """The protocol with shorter attacks on fewer samples, and without auto_LiRPA, which is a process of its own."""

    attack_steps: int = 10
    second_opinion: int = 0
    samples: int = 16


class WeakDistillation(DistillationProbeConfig):
    """The protocol with fewer steps."""

    steps: int = 10
    cw_steps: int = 20
    queries: int = 100


class QuickLabelNoise(LabelNoiseConfig):
    """The protocol with fewer and shorter trainings."""

    folds: int = 2
    epochs: int = 5


PROBES = all_probes()
PROBES["certified"] = replace(PROBES["certified"], config=QuickCertified)
PROBES["distillation"] = replace(PROBES["distillation"], config=WeakDistillation)
PROBES["label-noise"] = replace(PROBES["label-noise"], config=QuickLabelNoise)
PROBES["evasion"] = replace(PROBES["evasion"], config=WeakEvasion)


@pytest.mark.parametrize("check", probe_checks(), ids=lambda check: check.__name__)
@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_probe_conforms(probe, check, tmp_path):
    check(probe, tmp_path)
