"""Hugging Face folders that bring code, pickles, or files from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tests.hostile.containers import state_dict, torch_zip
from tests.hostile.oddities import entry, link, safetensors
from tests.hostile.opcodes import program
from tests.hostile.payloads import system
from tests.hostile.site import Corpus, Expect, Site

COMMANDS = ("scan", "hf", "bare", "weights")
NO_FILE = {"weights": (2, 4)}
"""A folder is not a weights file."""
DAMAGED = {"scan": (0, 3, 4), "hf": (2, 4), "bare": (2, 4), "weights": (2, 4)}
TIMM = {"architecture": "resnet10t", "num_classes": 10, "pretrained_cfg": {"input_size": [3, 176, 176]}}
RESNET = {
    "architectures": ["ResNetForImageClassification"], "model_type": "resnet", "num_channels": 3,
    "embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic",
    "id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 0, "dog": 1},
}  # fmt: skip
CLEAN = safetensors(json.dumps({"w": entry(shape=[40], end=160)}))
INDEX = "model.safetensors.index.json"


def add_folders(corpus: Corpus) -> None:
    """All of them."""
    _code(corpus)
    _weights(corpus)
    _elsewhere(corpus)
    _configurations(corpus)


def _add(
    corpus: Corpus,
    name: str,
    why: str,
    files: Mapping[str, object],
    *,
    links: Mapping[str, Path] | None = None,
    expect: Expect = "refused",
    executes: str = "",
    codes: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Writes a folder: bytes as they are, everything else as JSON."""
    folder = corpus.site(name).path("")
    for file, content in files.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    for file, target in (links or {}).items():
        link(folder / file, target)
    corpus.enter(
        name, folder, why, kind="folder", commands=COMMANDS, expect=expect, executes=executes, codes=NO_FILE | dict(codes or {})
    )  # fmt: skip


def _python(site: Site) -> bytes:
    return f"{site.python}\nclass Model:\n    pass\n".encode()


def _code(corpus: Corpus) -> None:
    """Folders whose code runs with `trust_remote_code`."""
    remote = RESNET | {"auto_map": {"AutoModelForImageClassification": "modeling_evil.Model"}}
    site = corpus.site("hf-auto-map")
    _add(
        corpus, site.name, "a model class of its own",
        {"config.json": remote, "modeling_evil.py": _python(site), "model.safetensors": CLEAN}, executes="folder",
    )  # fmt: skip
    site = corpus.site("hf-auto-map-processor")
    _add(
        corpus, site.name, "an image processor of its own",
        {"config.json": RESNET, "model.safetensors": CLEAN, "processing_evil.py": _python(site),
         "preprocessor_config.json": {"auto_map": {"AutoImageProcessor": "processing_evil.Model"}}},
        executes="folder",
    )  # fmt: skip
    site = corpus.site("hf-custom-pipeline")
    _add(
        corpus, site.name, "a pipeline of its own",
        {"config.json": RESNET | {"custom_pipelines": {"image-classification": {"impl": "pipe.Model"}}},
         "pipe.py": _python(site), "model.safetensors": CLEAN},
        executes="folder", codes={"hf": (2, 4), "bare": (2, 4)},
    )  # fmt: skip
    _add(
        corpus, "hf-auto-map-remote", "a model class of another repository",
        {"config.json": RESNET | {"auto_map": {"AutoModel": "evil/repository--modeling.Model"}},
         "model.safetensors": CLEAN},
    )  # fmt: skip
    site = corpus.site("hf-init")
    _add(
        corpus, site.name, "source beside a clean model: nothing names it",
        {"config.json": RESNET, "__init__.py": _python(site), "conftest.py": _python(site), "model.safetensors": CLEAN},
        executes="folder", codes={"hf": (2, 4), "bare": (2, 4), "scan": (0, 3, 4)},
    )  # fmt: skip


def _weights(corpus: Corpus) -> None:
    for name, executes in (("pytorch_model.bin", "folder"), ("model.pt", "folder")):
        site = corpus.site(f"hf-pickle-{name.partition('.')[0].replace('_', '-')}")
        _add(
            corpus, site.name, f"a hostile pickle as {name}",
            {"config.json": RESNET, name: torch_zip({"x": system(site)})}, executes=executes,
            codes={"hf": (2, 4), "bare": (2, 4)} if name == "model.pt" else None,
        )  # fmt: skip
    site = corpus.site("hf-timm-pickle")
    _add(
        corpus, site.name, "a hostile pickle in a timm folder",
        {"config.json": TIMM, "pytorch_model.bin": program(system(site))}, executes="folder",
    )  # fmt: skip
    site = corpus.site("hf-both")
    _add(
        corpus, site.name, "clean safetensors, and a hostile pickle beside them",
        {"config.json": RESNET, "model.safetensors": CLEAN, "pytorch_model.bin": torch_zip(system(site))},
        executes="folder", codes={"hf": (2, 4), "bare": (2, 4)},
    )  # fmt: skip
    site = corpus.site("hf-training-args")
    _add(
        corpus, site.name, "training arguments, pickled as the trainer does",
        {"config.json": RESNET, "model.safetensors": CLEAN, "training_args.bin": torch_zip(system(site))},
        executes="folder", codes={"hf": (2, 4), "bare": (2, 4)},
    )  # fmt: skip
    site = corpus.site("hf-sharded-pickle")
    _add(
        corpus, site.name, "an index of pickles",
        {"config.json": RESNET, "pytorch_model.bin.index.json": {"weight_map": {"w": "a.bin"}},
         "a.bin": torch_zip(system(site))},
        executes="folder",
    )  # fmt: skip


def _elsewhere(corpus: Corpus) -> None:
    """Folders whose weights lie outside of them."""

    def outside(site: Site) -> Path:
        return site.plant(".safetensors", CLEAN)

    leads_out = {"hf": (4,), "bare": (4,), "scan": (3, 4)}
    for name, shard in (
        ("parent", lambda site: f"../planted/{outside(site).name}"),
        ("absolute", lambda site: str(outside(site))),
        ("passwd", lambda _: "/etc/passwd"),
        ("device", lambda _: "/dev/zero"),
        ("folder", lambda _: "."),
        ("number", lambda _: 7),
    ):
        site = corpus.site(f"hf-index-{name}")
        codes = leads_out if name not in ("folder", "number") else DAMAGED
        _add(
            corpus, site.name, "an index that names a file outside of the folder",
            {"config.json": RESNET, INDEX: {"metadata": {}, "weight_map": {"w": shard(site)}}},
            expect="refused" if codes is leads_out else "plain", codes=codes,
        )  # fmt: skip
    site = corpus.site("hf-linked-weights")
    _add(corpus, site.name, "weights that are a link out of the folder", {"config.json": RESNET},
         links={"model.safetensors": outside(site)}, codes=leads_out)  # fmt: skip
    site = corpus.site("hf-linked-config")
    _add(corpus, site.name, "a configuration that is a link to /etc/passwd", {"model.safetensors": CLEAN},
         links={"config.json": Path("/etc/passwd")}, codes=DAMAGED | {"scan": (0, 3, 4)}, expect="plain")  # fmt: skip
    site = corpus.site("hf-linked-zero")
    _add(corpus, site.name, "a configuration that is a link to /dev/zero", {"model.safetensors": CLEAN},
         links={"config.json": Path("/dev/zero")}, codes=DAMAGED | {"bare": (2, 4), "scan": (0, 3, 4)},
         expect="plain")  # fmt: skip
    site = corpus.site("hf-loop")
    _add(corpus, site.name, "a folder that links to itself",
         {"config.json": RESNET, "model.safetensors": CLEAN}, links={"again": site.path("")}, expect="plain",
         codes=DAMAGED)  # fmt: skip
    _add(corpus, "hf-base-model", "a path of a base model elsewhere, as adapters name it",
         {"config.json": RESNET | {"_name_or_path": "/etc", "base_model_name_or_path": "../../etc"},
          "adapter_config.json": {"base_model_name_or_path": "/etc", "peft_type": "LORA"},
          "model.safetensors": CLEAN}, expect="plain", codes=DAMAGED)  # fmt: skip


def _configurations(corpus: Corpus) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    texts: dict[str, tuple[object, str]] = {
        "deep": (b'{"a":' + deep + b"}", "a configuration 100,000 deep"),
        "spaces": (b"{" + b" " * 30_000_000 + b"}", "thirty megabytes of spaces"),
        "huge-number": (b'{"num_channels": ' + b"9" * 1_000_000 + b"}", "a number of a million digits"),
        "list": ([RESNET], "a configuration that is a list"),
        "nan": (b'{"num_channels": NaN, "model_type": "resnet"}', "not a number"),
        "not-utf8": (b'{"\xff\xfe": 1}', "bytes that are no text"),
        "empty": (b"", "an empty configuration"),
        "wide": (RESNET | {"hidden_sizes": [2**20, 2**20]}, "a network of terabytes"),
        "negative": (RESNET | {"depths": [-1, 10**9]}, "a network of a billion layers"),
        "timm-wide": (TIMM | {"num_classes": 2**40}, "a trillion classes"),
        "timm-arguments": (
            TIMM | {"model_args": {"checkpoint_path": "/etc/passwd", "pretrained": True}}, "arguments that load files"
        ),
        "timm-hub": (
            TIMM | {"architecture": "hf-hub:evil/repository", "pretrained_cfg": {"url": "http://evil", "file": "/etc/x"}},
            "an architecture that is fetched",
        ),
        "labels": (RESNET | {"id2label": {"0": "\x1b[2J\nPASSED", "x": [], "-5": None}}, "labels that are not labels"),
        "type": (RESNET | {"model_type": "../../evil", "architectures": ["os.system"]}, "a class that is a function"),
        "torch-dtype": (RESNET | {"torch_dtype": "__class__", "dtype": "os"}, "a dtype that is an attribute"),
        "quantisation": (
            RESNET | {"quantization_config": {"quant_method": "gptq", "modules": "os.system"}}, "a method of its own"
        ),
    }  # fmt: skip
    for name, (config, why) in texts.items():
        _add(
            corpus, f"hf-config-{name}", why, {"config.json": config, "model.safetensors": CLEAN}, expect="plain",
            codes=DAMAGED,
        )  # fmt: skip
    _add(
        corpus, "hf-clean-shapes", "weights that belong to no part of the network",
        {"config.json": RESNET, "model.safetensors": CLEAN}, expect="plain", codes=DAMAGED,
    )  # fmt: skip
    _add(
        corpus, "hf-clean-torch", "weights of torch that are only tensors, of another network",
        {"config.json": RESNET, "pytorch_model.bin": torch_zip(state_dict())}, expect="plain", codes=DAMAGED,
    )  # fmt: skip
