"""Old torch files: what their persistent ids stand for."""

import argparse
import os
import pickle
import time

import numpy as np
import pytest
import torch

from audit.scan import scan_file
from tests.audit.scan.planted import call, scanned, torch_zip


def legacy_with_class(folder, named):
    """An old torch file whose pickle takes a class by a persistent id, as those of whole modules do, and calls it."""

    class Odd:
        def __reduce__(self):
            return Taken(), ("x",)

    class Taken:
        def __call__(self, *_):
            raise AssertionError

    class Pickler(pickle.Pickler):
        def persistent_id(self, what):
            return ("module", named, "model.py", "class Net: ...") if isinstance(what, Taken) else None

    path = folder / "old.pth"
    with path.open("wb") as stream:
        for head in (0x1950A86A20F9469CFC6C, 1001, {}):
            pickle.dump(head, stream, protocol=2)
        Pickler(stream, protocol=2).dump({"net": Odd()})
        pickle.dump([], stream, protocol=2)
    return path


def test_classes_by_persistent_id_are_judged_by_their_name(tmp_path):
    assert scan_file(legacy_with_class(tmp_path, argparse.Namespace)).worst == "code"
    assert scan_file(legacy_with_class(tmp_path, os.system)).worst == "danger"


@pytest.mark.parametrize("value", [40, 41, 78, 93, 125, 136, 137, 143])
def test_tensors_of_one_number_that_is_an_opcode(tmp_path, value):
    path = tmp_path / "model.pt"
    torch.save({"mask": torch.full((1500, 1500), value, dtype=torch.uint8)}, path)
    report = scan_file(path)
    assert (report.findings, report.examined) == ((), True)


def test_many_quantised_zeros_cost_little(tmp_path):
    """As GPTQ keeps them: 0x88 throughout, which is True to a pickle."""
    path = tmp_path / "model.pt"
    torch.save({str(place): torch.full((256, 512), -2004318072, dtype=torch.int32) for place in range(40)}, path)
    begun = time.monotonic()
    report = scan_file(path)
    assert (report.findings, report.examined) == ((), True)
    assert time.monotonic() - begun < 30


def test_numbers_that_go_on_as_something_else(tmp_path):
    picture = np.full((300, 400), 125, np.uint8)
    picture[200:] = np.random.default_rng(0).integers(0, 256, (100, 400))
    torch.save({"picture": torch.from_numpy(picture)}, tmp_path / "model.pt")
    assert scan_file(tmp_path / "model.pt").findings == ()


@pytest.mark.parametrize("padding", [b"N0" * 30_000, b"}0" * 200_000, b"V\xe9\n0" * 30_000])
@pytest.mark.parametrize("acts", [call("os.system", "true")[2:], b"cos\nsystem\n(S'true'\ntR.",
                                  b"\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R."])  # fmt: skip
def test_a_pickle_behind_much_that_names_nothing(tmp_path, padding, acts):
    for content in (padding + acts, torch_zip(b"\x80\x02N.", ("archive/data/0", padding + acts))):
        assert scanned(tmp_path, content, "model.bin").worst in ("danger", "code")
