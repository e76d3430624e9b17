"""Old torch files: what their persistent ids stand for."""

import argparse
import os
import pickle

from audit.scan import scan_file


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
