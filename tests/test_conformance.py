"""Every probe that is found passes every conformance check; a new probe needs no line here.

Evasion is checked at less than its documented strength, which would take minutes and decides none of these checks.
"""

from dataclasses import replace

import pytest

from audit.catalog import all_probes
from audit.testing import probe_checks
from probes.evasion import EvasionConfig


class WeakEvasion(EvasionConfig):
    """The protocol with fewer steps."""

    steps: int = 20
    queries: int = 200


PROBES = all_probes()
PROBES["evasion"] = replace(PROBES["evasion"], config=WeakEvasion)


@pytest.mark.parametrize("check", probe_checks(), ids=lambda check: check.__name__)
@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_probe_conforms(probe, check, tmp_path):
    check(probe, tmp_path)
