"""What `coverage.py` audits: which models, how small their input may be, and the files that a user would have.

A subject is a spec as it is typed, a file of weights and labelled images. The weights are freshly initialised from a
seed, then brought to life (see `enliven`): as libraries initialise them, many networks give every image the same
answer, and there is nothing to attack or to calibrate. The labels are made by the library itself, with its own model
and its own preprocessing: three of four are its answers and the fourth is another class. So the accuracy that an audit
must find is known beforehand, and weights or a preprocessing that were read wrongly show in it.

Size: choosing, sizing and writing a subject stay together, so that what was audited can be read in one place.
"""

import fnmatch
import shutil
import tempfile
import warnings
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from torch import nn

CLASSES = 10
LARGE = 128
IMAGES, IMAGES_IF_LARGE = 256, 192
"""Enough for the positive control of `calibration`; fewer where the side is above `LARGE`, as they take long."""
BATCH = 32
SMALL_SCALE, LAYER_SCALE = 0.01, 0.1
SPREAD = 2.0
"""Standard deviation that logits are given over images: confidences of about 0.6."""
CALM = 0.3
"""How much of a 1x1 convolution stays beside the identity."""
LIFT = 0.5
"""What the biases of batch norms are raised by where units are dead."""
BATCH_NORM = nn.modules.batchnorm._BatchNorm
WRONG_EVERY = 4
"""Every so many images the label is another class than the library's answer."""
SIZES = (32, 48, 64, 80, 96, 112, 128, 144, 160, 192, 224, 240, 256, 288, 320, 331, 384, 448, 512)
SEED = 1
"""Not the tool's own seed of untrained networks: a file that was not read would show in the accuracy."""
MOST_PARAMETERS = 200_000_000
"""Larger builders of torchvision are left to smaller ones of their family, which the table says."""
SIZE_ARGUMENT = {"timm": "img_size", "torchvision": "image_size"}
NAMED = (
    "resnet18", "resnext50_32x4d", "resnetrs50", "wide_resnet50_2", "seresnet18", "ecaresnet26t", "resnetv2_50x1_bit",
    "tinynet_e", "efficientnet_b0", "tf_efficientnetv2_b0", "mobilenetv2_050", "mobilenetv3_small_050",
    "mobilenetv4_conv_small", "mnasnet_small", "regnety_002", "repvgg_a0", "botnet26t_256", "lambda_resnet26t",
    "vit_tiny_patch16_224", "vit_small_patch14_dinov2", "vit_base_patch16_clip_224", "flexivit_small",
    "deit3_small_patch16_224", "beitv2_base_patch16_224", "eva02_tiny_patch14_224", "vit_relpos_small_patch16_224",
    "swin_s3_tiny_224", "swinv2_tiny_window8_256", "swinv2_cr_tiny_ns_224", "mixer_s32_224", "resmlp_12_224",
    "convnext_atto", "convnextv2_atto", "coatnet_pico_rw_224", "coatnet_0_rw_224", "maxvit_rmlp_pico_rw_256",
    "maxvit_tiny_tf_224", "poolformer_s12", "caformer_s18", "convformer_s18", "hgnetv2_b0", "nf_regnet_b0",
    "dm_nfnet_f0", "levit_conv_128s", "mambaout_femto", "mobilevitv2_050", "efficientnet_es", "densenetblur121d",
)  # fmt: skip
"""Models of timm that are known by their own name, not by their module's."""


@dataclass(frozen=True)
class Candidate:
    """A model to audit.

    Attributes:
        family: `timm`, `torchvision` or `hf`.
        group: why it is here: the timm module whose smallest it is, `named`, or the library.
        name: of the model; empty for a module's smallest until it is `resolved`.
    """

    family: str
    group: str
    name: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells one record from another."""
        return self.family, self.group, self.name


@dataclass(frozen=True)
class Files:
    """What a user would type.

    Attributes:
        words: options of a command: model, weights, preprocessing.
        data: its `--data`.
        right: share of the images whose label is the library's answer.
        facts: for the record: spec, preprocessing option, input side, parameters.
    """

    words: tuple[str, ...]
    data: str
    right: float
    facts: dict[str, Any] = field(default_factory=dict)


def modules() -> list[str]:
    """Every module of timm that defines a model."""
    import timm

    return list(timm.list_modules())


def smallest_of(module: str) -> str:
    """The classifier of fewest parameters among all that a timm module defines.

    Built on the meta device, so without memory. Bare encoders, which have no classes, do not count.
    """
    import timm

    found = []
    for name in timm.list_models(module=module):
        try:
            with torch.device("meta"):
                network = timm.create_model(name, num_classes=CLASSES)
        except Exception:  # a builder that needs numbers
            network = timm.create_model(name, num_classes=CLASSES)
        if hasattr(network, "get_classifier"):
            found.append((sum(parameter.numel() for parameter in network.parameters()), name))
    return min(found)[1]


def torchvision_names() -> tuple[list[str], list[str]]:
    """Every classification builder of torchvision: those to audit, and those above `MOST_PARAMETERS`."""
    import torchvision

    names: tuple[list[str], list[str]] = ([], [])
    for name in torchvision.models.list_models(module=torchvision.models):
        weights = next(iter(torchvision.models.get_model_weights(name)))
        names[weights.meta["num_params"] > MOST_PARAMETERS].append(name)
    return names


def candidates(
    families: Sequence[str],
    only: str = "*",
    done: Container[tuple[str, str, str]] = (),
    done_groups: Container[tuple[str, str]] = (),
) -> Iterator[Candidate]:
    """What there is to audit; the smallest of a module has no name yet, as finding it takes seconds.

    Args:
        families: of `timm`, `torchvision` and `hf`.
        only: pattern of model names and of timm modules.
        done: keys of candidates that are left out.
        done_groups: (family, module) of those whose smallest is left out.
    """
    if "timm" in families:
        for module in modules():
            if fnmatch.fnmatch(module, only) and ("timm", module) not in done_groups:
                yield Candidate("timm", module, "")
    groups = {
        "timm": [("named", name) for name in NAMED],
        "torchvision": [("torchvision", name) for name in torchvision_names()[0]],
        "hf": [("transformers", "ViTForImageClassification")],
    }
    for family in families:
        for group, name in groups[family]:
            if fnmatch.fnmatch(name, only) and (family, group, name) not in done:
                yield Candidate(family, group, name)


def resolved(candidate: Candidate) -> Candidate:
    """With its name: that of the module's smallest where it has none."""
    return candidate if candidate.name else replace(candidate, name=smallest_of(candidate.group))


def build(family: str, name: str, **arguments: Any) -> nn.Module:
    """A library's network in eval mode, initialised from a fixed seed."""
    torch.manual_seed(SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if family == "timm":
            import timm

            return timm.create_model(name, num_classes=CLASSES, **arguments).eval()
        import torchvision

        return torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **arguments).eval()


def smallest_size(accepts: Callable[[int, bool], bool], declared: int) -> tuple[int, bool] | None:
    """The smallest side of a square image that a network takes.

    Args:
        accepts: whether it takes images of a side, as built (False) or built for that size by an argument (True).
        declared: what its own configuration says; nothing above it is tried.

    Returns:
        The side, and whether the argument is needed; None where not even the declared size works.
    """
    for size in (*(size for size in SIZES if size < declared), declared):
        for by_argument in (False, True):
            if accepts(size, by_argument):
                return size, by_argument
    return None


class Sizes:
    """Tries sizes on one model of a library; keeps the network that took the last one, and the last complaint."""

    def __init__(self, candidate: Candidate) -> None:
        self.family, self.name = candidate.family, candidate.name
        self.plain = build(self.family, self.name)
        self.network = self.plain
        self.takes_argument = True
        self.complaint = ""

    def accepts(self, size: int, by_argument: bool) -> bool:
        """Whether two images give two rows of finite logits in eval mode."""
        if by_argument and not self.takes_argument:
            return False
        try:
            argument = {SIZE_ARGUMENT[self.family]: size}
            self.network = build(self.family, self.name, **argument) if by_argument else self.plain
        except Exception as error:
            self.takes_argument = not isinstance(error, TypeError)
            return False
        try:
            with torch.no_grad():
                logits = self.network(torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(SEED)))
        except Exception as error:
            self.complaint = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
            return False
        return tuple(getattr(logits, "shape", ())) == (2, CLASSES) and bool(torch.isfinite(logits).all())


def prepare(candidate: Candidate, folder: Path) -> Files:
    """Finds the smallest input and writes weights, images and labels.

    Raises:
        ValueError: when the model takes no square image, not even of its declared size.
    """
    if candidate.family == "hf":
        return _prepare_hf(folder)
    sizes = Sizes(candidate)
    declared = _declared_size(sizes.plain, candidate)
    found = smallest_size(sizes.accepts, declared)
    if found is None:
        raise ValueError(f"the library's own model gives no 10 finite logits at {declared}: {sizes.complaint}")
    size, by_argument = found
    network = sizes.network
    query = f"&{SIZE_ARGUMENT[candidate.family]}={size}" if by_argument else ""
    spec = f"{candidate.family}:{candidate.name}?num_classes={CLASSES}{query}"
    option = "auto" if by_argument or size == declared else f"auto/size={size}"
    images = write_images(folder.parent, size)
    transform = _transform(network, candidate, size, as_declared=option == "auto", by_argument=by_argument)
    inputs = torch.stack([transform(Image.fromarray(image)) for image in np.load(images)])
    enliven(network, inputs)
    weights = folder / "weights.safetensors"
    state = network.state_dict()
    safetensors.torch.save_file({name: value.clone().contiguous() for name, value in state.items()}, weights)
    data, right = _write_labels(images, folder, answers(network, inputs))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    facts = {"spec": spec, "preprocess": option, "size": size, "parameters": parameters}
    return Files(("--model", spec, "--weights", str(weights), "--preprocess", option), data, right, facts)


def enliven(network: nn.Module, inputs: torch.Tensor) -> None:
    """Makes an untrained network answer one way or another, as a trained one does.

    - Layer scales that begin at nearly nothing, such as 1e-6, become 0.1: else every image looks the same to it.
    - Where there are batch norms, 1x1 convolutions come near the identity: else deep networks amplify rounding.
    - Batch norms take the statistics of one pass over the images: else activations vanish or grow.
    - The last layer is drawn anew, as some begin at zero, then scaled and shifted so that every logit has a mean of
      about 0 and a standard deviation of about `SPREAD` over the images.
    - Where some image then has no gradient at all, as at 32 pixels some network looks at one place alone and all units
      there are dead, the batch norms' biases are raised and both is done again.
    """
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.numel() > 1 and parameter.min() == parameter.max() and 0 < abs(parameter.max()) <= SMALL_SCALE:
                parameter.fill_(LAYER_SCALE)
        _calm(network)
        _take_statistics(network, inputs)
        _draw_last_layers(network, inputs)
        norms = [module for module in network.modules() if isinstance(module, BATCH_NORM) and module.affine]
        if norms and _without_gradient(network, inputs):
            for norm in norms:
                norm.bias += LIFT
            _take_statistics(network, inputs)
            _draw_last_layers(network, inputs)


def _draw_last_layers(network: nn.Module, inputs: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(SEED)
    layers = last_layers(network)
    for layer in layers:
        drawn = torch.randn(layer.weight.shape, generator=generator)
        layer.weight.copy_(drawn / layer.weight[0].numel() ** 0.5)
    logits = torch.cat([network(part) for part in inputs.split(BATCH)])
    factor = SPREAD / logits.std(0).mean()
    for layer in layers:
        layer.weight.mul_(factor)
        if layer.bias is not None:
            layer.bias.sub_(logits.mean(0)).mul_(factor)


def _without_gradient(network: nn.Module, inputs: torch.Tensor) -> int:
    """How many images there are that no logit depends on."""
    found = 0
    for part in inputs.split(BATCH):
        with torch.enable_grad():
            images = part.clone().requires_grad_(True)
            gradient = torch.autograd.grad(network(images).amax(1).sum(), images)[0]
        found += int((gradient == 0).flatten(1).all(1).sum())
    return found


def _calm(network: nn.Module) -> None:
    """Brings the 1x1 convolutions of a network with batch norms near the identity.

    As they are drawn, a deep stack of them tells one image from all others and amplifies rounding until nothing is left
    of the last digits; a trained network does neither.
    """
    if not any(isinstance(module, BATCH_NORM) for module in network.modules()):
        return
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.kernel_size == (1, 1):
            outputs, inputs = layer.weight.shape[:2]
            layer.weight.mul_(CALM)
            layer.weight[torch.arange(outputs), torch.arange(outputs) % inputs] += 1


def _take_statistics(network: nn.Module, inputs: torch.Tensor) -> None:
    """Brings the running statistics of batch norms to those of the images; the network is in eval mode afterwards.

    All images are one batch, so that every layer sees in eval mode what it was measured on: with averages over several
    batches, what differs grows from layer to layer, until one image of a deep network outweighs all others.
    """
    norms = [module for module in network.modules() if isinstance(module, BATCH_NORM)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # what is seen, in place of a slow approach
        norm.train()
    if norms:
        network(inputs)
    network.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def last_layers(network: nn.Module) -> list[nn.Module]:
    """The layers that give the logits; more than one where a network averages several."""
    named = network.get_classifier() if hasattr(network, "get_classifier") else ()
    parts = named if isinstance(named, tuple | list) else (named,)
    for group in (parts, (network,)):
        found = [
            layer
            for part in group
            for layer in part.modules()
            if isinstance(layer, nn.Linear | nn.Conv2d) and len(layer.weight) == CLASSES
        ]
        if found:
            return found if group is parts else found[-1:]
    return []


def answers(network: nn.Module, inputs: torch.Tensor) -> np.ndarray:
    """The classes that a network names, (n,)."""
    with torch.no_grad():
        logits = torch.cat([network(inputs[start : start + BATCH]) for start in range(0, len(inputs), BATCH)])
    return logits.argmax(1).numpy()


def write_images(folder: Path, size: int) -> Path:
    """Smooth images with some noise, (n, size, size, 3) uint8; written once a size."""
    path = folder / f"images-{size}.npy"
    if not path.exists():
        rng = np.random.default_rng(0)
        n = IMAGES if size <= LARGE else IMAGES_IF_LARGE
        small = rng.integers(0, 256, (n, 6, 6, 3), dtype=np.uint8)
        large = [np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC)) for grid in small]
        noisy = np.stack(large) + rng.normal(0, 12, (n, size, size, 3))
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".npy", delete=False) as new:
            np.save(new, noisy.clip(0, 255).astype(np.uint8))
        Path(new.name).replace(path)  # whole or absent, also for those who write it at the same time
    return path


def _write_labels(images: Path, folder: Path, answered: np.ndarray) -> tuple[str, float]:
    """The `--data` of images whose labels are the library's answers, but for every fourth; and the share of those."""
    wrong = np.arange(len(answered)) % WRONG_EVERY == 0
    np.save(folder / "labels.npy", np.where(wrong, (answered + 1) % CLASSES, answered).astype(np.int64))
    return f"npz:{images},{folder / 'labels.npy'}", float(1 - wrong.mean())


def _declared_size(network: nn.Module, candidate: Candidate) -> int:
    if candidate.family == "timm":
        from timm.data import resolve_model_data_config

        return int(resolve_model_data_config(network)["input_size"][1])
    return int(_torchvision_preset(candidate.name).crop_size[0])


def _torchvision_preset(name: str) -> Any:
    import torchvision

    return next(iter(torchvision.models.get_model_weights(name))).__class__.DEFAULT.transforms()


def _transform(
    network: nn.Module, candidate: Candidate, size: int, *, as_declared: bool, by_argument: bool
) -> Callable[[Image.Image], torch.Tensor]:
    """The library's own preprocessing: all of it as declared, else its normalisation alone.

    Presets of torchvision know nothing of a builder's size argument, so their geometry is left out with it.
    """
    from torchvision.transforms import v2

    if candidate.family == "timm":
        from timm.data import create_transform, resolve_model_data_config

        config = resolve_model_data_config(network)
        mean, std = config["mean"], config["std"]
        if as_declared:
            return create_transform(**{**config, "input_size": (3, size, size)}, is_training=False)  # type: ignore[no-any-return]
    else:
        preset = _torchvision_preset(candidate.name)
        mean, std = preset.mean, preset.std
        if as_declared and not by_argument:
            return preset  # type: ignore[no-any-return]
    steps = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    return v2.Compose(steps)  # type: ignore[no-any-return]


def _prepare_hf(folder: Path) -> Files:
    """THE THIRD FAMILY: a folder as Hugging Face's `save_pretrained` leaves it, for `--model hf:DIR`."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(SEED)
    size, home = 32, folder / "vit"
    shutil.rmtree(home, ignore_errors=True)
    config = ViTConfig(
        image_size=size, patch_size=8, hidden_size=48, num_hidden_layers=2, num_attention_heads=3,
        intermediate_size=96, num_labels=CLASSES,
    )  # fmt: skip
    network = ViTForImageClassification(config).eval()
    network.classifier.weight.data.mul_(30)  # as initialised, its answers hardly differ
    processor = ViTImageProcessor(size={"height": size, "width": size})
    network.save_pretrained(home)
    processor.save_pretrained(home)

    images = write_images(folder.parent, size)
    inputs = processor(images=[*np.load(images)], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        data, right = _write_labels(images, folder, network(inputs).logits.argmax(1).numpy())
    parameters = sum(parameter.numel() for parameter in network.parameters())
    facts = {"spec": "hf:DIR", "preprocess": "auto", "size": size, "parameters": parameters}
    return Files(("--model", f"hf:{home}"), data, right, facts)
