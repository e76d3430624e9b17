"""Files of a few kilobytes whose tensors or objects unfold to gigabytes, although torch may load them by weights alone."""

from __future__ import annotations

from tests.hostile.containers import BIAS, state_dict, tensor, torch_legacy, torch_zip
from tests.hostile.opcodes import Node, call
from tests.hostile.site import Corpus

SIDE = 1 << 15
UNFOLDED = {"scan": (0, 3, 4), "bare": (2, 4)}
"""A tensor that is spread out is no known indicator; whoever would store it in full refuses it."""


def add_growth(corpus: Corpus) -> None:
    """All of them."""
    for name, node, why in (
        (
            "spread",
            {"w": tensor("1", (SIDE, SIDE), stride=(0, 0), numel=10)},
            "one number as a matrix of four gigabytes",
        ),
        ("spread-more", {"w": tensor("1", (1 << 20, 1 << 20), stride=(0, 0), numel=10)}, "of four terabytes"),
        ("overlap", {"w": tensor("1", (5, 1 << 30), stride=(1, 0), numel=10)}, "five numbers as twenty gigabytes"),
        ("names", _names(), "ten thousand names for views of 800 kilobytes each"),
    ):
        clean: Node = state_dict()
        assert isinstance(clean, dict)
        members = [("data/1", BIAS), ("data/0", bytes(120))]
        corpus.add(f"growth-{name}", ".pt", torch_zip(clean | node, members), why, codes=UNFOLDED)
        if name != "names":
            corpus.add(f"growth-legacy-{name}", ".pt", torch_legacy(clean | node), why, codes=UNFOLDED)
    filled = [call("builtins.bytearray", (1 << 28) - 1) for _ in range(40)]
    corpus.add(
        "growth-bytearrays", ".pt", torch_zip(state_dict() | {"a": filled}), "forty arrays of 256 megabytes of zeros",
    )  # fmt: skip
    corpus.add(
        "growth-storages", ".pt", torch_zip(state_dict() | {"a": [call("torch.FloatTensor", 1 << 27)] * 40}),
        "forty tensors of half a gigabyte, of whatever lies in memory", codes={"scan": (0, 3, 4)},
    )  # fmt: skip


def _names() -> Node:
    return {f"n{place}": tensor("1", (200_000,), stride=(0,), numel=10) for place in range(10_000)}
