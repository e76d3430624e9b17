"""Hostile files, every one of them through every command that may meet it, with default flags.

First the files are shown to be hostile: read naively, they act. Then nothing that the tool does with them lets them
act, hang, crash, write, or speak to the terminal.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.hostile import HostileFile, hostile_files
from tests.hostile.archives import add_archives
from tests.hostile.commands import DATA_COMMANDS, LARGEST_FILE, MODEL_COMMANDS, ROOT, Commands, words
from tests.hostile.containers import state_dict, torch_legacy, torch_zip
from tests.hostile.naive import READERS, wants_torch
from tests.hostile.payloads import PAYLOADS
from tests.hostile.pickles import add_pickles
from tests.hostile.site import Corpus

EVERY_COMMAND = ("scan", "bare", "weights", "convert", *MODEL_COMMANDS, *DATA_COMMANDS)
REFUSED = {"refused": (4,), "plain": (0, 2)}
SCANNED = {"refused": (4,), "plain": (0, 3, 4)}
FORGED = "PASSED"
"""Some names hold a line break and this word, to look like a line of ours."""


@dataclass(frozen=True)
class Place:
    """The corpus in its folder, and a warm command line beside it."""

    root: Path
    canary: Path
    files: list[HostileFile]
    audit: Commands
    state: dict = field(default_factory=dict)

    def changes(self):
        """What came, went or changed under the root since the last call, but for the output folder."""
        before = self.state.copy()
        self.state.clear()
        self.state.update(listing(str(self.root), but=(str(self.root / "out"), *self.audit.says)))
        return {path for path in before.keys() | self.state.keys() if before.get(path) != self.state.get(path)}


def listing(folder, but):
    """Kind, size and time of change of everything below a folder, by path."""
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.path not in but:
                state = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):  # its time changes with every temporary file
                    found |= {entry.path: (state.st_mode,), **listing(entry.path, but)}
                else:
                    found[entry.path] = (state.st_mode, state.st_size, state.st_mtime_ns)
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile")
    canary = root / "canary"
    files = hostile_files(root / "corpus", canary)
    with Commands(root / "beside") as audit:
        audit("--version")
        place = Place(root, canary, files, audit)
        place.changes()
        yield place


def problems_of(place, file, command, codes):
    """What is wrong with how a command takes a file; empty when all is well."""
    out = place.root / "out" / f"{file.name}-{command}"
    out.mkdir(parents=True, exist_ok=True)
    ended = place.audit(*words(command, file.path, out))
    said = ended.out + ended.err
    found = []
    if ended.code is None:
        return [f"ended by {ended.end} after {ended.seconds:.0f} s: {said[-200:]}"]
    if place.canary.exists():
        found.append("IT RAN: " + repr(place.canary.read_text(errors="replace")[:100]))
        place.canary.unlink()
    if changed := place.changes():
        found.append(f"changed outside of its output: {sorted(changed)[:3]}")
    if ended.code not in codes:
        found.append(f"exit code {ended.code} instead of {codes}: {said[-300:]}")
    if "Expected room" in said:
        found.append(f"filled the disk, {LARGEST_FILE:,} bytes in one file: {said[-300:]}")
    if "Traceback" in said or "internal error" in said:
        found.append(f"an internal error: {said[-300:]}")
    told = [line for line in ended.err.splitlines() if line.startswith("error: Expected ")]
    if command != "scan" and ended.code in (2, 4) and len(told) != 1:
        found.append(f"no clear message: {ended.err[-300:]}")
    if raw := {sign for sign in said if not (sign in "\n\t\xa0" or sign.isprintable())}:
        found.append(f"raw control characters: {sorted(raw)}")
    if any(line.startswith(FORGED) for line in said.splitlines()):
        found.append(f"a forged line: {said[-300:]}")
    return found


def codes_of(file, command):
    return tuple(file.codes.get(command, (SCANNED if command == "scan" else REFUSED)[file.expect]))


def test_the_corpus_is_large_and_varied(place):
    assert len(place.files) >= 80
    kinds = Counter(file.kind for file in place.files)
    assert min(kinds[kind] for kind in ("weights", "model", "data", "folder")) >= 20, kinds
    assert not place.canary.exists(), "Expected that making the corpus runs nothing of it."


def test_the_corpus_is_the_same_every_time(tmp_path):
    def written():
        corpus = Corpus(tmp_path / "corpus", tmp_path / "canary")
        add_pickles(corpus)
        add_archives(corpus, bombs=False)
        return {file.name: file.path.read_bytes() for file in corpus.files}

    first, second = written(), written()
    native = {name for name in first if "native" in name or "jit" in name}
    assert [name for name in first.keys() - native if first[name] != second[name]] == []


@pytest.mark.parametrize("made", [torch_zip, torch_legacy])
def test_what_is_clean_in_the_corpus_is_read_by_torch(made):
    """Else nothing hostile beside it would ever be reached."""
    import torch

    read = torch.load(io.BytesIO(made(state_dict())), weights_only=True)
    assert {name: tuple(tensor.shape) for name, tensor in read.items()} == {"fc.weight": (10, 3), "fc.bias": (10,)}


def live(tmp_path, files, canary):
    """By name: whether the file acts when it is read naively, and how that ended."""
    task = tmp_path / "task.json"
    listed = [[file.name, str(file.path), file.executes] for file in files]
    task.write_text(json.dumps({"canary": str(canary), "files": listed}))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.hostile.naive", task], cwd=ROOT, check=True, text=True,
        stdout=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def acting(files):
    """The files that act, those first whose reading does not import torch."""
    named = [file for file in files if file.executes]
    assert {file.executes for file in named} <= READERS.keys()
    return sorted(named, key=lambda file: wants_torch(file.path, file.executes))


@pytest.fixture
def short_path():
    """A folder whose name leaves room for commands that must fit into a header."""
    with tempfile.TemporaryDirectory(prefix="h") as folder:
        yield Path(folder)


def test_the_payloads_are_live(short_path):
    """A sample: plain pickles and files of torch in every container, one file at least of every naive reader."""
    files = acting(hostile_files(short_path / "corpus", short_path / "canary", bombs=False))
    of_reader = {file.executes: file for file in files if file.executes != "export"}
    sample = {file.name: file for file in [*of_reader.values(), *files[::7]] if file.executes != "export"}
    found = live(short_path, sample.values(), short_path / "canary")
    assert len(found) >= 40
    assert {name: said for name, (acted, said) in found.items() if not acted} == {}


@pytest.mark.slow
def test_every_payload_is_live(short_path):
    files = acting(hostile_files(short_path / "corpus", short_path / "canary", bombs=False))
    found = live(short_path, files, short_path / "canary")
    assert {name: said for name, (acted, said) in found.items() if not acted} == {}


LENGTHY = {
    "scan": {"cifar-deep", "hf-config-spaces"},
    "weights": {"damage-deep", "disguise-pile", "bomb-nested", "bomb-tar-many", "bomb-many", "growth-names"},
    "convert": {"bomb-nested"},
    "parquet": {"parquet-none-rows"},
}
"""What takes a command seconds, and is given to another command here too; `make test-all` gives it to all of them."""


def thinned(files, command):
    """The files that the quick test gives to a command: of the payloads, which come twice each, a part by turns."""
    tried = [file for file in files if command in file.commands and file.name not in LENGTHY.get(command, ())]
    if command in ("bare", "convert"):
        return [file for place, file in enumerate(tried) if file.kind != "weights" or place % 3 == 0]
    share = {"pickle": 1 if command == "scan" else 4, "torch": 4 if command == "scan" else 2}
    return [
        file
        for place, file in enumerate(tried)
        if file.name.partition("-")[2] not in PAYLOADS or place % share[file.name.partition("-")[0]] == 0
    ]


def assert_nothing_gets_its_way(place, command, files, codes=codes_of):
    found = {file.name: problems_of(place, file, command, codes(file, command)) for file in files}
    assert found
    assert {name: problems for name, problems in found.items() if problems} == {}


SLOW = ("bare", "onnx")
"""Among their files are graphs that never end; `make test-all` waits for them."""


@pytest.mark.parametrize(
    "command", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in EVERY_COMMAND]
)
def test_nothing_hostile_gets_its_way(place, command):
    assert_nothing_gets_its_way(place, command, thinned(place.files, command))


@pytest.mark.slow
def test_an_audit_refuses_what_describe_refuses(place):
    files = [file for file in place.files if "weights" in file.commands and file.expect == "refused"]
    assert_nothing_gets_its_way(place, "run", files[::50], lambda file, _: codes_of(file, "weights"))
    assert not list(place.root.glob("out/*-run/run"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "command"),
    [("pickle-os-system", "scan"), ("checkpoint-optimizer", "weights"), ("npz-labels", "npz"), ("fifo", "weights")],
)
def test_a_command_in_a_process_of_its_own(place, tmp_path, name, command):
    file = next(file for file in place.files if file.name == name)
    code = "import sys; from audit.cli import main; sys.argv[0] = 'audit'; main()"
    line = [sys.executable, "-c", code, *words(command, file.path, tmp_path)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in codes_of(file, command), done
    assert "Traceback" not in done.stdout + done.stderr
    assert not place.canary.exists()
    assert place.changes() == set()


@pytest.mark.slow
@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_every_hostile_file_with_every_command_for_its_kind(place, command):
    assert_nothing_gets_its_way(place, command, [file for file in place.files if command in file.commands])


@pytest.mark.slow
@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_every_hostile_file_with_every_other_command(place, command):
    """What is no file of this kind is refused or said to be none."""
    files = [file for file in place.files if command not in file.commands]
    assert_nothing_gets_its_way(place, command, files, lambda *_: (0, 2, 3, 4))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["convert --allow-pickle", "convert --allow-code"])
def test_no_flag_of_convert_lets_anything_out(place, command):
    """With these flags more is read; still nothing outside of the process apart is touched."""
    files = [file for file in place.files if "convert" in file.commands or "weights" in file.commands]
    assert_nothing_gets_its_way(place, command, files, lambda *_: (0, 2, 4))
