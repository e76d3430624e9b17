"""Models that are programs: TorchScript, `.pt2`, Keras, and things that are only named like a model.

Annotations stay as they are here, without the usual import: TorchScript reads them.
"""

import base64
import io
import json
import marshal
import warnings
import zipfile
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from tests.hostile.containers import state_dict, torch_zip, zip_file
from tests.hostile.opcodes import program
from tests.hostile.payloads import shared_library, system
from tests.hostile.pickles import NOT_READ
from tests.hostile.site import Corpus, Site

SCRIPT = ("scan", "script", "bare", "weights", "convert")
EXPORTED = ("scan", "export", "bare", "weights", "convert")
OTHER = ("scan", "bare", "weights", "convert")


def add_programs(corpus: Corpus) -> None:
    """All of them."""
    _scripts(corpus)
    _exported(corpus)
    _keras(corpus)
    _impostors(corpus)


class _WritesOnLoad(nn.Module):
    path: str

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return (self.path, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path = state[0]
        self.training = state[1]
        torch.save("loaded", state[0])

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class _SavesOnRun(nn.Module):
    path: str

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, self.path)
        return x.flatten(1)


class _MapsOnRun(nn.Module):
    path: str

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) + torch.from_file(self.path, True, 4).sum()


class _RunsForever(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        while bool(x.sum() < 1e30):
            x = x * 1.0
        return x


WRITERS: dict[str, type[nn.Module]] = {"load": _WritesOnLoad, "run": _SavesOnRun, "map": _MapsOnRun}


def script_that_writes(path: Path, canary: Path, when: Literal["load", "run", "map"]) -> Path:
    """TorchScript that makes the canary: `torch.save` and `torch.from_file` are ordinary operators there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(WRITERS[when](str(canary))).save(str(path))
    return path


def _scripts(corpus: Corpus) -> None:
    for when, reader, why in (
        ("load", "script", "writes a file while it is loaded, by torch.save in __setstate__"),
        ("run", "script and run", "writes a file when it classifies, by torch.save"),
        ("map", "script and run", "makes a file when it classifies, by torch.from_file(shared=True)"),
    ):
        site = corpus.site(f"script-{when}")
        path = script_that_writes(site.path(".pt"), site.canary, when)
        corpus.enter(site.name, path, why, kind="model", commands=SCRIPT, executes=reader)
    clean = script_bytes(_MapsOnRun("x"))
    corpus.add(
        "script-constants", ".pt", lambda site: replaced(clean, "constants.pkl", program(system(site))),
        "a hostile pickle as the constants of a program", kind="model", commands=SCRIPT, executes="members",
    )  # fmt: skip
    corpus.add(
        "script-data", ".pt", lambda site: replaced(clean, "data.pkl", program(system(site))),
        "a hostile pickle as the attributes of a program", kind="model", commands=SCRIPT, executes="members",
    )  # fmt: skip
    corpus.add(
        "script-forever", ".pt", script_bytes(_RunsForever()), "a program that never ends", kind="model",
        commands=SCRIPT,
    )  # fmt: skip
    corpus.add(
        "script-hidden-code", ".pt",
        lambda site: torch_zip(state_dict(), extra=[("code/__torch__.py", site.python.encode())]),
        "weights with a program beside them", kind="model", commands=SCRIPT,
    )  # fmt: skip


def script_bytes(module: nn.Module) -> bytes:
    """A module as TorchScript."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(module), stream)
    return stream.getvalue()


def replaced(archive: bytes, name: str, content: bytes) -> bytes:
    """A zip archive with other bytes in the member of this name."""
    with zipfile.ZipFile(io.BytesIO(archive)) as old:
        return zip_file(
            [
                (member.filename, content if member.filename.endswith("/" + name) else old.read(member))
                for member in old.infolist()
            ]
        )


MODEL_JSON = json.dumps({
    "graph_module": {
        "graph": {"inputs": [], "outputs": [], "nodes": [], "tensor_values": {}, "sym_int_values": {},
                  "sym_bool_values": {}, "is_single_tensor_return": False, "custom_obj_values": {},
                  "sym_float_values": {}},
        "signature": {"input_specs": [], "output_specs": []}, "module_call_graph": [], "metadata": {},
        "treespec_namedtuple_fields": {},
    },
    "opset_version": {"aten": 10}, "range_constraints": {}, "schema_version": {"major": 8, "minor": 20},
    "verifiers": ["TRAINING"], "torch_version": "2.15.0", "guards_code": [],
}).encode()  # fmt: skip
"""What `torch.export.save` writes for a model that does nothing; written out, for exporting takes seconds."""
NO_TENSOR = {"is_param": False, "use_pickle": True, "tensor_meta": None}


def exported(
    *,
    weights: bytes | None = None,
    constant: tuple[str, bytes] | None = None,
    inputs: bytes = b"",
    extra: list[tuple[str, bytes]] | None = None,
    model: bytes = MODEL_JSON,
) -> bytes:
    """A `.pt2` archive.

    Args:
        weights: a pickled weight, or none.
        constant: name and bytes of a constant, or none.
        inputs: the sample inputs.
        extra: further members.
        model: the graph.
    """
    weight_config = {"w": NO_TENSOR | {"path_name": "weight_0"}} if weights is not None else {}
    constant_config = {"c": NO_TENSOR | {"path_name": constant[0]}} if constant else {}
    members = [
        ("archive_format", b"pt2"), ("archive_version", b"0"), ("byteorder", b"little"), (".data/version", b"6\n"),
        ("models/model.json", model),
        ("data/weights/model_weights_config.json", json.dumps({"config": weight_config}).encode()),
        ("data/constants/model_constants_config.json", json.dumps({"config": constant_config}).encode()),
        ("data/sample_inputs/model.pt", inputs),
    ]  # fmt: skip
    members += [("data/weights/weight_0", weights)] if weights is not None else []
    members += [(f"data/constants/{constant[0]}", constant[1])] if constant else []
    return zip_file([("model/" + name, content) for name, content in [*members, *(extra or [])]])


def _exported(corpus: Corpus) -> None:
    def add(name: str, why: str, executes: str = "export", **parts: object) -> None:
        def content(site: Site) -> bytes:
            return exported(**{key: part(site) if callable(part) else part for key, part in parts.items()})  # type: ignore[arg-type]

        corpus.add(f"exported-{name}", ".pt2", content, why, kind="model", commands=EXPORTED, executes=executes)

    add("weight", "a weight flagged use_pickle", weights=lambda site: torch_zip(system(site)))
    add(
        "constant", "a constant tensor flagged use_pickle",
        constant=lambda site: ("tensor_0", torch_zip(system(site))),
    )  # fmt: skip
    add(
        "opaque", "an opaque object, which torch gives to pickle.loads",
        constant=lambda site: ("opaque_obj_0", program(system(site))),
    )  # fmt: skip
    add(
        "inputs", "sample inputs that weights-only loading refuses: torch then loads them without it",
        executes="members", inputs=lambda site: torch_zip(system(site)),
    )  # fmt: skip
    add(
        "script-object", "a custom object for the C++ unpickler", executes="members",
        constant=lambda site: ("custom_obj_0", torch_zip(system(site))),
    )  # fmt: skip
    add(
        "native", "a member of native code, as AOTInductor writes it", executes="",
        extra=lambda _: [("data/aotinductor/model/model.so", b"\x7fELF\x02\x01\x01" + bytes(64))],
    )  # fmt: skip
    add(
        "deep-json", "a graph of brackets, 200,000 deep", executes="",
        model=b"[" * 200_000,
    )  # fmt: skip
    corpus.add(
        "exported-old", ".pt2",
        lambda site: zip_file([
            ("version", b"8.2"), ("serialized_exported_program.json", MODEL_JSON),
            ("serialized_state_dict.pt", torch_zip(system(site))), ("serialized_constants.pt", torch_zip({})),
            ("serialized_example_inputs.pt", torch_zip(())),
        ]),
        "torch.export of 2.5: a pickled state dict", kind="model", commands=EXPORTED, executes="members",
    )  # fmt: skip


def _keras(corpus: Corpus) -> None:
    def lambda_layer(site: Site) -> bytes:
        function = compile(f"lambda x: {site.python}", "keras", "eval").co_consts[0]
        code = base64.b64encode(marshal.dumps(function)).decode()
        inner = {"class_name": "__lambda__", "config": {"code": code, "defaults": None, "closure": None}}
        layer = {"module": "keras.layers", "class_name": "Lambda", "config": {"name": "f", "function": inner}}
        config = {"class_name": "Sequential", "config": {"name": "m", "layers": [layer]}}
        hdf = b"\x89HDF\r\n\x1a\n" + bytes(200)
        members = [("metadata.json", b'{"keras_version": "3.0.0"}'), ("config.json", json.dumps(config).encode())]
        return zip_file([*members, ("model.weights.h5", hdf)])

    corpus.add(
        "keras-lambda", ".keras", lambda_layer, "a Keras archive with a Lambda layer", kind="model", commands=OTHER,
        executes="keras", codes=NOT_READ,
    )  # fmt: skip


def _impostors(corpus: Corpus) -> None:
    """What is only named like weights."""
    plain = NOT_READ | {"scan": (0, 3, 4)}
    corpus.add("python-source", ".pth", lambda site: (site.python + "\n").encode(), "Python source",
               executes="python", codes=NOT_READ)  # fmt: skip
    corpus.add(
        "shell-script", ".pt", lambda site: b"#!/bin/sh\n" + site.shell.encode() + b"\n", "a shell script",
        executes="shell", codes=NOT_READ,
    )  # fmt: skip
    corpus.add(
        "native-library-itself", ".pt", lambda site: Path(shared_library(site)).read_bytes(), "a native library",
        executes="library", codes=NOT_READ,
    )  # fmt: skip
    for name, suffix, content in (
        ("hdf5", ".pt", b"\x89HDF\r\n\x1a\n" + bytes(500)),
        ("gguf", ".pt", b"GGUF\x03\0\0\0" + b"\xff" * 16 + bytes(100)),
        ("tflite", ".pt", b"\x1c\0\0\0TFL3" + bytes(100)),
        ("windows-program", ".pt", b"MZ" + bytes(500)),
        ("flatbuffer-script", ".ptl", b"\x20\0\0\0PTMF" + bytes(100)),
        ("protobuf-savedmodel", ".pb", b"\x08\x01\x12\xff\xff\xff\xff\x0f" + bytes(100)),
        ("zeros", ".pt", bytes(100_000)),
        ("html", ".pt", b"<html><script>fetch('//evil')</script>"),
        ("compiled-python", ".pt", b"\xa7\r\r\n" + bytes(12) + marshal.dumps(compile("0", "x", "eval"))),
    ):
        corpus.add(f"impostor-{name}", suffix, content, f"{name}, named like weights", commands=OTHER, expect="plain",
                   codes=plain)  # fmt: skip
    corpus.add(
        "skops-like", ".skops",
        lambda site: zip_file([
            ("schema.json", json.dumps({"__class__": "system", "__module__": "posix", "content": site.shell}).encode())
        ]),
        "a schema that names a function", commands=OTHER, expect="plain", codes=plain,
    )  # fmt: skip
