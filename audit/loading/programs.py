"""`script:FILE` and `export:FILE`: networks that are programs, behind `--allow-code`."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path

from audit.errors import SubjectError, UnsafeArtefactError, UsageError
from audit.loading.danger import refuse_dangerous
from audit.loading.model_spec import Architecture, ModelRequest, ModelSpec
from audit.loading.preprocess_choice import Shape
from audit.loading.program_export import load_export
from audit.loading.program_network import Program
from audit.loading.program_script import load_script
from audit.loading.sources import shown
from audit.scan import Kind, kind_of
from audit.schema import FileDigest

SCHEME_OF = {Kind.TORCHSCRIPT: "script", Kind.EXPORTED_PROGRAM: "export", Kind.ONNX: "onnx", Kind.HUGGING_FACE: "hf"}
WEIGHTS = frozenset({Kind.SAFETENSORS, Kind.TORCH_ZIP, Kind.TORCH_LEGACY, Kind.TORCH_TAR, Kind.PICKLE})
ARGUMENTS = {"script": frozenset({"in_chans"}), "export": frozenset[str]()}


def build_script(spec: ModelSpec, request: ModelRequest, native_shape: Shape | None) -> Architecture:
    """Loads a TorchScript archive; its code runs on this machine from here on.

    Raises:
        UsageError: for arguments that it does not take.
        UnsafeArtefactError: without `allow_code`, or for a file in which something dangerous was found.
        SubjectError: for a file of another kind, or a program that takes or returns something else.
    """
    path = _allowed(spec, request, Kind.TORCHSCRIPT)
    content = path.read_bytes()
    return _architecture(load_script(content, spec.text, spec.arguments.get("in_chans")), spec, path, content)


def build_export(spec: ModelSpec, request: ModelRequest, native_shape: Shape | None) -> Architecture:
    """Loads a program of torch.export; its code runs on this machine from here on.

    Raises:
        UsageError: for arguments, of which it takes none.
        UnsafeArtefactError: as above.
        SubjectError: as above.
    """
    path = _allowed(spec, request, Kind.EXPORTED_PROGRAM)
    content = path.read_bytes()
    return _architecture(load_export(content, spec.text), spec, path, content)


def _allowed(spec: ModelSpec, request: ModelRequest, kind: Kind) -> Path:
    """The file, when it is one of this kind and may run."""
    path = Path(spec.target).expanduser()
    unknown = sorted(set(spec.arguments) - ARGUMENTS[spec.scheme])
    if unknown or request.weights is not None:
        got = f"the arguments {', '.join(unknown)}" if unknown else f"--weights {request.weights}"
        raise UsageError(f"Expected {spec.scheme}:FILE alone, got {got}. The file holds its network and its weights.")
    if not path.is_file():
        got = "a folder" if path.is_dir() else "nothing there"
        raise UsageError(f"Expected {kind} at {path}, got {got}. Correct the path.")
    refuse_dangerous(path)
    found = kind_of(path)
    if found is not kind:
        raise _other_kind(spec, path, kind, found)
    if not request.allow_code:
        raise UnsafeArtefactError(
            f"Expected --allow-code with {spec.text}, got none: {path.name} is {kind}, a program that runs on this "
            "machine when it is loaded or used. Nothing of it was loaded. Two safe ways on: where you trust it, add "
            "--allow-code, and the report will say so; or name the network that it was made from with --model, and "
            f"take its tensors out with `audit convert {shlex.quote(shown(str(path)))} --allow-pickle --out "
            "weights.safetensors`."
        )
    return path


def _other_kind(spec: ModelSpec, path: Path, kind: Kind, found: Kind) -> SubjectError:
    if found in SCHEME_OF:
        remedy = f"Name it {SCHEME_OF[found]}:{shown(str(path))}."
    elif found in WEIGHTS:
        file = shlex.quote(shown(str(path)))
        remedy = f"It holds weights alone: name the network with --model, and the file with --weights {file}."
    else:
        remedy = "Correct the path, or copy the file again."
    return SubjectError(f"Expected {kind} with {spec.scheme}:, got {path.name}, {found}. {remedy}")


def _architecture(program: Program, spec: ModelSpec, path: Path, content: bytes) -> Architecture:
    digest = FileDigest(name=path.name, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    return Architecture(
        program.network,
        path.name,
        files=(digest,),
        trust_exceptions=(f"--allow-code: {spec.text} (sha256 {digest.sha256})",),
        notes=program.notes,
        input_shape=program.input_shape,
        holds_weights=True,
        access=program.access,
        why_limited=program.why_limited,
    )
