"""A file a family of operators: how intervals and linear bounds pass them."""

from __future__ import annotations

from audit.lirpa.graph import Operation
from audit.lirpa.rules import movement, piecewise, relu, signed, smooth
from audit.lirpa.rules.rule import Rule

_ALONE: dict[str, Rule] = {**movement.RULES, **signed.RULES, **relu.RULES, **piecewise.RULES, **smooth.RULES}


class NoRule(Exception):  # noqa: N818 - an outcome, which a probe turns into its own
    """An operator that nothing is known of; the text names it and where it stands."""


def rule_of(op: Operation) -> Rule:
    """The rule of an operation.

    Raises:
        NoRule: where there is none.
    """
    if op.kind not in _ALONE:
        raise NoRule(f"no bounds are known for the operator {op.kind} (in {op.module or op.name})")
    return _ALONE[op.kind]
