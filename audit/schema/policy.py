"""What a release must satisfy, and what became of it."""

import re
from datetime import date
from typing import Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from audit.schema.base import Claim, Frozen, Outcome, Scalar
from audit.schema.facts import Interval

Reaction = Literal["fail", "warn", "pass"]


class _ByHand(Frozen):
    """Written by people: a misspelt key must be refused, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Rule(_ByHand):
    """One requirement on one metric; exactly one of `min` and `max`."""

    id: str = Field(pattern=r"^[\w.:/-]{1,80}$")
    metric: str
    where: dict[str, Scalar] = {}
    """Settings that the measurement must have; those not named are free."""
    min: float | None = None
    max: float | None = None
    level: Literal["error", "warn"] = "error"
    on_inconclusive: Reaction | None = None
    """Overrides `[gate] on_inconclusive` for this rule."""
    note: str = ""

    @model_validator(mode="after")
    def _one_threshold(self) -> Self:
        if (self.min is None) == (self.max is None):
            raise ValueError(f"Expected exactly one of min and max in rule {self.id!r}. Give one threshold.")
        return self


class Waiver(_ByHand):
    """A rule's failure accepted for a while, for a named subject, by someone, for a reason."""

    rule: str
    reason: str = Field(pattern=r"\S")
    expires: date
    """The last day on which it holds (UTC)."""
    model_sha256: str | None = None
    """Weights digest, or the start of it (12 characters or more), that the waiver is for; None waives every model."""
    approved_by: str = ""
    ticket: str = ""

    @field_validator("model_sha256")
    @classmethod
    def _digest(cls, value: str | None) -> str | None:
        if value is None:
            return None
        digest = value.lower().removeprefix("sha256:")
        if not re.fullmatch("[0-9a-f]{12,64}", digest):
            raise ValueError(
                f"Expected a sha256 or its first 12 or more hexadecimal digits, got {value!r}. "
                "Copy it from the run record (subject, digest) or from sha256sum of the weights."
            )
        return digest


class GateSettings(_ByHand):
    """How outcomes become an exit code."""

    fail_on: Literal["error", "warn"] = "error"
    """The lowest rule level that decides the exit code; rules below it are judged and shown only."""
    on_inconclusive: Reaction = "fail"
    """`fail`: exit 3. `warn`: exit 0 with a notice. `pass`: exit 0. The outcome stays INCONCLUSIVE in all three."""
    on_not_run: Reaction = "fail"
    """The same for NOT-RUN, and for a policy of which no rule counts."""
    on_expired_waiver: Reaction = "fail"
    """`fail`: an expired waiver no longer applies, with a notice. `warn`: it still does, with a notice. `pass`: it
    still does. Wherever it still applies, `Verdict.waived` says that it has expired."""


class StatSettings(_ByHand):
    """How sure a verdict must be."""

    confidence: float = Field(default=0.95, ge=0.5, lt=1)
    """One-sided confidence behind each PASS and FAIL."""
    min_samples: int = Field(default=1, ge=1)
    """Fewer samples than this behind a number leave a rule INCONCLUSIVE."""


class Policy(_ByHand):
    """A set of rules with their waivers."""

    policy_schema: Literal["audit-policy/1"] = Field(alias="schema")
    id: str
    version: str
    description: str = ""
    stats: StatSettings = StatSettings()
    gate: GateSettings = GateSettings()
    rules: tuple[Rule, ...] = Field(min_length=1)
    waivers: tuple[Waiver, ...] = ()

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_by_name=True, serialize_by_alias=True
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        ids = [rule.id for rule in self.rules]
        doubled = sorted({rule_id for rule_id in ids if ids.count(rule_id) > 1})
        unknown = sorted({waiver.rule for waiver in self.waivers} - set(ids))
        problems = []
        if doubled:
            problems.append(f"Expected rule ids used once, got {', '.join(doubled)} more than once. Rename one.")
        if unknown:
            problems.append(f"Expected waivers for rules of this policy, got {', '.join(unknown)}. Correct the id.")
        if problems:
            raise ValueError(" ".join(problems))
        return self


class Verdict(Frozen):
    """What became of one rule, with the number used and why."""

    rule: str
    metric: str
    where: dict[str, Scalar] = {}
    """The setting of the measurement used; what the rule asked for where there is none."""
    level: Literal["error", "warn"]
    outcome: Outcome
    reason: str
    threshold: float
    direction: Literal["min", "max"]
    value: float | None = None
    interval: Interval | None = None
    """As measured (two-sided); for pictures."""
    limit: float | None = None
    """The one-sided confidence limit that decided."""
    n: int | None = None
    claim: Claim | None = None
    samples_needed: int | None = None
    """About how many further samples would settle it, where more samples can."""
    waived: str | None = None
    """The waiver's reason, when one applies."""
    measurement: str | None = None
    """Id of the measurement used (`measurement_id`)."""
    on_inconclusive: Reaction | None = None
    """What the policy makes of INCONCLUSIVE here: the rule's own setting, else the gate's."""
    blocking: bool = False
    """Whether this verdict keeps the exit code from 0: it counts, is not waived, and the policy does not let it by."""


class GateResult(Frozen):
    """The judgement of a run under a policy."""

    policy_id: str
    policy_version: str
    policy_sha256: str
    judged_on: date
    """The day (UTC) against which waivers were checked."""
    outcome: Outcome
    exit_code: int
    sentence: str
    """The verdict in one sentence, naming the rules behind it."""
    verdicts: tuple[Verdict, ...]
    notices: tuple[str, ...] = ()
    """Unused and expired waivers, and the like."""
