"""Where in a weights file dicts of tensors lie, and what their keys begin with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from audit.errors import UsageError
from audit.loading.sources import counted, shown

WRAPPER_SEGMENTS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What torch.compile, FSDP and activation checkpointing put into keys, at any depth."""
DEEPEST = 3
LONGEST_LIST = 32
MOST_PREFIX_SEGMENTS = 4

Tensors = Mapping[str, Tensor]


def describe(content: object) -> str:
    """What the file holds, in a few words."""
    if isinstance(content, Mapping):
        items = [f"`{name}` ({type(value).__name__})" for name, value in list(content.items())[:8]]
        return "a dict of " + ", ".join(items) if items else "an empty dict"
    if content is None or isinstance(content, str):  # also what stands in for something that was left out
        return "None" if content is None else f"no tensors, but {shown(content)}"
    name = type(content).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def candidates(content: object, path: str = "", depth: int = 0) -> Iterator[tuple[str, Tensors]]:
    """Every dict that is mostly tensors with its dotted path, to three levels; lists count as dicts by number."""
    if isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if tensors and 2 * len(tensors) >= len(content):
            yield path, tensors
        children = content.items()
    elif isinstance(content, list | tuple) and len(content) <= LONGEST_LIST:
        children = dict(enumerate(content)).items()
    else:
        return
    if depth < DEEPEST:
        for name, value in children:
            yield from candidates(value, f"{path}.{name}" if path else str(name), depth + 1)


def stated_dict(content: object, key: str) -> Tensors:
    """The dict that `--weights-key` names.

    Raises:
        UsageError: when it is not there; the dicts that are there are listed.
    """
    value: Any = content
    for segment in key.split(".") if key else ():
        entries = dict(enumerate(value)) if isinstance(value, list | tuple) else value
        entries = {str(name): entry for name, entry in entries.items()} if isinstance(entries, Mapping) else {}
        if segment not in entries:
            found = ", ".join(f"`{path}`" for path, _ in candidates(content)) or describe(content)
            raise UsageError(
                f"Expected --weights-key to name a dict of tensors in the file, got {key!r}. Dicts of tensors in it: "
                f"{found.replace('``', 'the file itself')}. Take one of them."
            )
        value = entries[segment]
    if isinstance(value, Mapping):
        tensors = {str(name): entry for name, entry in value.items() if isinstance(entry, Tensor)}
        if tensors:
            return tensors
    raise UsageError(f"Expected tensors by name at --weights-key {key}, got {describe(value)}. Name another key.")


def stated_prefix(dicts: Mapping[str, Tensors], prefix: str) -> str:
    """The prefix that `--strip-prefix` means, with its dot.

    Raises:
        UsageError: when no key begins with it; the prefixes that there are, are listed.
    """
    keys = [key for tensors in dicts.values() for key in tensors]
    for form in (prefix.rstrip(".") + ".", prefix):
        if any(key.startswith(form) for key in keys):
            return form
    heads = Counter(key.partition(".")[0] + "." for key in keys if "." in key)
    found = ", ".join(f"`{head}` ({counted(count, 'key')})" for head, count in heads.most_common(8)) or "none"
    raise UsageError(
        f"Expected --strip-prefix to begin keys of the weights file, got {prefix!r}, which begins none. "
        f"Prefixes found: {found}. Take one of them, or leave the option out."
    )


def prefixes(tensors: Tensors, wanted: int) -> list[str]:
    """No prefix, and every dotted one that enough keys share to be worth a try.

    Args:
        tensors: a dict of the file.
        wanted: number of keys of the network.
    """
    counts: Counter[str] = Counter()
    for key in tensors:
        segments = key.split(".")
        for length in range(1, min(len(segments), MOST_PREFIX_SEGMENTS + 1)):
            counts[".".join(segments[:length]) + "."] += 1
    return ["", *(prefix for prefix, count in counts.items() if 2 * count >= min(wanted, len(tensors)))]


def without_wrappers(tensors: Tensors) -> Tensors:
    """Keys freed of what torch.compile, FSDP and activation checkpointing put into them; unchanged if that clashes."""
    clean = {
        ".".join(segment for segment in key.split(".") if segment not in WRAPPER_SEGMENTS): tensor
        for key, tensor in tensors.items()
    }
    return clean if len(clean) == len(tensors) else tensors
