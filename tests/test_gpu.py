"""Every probe on a CUDA device, through the same code as on the CPU."""

import dataclasses

import pytest
import torch

from audit.catalog import all_probes
from audit.engine.prepare import set_exact_numerics
from audit.schema import Status
from audit.testing import run_probe, synthetic

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
PROBES = all_probes()


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_it_measures_on_a_gpu_what_it_measures_on_the_cpu(probe, tmp_path):
    set_exact_numerics()
    subject, data = synthetic()
    on_cpu = run_probe(probe, tmp_path / "cpu", subject, data)
    device = torch.device("cuda")
    moved = dataclasses.replace(subject, model=subject.model.to(device), device=device)

    on_gpu = run_probe(probe, tmp_path / "gpu", moved, data)

    assert on_gpu.status is Status.MEASURED, on_gpu.reason
    for one, other in zip(on_cpu.measurements, on_gpu.measurements, strict=True):
        assert (one.metric, one.where, one.n) == (other.metric, other.where, other.n)
        assert one.value == pytest.approx(other.value, abs=0.02)
