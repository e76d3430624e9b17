"""Every probe that is found passes every conformance check; a new probe needs no line here."""

import pytest

from audit.catalog import all_probes
from audit.testing import probe_checks

PROBES = all_probes()


@pytest.mark.parametrize("check", probe_checks(), ids=lambda check: check.__name__)
@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_probe_conforms(probe, check, tmp_path):
    check(probe, tmp_path)
