"""ONNX models, field by field: where data lie, which operators run, and what the sizes claim."""

import io

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from audit.scan import Kind, scan_file, scan_paths
from tests.audit.scan.planted import call, codes, field, scanned, varint

pytestmark = pytest.mark.filterwarnings("ignore")


def model(nodes=(), *, initializers=(), opsets=(("", 17),), functions=()):
    shape = [1, 4]
    graph = helper.make_graph(
        list(nodes) or [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        initializer=list(initializers),
    )
    imports = [helper.make_opsetid(*opset) for opset in opsets]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=10)


def weights(name="w", values=None):
    return numpy_helper.from_array((torch.rand(3, 4) if values is None else values).numpy(), name)


def external(location, **more):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=str(value))
    return model(initializers=[tensor]).SerializeToString()


@pytest.mark.parametrize("dynamo", [False, True])
def test_what_torch_exports(tmp_path, dynamo):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 10))
    if dynamo:
        pytest.importorskip("onnxscript")
    torch.onnx.export(net.eval(), (torch.zeros(1, 3, 8, 8),), str(tmp_path / "m.onnx"), dynamo=dynamo)
    report = scan_file(tmp_path / "m.onnx")
    assert report.kind is Kind.ONNX
    assert (report.findings, report.examined) == ((), True)


def test_ordinary_models_are_quiet(tmp_path):
    kinds = (torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8, torch.bool, torch.float16, torch.int8)
    plain = model(initializers=[weights(str(dtype), torch.zeros(3, 4).to(dtype)) for dtype in kinds])
    plain.graph.initializer.append(helper.make_tensor("unpacked", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0]))
    plain.graph.initializer.append(helper.make_tensor("texts", TensorProto.STRING, [1], [b"cat"]))
    plain.metadata_props.add(key="author", value="~/../x")
    plain.doc_string = "import os"
    branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["z"])], "b", [], [helper.make_empty_tensor_value_info("z")]
    )
    loop = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    microsoft = helper.make_node("QLinearAdd", ["x"], ["y"], domain="com.microsoft")
    for content in (plain, model([loop]), model([microsoft], opsets=[("", 17), ("com.microsoft", 1)])):
        report = scanned(tmp_path, content.SerializeToString(), "m.onnx")
        assert (report.kind, report.findings, report.examined) == (Kind.ONNX, (), True)


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "a/../../w", "C:\\w.bin", "..\\w", ".git/w.bin",
                                      "sub/.git/w"])  # fmt: skip
def test_data_elsewhere(tmp_path, location):
    report = scanned(tmp_path, external(location), "m.onnx")
    assert codes(report, "danger") == {"onnx-external-outside"}


def test_data_beside_the_model(tmp_path):
    (tmp_path / "w.bin").write_bytes(bytes(48))
    (tmp_path / "a.onnx").write_bytes(external("w.bin", offset=0, length=48))
    assert scan_file(tmp_path / "a.onnx").findings == ()
    reports = {report.path.name: report for report in scan_paths([tmp_path])}
    assert reports["w.bin"].outcome == "no known indicator"
    (tmp_path / "a.onnx").unlink()
    alone = {report.path.name: report for report in scan_paths([tmp_path])}
    assert alone["w.bin"].outcome == "not examined"


def test_data_that_begin_as_a_pickle_by_chance(tmp_path):
    """Numbers, as the model says; elsewhere it would be a pickle that nobody can follow, and one that calls is one."""
    (tmp_path / "a.onnx").write_bytes(external("w.bin", offset=0, length=48))
    reports = {}
    for name, content in {
        "numbers": b"\x80\x02\xfe" + bytes(45),
        "calls": call("os.system", "true") + bytes(48),
    }.items():
        (tmp_path / "w.bin").write_bytes(content)
        reports[name] = {report.path.name: report for report in scan_paths([tmp_path])}["w.bin"]
    assert reports["numbers"].outcome == "no known indicator"
    assert "pickle-dangerous-global" in codes(reports["calls"], "danger")


def test_data_that_are_missing_or_short(tmp_path):
    missing = scanned(tmp_path, external("w.bin"), "m.onnx")
    assert (codes(missing), missing.outcome) == ({"onnx-external-missing"}, "not examined")
    (tmp_path / "w.bin").write_bytes(bytes(40))
    short = scanned(tmp_path, external("w.bin", offset=0, length=48), "m.onnx")
    assert (codes(short), short.outcome) == ({"truncated"}, "not examined")
    odd = scanned(tmp_path, external("w.bin", offset="-4"), "m.onnx")
    assert codes(odd, "danger") == {"onnx-external"}
    nameless = scanned(tmp_path, external(""), "m.onnx")
    assert codes(nameless, "danger") == {"onnx-external"}


def test_data_through_a_link_that_leads_out(tmp_path):
    (tmp_path / "elsewhere").write_bytes(bytes(48))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/w.bin").symlink_to(tmp_path / "elsewhere")
    report = scanned(tmp_path / "in", external("w.bin"), "m.onnx")
    assert codes(report, "danger") == {"onnx-external-outside"}


def test_operators_of_native_libraries_are_code(tmp_path):
    node = helper.make_node("Run", ["x"], ["y"], domain="com.evil")
    report = scanned(tmp_path, model([node], opsets=[("", 17), ("com.evil", 1)]).SerializeToString(), "m.onnx")
    assert (codes(report), report.worst) == ({"onnx-operators"}, "code")
    assert "com.evil" in report.findings[0].text


@pytest.mark.parametrize("operator", ["PythonOp", "EPContext", "PyOp"])
def test_operators_that_load_code(tmp_path, operator):
    node = helper.make_node(operator, ["x"], ["y"], domain="com.microsoft")
    report = scanned(tmp_path, model([node], opsets=[("", 17), ("com.microsoft", 1)]).SerializeToString(), "m.onnx")
    assert (codes(report), report.worst) == ({"onnx-loads-code"}, "code")


def test_operators_of_its_own_are_a_note(tmp_path):
    node = helper.make_node("Mine", ["x"], ["y"], domain="own")
    mine = helper.make_function(
        "own", "Mine", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    content = model([node], opsets=[("", 17), ("own", 1)], functions=[mine]).SerializeToString()
    report = scanned(tmp_path, content, "m.onnx")
    assert (codes(report), report.outcome) == ({"onnx-functions"}, "no known indicator")


def test_training_is_a_note(tmp_path):
    made = model()
    made.training_info.add().algorithm.name = "sgd"
    assert codes(scanned(tmp_path, made.SerializeToString(), "m.onnx")) == {"onnx-training"}


@pytest.mark.parametrize("dims", [[3, 5], [1 << 40, 1 << 40], [-1], [1 << 62]])
def test_tensors_that_claim_more_than_they_hold(tmp_path, dims):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(48))
    report = scanned(tmp_path, model(initializers=[tensor]).SerializeToString(), "m.onnx")
    assert codes(report, "danger") == {"onnx-size"}


def nested(levels):
    graph = field(1, field(4, "Relu"))
    for _ in range(levels):
        graph = field(1, field(5, field(6, graph)) + field(4, "If"))
    return field(1, 8) + field(7, graph)


def test_graphs_in_graphs(tmp_path):
    assert scanned(tmp_path, nested(5), "m.onnx").findings == ()
    for levels in (20, 1000, 20_000):
        report = scanned(tmp_path, nested(levels), "m.onnx")
        assert codes(report, "danger") == {"onnx-too-deep"}


DAMAGE = {
    "cut off": model(initializers=[weights()]).SerializeToString()[:-30],
    "a length beyond the end": field(1, 8) + varint(7 << 3 | 2) + varint(10**10) + b"x",
    "a number without an end": field(1, 8) + b"\x3a" + b"\xff" * 20,
    "no field": field(1, 8) + field(7, b"") + b"\x00\x00",
    "an unknown wire type": field(1, 8) + field(7, b"") + b"\x3f",
}


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_not_examined(tmp_path, content):
    report = scanned(tmp_path, content, "m.onnx")
    assert (codes(report), report.outcome) == ({"onnx-damaged"}, "not examined")


def test_a_model_that_is_a_zip_too(tmp_path):
    from tests.audit.scan.planted import torch_zip

    evil = torch_zip(call("os.system", "true"))
    report = scanned(tmp_path, model(initializers=[weights()]).SerializeToString() + field(99, evil), "m.onnx")
    assert {"also-a-zip", "pickle-dangerous-global"} <= codes(report, "danger")


def test_large_models_are_walked_without_being_read(tmp_path):
    path = tmp_path / "m.onnx"
    head = model().SerializeToString()
    tensor_head = field(1, 500_000_000) + field(2, 2) + field(8, "w") + varint(9 << 3 | 2) + varint(500_000_000)
    body = varint(5 << 3 | 2) + varint(len(tensor_head) + 500_000_000) + tensor_head
    with path.open("wb") as stream:
        stream.write(head + varint(7 << 3 | 2) + varint(len(body) + 500_000_000) + body)
        stream.truncate(stream.tell() + 500_000_000)
    report = scan_file(path)
    assert (report.findings, report.examined) == ((), True)


def test_the_onnx_library_reads_what_was_found_quiet(tmp_path):
    """The walker and the library agree on where the fields of an ordinary model end."""
    content = model(initializers=[weights()]).SerializeToString()
    assert onnx.load_model(io.BytesIO(content)).graph.initializer[0].name == "w"
    assert scanned(tmp_path, content, "m.onnx").looked_at == ("1 ONNX model", "1 ONNX tensor")


def test_fields_in_another_order(tmp_path):
    """The wire format leaves the order open; a first byte is no proof of what a file is not."""
    made = onnx.load_model(io.BytesIO(external("/etc/passwd")), load_external_data=False)
    content = field(7, made.graph.SerializeToString()) + field(8, field(2, 17)) + field(1, 8)
    onnx.load_model(io.BytesIO(content), load_external_data=False)
    report = scanned(tmp_path, content, "m.onnx")
    assert report.kind is Kind.ONNX
    assert codes(report, "danger") == {"onnx-external-outside"}


def test_a_model_under_the_first_bytes_of_something_else(tmp_path):
    """What reads it as a model passes over an unknown field; who will do so can have it examined as one."""
    content = b"\x89HDF\r\n\x1a\n" + bytes(2) + external("/etc/passwd")
    onnx.load_model(io.BytesIO(content), load_external_data=False)
    assert scanned(tmp_path, content, "m.onnx").kind is Kind.HDF5
    report = scan_file(tmp_path / "m.onnx", read_as=Kind.ONNX)
    assert codes(report, "danger") == {"onnx-external-outside"}


def test_other_protocol_buffers_are_not_taken_for_models(tmp_path):
    report = scanned(tmp_path, field(1, 1) + field(2, field(1, "saved model")), "saved_model.pb")
    assert (codes(report), report.outcome) == ({"onnx-no-graph"}, "not examined")


def test_operators_of_the_future_are_a_note(tmp_path):
    report = scanned(tmp_path, model(opsets=[("", 99)]).SerializeToString(), "m.onnx")
    assert codes(report) == {"onnx-opset"}


def test_the_newest_version_of_operators_is_that_of_the_library():
    from audit.scan.onnx_models import NEWEST_OPSET

    assert onnx.defs.onnx_opset_version() == NEWEST_OPSET
