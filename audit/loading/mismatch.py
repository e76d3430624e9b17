"""Says why weights do not fit a network: every key that is wrong, and what probably caused it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from audit.errors import SubjectError
from audit.loading.keys import Fit
from audit.loading.state_dicts import Tensors

MOST_NAMED = 8
OTHER_ARCHITECTURE = 0.5
"""Below this share of the network's keys, the file is taken to be of another architecture."""
QUANTISED = re.compile(r"(_packed_params|zero_point|(^|[._])scale|qweight|absmax|quant_state|weight_scale)")
POSITIONS = re.compile(r"(pos_embed|position_embedding|relative_position|rel_pos|rope)")


def check_fit(fit: Fit, network: Tensors, *, spec: str, file: str) -> None:
    """Goes on when the fit is complete.

    Args:
        fit: the best that was found.
        network: the network's own state dict.
        spec: of the network, for the message.
        file: name of the weights file, for the message.

    Raises:
        SubjectError: naming missing, unexpected and mismatching keys, the first eight of each, and the likely cause.
    """
    if fit.complete:
        return
    clashes = [f"{key}: file {stored}, network {wanted}" for key, (stored, wanted) in fit.mismatched.items()]
    where = f"`{fit.path}` of {file}" if fit.path else file
    stripped = f" (prefix `{fit.prefix}` stripped)" if fit.prefix else ""
    lines = [
        f"Expected {where}{stripped} to hold exactly the {len(network)} tensors of {spec}, got {fit.matched} that fit, "
        f"{len(fit.missing)} missing, {len(fit.unexpected)} unexpected and {len(fit.mismatched)} of another shape.",
        *_named("missing", fit.missing),
        *_named("unexpected", fit.unexpected),
        *_named("other shape", clashes),
        f"Likely cause: {_of_many(file) or likely_cause(fit, network)}",
    ]
    raise SubjectError("\n".join(lines))


def _of_many(file: str) -> str | None:
    found = re.search(r"-(\d+)-of-(\d+)\.", file)
    return (
        f"the file is one of {int(found[2])} shards. Put them into one file, or give their folder as hf:DIR."
        if found
        else None
    )


def _named(title: str, items: Sequence[str]) -> list[str]:
    if not items:
        return []
    more = f" and {len(items) - MOST_NAMED} more" if len(items) > MOST_NAMED else ""
    return [f"  {title} ({len(items)}): {', '.join(items[:MOST_NAMED])}{more}"]


def likely_cause(fit: Fit, network: Tensors) -> str:
    """One sentence on what probably went wrong and what to do."""
    loose = (*fit.missing, *fit.unexpected)
    if fit.mismatched and not loose:
        return _shape_cause(fit, network)
    auxiliary = bool(loose) and all("aux" in key.lower() for key in loose) and not fit.mismatched
    causes = (
        (
            any(key.endswith("weight_orig") for key in fit.unexpected),
            "the file is of a network in pruning. Apply the masks (torch.nn.utils.prune.remove) and save it again.",
        ),
        (
            any(QUANTISED.search(key) for key in fit.unexpected),
            "the file is quantised. Give the float32 weights it was made from.",
        ),
        (
            any("lora_" in key for key in fit.unexpected),
            "the file holds LoRA adapters. Merge them into the weights and save those.",
        ),
        (
            auxiliary,
            "auxiliary heads, which only training uses. Build the network with or without them (aux_logits=...).",
        ),
        (
            _renamed(fit),
            "the same layers under other names: a prefix or wrapper on either side. Try --strip-prefix.",
        ),
        (
            fit.matched < OTHER_ARCHITECTURE * len(network),
            f"another architecture: only {fit.matched} of {len(network)} tensors fit. Correct --model.",
        ),
    )
    variant = "a variant of the architecture, or a file of another version of its code. Correct --model."
    return next((text for applies, text in causes if applies), variant)


def _shape_cause(fit: Fit, network: Tensors) -> str:
    """Every key is there; only shapes differ."""
    shapes = {key: (fit.tensors[key].shape, network[key].shape) for key in fit.mismatched}
    if all(stored == wanted for stored, wanted in shapes.values()):
        return "integer weights in place of floating-point ones: the file is quantised. Give the float32 weights."
    if all(POSITIONS.search(key) for key in shapes):
        return "the network was built for another image size. Say img_size=... in the spec."
    rows = {(stored[:1], wanted[:1]) for stored, wanted in shapes.values() if stored[1:] == wanted[1:]}
    same_rows = all(stored[1:] == wanted[1:] for stored, wanted in shapes.values()) and len(rows) == 1
    if same_rows and any(len(wanted) >= 2 for _, wanted in shapes.values()) and len(shapes) <= MOST_NAMED:
        classes = next(iter(rows))[0][0]
        return f"the head of the file has {classes} classes. Say num_classes={classes} in the spec."
    if len(shapes) == 1:
        stored, wanted = next(iter(shapes.values()))
        if len(stored) == len(wanted) == 4 and stored[0] == wanted[0] and stored[2:] == wanted[2:]:
            return f"the first layer of the file takes {stored[1]} channels. Say in_chans={stored[1]} in the spec."
        if len(stored) == len(wanted) == 2 and stored[0] == wanted[0]:
            return f"the file's layer takes {stored[1]} inputs: another image size or width. Correct --model."
    return "the same layers in another size (width, depth or image size). Correct --model."


def _renamed(fit: Fit) -> bool:
    """Whether what is missing and what is unexpected end alike."""

    def tails(keys: Sequence[str]) -> list[str]:
        return sorted(".".join(key.split(".")[-2:]) for key in keys)

    return bool(fit.missing) and not fit.mismatched and tails(fit.missing) == tails(fit.unexpected)
