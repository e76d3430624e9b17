"""Operators that move, repeat, add up or average: affine, and no coefficient is negative."""

from audit.lirpa.rules.rule import Monotone, Rule

_MONOTONE = Monotone()
RULES: dict[str, Rule] = dict.fromkeys(
    (
        "view", "_unsafe_view", "reshape", "permute", "transpose", "t", "expand", "slice", "select", "squeeze",
        "unsqueeze", "clone", "alias", "cat", "stack", "constant_pad_nd", "pad", "roll", "index", "flip", "contiguous",
        "lift_fresh_copy", "_to_copy", "to", "detach", "repeat", "pixel_shuffle", "pixel_unshuffle", "unfold", "im2col",
        "flatten", "index_select", "reflection_pad2d", "replication_pad2d", "gather", "diagonal", "movedim",
        "channel_shuffle", "native_channel_shuffle", "broadcast_to", "dropout",
        "mean", "sum", "cumsum", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
        "_adaptive_avg_pool2d", "upsample_nearest2d", "upsample_bilinear2d",
    ),
    _MONOTONE,
)  # fmt: skip
