"""A model spec and a weights file to a subject."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from audit.api import Subject
from audit.errors import SubjectError, UsageError
from audit.loading.model_spec import ModelRequest, ModelSpec, parse_spec
from audit.loading.network import ReadyNetwork, input_channels, ready_network
from audit.loading.preprocess import Normalisation, Preprocessing
from audit.loading.preprocess_choice import Shape, resolve
from audit.loading.preprocess_option import parse_option
from audit.loading.untrained import TRAINABLE, Untrained
from audit.loading.wrapper import Behaviour, Normalised, observe
from audit.schema import Diagnostic, SubjectInfo, dump_json
from audit.toolkit.tensors import tensors_of, tensors_sha256

__all__ = ["LoadedSubject", "ModelRequest", "load_subject"]


@dataclass(frozen=True, slots=True, eq=False)
class LoadedSubject:
    """A subject, with what is worth knowing about how it came to be.

    Attributes:
        subject: ready for probes.
        info: for the run record.
        preprocessing: its geometry is for reading the data; its normalisation is already inside the subject.
        trust_exceptions: what was allowed to run as code.
        remake: the same network behind another normalisation, in eval mode; weights are shared, not copied.
    """

    subject: Subject
    info: SubjectInfo
    preprocessing: Preprocessing
    trust_exceptions: tuple[str, ...]
    remake: Callable[[Normalisation], nn.Module]

    @property
    def notes(self) -> tuple[str, ...]:
        """What loading has to tell: shortcomings, guesses taken, oddities of the output."""
        return tuple(check.text for check in self.info.checks)


def load_subject(
    request: ModelRequest, *, native_shape: Shape | None, device: torch.device, class_names: tuple[str, ...] = ()
) -> LoadedSubject:
    """Loads a classifier, strictly and without running anything that was not allowed.

    Args:
        request: what to load.
        native_shape: (c, h, w) of the data's images when they all share it, else None.
        device: where the subject shall live.
        class_names: of the data, in the order of its labels.

    Returns:
        A subject in eval mode whose parameters need no gradient. Without a weights file its values are those of a
        fixed seed, and `info.checks` warns.

    Raises:
        UsageError: when the spec or an option is wrong.
        SubjectError: when the weights do not fit, or the network's outputs cannot be audited.
        UnsafeArtefactError: when loading would run code.
    """
    spec = parse_spec(request.spec)
    parse_option(request.preprocess)
    ready = ready_network(request, spec, native_shape)
    channels = input_channels(ready, spec, native_shape)
    architecture = ready.architecture
    fixed = architecture.fixed_size
    preprocessing, shape, remarks = resolve(request.preprocess, architecture.steps, channels, native_shape, fixed)
    _check_size(spec, architecture.fixed_size, preprocessing, shape)
    network = ready.network.to(device)
    behaviour = observe(network, preprocessing.normalisation, shape, spec.text)
    names = _class_names(architecture.classes, class_names, behaviour.num_classes)
    guesses = (Diagnostic(code="loading", text=note, severity="info") for note in (*ready.notes, *remarks))
    checks = (*_shortcomings(spec, ready), *guesses, *behaviour.diagnostics)

    remake = _remaker(network, behaviour, device)
    subject = Subject(
        model=remake(preprocessing.normalisation),
        name=ready.name,
        num_classes=behaviour.num_classes,
        class_names=names,
        input_shape=shape,
        device=device,
        digest=_digest(spec, ready, preprocessing, behaviour),
        output=behaviour.output,
        access=architecture.access,
        why_limited=architecture.why_limited,
        untrained=_untrained(request, spec, native_shape, preprocessing.normalisation, behaviour, device),
    )
    info = _info(subject, spec, ready, preprocessing, checks)
    return LoadedSubject(subject, info, preprocessing, ready.trust_exceptions, remake)


def _check_size(spec: ModelSpec, fixed: tuple[int, int] | None, chosen: Preprocessing, shape: Shape) -> None:
    """An ONNX graph that states a size may run at others once it is converted; it is then not what is deployed."""
    if spec.scheme != "onnx" or fixed in (None, shape[1:]):
        return
    size, other = ("x".join(map(str, sides)) for sides in (fixed or (), shape[1:]))
    raise UsageError(
        f"Expected images of {size}, the only size that the graph of {spec.text} states, got {other} from "
        f"{chosen.origin}. Leave size and crop out: at another size it is not the network that is deployed."
    )


def _remaker(network: nn.Module, behaviour: Behaviour, device: torch.device) -> Callable[[Normalisation], nn.Module]:
    """Puts the network behind a normalisation; weights are shared, not copied."""

    def remake(normalisation: Normalisation) -> nn.Module:
        wrapped = Normalised(network, normalisation, behaviour.output, behaviour.field)
        return wrapped.to(device).eval().requires_grad_(False)

    return remake


def _untrained(
    request: ModelRequest,
    spec: ModelSpec,
    native_shape: Shape | None,
    normalisation: Normalisation,
    behaviour: Behaviour,
    device: torch.device,
) -> Untrained | None:
    if spec.scheme not in TRAINABLE:
        return None
    return Untrained(request, spec, native_shape, normalisation, behaviour, device)


def _shortcomings(spec: ModelSpec, ready: ReadyNetwork) -> tuple[Diagnostic, ...]:
    """What a reader must know before any number: a black box, or weights that nobody trained."""
    limited = ready.architecture.why_limited
    return (*_weights_checks(spec, ready), *([Diagnostic(code="black_box", text=limited)] if limited else []))


def _weights_checks(spec: ModelSpec, ready: ReadyNetwork) -> tuple[Diagnostic, ...]:
    if ready.weights is not None or ready.architecture.holds_weights:
        return ()
    if spec.scheme == "py":
        text = "no --weights: whatever the factory returned is audited, which is random unless it loads weights itself"
        return (Diagnostic(code="factory_weights", text=text),)
    text = "RANDOM WEIGHTS: no --weights were given, so every number below is about an untrained network"
    return (Diagnostic(code="random_weights", text=text),)


def _class_names(declared: tuple[str, ...], found: tuple[str, ...], num_classes: int) -> tuple[str, ...]:
    """Names by the model, or else by the data, which then number its classes."""
    if declared and len(declared) != num_classes:
        raise SubjectError(
            f"Expected {num_classes} class names, one an output, got {len(declared)} from the model's source. "
            "Correct its list."
        )
    return declared or (found if len(found) == num_classes else ())


def _digest(spec: ModelSpec, ready: ReadyNetwork, preprocessing: Preprocessing, behaviour: Behaviour) -> str:
    """sha256 over all that decides the output: spec without folders, files, every tensor, preprocessing."""
    parts = {
        "spec": spec.text,
        "weights": None if ready.weights is None else ready.weights.digest.sha256,
        "code": [file.sha256 for file in ready.architecture.files],
        "tensors": tensors_sha256(tensors_of(ready.network)),
        "preprocessing": preprocessing.option(),
        "output": [behaviour.output, behaviour.field],
    }
    return hashlib.sha256(dump_json(parts).encode()).hexdigest()


def _info(
    subject: Subject,
    spec: ModelSpec,
    ready: ReadyNetwork,
    preprocessing: Preprocessing,
    checks: tuple[Diagnostic, ...],
) -> SubjectInfo:
    weights = () if ready.weights is None else (ready.weights.digest,)
    return SubjectInfo(
        name=subject.name,
        spec=spec.text,
        digest=subject.digest,
        files=(*weights, *ready.architecture.files),
        num_classes=subject.num_classes,
        class_names=subject.class_names,
        input_shape=subject.input_shape,
        parameters=sum(parameter.numel() for parameter in ready.network.parameters()),
        preprocessing=preprocessing.record(),
        output=subject.output,
        access=tuple(sorted(subject.access)),
        checks=checks,
    )
