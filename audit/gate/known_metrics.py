"""Whether the probes can measure what a policy asks for: a typo must never switch a rule off silently."""

from collections.abc import Iterator, Mapping, Sequence

from audit.errors import UsageError
from audit.gate.wording import did_you_mean, number, quoted, threshold_of
from audit.schema import MetricSpec, Policy, ProbeCard, Rule


def check_policy(policy: Policy, cards: Sequence[ProbeCard]) -> None:
    """Refuse rules that could never be judged as they are meant.

    Raises:
        UsageError: with every rule whose metric or setting no probe knows, whose threshold lies outside the metric's
            range (it would always pass, or never), or that points the wrong way: a `min` on a metric of which less
            is better would pass the worst model.
    """
    metrics = {spec.id: spec for card in cards for spec in card.metrics}
    problems = [f"rule {rule.id}: {problem}" for rule in policy.rules for problem in _problems(rule, metrics)]
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise UsageError(
            f"Expected rules that the probes can answer, got {len(problems)} "
            f"{'problem' if len(problems) == 1 else 'problems'} in policy {policy.id!r}:{listed}"
        )


def _problems(rule: Rule, metrics: Mapping[str, MetricSpec]) -> Iterator[str]:
    spec = metrics.get(rule.metric)
    if spec is None:
        close = did_you_mean(rule.metric, list(metrics)) or _of_the_same_probe(rule.metric, metrics)
        yield f"Expected a metric of a known probe, got {rule.metric!r}.{close}"
        return
    for key in rule.where:
        if key not in spec.where:
            keys = f"one of {quoted(sorted(spec.where))}" if spec.where else "no setting"
            yield (
                f"Expected {keys} in where for {rule.metric}, got {key!r}."
                f"{did_you_mean(key, list(spec.where)) or ' Remove it.'}"
            )
    yield from _direction_problems(rule, spec)
    threshold = threshold_of(rule)
    low = float("-inf") if spec.low is None else spec.low
    high = float("inf") if spec.high is None else spec.high
    if not low <= threshold <= high:
        advice = f"Write a fraction: {threshold / 100:g}." if high == 1 < threshold <= 100 else "Correct the threshold."
        yield (
            f"Expected a threshold within the range of {rule.metric}, {_range(spec)}, got {number(threshold)}. {advice}"
        )


def _direction_problems(rule: Rule, spec: MetricSpec) -> Iterator[str]:
    if spec.better == "lower" and rule.min is not None:
        yield (
            f"Expected max for {rule.metric}, of which less is better, got min: it would pass the worst model. "
            f"Write max = {rule.min:g}."
        )
    if spec.better == "higher" and rule.max is not None:
        yield (
            f"Expected min for {rule.metric}, of which more is better, got max: it would pass the worst model. "
            f"Write min = {rule.max:g}."
        )


def _of_the_same_probe(metric: str, metrics: Mapping[str, MetricSpec]) -> str:
    family = sorted(known for known in metrics if known.split(".")[0] == metric.split(".", maxsplit=1)[0])
    if family:
        return f" That probe measures {quoted(family)}."
    return " List what can be measured with `audit probes`."


def _range(spec: MetricSpec) -> str:
    if spec.high is None:
        return f"{spec.low:g} or more"
    return f"{spec.high:g} or less" if spec.low is None else f"{spec.low:g} to {spec.high:g}"
