"""Builds the network of a spec and fills it with the weights of a file."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from audit.errors import SubjectError, UsageError
from audit.loading.architectures import build
from audit.loading.keys import find_state_dict, to_load
from audit.loading.mismatch import check_fit
from audit.loading.model_spec import Architecture, ModelRequest, ModelSpec
from audit.loading.preprocess_choice import Shape
from audit.loading.weights import WeightsFile, read_weights
from audit.toolkit.tensors import tensors_of

INITIALISATION_SEED = 0


@dataclass(frozen=True, slots=True, eq=False)
class ReadyNetwork:
    """A network with its weights, in eval mode, float32, on the CPU.

    Attributes:
        network: parameters need no gradient.
        architecture: where it came from; its own `network` may be a wrapper around this one.
        weights: the file that was loaded, or None.
        notes: guesses taken.
    """

    network: nn.Module
    architecture: Architecture
    weights: WeightsFile | None
    notes: tuple[str, ...]

    @property
    def trust_exceptions(self) -> tuple[str, ...]:
        """What was allowed to run as code, and how weights were read beyond weights-only loading."""
        weights = self.weights.trust_exception if self.weights is not None else ""
        return (*self.architecture.trust_exceptions, *((weights,) if weights else ()))

    @property
    def name(self) -> str:
        """Short, for titles."""
        return self.architecture.name if self.weights is None else f"{self.architecture.name}, {self.weights.path.name}"


def ready_network(request: ModelRequest, spec: ModelSpec, native_shape: Shape | None = None) -> ReadyNetwork:
    """Reads the weights, builds the network, and loads one into the other.

    The file is read first: a wrong path is said before seconds go into building. Initial values come from a fixed
    seed, and torch's own random state is left as it was.

    Raises:
        UsageError: when the spec or an option is wrong.
        SubjectError: when the weights do not fit.
        UnsafeArtefactError: when loading would run code.
    """
    if request.weights is None and (request.weights_key is not None or request.strip_prefix is not None):
        raise UsageError("Expected --weights FILE with --weights-key or --strip-prefix, got none. Name the file.")
    weights = None if request.weights is None else read_weights(request.weights, allow_pickle=request.allow_pickle)
    architecture, network, notes = initialised(request, spec, native_shape, INITIALISATION_SEED)
    notes = (*((spec.guess,) if spec.guess else ()), *architecture.notes, *notes)
    if weights is not None:
        content = weights.content if architecture.renamed is None else architecture.renamed(weights.content)
        notes += _load(network, dataclasses.replace(weights, content=content), request, spec)
    return ReadyNetwork(network.eval().requires_grad_(False), architecture, weights, notes)


def initialised(
    request: ModelRequest, spec: ModelSpec, native_shape: Shape | None, seed: int
) -> tuple[Architecture, nn.Module, tuple[str, ...]]:
    """The architecture, its network on the CPU in float32 with the initial values of a seed, and guesses taken.

    Torch's own random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        architecture = build(spec, request, native_shape)
    network, notes = _prepared(architecture.network, spec)
    return architecture, network, notes


def input_channels(ready: ReadyNetwork, spec: ModelSpec, native_shape: Shape | None) -> int:
    """Channels that the network takes: as stated, else those of its first convolution, else those of the data.

    Raises:
        UsageError: when anything but 1 or 3 is stated.
    """
    if ready.architecture.input_shape is not None:
        return ready.architecture.input_shape[0]
    if ready.architecture.channels is not None:
        return ready.architecture.channels
    network = ready.network
    stated = spec.arguments.get("in_chans")
    if stated is not None and stated not in (1, 3):
        raise UsageError(f"Expected in_chans=1 or in_chans=3 for images, got {stated} in {spec.text}. Correct it.")
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    found = stated or (first.in_channels if first is not None else getattr(network, "image_channels", None))
    if found in (1, 3):
        return int(found)
    return 3 if native_shape is None else native_shape[0]  # a network of linear layers, or one that rearranges pixels


def _prepared(network: nn.Module, spec: ModelSpec) -> tuple[nn.Module, tuple[str, ...]]:
    """Out of its parallel or compiled wrapper, on the CPU, float32."""
    notes: tuple[str, ...] = ()
    while isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel) or hasattr(network, "_orig_mod"):
        inner = network._orig_mod if hasattr(network, "_orig_mod") else network.module
        assert isinstance(inner, nn.Module)
        notes += (f"the network is taken out of its {type(network).__name__}",)
        network = inner
    if any(is_lazy(tensor) for tensor in (*network.parameters(), *network.buffers())):
        raise SubjectError(
            f"Expected parameters with shapes in {spec.text}, got lazy ones. Run it once in the factory."
        )
    other = sorted({str(p.dtype).removeprefix("torch.") for p in network.parameters() if p.dtype != torch.float32})
    if other:
        notes += (f"the network's {', '.join(other)} parameters are brought to float32",)
    return network.cpu().float(), notes


def _load(network: nn.Module, weights: WeightsFile, request: ModelRequest, spec: ModelSpec) -> tuple[str, ...]:
    """Strictly: every tensor of the network is in the file, with its shape, and nothing else is."""
    own = network.state_dict()
    wanted = tensors_of(network)
    fit, guesses = find_state_dict(weights.content, wanted, request.weights_key, request.strip_prefix)
    check_fit(fit, wanted, spec=spec.text, file=weights.path.name)
    tensors, notes = to_load(fit, wanted)
    extra = {name: value for name, value in own.items() if name not in wanted}
    state = OrderedDict({**extra, **tensors})
    state._metadata = getattr(own, "_metadata", None)  # type: ignore[attr-defined]  # versions, which some modules ask for
    try:
        network.load_state_dict(state, strict=True)
    except Exception as error:  # modules check what they are given in their own ways
        raise SubjectError(
            f"Expected {spec.text} to take the tensors of {weights.path.name}, got: {error} Correct --model."
        ) from error
    return (*guesses, *notes)
