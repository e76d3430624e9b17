"""Texts, configurations and programs."""

import json
import marshal
import struct
import sys
import zipfile

import pytest

from audit.scan import Kind, Limits, scan_file
from tests.audit.scan.planted import call, codes, scanned, zip_of

RUNS = {
    "auto_map": ({"auto_map": {"AutoModel": "modeling_evil.Model"}}, "json-runs-code"),
    "auto_map in a list": ({"auto_map": {"AutoTokenizer": ["a.B", None]}}, "json-runs-code"),
    "auto_map deep": ({"a": [{"b": {"auto_map": {"AutoModel": "evil/repo--m.Model"}}}]}, "json-runs-code"),
    "custom_pipelines": ({"custom_pipelines": {"x": {"impl": "p.Pipe"}}}, "json-runs-code"),
    "trust_remote_code": ({"trust_remote_code": True}, "json-trusts-code"),
    "jsonpickle": ({"py/object": "mymodule.Model"}, "json-runs-code"),
    "jsonpickle's types": ({"py/type": "mymodule.Model"}, "json-runs-code"),
    "peft": ({"auto_mapping": {"base_model_class": "Model", "parent_library": "mymodule"}}, "json-runs-code"),
    "keras": ({"class_name": "Lambda", "config": {}}, "keras-lambda"),
    "hydra": ({"model": {"_target_": "mymodule.Model"}}, "json-runs-code"),
    "skops": ({"__class__": "Model", "__module__": "mymodule"}, "json-names-class"),
}
DANGERS = {
    "jsonpickle": ({"py/reduce": [{"py/function": "os.system"}]}, "json-runs-code"),
    "jsonpickle's text": ({"py/repr": "os/os.system('true')"}, "json-runs-code"),
    "keras": ({"class_name": "system", "module": "os", "config": {}}, "keras-dangerous-class"),
    "skops": ({"__class__": "system", "__module__": "posix"}, "json-names-class"),
    "a shard above": ({"weight_map": {"a": "../other.safetensors"}}, "index-outside"),
    "an absolute shard": ({"weight_map": {"a": "/etc/passwd"}}, "index-outside"),
    "a folder for a shard": ({"weight_map": {"a": "."}}, "index-outside"),
    "a shard in version control": ({"weight_map": {"a": ".git/m.bin"}}, "index-outside"),
    "a shard in version control below": ({"weight_map": {"a": "./sub/.GIT/x/m.bin"}}, "index-outside"),
    "a number for a shard": ({"weight_map": {"a": 7}}, "index-outside"),
}


@pytest.mark.parametrize(("content", "code"), RUNS.values(), ids=RUNS.keys())
def test_configurations_that_bring_code(tmp_path, content, code):
    report = scanned(tmp_path, json.dumps(content).encode(), "config.json")
    assert (codes(report), report.worst) == ({code}, "code")


@pytest.mark.parametrize(("content", "code"), DANGERS.values(), ids=DANGERS.keys())
def test_configurations_that_are_dangerous(tmp_path, content, code):
    assert code in codes(scanned(tmp_path, json.dumps(content).encode(), "config.json"), "danger")


@pytest.mark.parametrize("content", [{"auto_map": {}}, {"trust_remote_code": False}, {"note": "auto_map"},
                                     {"auto_map": None}, {"weight_map": {"a": "x..y.safetensors"}},
                                     {"weight_map": {"a": "my.git/a.bin", "b": ".github/.gitignore"}}])  # fmt: skip
def test_configurations_that_are_not(tmp_path, content):
    assert scanned(tmp_path, json.dumps(content).encode(), "config.json").findings == ()


def test_json_that_cannot_be_parsed_is_searched(tmp_path):
    report = scanned(tmp_path, b'{"auto_map": {"AutoModel": "a.B"},}', "config.json")
    assert codes(report) == {"json-runs-code"}
    deep = scanned(tmp_path, b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "config.json")
    assert (codes(deep), deep.outcome) == ({"json-limit"}, "not examined")


def test_yaml_that_calls_python(tmp_path):
    report = scanned(tmp_path, b"a: !!python/object/apply:os.system ['true']\n", "config.yaml")
    assert codes(report, "danger") == {"yaml-python"}


def test_pages_and_pointers_in_place_of_a_file(tmp_path):
    assert scanned(tmp_path, b"<!DOCTYPE html><html></html>").kind is Kind.HTML
    pointer = scanned(tmp_path, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    assert (pointer.outcome, codes(pointer)) == ("not examined", {"lfs-pointer"})


ELF = b"\x7fELF\x02\x01\x01" + bytes(60)
PE = b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0" + bytes(40)


@pytest.mark.parametrize("content", [ELF, PE, b"\xcf\xfa\xed\xfe" + bytes(60), b"\0asm" + bytes(60)])
def test_native_code(tmp_path, content):
    assert codes(scanned(tmp_path, content, "model.pt"), "danger") == {"native-code-disguised"}
    assert codes(scanned(tmp_path, content, "kernel.so"), "code") == {"native-code"}
    within = scanned(tmp_path, zip_of([("a/model.bin", content)]), "x.zip")
    assert within.findings[0].where == "x.zip!a/model.bin"


def test_numbers_that_begin_like_a_program(tmp_path):
    assert scanned(tmp_path, b"MZ" + bytes(range(256)) * 4).kind is Kind.UNKNOWN


def test_compiled_python(tmp_path):
    code = marshal.dumps(compile("1 + 1", "x", "exec"))
    content = (sys.version_info[1] * 0).to_bytes(0, "little") + __import__("importlib.util").util.MAGIC_NUMBER
    content += bytes(12) + code
    assert codes(scanned(tmp_path, content, "x.pyc"), "code") == {"python-bytecode"}
    assert codes(scanned(tmp_path, content, "model.bin"), "danger") == {"python-bytecode-disguised"}


@pytest.mark.parametrize("content", [b"import os\nos.system('true')\n", b"#!/bin/sh\ntrue\n", b"class A:\n    pass\n",
                                     b"print('x')\n"])  # fmt: skip
def test_programs(tmp_path, content):
    assert scanned(tmp_path, content, "model.pt").worst == "danger"
    if not content.startswith(b"print"):
        assert scanned(tmp_path, content, "model.py").worst == "code"


def test_python_without_a_telling_line_is_told_by_its_name(tmp_path):
    assert scanned(tmp_path, b'"""A model."""\n\nX = 1\n', "modeling.py").worst == "code"


def test_pictures(tmp_path):
    chunk = struct.pack(">I", 0) + b"IEND" + bytes(4)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 3) + b"IDATxyz" + bytes(4) + chunk
    assert scanned(tmp_path, png, "a.png").findings == ()
    assert codes(scanned(tmp_path, png + call("os.system", "x"), "a.png")) == {"trailing-data"}
    assert codes(scanned(tmp_path, png[:-12], "a.png")) == {"truncated"}


def test_a_gif_that_is_a_pickle_too(tmp_path):
    report = scanned(tmp_path, b"GIF89a\x01\x01\x01" + b"0cos\nsystem\n(S'true'\ntR.", "a.gif")
    assert report.worst == "danger"


def keras(config, **more):
    members = {"config.json": json.dumps(config), "metadata.json": "{}", "model.weights.h5": b"\x89HDF\r\n\x1a\n"}
    return zip_of([*(members | more).items()])


LAMBDA = {"class_name": "__lambda__", "config": {"code": "4wAAAA=="}}


@pytest.mark.parametrize(("layer", "code", "severity"), [
    ({"class_name": "Lambda", "module": "keras.layers", "config": {}}, "keras-lambda", "code"),
    ({"class_name": "Dense", "module": "keras.layers", "config": {"activation": LAMBDA}}, "keras-bytecode", "danger"),
    ({"class_name": "system", "module": "os", "config": "true"}, "keras-dangerous-class", "danger"),
    ({"class_name": "Mine", "module": "mylib.layers", "config": {}}, "keras-own-class", "code"),
    ({"class_name": "Mine", "module": None, "registered_name": "Custom>Mine"}, "keras-own-class", "code"),
])  # fmt: skip
def test_keras(tmp_path, layer, code, severity):
    config = {"class_name": "Sequential", "module": "keras", "config": {"layers": [layer]}}
    report = scanned(tmp_path, keras(config), "m.keras")
    assert report.kind is Kind.KERAS
    assert code in codes(report, severity)


def test_an_ordinary_keras_file_has_numbers_that_are_not_examined(tmp_path):
    layer = {"class_name": "Dense", "module": "keras.layers", "registered_name": None, "config": {"units": 3}}
    config = {"class_name": "Sequential", "module": "keras", "registered_name": None, "config": {"layers": [layer]}}
    report = scanned(tmp_path, keras(config), "m.keras")
    assert (codes(report), report.outcome) == ({"kind-not-examined"}, "not examined")


@pytest.mark.parametrize(("start", "kind"), [(b"\x89HDF\r\n\x1a\n", Kind.HDF5), (b"GGUF\x03\0\0\0", Kind.GGUF),
                                             (b"\x1c\0\0\0TFL3", Kind.TFLITE), (b"PAR1", Kind.PARQUET),
                                             (b"\0\0\0\0\1\2\3", Kind.UNKNOWN)])  # fmt: skip
def test_kinds_that_are_not_examined_say_so(tmp_path, start, kind):
    report = scanned(tmp_path, start + bytes(100), "x.bin")
    assert (report.kind, report.outcome, codes(report)) == (kind, "not examined", {"kind-not-examined"})
    assert kind.value in report.findings[0].text


def test_a_zip_of_programs(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("pkg/__init__.py", "import os\n")
        archive.writestr("pkg/run.sh", "#!/bin/sh\n")
    report = scan_file(tmp_path / "x.zip")
    assert (report.worst, codes(report)) == ("code", {"program"})


PYTHON_TAGS = {
    "in full": b'a: !<tag:yaml.org,2002:python/object/apply:os.system> ["true"]\n',
    "in full and encoded": b'a: !<tag:yaml.org,2002:%70ython/object/apply:os.system> ["true"]\n',
    "encoded": b'a: !!python%2fobject/apply:os.system ["true"]\n',
    "encoded throughout": b'a: !!%70%79%74%68%6f%6e/name:os.system ""\n',
    "a handle": b'%TAG !p! tag:yaml.org,2002:python/\n---\na: !p!object/apply:os.system ["true"]\n',
    "the first handle": b'%TAG ! tag:yaml.org,2002:python/\n---\na: !object/apply:os.system ["true"]\n',
    "a handle cut elsewhere": b'%TAG !p! tag:yaml.org,2002:pyth\n---\na: !p!on/object/apply:os.system ["true"]\n',
    "an encoded handle": b'%TAG !p! tag:%79aml.org,\n---\na: !p!2002:python/module:os ""\n',
    "the second document": b'a: 1\n...\n%TAG !e! tag:yaml.org,2002:\n---\na: !e!python/object/new:os.system ["true"]\n',
    "behind comments": b"a: 1\n" + (b"#" * 79 + b"\n") * 60_000 + b"b: !!python/object/apply:os.system ['true']\n",
    "across two stretches": b"#" * ((1 << 20) - 10) + b"\nb: !!python/object/apply:os.system ['true']\n",
    "in latin-1": b"a: !!python/object/apply:os.system ['\xe9\xe8']\nb: ordinary text\n",
    "what begins as JSON": b'{"a": !!python/object/apply:os.system ["true"]}\n',
}  # fmt: skip


@pytest.mark.parametrize("content", PYTHON_TAGS.values(), ids=PYTHON_TAGS.keys())
def test_tags_of_python_in_every_spelling(tmp_path, content):
    assert "yaml-python" in codes(scanned(tmp_path, content, "config.yaml"), "danger")


@pytest.mark.parametrize("content", [
    b"%TAG !e! tag:example.com,2000:app/\n---\n!e!python/object/apply:x {a: 1}\n",
    b"%TAG !! tag:example.com,2000:\n---\na: !include b.yaml\nc: !!python {}\n",
    b"%YAML 1.2\n---\na: !!str 5\nb: !ref <a>\nc: !!python/tuple [1, 2]\nd: 100%\n",
    b"Wow!!! It is 100%!\nSee tag:yaml.org,2002:str, and !<tag:yaml.org,2002:str> x\n",
])  # fmt: skip
def test_tags_of_anything_else(tmp_path, content):
    report = scanned(tmp_path, content, "config.yaml")
    assert (report.findings, report.examined) == ((), True)


def test_long_texts_are_searched_up_to_a_limit(tmp_path):
    (tmp_path / "labels.csv").write_bytes(b"a.png,1\n" * 1_000_000)
    assert scan_file(tmp_path / "labels.csv").outcome == "no known indicator"
    report = scan_file(tmp_path / "labels.csv", Limits(searched_bytes=1 << 20))
    assert (codes(report), report.outcome) == ({"over-limit"}, "not examined")


AUTO_MAP = b'{"auto_map": {"AutoModel": "evil.Model"}}'


@pytest.mark.parametrize("content", [
    b"\n" * 600 + AUTO_MAP, b" " * 600_000 + AUTO_MAP, b"[NaN, " + AUTO_MAP + b"]", b"[Infinity, " + AUTO_MAP + b"]",
    b"[-Infinity, " + AUTO_MAP + b"]", b"\xef\xbb\xbf" + AUTO_MAP, b"\xef\xbb\xbf" + b"\n" * 600 + AUTO_MAP,
    '{"\u200d": 1, '.encode() + AUTO_MAP[1:], b'{"a":1}\n' + AUTO_MAP, b"\t{\n\n" + b" " * 700 + AUTO_MAP[1:],
])  # fmt: skip
def test_json_that_does_not_look_like_it(tmp_path, content):
    assert codes(scanned(tmp_path, content, "config.json"), "code") == {"json-runs-code"}


@pytest.mark.parametrize(("name", "content"), [
    ("a.csv", "\ufeffpath,label\na.png,1\n"), ("a.json", '\ufeff{"a": 1}'),
    ("README.md", "# \U0001f469\u200d\U0001f4bb A\n"),
    ("vocab.txt", "[PAD]\n\u200b\n\u200d\n\ufe0f\n\u00ad\n"), ("a.jsonl", '{"a":1}\n{"a": 2}\n{"a":3}\n'),
    ("b.jsonl", '{"a":1}\n{"\u00e9": 2}\n'), ("a.json", "\n" * 600 + '{"a": [NaN, 1]}'), ("b.json", "just words"),
    ("fa.txt", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645\n"),
])  # fmt: skip
def test_texts_with_signs_that_are_not_seen(tmp_path, name, content):
    report = scanned(tmp_path, content.encode(), name)
    assert (report.findings, report.examined) == ((), True)


def test_what_hydra_would_call_is_code_in_yaml(tmp_path):
    report = scanned(tmp_path, b"model:\n  _target_: mymodule.Model\n", "config.yaml")
    assert codes(report, "code") == {"yaml-target"}
