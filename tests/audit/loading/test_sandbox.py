"""The process apart: whatever a hostile file tries in it fails, and the same code outside succeeds."""

import os
import re
import socket
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest

from audit.errors import AuditError, PrerequisiteError, SubjectError, UnsafeArtefactError
from audit.loading import apart as loading
from audit.loading.sniff import sniff
from audit.sandbox import Limits, Protections, apart, protections, run_apart, seccomp, syscalls
from audit.scan import Kind
from tests.audit.loading.crimes import CRIMES, GIB, hostile, inside, outside
from tests.hostile import hostile_files

pytestmark = pytest.mark.skipif(
    not (protections().hold_code and protections().files), reason="this system has not both seccomp and Landlock"
)
ROOT = Path(__file__).parents[3]
SECRET = "a-secret-of-the-user"


class World:
    """A folder with a secret and a treasure, and somebody who listens on every kind of socket."""

    def __init__(self, folder: Path) -> None:
        self.heard: list[bytes] = []
        (folder / "secret").write_text(SECRET)
        self.treasure = folder / "treasure"
        self.refill()
        self.canary = folder / "canary"
        self.above = folder / "apart" / ".." / "canary"
        self.tcp, self.udp = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.unix = socket.socket(socket.AF_UNIX)
        unix_path = f"/tmp/{uuid.uuid4().hex}"
        self.unix.bind(unix_path)
        self.unix.listen()
        for listener in (self.tcp, self.unix):
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        threading.Thread(target=lambda: self.heard.append(self.udp.recv(10)), daemon=True).start()
        self.names = {
            "tcp": self.tcp.getsockname()[1],
            "udp": self.udp.getsockname()[1],
            "unix": unix_path,
            "canary": str(self.canary),
            "tmp": f"/tmp/{uuid.uuid4().hex}",
            "secret": str(folder / "secret"),
            "treasure": str(self.treasure),
            "folder": str(folder),
        }

    def refill(self) -> None:
        self.treasure.unlink(missing_ok=True)
        self.treasure.write_text("gold")
        self.state = self.treasure.stat()

    def harmed(self) -> bool:
        """Whether anything outside has changed."""
        if self.heard or self.canary.is_symlink() or self.canary.exists() or not self.treasure.exists():
            return True
        now = self.treasure.stat()
        same = (now.st_mode, now.st_mtime) == (self.state.st_mode, self.state.st_mtime)
        return not same or self.treasure.read_text() != "gold" or bool(os.listxattr(self.treasure))

    def close(self) -> None:
        for listener in (self.tcp, self.udp, self.unix):
            listener.close()
        Path(self.names["unix"]).unlink(missing_ok=True)

    def _accept(self, listener: socket.socket) -> None:
        try:
            while True:
                connection, _ = listener.accept()
                self.heard.append(connection.recv(10))
        except OSError:
            return


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setenv("AUDIT_TEST_TOKEN", SECRET)
    made = World(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("crime", CRIMES)
def test_crimes_fail_behind_locks_and_succeed_outside(tmp_path, world, crime):
    path = hostile(tmp_path, CRIMES[crime].format(**world.names))
    ran = inside(path)
    assert ran.error is None
    assert "DID IT" not in ran.said
    assert "FAILED" in ran.said
    assert SECRET not in ran.said
    assert not world.harmed()
    assert sorted(file.name for file in ran.folder.iterdir()) == ["answer.json", "tensors.safetensors"]
    assert "DID IT" in outside(path)


def test_code_may_compute_and_start_threads(tmp_path):
    code = (
        "import threading, numpy\nt = threading.Thread(target=lambda: print(numpy.ones(3).sum()))\nt.start(); t.join()"
    )
    ran = inside(hostile(tmp_path, code))
    assert ran.said == "3.0\nDID IT\n"


def test_every_denied_call_is_denied(tmp_path):
    code = (
        "import ctypes\nlibrary = ctypes.CDLL(None, use_errno=True)\nfrom audit.sandbox import syscalls\n"
        "for table, error in ((syscalls.DENIED, 1), (syscalls.UNKNOWN, 38)):\n"
        "    for name in table:\n        if syscalls.number(name) is not None:\n"
        "            ctypes.set_errno(0)\n"
        "            assert library.syscall(syscalls.number(name), -1, -1, -1, -1, -1, -1) == -1, name\n"
        "            assert ctypes.get_errno() == error, (name, ctypes.get_errno())\n"
    )
    assert inside(hostile(tmp_path, code)).said == "DID IT\n"


@pytest.mark.skipif(syscalls.architecture() != 0, reason="x86_64 has a second set of numbers")
def test_calls_of_the_other_convention_end_the_process(tmp_path):
    path = hostile(tmp_path, "import ctypes; ctypes.CDLL(None).syscall(0x40000000 + 39)", tried=False)
    ran = inside(path)
    assert isinstance(ran.error, UnsafeArtefactError)
    assert "a system call by another convention" in str(ran.error)


def test_a_loop_without_end_is_stopped(tmp_path):
    ran = inside(hostile(tmp_path, "while True: pass"), seconds=2)
    assert isinstance(ran.error, SubjectError)
    assert "to be read within 2 s, got no end of it" in str(ran.error)
    assert "--timeout S" in str(ran.error)


def test_a_process_that_closes_its_output_is_stopped_too(tmp_path):
    ran = inside(hostile(tmp_path, "import os, time; os.close(1); os.close(2); time.sleep(60)"), seconds=1)
    assert "got no end of it" in str(ran.error)


def test_computing_in_many_threads_counts(tmp_path):
    code = (
        "import threading, hashlib\n"
        "work = lambda: [hashlib.pbkdf2_hmac('sha256', b'x', b'y', 10**7) for _ in range(50)]\n"
        "threads = [threading.Thread(target=work) for _ in range(4)]\n"
        "for thread in threads: thread.start()\nfor thread in threads: thread.join()"
    )
    ran = inside(hostile(tmp_path, code), seconds=2)
    assert "got no end of it" in str(ran.error)


def test_memory_is_limited(tmp_path):
    ran = inside(hostile(tmp_path, "x = bytearray(20 << 30)", tried=False))
    assert isinstance(ran.error, SubjectError)
    assert "within 4.0 GiB of memory, got out of memory" in str(ran.error)
    assert "--memory GB" in str(ran.error)


def test_files_are_limited(tmp_path):
    code = (
        "import os\nfor descriptor in range(3, 40):\n    try: os.ftruncate(descriptor, 10 << 30)\n"
        "    except OSError: pass\n"
    )
    ran = inside(hostile(tmp_path, code))
    assert ran.error is None
    assert sum(file.stat().st_size for file in ran.folder.iterdir()) < 1 << 20
    with (tmp_path / "sparse").open("wb") as stream:
        os.ftruncate(stream.fileno(), 10 << 30)  # nothing else keeps it from being so large


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        ("import ctypes; ctypes.string_at(0)", SubjectError, "ended by SIGSEGV"),
        ("import os; os._exit(3)", SubjectError, "ended by exit status 3"),
        ("print('bye'); import os, sys; sys.stdout.flush(); os._exit(3)", SubjectError, "exit status 3 (bye)"),
        ("import os; os._exit(0)", UnsafeArtefactError, "got something else"),
        ("raise SystemExit(5)", SubjectError, "got SystemExit while it was read: 5"),
        ("raise ValueError('a\\x1b[31mb')", SubjectError, "got ValueError while it was read: a\ufffd[31mb"),
        ("open('/etc/passwd')", UnsafeArtefactError, "do what is forbidden to it (PermissionError"),
        ("import not_there", SubjectError, "`audit convert --allow-pickle` alone does without it"),
    ],
)
def test_every_other_end_is_told(tmp_path, code, kind, said):
    ran = inside(hostile(tmp_path, code, tried=False))
    assert isinstance(ran.error, kind)
    assert said in str(ran.error)
    assert str(ran.error).startswith("Expected ")


@pytest.mark.parametrize(
    "answer", ["'[1]'", "'x'", "'{\"message\": ' + '[' * 100000", "'{\"message\": \"' + 'x' * (40 << 20) + '\"}'"]
)
def test_forged_answers_are_refused(tmp_path, answer):
    code = (
        "import os, json, sys\n"
        "descriptor = json.loads(sys.argv[2])['descriptors'][2]\n"
        f"with os.fdopen(descriptor, 'w', closefd=False) as stream: stream.write({answer})\n"
        "os._exit(0)"
    )
    ran = inside(hostile(tmp_path, code, tried=False))
    assert isinstance(ran.error, UnsafeArtefactError)
    assert "got something else" in str(ran.error)


def test_what_is_printed_is_cut_and_cleaned(tmp_path):
    ran = inside(hostile(tmp_path, "print('\\x1b]0;x\\x07' * 100_000)"))
    assert len(ran.said) <= 8_192
    assert "\x1b" not in ran.said


def answer_of(tmp_path: Path, *, code: bool) -> apart.Answer:
    path = tmp_path / "plain.pkl"
    path.write_bytes(b"\x80\x02}.")
    folder = tmp_path / "plain"
    folder.mkdir()
    function = "audit.loading.placeholders.reading:read"
    argument = {"name": path.name, "most_bytes": GIB}
    return run_apart(function, argument, source=path, folder=folder, limits=Limits(4 * GIB), code=code)


@pytest.mark.parametrize("weaker", [Protections(True, False, 7), Protections(False, False, 0)])
def test_code_is_refused_where_nothing_holds_it(tmp_path, monkeypatch, weaker):
    monkeypatch.setattr(apart, "protections", lambda: weaker)
    with pytest.raises(PrerequisiteError, match=r"Nothing of plain\.pkl was loaded\. Run it on Linux"):
        answer_of(tmp_path, code=True)
    assert not list((tmp_path / "plain").iterdir())


def test_placeholders_need_limits_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(apart, "protections", lambda: Protections(True, False, 0))
    answer = answer_of(tmp_path, code=False)
    assert answer.message["tree"] == ["left", "dict"]
    assert str(answer.protections) == "limits on memory, time and file sizes"


def test_a_lock_that_does_not_shut_ends_it(tmp_path, monkeypatch):
    monkeypatch.setattr(apart.os, "getpid", lambda: 1)
    with pytest.raises(PrerequisiteError, match=r"to shut off the process .* the parent has ended"):
        answer_of(tmp_path, code=False)


@pytest.mark.slow
@pytest.mark.parametrize("code", [False, True], ids=["placeholders", "code"])
def test_the_hostile_corpus_gets_nowhere_though_nothing_scans_it(tmp_path, monkeypatch, code):
    monkeypatch.setattr(loading, "refuse_dangerous", lambda *_, **__: None)
    canary = tmp_path / "canary"
    files = [file for file in hostile_files(tmp_path / "corpus", canary) if file.path.is_file()]
    before, ends = set(tmp_path.rglob("*")), set()
    for file in files:
        try:
            kind = sniff(file.path)
            if code and kind is Kind.PICKLE:  # the others wait for torch each time
                loading.read_by_running(file.path, kind, seconds=20)
            elif not code:
                loading.read_with_placeholders(file.path, seconds=20)
            ends.add("read")
        except AuditError as error:
            ends.add(type(error).__name__)
        assert not canary.exists(), file.name
    assert set(tmp_path.rglob("*")) == before
    assert ends == {"read", "SubjectError", "UnsafeArtefactError"}


ALONE = """
import ctypes, os, sys
from pathlib import Path
from audit.sandbox import landlock, seccomp
assert ctypes.CDLL(None).prctl(38, 1, 0, 0, 0) == 0
{lock}
def fork():
    if os.fork() == 0:
        os._exit(0)
def tried(act):
    try:
        act()
        return "went through"
    except OSError as error:
        return type(error).__name__
print(tried(lambda: open(sys.argv[1]).close()), tried(lambda: open(sys.argv[2], "w").close()), tried(fork))
"""


@pytest.mark.parametrize(
    ("lock", "expected"),
    [
        ("landlock.restrict([])", "PermissionError PermissionError went through"),
        ("landlock.restrict([Path(sys.argv[1])])", "went through PermissionError went through"),
        ("seccomp.restrict()", "went through PermissionError PermissionError"),
        ("", "went through went through went through"),
    ],
)
def test_each_lock_by_itself(tmp_path, lock, expected):
    readable, writable = tmp_path / "readable", tmp_path / "writable"
    readable.touch()
    command = [sys.executable, "-c", ALONE.format(lock=lock), readable, writable]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ran.stdout.splitlines()[0] == expected, ran.stderr


def filtered(arch: int, number: int, *arguments: int) -> int:
    """What the filter answers, by interpreting it."""
    fields = [number, arch, 0, 0, *(word for argument in arguments for word in (argument & 0xFFFFFFFF, 0)), *[0] * 12]
    steps, at, loaded = seccomp.program(), 0, 0
    while True:
        code, if_true, if_false, value = steps[at]
        at += 1
        if code == seccomp.LOAD:
            loaded = fields[value // 4]
        elif code == seccomp.RETURN:
            return value
        else:
            test = {seccomp.EQUAL: loaded == value, seccomp.AT_LEAST: loaded >= value, seccomp.ANY_BIT: loaded & value}
            at += if_true if test[code] else if_false


@pytest.mark.parametrize("place", [0, 1], ids=["x86_64", "aarch64"])
def test_the_filter_decides_as_it_should(monkeypatch, place):
    monkeypatch.setattr(seccomp, "architecture", lambda: place)
    monkeypatch.setattr(seccomp, "number", lambda name: tables[name][place])
    tables = {**syscalls.DENIED, **syscalls.UNKNOWN, **syscalls.OTHERS}
    arch = seccomp.AUDIT_ARCH[place]
    denied, unknown = seccomp.FAIL | 1, seccomp.FAIL | 38
    for table, answer in ((syscalls.DENIED, denied), (syscalls.UNKNOWN, unknown)):
        assert {filtered(arch, row[place]) for row in table.values() if row[place] is not None} == {answer}
    openat, clone = tables["openat"][place], tables["clone"][place]
    assert filtered(arch, openat, 0, 0, os.O_RDONLY | os.O_CLOEXEC) == seccomp.ALLOW
    for flag in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC):
        assert filtered(arch, openat, 0, 0, flag) == denied
    assert filtered(arch, clone, 0x10000) == seccomp.ALLOW
    assert filtered(arch, clone, 17) == denied
    assert filtered(arch, tables["prlimit64"][place], 0) == seccomp.ALLOW
    assert filtered(arch, tables["prlimit64"][place], 4711) == denied
    assert filtered(seccomp.AUDIT_ARCH[1 - place], openat) == seccomp.KILL
    assert filtered(arch, seccomp.X32 + 1) == seccomp.KILL
    assert filtered(arch, syscalls.NEWEST_KNOWN + 1) == unknown
    assert filtered(arch, {0: 0, 1: 63}[place]) == seccomp.ALLOW  # read


@pytest.mark.parametrize(
    ("place", "header"),
    [(0, "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), (1, "/usr/include/asm-generic/unistd.h")],
)
def test_numbers_are_the_kernel_s(place, header):
    if not Path(header).is_file():
        pytest.skip("the kernel's headers are not installed")
    text = re.sub(r"/\*.*?\*/", "", Path(header).read_text(), flags=re.S)
    told = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    ours = {name: row[place] for name, row in {**syscalls.DENIED, **syscalls.UNKNOWN, **syscalls.OTHERS}.items()}
    assert {name: number for name, number in ours.items() if told.get(name) != number} == {}
