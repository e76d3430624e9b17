"""TorchScript and exported programs: ordinary ones are code and no more; planted ones say what they do."""

import io
import json
import pickle
import random
import zipfile

import pytest
import torch

from audit.scan import Kind, scan_file
from audit.scan.expressions import is_arithmetic, is_guard, is_name, is_operator
from tests.audit.scan.planted import call, codes, scanned, torch_zip, zip_of

pytestmark = pytest.mark.filterwarnings("ignore")
SYSTEM = call("os.system", "true")


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 10)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


class Reads(torch.nn.Module):
    def forward(self, x: torch.Tensor):
        return x + torch.from_file("/etc/passwd", False, 4)


class Writes(torch.nn.Module):
    def forward(self, x: torch.Tensor):
        torch.save(x, "/tmp/x")
        return x


def saved(module, **more):
    stream = io.BytesIO()
    torch.jit.save(module, stream, **more)
    return stream.getvalue()


IMAGES = torch.zeros(2, 3, 8, 8)
ORDINARY = {
    "scripted": lambda: saved(torch.jit.script(Net())),
    "traced": lambda: saved(torch.jit.trace(Net().eval(), IMAGES), _extra_files={"labels.txt": "cat\ndog"}),
    "frozen": lambda: saved(torch.jit.freeze(torch.jit.script(Net().eval()))),
    "for mobile": lambda: torch.jit.script(Net())._save_to_buffer_for_lite_interpreter(),
}


@pytest.mark.parametrize("make", ORDINARY.values(), ids=ORDINARY.keys())
def test_ordinary_torchscript_is_code_and_no_more(tmp_path, make):
    report = scanned(tmp_path, make())
    assert report.kind is Kind.TORCHSCRIPT
    assert (codes(report), report.worst, report.examined) == ({"torchscript"}, "code", True)


@pytest.mark.parametrize(("module", "operator"), [(Reads, "torch.from_file"), (Writes, "torch.save")])
@pytest.mark.parametrize("form", ["script", "mobile"])
def test_torchscript_that_reaches_files(tmp_path, module, operator, form):
    made = torch.jit.script(module())
    content = saved(made) if form == "script" else made._save_to_buffer_for_lite_interpreter()
    report = scanned(tmp_path, content)
    assert "torchscript-reaches" in codes(report, "danger")
    assert any(operator in finding.text for finding in report.findings)


def with_member(content, name, new):
    """An archive with one member replaced or added; the first folder is put in front of the name."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    root = next(iter(members)).split("/")[0]
    return zip_of([*(members | {f"{root}/{name}": new}).items()])


def test_torchscript_pickles(tmp_path):
    content = with_member(saved(torch.jit.script(Net())), "data.pkl", SYSTEM)
    assert "pickle-dangerous-global" in codes(scanned(tmp_path, content), "danger")


def test_torchscript_of_other_libraries(tmp_path):
    source = (
        b"def forward(self, x):\n  return ops.mylib.fn(ops.torchvision.nms(x))\n  _0 = __torch__.torch.classes.my.C\n"
    )
    report = scanned(tmp_path, with_member(saved(torch.jit.script(Net())), "code/__torch__/more.py", source))
    assert codes(report) == {"torchscript", "torchscript-operators", "torchscript-classes"}
    said = " ".join(finding.text for finding in report.findings)
    assert "mylib.fn" in said
    assert "my.C" in said
    assert report.worst == "code"


def test_weights_with_a_program_beside_them(tmp_path):
    content = torch_zip(pickle.dumps({}, 2), ("archive/code/__torch__.py", b"x = 1\n"))
    assert scanned(tmp_path, content).kind is Kind.TORCHSCRIPT


def exported(model, *inputs, **more):
    stream = io.BytesIO()
    torch.export.save(torch.export.export(model.eval(), inputs, **more), stream)
    return stream.getvalue()


class Unbacked(torch.nn.Module):
    def forward(self, x):
        return x.nonzero().float() * 2


class Shapes(torch.nn.Module):
    def forward(self, x, y):
        return torch.cat([x, y])[: x.shape[0] // 2 + 1].reshape(-1, 4) * (x.shape[0] * 2)


DYNAMIC = {"x": {0: torch.export.Dim("batch", min=2, max=64)}}
BOTH = {"x": {0: torch.export.Dim("a", min=4, max=64)}, "y": {0: torch.export.Dim("b", min=4, max=64)}}
PROGRAMS = {
    "static": lambda: exported(Net(), IMAGES),
    "dynamic": lambda: exported(Net(), IMAGES, dynamic_shapes=DYNAMIC),
    "unbacked": lambda: exported(Unbacked(), torch.rand(4)),
    "arithmetic of shapes": lambda: exported(Shapes(), torch.rand(8, 4), torch.rand(6, 4), dynamic_shapes=BOTH),
}


@pytest.mark.parametrize("make", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_ordinary_exported_programs_are_code_and_no_more(tmp_path, make):
    report = scanned(tmp_path, make(), "m.pt2")
    assert report.kind is Kind.EXPORTED_PROGRAM
    assert (codes(report), report.worst, report.examined) == ({"exported-program"}, "code", True)


@pytest.fixture(scope="module")
def program():
    return exported(Net(), IMAGES, dynamic_shapes=DYNAMIC)


def planted(content, change):
    """An exported program whose graph was changed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        name = next(name for name in archive.namelist() if name.endswith("models/model.json"))
        graph = json.loads(archive.read(name))
    change(graph)
    return with_member(content, name.partition("/")[2], json.dumps(graph))


EVIL = "__import__('os').system('true')"
TREE = '[1, {"type": "collections.defaultdict", "context": "%s", "children_spec": []}]'


def expression(graph):
    sizes = graph["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]
    next(size for size in sizes if "as_expr" in size)["as_expr"]["expr_str"] = EVIL


def target(graph):
    graph["graph_module"]["graph"]["nodes"][0]["target"] = "torch.serialization.os.system"


def guard(graph):
    graph["guards_code"] = [f"L['x'].size()[0] == {EVIL}"]


def placeholder(graph):
    graph["graph_module"]["graph"]["inputs"][0]["as_tensor"]["name"] = f"x={EVIL}"


def tree(graph):
    context = json.dumps({"default_factory_module": "os", "default_factory_name": "system", "dict_context": []})
    signature = graph["graph_module"]["module_call_graph"][0]["signature"]
    signature["in_spec"] = TREE % context.replace('"', '\\"')


def enumeration(graph):
    context = json.dumps([{"__enum__": True, "fqn": "antigravity:x", "name": "A"}])
    signature = graph["graph_module"]["module_call_graph"][0]["signature"]
    signature["out_spec"] = TREE % context.replace('"', '\\"')


@pytest.mark.parametrize(("change", "code"), [(expression, "exported-expression"), (target, "exported-target"),
                                              (guard, "exported-guard"), (placeholder, "exported-name"),
                                              (tree, "exported-import"), (enumeration, "exported-import")])  # fmt: skip
def test_texts_that_torch_evaluates(tmp_path, program, change, code):
    report = scanned(tmp_path, planted(program, change), "m.pt2")
    assert code in codes(report, "danger")


@pytest.mark.parametrize(("name", "code"), [
    ("data/weights/weight_0", "pickle-unknown-global"),
    ("data/constants/tensor_0", "pickle-unknown-global"),
    ("serialized_state_dict.pt", "pickle-unknown-global"),
])  # fmt: skip
def test_pickled_weights_are_unpickled_without_limits(tmp_path, program, name, code):
    """A class of the user, which elsewhere is code, is a danger there: nothing asks before it runs."""
    stream = io.BytesIO()
    torch.save(Net().conv, stream)
    report = scanned(tmp_path, with_member(program, name, stream.getvalue()), "m.pt2")
    assert code in codes(report, "danger")


def numbers_like_a_pickle(seed, of=4096):
    """Random numbers, of which the first two bytes are by chance those of a pickle of protocol 2."""
    return b"\x80\x02" + random.Random(seed).randbytes(of)


def test_numbers_that_begin_as_a_pickle_are_numbers(tmp_path, program):
    """Two bytes in ten thousand do: a network of hundreds of tensors would be refused now and then."""
    for seed in range(300):
        report = scanned(tmp_path, with_member(program, "data/weights/weight_0", numbers_like_a_pickle(seed)), "m.pt2")
        assert (codes(report), report.examined) == ({"exported-program"}, True), seed


@pytest.mark.parametrize("content", [
    b"\x80\x02cmy.module\nname\n" + b"\xfe", SYSTEM, b"\x80\x02c__main__\nNet\n.", b"\x80\x02K\x01)R.",
], ids=["names, then breaks off", "calls", "names", "calls a number"])  # fmt: skip
def test_numbers_that_would_act_as_a_pickle_are_a_danger(tmp_path, program, content):
    report = scanned(tmp_path, with_member(program, "data/weights/weight_0", content), "m.pt2")
    assert report.worst == "danger"


def test_sample_inputs(tmp_path, program):
    content = with_member(program, "data/sample_inputs/model.pt", torch_zip(SYSTEM))
    assert "pickle-dangerous-global" in codes(scanned(tmp_path, content, "m.pt2"), "danger")


@pytest.mark.parametrize(("name", "content", "code"), [
    ("data/constants/opaque_obj_0", pickle.dumps([1]), "exported-opaque"),
    ("data/constants/custom_obj_0", b"PK", "exported-opaque"),
    ("data/aotinductor/model/x.so", b"\x7fELF" + bytes(60), "exported-native"),
    ("data/aotinductor/model/x.cpp", b"int main() {}", "exported-native"),
    ("data/weights/model_weights_config.json", b'{"config": {"a": {"path_name": "../../x"}}}', "exported-outside"),
])  # fmt: skip
def test_other_members(tmp_path, program, name, content, code):
    assert code in codes(scanned(tmp_path, with_member(program, name, content), "m.pt2"), "danger")


def test_older_archives(tmp_path):
    members = [("version", b"8.2"), ("serialized_state_dict.pt", torch_zip(SYSTEM)),
               ("serialized_exported_program.json", json.dumps({"expr_str": EVIL}))]  # fmt: skip
    report = scanned(tmp_path, zip_of(members), "m.pt2")
    assert report.kind is Kind.EXPORTED_PROGRAM
    assert {"exported-expression", "pickle-dangerous-global"} <= codes(report, "danger")


@pytest.mark.parametrize("text", [
    "s0", "u1 + 2*s77", "Symbol('s77', positive=True, integer=True)", "(s0 // 2) + 1", "Max(1, s0)", "Integer(3)",
    "FloorDiv(Symbol('s0', integer=True), Integer(2))", "GreaterThan(Symbol('u0', integer=True), Integer(0))",
    "Float('2.5', precision=53)", "Mod(s0, 8)", "-1", "s0**2", "Ne(s0, 1)",
])  # fmt: skip
def test_arithmetic(text):
    assert is_arithmetic(text)


@pytest.mark.parametrize("text", [
    EVIL, "exec('x')", "s0.__class__", "().__class__", "lambda: 0", "[x for x in s0]", "open('x')", "s0; s1", "os",
    "Symbol('os.system')", "eval", "getattr(s0, 'x')", "x" * 30_000, "s0 if s1 else s2", "f'{s0}'", '"a"', "s0\\", "@",
    "'a' 'b c'", "dir",
])  # fmt: skip
def test_no_arithmetic(text):
    assert not is_arithmetic(text)


def test_guards_targets_and_names():
    assert is_guard("L['x'].size()[0] == 2*L['y'].stride()[1] + 1")
    assert is_guard("not math.isnan(args[0].item())")
    assert not is_guard("L['x'].__class__")
    assert not is_guard("L['x'].size()[0] == open('x')")
    assert not is_guard("1, print('x')")
    for good in ("torch.ops.aten.conv2d.default", "_operator.add", "math.trunc", "torch.sym_max",
                 "torch.ops.higher_order.cond"):  # fmt: skip
        assert is_operator(good)
    for bad in ("torch.load", "torch.os.system", "torch.hub.load", "_operator.attrgetter", "math.__loader__.load",
                "torch.ops.aten.x.y.z", "torch.utils.collect_env.run", "torch._dynamo.eval_frame.x"):  # fmt: skip
        assert not is_operator(bad)
    assert is_name("p_conv_weight")
    assert is_name("conv.0.weight")
    for bad in ("x=1", "x, y", "x)\n  import os", "x y", "x;y", "'"):
        assert not is_name(bad)


def test_the_scan_of_a_folder_of_programs(tmp_path):
    (tmp_path / "a.pt").write_bytes(saved(torch.jit.script(Net())))
    assert scan_file(tmp_path).worst == "code"
