import errno
import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from audit.api import Diagnostic, Tally
from audit.engine import store as store_module
from audit.engine.store import RunStore, open_store
from audit.errors import StoreError


def test_a_unit_comes_back_as_it_was_stored(tmp_path):
    store = RunStore(tmp_path)
    tally = Tally(values={"broken": [1, 2]}, arrays={"norms": np.arange(3.0)})
    store.save_unit("p", "key", "linf/0", tally, [Diagnostic(code="c", text="t")])

    found = store.load_unit("p", "key")

    assert found.tally.values == {"broken": [1, 2]}
    np.testing.assert_array_equal(found.tally.arrays["norms"], np.arange(3.0))
    assert [diagnostic.code for diagnostic in found.diagnostics] == ["c"]


@pytest.mark.parametrize("damage", ["absent", "truncated json", "truncated arrays", "other arrays", "arrays absent"])
def test_a_damaged_unit_counts_as_not_done(tmp_path, damage):
    store = RunStore(tmp_path)
    store.save_unit("p", "key", "u", Tally(arrays={"a": np.arange(100.0)}))
    unit = tmp_path / "probes/p/units/key.json"
    arrays = unit.with_suffix(".safetensors")
    match damage:
        case "absent":
            unit.unlink()
        case "truncated json":
            unit.write_bytes(unit.read_bytes()[:-20])
        case "truncated arrays":
            arrays.write_bytes(arrays.read_bytes()[:-8])
        case "other arrays":
            arrays.write_bytes(arrays.read_bytes()[:-8] + b"\1" * 8)
        case "arrays absent":
            arrays.unlink()

    assert store.load_unit("p", "key") is None


def test_a_full_disk_is_said_so_and_leaves_no_half_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    store = RunStore(tmp_path)
    store.write_json("results.json", {"a": 1})
    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(StoreError, match=r"Expected room on the disk .* what was measured is kept"):
        store.write_json("results.json", {"a": 2})

    assert json.loads((tmp_path / "results.json").read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_the_event_log(tmp_path):
    (tmp_path / "events.jsonl").symlink_to("/dev/full")

    with pytest.raises(StoreError, match="Expected room on the disk"):
        RunStore(tmp_path).event("x", text="y" * 100_000)


def _hold(folder, ready, release):
    with open_store(folder):
        ready.set()
        release.wait(30)


def test_a_folder_in_use_is_refused_and_says_by_whom(tmp_path):
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "run", ready, release))
    other.start()
    try:
        assert ready.wait(30)
        with (
            pytest.raises(StoreError, match=rf"in use by process {other.pid} since .*choose another --out"),
            open_store(tmp_path / "run"),
        ):
            pass
    finally:
        release.set()
        other.join()


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")

    with pytest.raises(StoreError, match="empty or a run folder, got a folder with other files"), open_store(tmp_path):
        pass


def test_fresh_forgets_the_run_and_nothing_else(tmp_path):
    with open_store(tmp_path / "run") as store:
        store.save_unit("p", "key", "u", Tally())
        store.write_json("results.json", {})
    (tmp_path / "run/notes.txt").write_text("mine")

    with open_store(tmp_path / "run", fresh=True) as store:
        assert store.load_unit("p", "key") is None
        assert store.read_json("results.json") is None
    assert (tmp_path / "run/notes.txt").read_text() == "mine"


def test_leftovers_of_a_killed_process_are_swept(tmp_path):
    with open_store(tmp_path / "run") as store:
        store.save_unit("p", "key", "u", Tally())
    leftover = tmp_path / "run/probes/p/units/.tmp-abc"
    leftover.write_bytes(b"half")

    with open_store(tmp_path / "run"):
        assert not leftover.exists()


def test_a_folder_that_cannot_be_made_is_explained(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreError, match="Expected to be able to write"), open_store(tmp_path / "file/run"):
        pass


def test_arrays_are_written_before_the_mark_that_makes_them_count(tmp_path, monkeypatch):
    written = []
    real = store_module.write_whole
    monkeypatch.setattr(
        store_module, "write_whole", lambda path, content: (written.append(path.suffix), real(path, content))
    )

    RunStore(tmp_path).save_unit("p", "key", "u", Tally(arrays={"a": np.zeros(1)}))

    assert written == [".safetensors", ".json"]


@pytest.mark.parametrize("where", ["probes", "events.jsonl"])
def test_links_that_lead_out_of_the_folder_are_refused(tmp_path, where):
    with open_store(tmp_path / "run"):
        pass
    (tmp_path / "outside").mkdir()
    (tmp_path / "run" / where).symlink_to(tmp_path / "outside")

    with pytest.raises(StoreError, match="without symbolic links"), open_store(tmp_path / "run", fresh=True):
        pass


def test_a_foreign_plan_or_lock_does_not_make_a_folder_ours(tmp_path):
    (tmp_path / "plan.json").write_text("{}")
    (tmp_path / ".lock").write_text("of another tool")

    with pytest.raises(StoreError, match="got a folder with other files"), open_store(tmp_path, fresh=True):
        pass
    assert (tmp_path / "plan.json").exists()


def test_a_changed_number_in_a_unit_counts_as_damage(tmp_path):
    store = RunStore(tmp_path)
    store.save_unit("p", "key", "u", Tally(values={"broken": 10}))
    path = tmp_path / "probes/p/units/key.json"
    path.write_text(path.read_text().replace("10", "99"))

    assert store.load_unit("p", "key") is None


def test_killed_before_the_lock_was_written_the_folder_can_still_be_used(tmp_path):
    (tmp_path / ".lock").touch()

    with open_store(tmp_path) as store:
        store.write_json("plan.json", [])
    with open_store(tmp_path) as store:
        assert store.read_json("plan.json") == []


def test_an_empty_or_binary_lock_beside_other_files_is_not_ours(tmp_path):
    for content in (b"", b"\xff\xfe\x00"):
        (tmp_path / "thesis.tex").write_text("years of work")
        (tmp_path / ".lock").write_bytes(content)
        with pytest.raises(StoreError, match="got a folder with other files"), open_store(tmp_path, fresh=True):
            pass
