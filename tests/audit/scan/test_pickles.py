"""Pickles: planted calls of every sort are found, whatever the opcodes that hide them."""

import io
import pickle
import pickletools
import struct

import pytest
import torch
from torch._weights_only_unpickler import _get_allowed_globals

from audit.scan import Kind, Limits, scan_file
from audit.scan.globals_allowed import ALLOWED, OF_TORCH
from audit.scan.globals_dangerous import DANGEROUS, HARMLESS_STANDARD, danger_of
from audit.scan.pickles import globals_of, pickle_findings
from tests.audit.scan.planted import Calls, call, codes, harmless, named, scanned, text, torch_zip, zip_of

SYSTEM = call("os.system", "true")


def test_the_allowed_globals_are_those_of_torch():
    """When torch's table changes, this fails: read the change, then write it into OF_TORCH with the version."""
    assert set(OF_TORCH) == set(_get_allowed_globals())


def test_no_global_is_in_two_tables():
    assert not set(ALLOWED) & set(DANGEROUS)
    assert not set(HARMLESS_STANDARD) & set(DANGEROUS)
    for name in ALLOWED:
        module, _, last = name.rpartition(".")
        assert danger_of(module, last) is None or name.startswith(("builtins.", "_codecs.")), name


DANGERS = [
    "os.system", "posix.system", "nt.system", "subprocess.Popen", "subprocess.check_output", "builtins.eval",
    "builtins.exec", "builtins.compile", "builtins.__import__", "builtins.getattr", "builtins.setattr",
    "builtins.open", "builtins.breakpoint", "builtins.input", "runpy.run_path", "importlib.import_module",
    "webbrowser.open", "torch.load", "torch.hub.load", "torch.jit.load", "pip.main", "pip._internal.main",
    "socket.create_connection", "urllib.request.urlopen", "shutil.rmtree", "ctypes.CDLL", "pty.spawn",
    "code.InteractiveInterpreter", "codeop.compile_command", "pdb.run", "bdb.Bdb", "cProfile.run", "profile.run",
    "timeit.timeit", "trace.Trace", "operator.attrgetter", "operator.methodcaller", "operator.itemgetter",
    "functools.reduce", "functools.partialmethod", "types.FunctionType", "types.CodeType", "marshal.loads",
    "pickle.loads", "_pickle.loads", "multiprocessing.Process", "asyncio.run", "sys.exit", "inspect.getattr_static",
    "signal.signal", "tempfile.mktemp", "pathlib.Path.write_text", "numpy.load", "numpy.f2py.crackfortran.myeval",
    "numpy.testing._private.utils.runstring", "torch.fx.graph_module.reduce_graph_module",
    "torch._dynamo.config.load_config", "torch.utils.cpp_extension.load", "torch.storage._load_from_bytes",
    "joblib.load", "dill.loads", "cloudpickle.loads", "__builtin__.eval", "copy_reg.add_extension",
    "commands.getoutput", "uuid._get_command_stdout", "pydoc.pipepager", "imaplib.IMAP4_stream",
    "test.support.script_helper.assert_python_ok", "torch.utils.collect_env.run", "torch.serialization.load",
    "sqlite3.connect", "atexit.register", "jinja2.Template", "yaml.unsafe_load",
]  # fmt: skip


@pytest.mark.parametrize("name", DANGERS)
def test_dangerous_calls(tmp_path, name):
    report = scanned(tmp_path, call(name, "x"))
    assert report.worst == "danger"
    assert report.outcome == "refused"
    module, _, last = name.rpartition(".")
    assert any(f"{module}.{last}" in finding.text for finding in report.findings)


@pytest.mark.parametrize(
    ("module", "name"),
    [("torch.serialization", "os.system"), ("collections", "_sys.modules.get"), ("torch", "nn.Module.__class__"),
     ("torch", "serialization.pickle.loads"), ("collections", "OrderedDict.__init__.__globals__"), ("os", "x" * 200)],
)  # fmt: skip
def test_walks_through_attributes(tmp_path, module, name):
    report = scanned(tmp_path, named(module, name))
    assert report.worst == "danger"


def test_names_without_end_cost_nothing(tmp_path):
    report = scanned(tmp_path, b"\x80\x02c" + b"a." * 500_000 + b"a\nb\n.")
    assert report.worst == "danger"


@pytest.mark.parametrize("name", ["mypackage.Model", "argparse.Namespace", "__main__.Net", "pathlib.PosixPath",
                                  "numpy._core.multiarray.scalar", "torch.nn.modules.linear.Linear",
                                  "sklearn.svm._classes.SVC", "omegaconf.dictconfig.DictConfig",
                                  "mypackage.code.Model", "torch._C._nn.gelu"])  # fmt: skip
def test_classes_outside_of_the_list_are_code(tmp_path, name):
    module, _, last = name.rpartition(".")
    report = scanned(tmp_path, named(module, last))
    assert report.worst == "code"
    assert f"`{name}`" in report.findings[0].text


LETTERS = b"S'true'\n"
CALLED = LETTERS + b"\x85R."
FORMS = {
    "GLOBAL": SYSTEM,
    "no protocol": b"cos\nsystem\n(" + LETTERS + b"tR.",
    "INST": b"(" + LETTERS + b"ios\nsystem\n.",
    "OBJ": b"(cos\nsystem\n" + LETTERS + b"o.",
    "NEWOBJ": b"\x80\x02csubprocess\nPopen\n" + text("true") + b"\x85\x81.",
    "NEWOBJ_EX": b"\x80\x04csubprocess\nPopen\n" + text("true") + b"\x85}\x92.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + CALLED,
    "from the memo": b"\x80\x04\x8c\x06system\x940\x8c\x02os\x940\x8c\x04json\x940h\x01h\x00\x93" + CALLED,
    "a memo overwritten": b"\x80\x04\x8c\x02osq\x010\x8c\x05loadsq\x000\x8c\x06systemq\x000h\x01h\x00\x93" + CALLED,
    "joined by DUP": b"\x80\x02cos\nsystem\n2" + LETTERS + b"\x85R0.",
    "a text memo": b"cos\nsystem\np7\n0g7\n(" + LETTERS + b"tR.",
    "a long memo": b"\x80\x02cos\nsystem\nr\x00\x01\x00\x000j\x00\x01\x00\x00" + CALLED,
    "only named": b"\x80\x02cos\nsystem\n.",
    "thrown away": b"\x80\x02cos\nsystem\n" + LETTERS + b"\x85R0N.",
    "behind a mark": b"\x80\x02(cos\nsystem\n" + LETTERS + b"\x85R1N.",
    "before damage": b"\x80\x02cos\nsystem\n" + LETTERS + b"\x85R\xff\xff",
    "without a STOP": b"\x80\x02cos\nsystem\n" + LETTERS + b"\x85R",
    "in the second pickle": harmless() + SYSTEM,
    "behind a hexadecimal": b"I0x1f\n0cos\nsystem\n(" + LETTERS + b"tR.",
    "behind a long text": b"V" + b"x" * 3_000_000 + b"\n0cos\nsystem\n(" + LETTERS + b"tR.",
    "behind long bytes": b"\x80\x03B" + struct.pack("<I", 3 << 20) + bytes(3 << 20) + b"0cos\nsystem\n" + CALLED,
    "behind many numbers": b"\x80\x02" + b"K\x010" * 50_000 + b"cos\nsystem\n" + CALLED,
}  # fmt: skip


@pytest.mark.parametrize("content", FORMS.values(), ids=FORMS.keys())
def test_every_way_of_naming_and_calling(tmp_path, content):
    report = scanned(tmp_path, content)
    assert report.kind is Kind.PICKLE
    assert "pickle-dangerous-global" in codes(report, "danger")
    assert any("`os.system`" in finding.text or "`subprocess.Popen`" in finding.text for finding in report.findings)


@pytest.mark.parametrize("content", FORMS.values(), ids=FORMS.keys())
def test_every_way_within_a_torch_file(tmp_path, content):
    report = scanned(tmp_path, torch_zip(content))
    assert report.kind is Kind.TORCH_ZIP
    assert report.worst == "danger"
    assert report.findings[0].where == "model.pt!archive/data.pkl"


MISUSES = {
    "an extension code": (b"\x80\x02\x82\xf0.", "pickle-extension"),
    "a wide extension code": (b"\x80\x02\x84\x00\x00\x01\x00.", "pickle-extension"),
    "the result of a call": (b"\x80\x02ccollections\nOrderedDict\n)R)R.", "pickle-calls-result"),
    "a value": (b"\x80\x02K\x01)R.", "pickle-not-followed"),
    "a storage": (b"\x80\x02ctorch\nFloatStorage\n)R.", "pickle-misuse"),
    "a function as a class": (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)\x81.", "pickle-misuse"),
    "a class by type": (b"\x80\x02c__builtin__\ntype\nX\x01\x00\x00\x00a)}\x87R.", "pickle-misuse"),
    "another codec": (call("_codecs.encode", "x", "rot13"), "pickle-misuse"),
    "memory": (b"\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R.", "pickle-memory-bomb"),
    "a shape": (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nJ\xff\xff\xff\x7f\x85C\x01b\x87R.",
                "pickle-memory-bomb"),
    "a class's attributes": (b"\x80\x02ccollections\nOrderedDict\n}X\x05\x00\x00\x00itemsNsb.", "pickle-patches"),
    "a module's table": (b"\x80\x02csys\nmodules\nX\x01\x00\x00\x00aNs.", "pickle-patches"),
    "a number's state": (b"\x80\x02K\x01}b.", "pickle-not-followed"),
    "an empty stack": (b"\x80\x020.", "pickle-not-followed"),
    "no mark": (b"\x80\x02t.", "pickle-not-followed"),
    "an empty memo": (b"\x80\x02h\x05.", "pickle-not-followed"),
    "a name that is no text": (b"\x80\x04K\x01K\x02\x93.", "pickle-not-followed"),
    "no opcode": (b"\x80\x02\xfe.", "pickle-not-followed"),
    "protocol 99": (b"\x80\x02\x80\x63N.", "pickle-not-followed"),
    "a negative length": (b"\x80\x02T\xff\xff\xff\xff.", "pickle-not-followed"),
    "another sort of data": (torch_zip(b"\x80\x02X\x04\x00\x00\x00fileX\x01\x00\x00\x00a\x86Q."), "pickle-misuse"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "code"), MISUSES.values(), ids=MISUSES.keys())
def test_misuse_of_what_is_allowed(tmp_path, content, code):
    report = scanned(tmp_path, content)
    assert code in codes(report, "danger")


def test_function_arguments_are_shown(tmp_path):
    report = scanned(tmp_path, call("os.system", "curl http://evil\x1b[31m"))
    said = " ".join(finding.text for finding in report.findings)
    assert "curl http://evil" in said
    assert "\x1b" not in said


@pytest.mark.parametrize("wrap", [lambda b: b, lambda b: b.decode("latin-1")], ids=["bytes", "text"])
@pytest.mark.parametrize("inner", [SYSTEM, b"cos\nsystem\n(S'x'\ntR.", torch_zip(SYSTEM), pickle.dumps(1, 4) + SYSTEM],
                         ids=["protocol 2", "protocol 0", "zip", "two"])  # fmt: skip
def test_pickles_within_pickles(tmp_path, wrap, inner):
    report = scanned(tmp_path, pickle.dumps({"data": [wrap(inner)]}, 4))
    assert report.worst == "danger"
    assert "within" in report.findings[0].where


def test_large_payloads_within_pickles_are_read_in_place(tmp_path):
    inner = b"\x80\x02" + b"K\x010" * 600_000 + SYSTEM[2:]
    report = scanned(tmp_path, pickle.dumps({"data": inner}, 4))
    assert report.worst == "danger"


def test_nesting_ends_at_the_limit(tmp_path):
    content = SYSTEM
    for _ in range(8):
        content = pickle.dumps(Calls(pickle.loads, content), 2)
    report = scanned(tmp_path, content)
    assert "nested-too-deep" in codes(report)
    assert not report.examined


def test_truncated_is_not_examined(tmp_path):
    report = scanned(tmp_path, pickle.dumps({"a": list(range(100))})[:-20])
    assert report.outcome == "not examined"
    assert codes(report) == {"pickle-truncated"}


def test_data_behind_a_pickle_are_a_note(tmp_path):
    report = scanned(tmp_path, harmless() + b"\x00\x01\x02\x03")
    assert codes(report) == {"pickle-trailing-data"}
    assert report.outcome == "no known indicator"


def test_too_many_opcodes_are_not_examined(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(list(range(5000))))
    report = scan_file(path, Limits(pickle_opcodes=3000))
    assert report.outcome == "not examined"
    assert codes(report) == {"over-limit"}


@pytest.mark.parametrize("content", [b"\x80\x02" + b"(" * 2_000_000, b"\x80\x02" + b"]" * 2_000_000,
                                     b"\x80\x02N" + b"2" * 2_000_000, b"\x80\x02]" + b"\x85" * 1_000_000 + b"."],
                         ids=["marks", "lists", "copies", "nested tuples"])  # fmt: skip
def test_piles_end(tmp_path, content):
    assert scanned(tmp_path, content).kind is Kind.PICKLE


EVIL = b"0cos\nsystem\n" + LETTERS + b"\x85R."
LONG_LINES = {
    "a place": b"I1\np" + b"0" * 70_000 + b"5\n" + EVIL,
    "a place behind spaces": b"I1\np" + b" " * 70_000 + b"5\n" + EVIL,
    "a place that ends for C": b"I1\np5\0" + b"x" * 70_000 + b"\n" + EVIL,
    "a number": b"I" + b"9" * 70_000 + b"\n" + EVIL,
    "a number that ends for C": b"I5\0" + b"x" * 70_000 + b"\n" + EVIL,
    "a number of Python 2": b"L" + b"0" * 70_000 + b"7L\n" + EVIL,
    "a fraction": b"F" + b"1" * 70_000 + b"\n" + EVIL,
    "a name": b"cantigravity\n" + b"\0" * 70_000 + b"\n.",
    "a module": b"c" + b"a" * 70_000 + b"\nb\n.",
}


@pytest.mark.parametrize("content", LONG_LINES.values(), ids=LONG_LINES.keys())
def test_long_lines_are_no_cover(tmp_path, content):
    report = scanned(tmp_path, content)
    assert report.kind is Kind.PICKLE
    assert report.outcome in ("refused", "not examined")


def test_globals_of():
    content = pickle.dumps({"a": Calls(print, "x"), "b": torch.zeros(1).dtype}, 2) + SYSTEM
    assert list(globals_of(io.BytesIO(content))) == ["__builtin__.print", "torch.float32", "os.system"]
    assert list(globals_of(io.BytesIO(b"\x80\x02\xff"))) == []
    assert list(globals_of(io.BytesIO(pickle.dumps(Calls(print), 4)))) == ["builtins.print"]


def test_globals_of_a_file(tmp_path):
    (tmp_path / "x").write_bytes(SYSTEM)
    with (tmp_path / "x").open("rb") as stream:
        assert list(globals_of(stream)) == ["os.system"]


def test_pickle_findings_of_bytes():
    found = pickle_findings(SYSTEM, "weights.tar/a.pyd")
    assert {finding.where for finding in found} == {"weights.tar/a.pyd"}
    assert found[0].severity == "danger"
    assert pickle_findings(harmless(), "x") == ()


def test_every_opcode_is_known():
    from audit.scan.pickle_opcodes import _ARGUMENTS
    from audit.scan.pickle_steps import _STEPS

    assert {opcode.name for opcode in pickletools.opcodes} == set(_STEPS)
    assert {opcode.arg.name for opcode in pickletools.opcodes if opcode.arg} == set(_ARGUMENTS)


def test_zip_of_a_pickle_in_a_pickle_of_a_zip(tmp_path):
    inner = pickle.dumps({"more": zip_of([("x.pkl", SYSTEM)])}, 4)
    report = scanned(tmp_path, zip_of([("a/b.pkl", inner)]), "x.zip")
    assert report.findings[0].where == "x.zip!a/b.pkl!bytes within!x.pkl"
