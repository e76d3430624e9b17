"""A file a family of operators: how intervals and linear bounds pass them."""

from __future__ import annotations

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


class NoRule(Exception):  # noqa: N818 - an outcome, which a probe turns into its own
    """An operator that nothing is known of; the text names it and where it stands."""


def rule_of(op: Operation) -> Rule:
    """The rule of an operation.

    Raises:
        NoRule: where there is none.
    """
    depend = [isinstance(argument, Operation) for argument in op.args]
    together = sum(depend) > 1 or (op.kind == "div" and (depend[1] or op.kwargs.get("rounding_mode") is not None))
    rules = _TOGETHER if together else _ALONE
    if op.kind not in rules:
        raise NoRule(f"no bounds are known for the operator {op.kind} (in {op.module or op.name})")
    return rules[op.kind]
