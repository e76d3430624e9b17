"""What a hostile file may try once its code runs: each with a sign that it succeeded, to be seen from outside."""

import pickle
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

from audit.errors import AuditError
from audit.sandbox import Limits, run_apart
from audit.scan import Kind

GIB = 1 << 30
CRIMES = {
    "tcp": "import socket; socket.create_connection(('127.0.0.1', {tcp}), 5).sendall(b'tcp')",
    "udp": "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'udp', ('127.0.0.1', {udp}))",
    "unix socket": "import socket; s = socket.socket(socket.AF_UNIX); s.connect({unix!r}); s.sendall(b'unix')",
    "names of hosts": "import socket; socket.getaddrinfo('localhost', 80)",
    "a shell": "import os; assert os.system('echo x > {canary}') == 0",
    "a program": "import subprocess; subprocess.run(['/usr/bin/touch', {canary!r}], check=True)",
    "another program in its place": "import os; os.execv('/bin/sh', ['sh', '-c', 'echo x > {canary}; echo DID IT'])",
    "a child": "import os\nif os.fork() == 0:\n    open({canary!r}, 'w').close(); os._exit(0)\nos.wait()",
    "many children": "import os\nfor _ in range(3):\n    if os.fork() == 0: os._exit(0)\n    os.wait()",
    "a new file": "open({canary!r}, 'w').write('x')",
    "a file in its own folder": "open('canary', 'w').write('x')",
    "a file in the folder above": "open('../canary', 'w').write('x')",
    "a file in /tmp": "import os; open({tmp!r}, 'w').write('x'); os.unlink({tmp!r})",
    "a folder": "import os; os.mkdir({canary!r})",
    "a link": "import os; os.symlink({secret!r}, {canary!r})",
    "a hard link": "import os; os.link({secret!r}, {canary!r})",
    "overwriting": "open({treasure!r}, 'r+').write('stolen')",
    "emptying": "import os; os.truncate({treasure!r}, 0)",
    "deleting": "import os; os.unlink({treasure!r})",
    "moving": "import os; os.rename({treasure!r}, {canary!r})",
    "rights": "import os; os.chmod({treasure!r}, 0)",
    "dates": "import os; os.utime({treasure!r}, (0, 0))",
    "attributes": "import os; os.setxattr({treasure!r}, 'user.x', b'1')",
    "a secret": "print(open({secret!r}).read())",
    "a list of a folder": "import os; assert os.listdir({folder!r})",
    "the caller's environment": "import os; print(os.environ['AUDIT_TEST_TOKEN'])",
    "the parent's environment": "import os; print(open(f'/proc/{{os.getppid()}}/environ').read())",
    "memory": "import mmap; mmap.mmap(-1, 20 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)",
    "a signal to the parent": "import os; os.kill(os.getppid(), 0)",
    "a signal by way of a pipe": "import fcntl, os; fcntl.fcntl(os.pipe()[0], 8, os.getppid())",
    "the parent's limits": "import os, resource; resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE)",
    "the parent's priority": "import os; os.setpriority(0, os.getppid(), os.getpriority(0, os.getppid()))",
    "tracing": "import ctypes; assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0",
    "a program in memory": "import os; os.memfd_create('x')",
    "shared memory": "import ctypes; assert ctypes.CDLL(None).shmget(0, 4096, 0o1600) >= 0",
    "leaving the group": "import os; os.setpgid(0, 0)",
    "outliving the parent": "import ctypes; assert ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == 0",
}
"""Code by what it tries; it raises where it fails."""
TRIED = """
try:
{code}
    print("DID IT")
except BaseException as error:
    print("FAILED", type(error).__name__, error)
"""
LOAD = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"


class Hostile:
    """Runs code when it is unpickled."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[object, tuple[str, dict[str, object]]]:
        return exec, (self.code, {})


@dataclass(frozen=True)
class Ran:
    """What a hostile file printed, and the error that was raised."""

    said: str
    error: AuditError | None
    folder: Path


def hostile(folder: Path, code: str, *, tried: bool = True) -> Path:
    """A plain pickle that runs code, and says whether it went through."""
    path = folder / "hostile.pkl"
    body = TRIED.format(code=textwrap.indent(code, "    ")) if tried else code
    path.write_bytes(pickle.dumps({"epoch": 3, "extra": Hostile(body)}))
    return path


def outside(path: Path) -> str:
    """Unpickled as everybody does it: what it printed."""
    command = [sys.executable, "-c", LOAD, path]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=path.parent, check=False)
    return ran.stdout + ran.stderr


def inside(path: Path, **limits: int) -> Ran:
    """Unpickled behind locks."""
    folder = path.parent / "apart"
    folder.mkdir(exist_ok=True)
    for left in folder.iterdir():
        left.unlink()
    argument = {"name": path.name, "kind": str(Kind.PICKLE), "most_bytes": GIB}
    wanted = Limits(**{"memory_bytes": 4 * GIB, "seconds": 60, "file_bytes": GIB, **limits})
    try:
        answer = run_apart(
            "audit.loading.unpickling:unpickle", argument, source=path, folder=folder, limits=wanted, code=True
        )
    except AuditError as error:
        return Ran("", error, folder)
    return Ran(answer.said, None, folder)
