"""A file a family of operators: how intervals and linear bounds pass them."""

from __future__ import annotations

import torch

from audit.lirpa.graph import Operation
from audit.lirpa.rules import (
    bilinear,
    movement,
    normalisation,
    piecewise,
    pooling,
    quotient,
    relu,
    signed,
    smooth,
    softmax,
    statistics,
)
from audit.lirpa.rules.rule import Rule

_ALONE: dict[str, Rule] = {
    **movement.RULES, **signed.RULES, **relu.RULES, **piecewise.RULES, **smooth.RULES, **softmax.RULES,
    **normalisation.RULES, **statistics.RULES, **pooling.RULES,
}  # fmt: skip
_TOGETHER: dict[str, Rule] = {
    **{kind: signed.RULES[kind] for kind in ("add", "sub", "rsub")}, "pow": smooth.RULES["pow"],
    **bilinear.RULES, **quotient.RULES, **pooling.OF_TWO,
}  # fmt: skip
"""For operators of which several arguments depend on the pixels, and for quotients that are no scaling."""


_EITHER, _PRODUCT = frozenset({0, 1}), frozenset({1, 2})
_PLACES = {
    "add": _EITHER, "sub": _EITHER, "rsub": _EITHER, "mul": _EITHER, "div": _EITHER, "matmul": _EITHER, "mm": _EITHER,
    "bmm": _EITHER, "maximum": _EITHER, "minimum": _EITHER, "pow": _EITHER, "addmm": _PRODUCT, "baddbmm": _PRODUCT,
}  # fmt: skip
"""Which arguments may depend on the pixels; of all other operators the first alone."""
_EXACT = frozenset({torch.float32, torch.float64})
"""Types whose rounding is covered: integers jump, and shorter floats are coarser than any slack."""
_RANDOM = frozenset({
    "native_dropout", "dropout", "alpha_dropout", "feature_dropout", "bernoulli", "rand", "rand_like", "randn",
    "randn_like", "randint", "randint_like", "randperm", "normal", "uniform", "multinomial", "poisson",
    "rrelu_with_noise",
})  # fmt: skip


class NoRule(Exception):  # noqa: N818 - an outcome, which a probe turns into its own
    """An operator that nothing is known of; the text names it and where it stands."""


def rule_of(op: Operation) -> Rule:
    """The rule of an operation.

    Raises:
        NoRule: where there is none.
    """
    depend = [isinstance(argument, Operation) for argument in op.args]
    together = sum(depend) > 1 or (op.kind == "div" and (depend[1] or op.kwargs.get("rounding_mode") is not None))
    rules, where = _TOGETHER if together else _ALONE, op.module or op.name
    if op.dtype not in _EXACT:
        raise NoRule(f"no bounds are known for values in {str(op.dtype).removeprefix('torch.')} ({op.kind} in {where})")
    if op.kind not in rules or not (together or _in_its_place(op)):
        random = ", which draws at random: bounds are of what is always the same" if op.kind in _RANDOM else ""
        raise NoRule(f"no bounds are known for the operator {op.kind} (in {where}){random}")
    return rules[op.kind]


def _in_its_place(op: Operation) -> bool:
    """Whether no other argument depends on the pixels than those that rules for one look at."""
    depend = {place for place, argument in enumerate(op.args) if _depends(argument)}
    if any(map(_depends, op.kwargs.values())):
        return False
    return depend <= _PLACES.get(op.kind, frozenset({0}))


def _depends(argument: object) -> bool:
    return isinstance(argument, Operation) or (isinstance(argument, list | tuple) and any(map(_depends, argument)))
