"""The terms that a report uses, explained once, and the limits that hold for every report."""

from audit.schema import Claim, Outcome, Report, Status

Entry = tuple[str, str]

_ALWAYS: tuple[Entry, ...] = (
    ("Digest (sha256)", "A fingerprint of a file or of the model. Equal digests mean equal content."),
    (
        "Estimate",
        "A number computed from a sample. The true value lies in the stated interval, at the stated level.",
    ),
    (
        "Interval",
        "The range of true values that are compatible with the sample. It covers the chance of having drawn these "
        "samples; it does not cover a change of the data in use.",
    ),
    ("Level", "How often intervals made in this way contain the true value: 95 % means 19 times in 20."),
    ("n", "How many samples stand behind a number."),
)
_CLAIM_TERMS: dict[Claim, Entry] = {
    Claim.UPPER_BOUND: (
        "Upper bound (≤)",
        "The true value is at most this, save for sampling. Accuracy under attack is one: a stronger attack can only "
        "lower it.",
    ),
    Claim.LOWER_BOUND: (
        "Lower bound (≥)",
        "The true value is at least this, save for sampling. Certified accuracy is one: no perturbation "
        "of the stated size can lower it, for the classifier that its probe speaks of.",
    ),
}
_OUTCOME_TERMS: dict[Outcome, Entry] = {
    Outcome.PASS: ("PASS ✓", "The number satisfies the rule with the confidence that the policy asks for."),
    Outcome.FAIL: ("FAIL ✗", "The number breaks the rule with the confidence that the policy asks for."),
    Outcome.INCONCLUSIVE: (
        "INCONCLUSIVE ?",
        "The number is compatible with both, or cannot be relied on.",
    ),
    Outcome.NOT_RUN: ("NOT-RUN –", "There is no number. Nothing examined is not the same as nothing found."),  # noqa: RUF001
    Outcome.ERROR: ("ERROR !", "The measurement broke off or cannot be read. It says nothing about the model."),
}
_CONTROL: Entry = (
    "Positive control",
    "The probe's proof that it can find what it looks for: a case in which the flaw was planted on purpose. If the "
    "control fails, silence of the probe means nothing.",
)
_THREAT: Entry = ("Threat model", "What an attacker wants, knows and may do. A result holds for that attacker only.")
_WAIVER: Entry = ("Waiver", "The failure of a rule, accepted by a named person for a reason, until a date.")
_EPS: Entry = (
    "eps (ε)",
    "The largest change that an attack may make to a pixel (norm linf) or to the image (norms l2 and l1).",
)
_TRUST: Entry = (
    "Trust exception",
    "What was allowed beyond reading tensors alone: code to run, or pickles to be read with placeholders.",
)


def glossary(report: Report) -> tuple[Entry, ...]:
    """Terms that occur in this report, in alphabetical order."""
    record = report.record
    found = list(_ALWAYS)
    found += [_CLAIM_TERMS[claim] for claim in sorted(_claims(report)) if claim in _CLAIM_TERMS]
    if report.gate is not None:
        found += [_OUTCOME_TERMS[outcome] for outcome in Outcome]
    optional: tuple[tuple[bool, Entry], ...] = (
        (any(result.controls for result in record.results), _CONTROL),
        (any(card.threat_model for card in record.cards), _THREAT),
        (bool(report.policy and report.policy.waivers), _WAIVER),
        (any("eps" in m.where for result in record.results for m in result.measurements), _EPS),
        (bool(record.trust_exceptions), _TRUST),
    )
    found += [entry for occurs, entry in optional if occurs]
    return tuple(sorted(found, key=lambda entry: entry[0].lower()))


def _claims(report: Report) -> set[Claim]:
    return {m.claim for result in report.record.results for m in result.measurements}


_HOLDS_FOR = (
    "The numbers hold for the model and data whose digests stand in this report. Another set of weights, another "
    "preprocessing, or other data need another audit."
)
_SHIFT = (
    "Intervals cover the chance of having drawn these samples. They do not cover a shift between this data and "
    "the data in use, nor wrong labels in it."
)
_ATTACKED = (
    "Accuracy under attack is an upper bound: the attacks that were run did not get further. An attacker who adapts to "
    "this model, has more time, or changes images in another way may."
)
_CERTIFIED = "Certified numbers hold for the stated perturbation set alone, and say nothing about other changes."
_DETECTORS = (
    "A detector that found nothing did not prove that there is nothing. Read its positive control to see what it is "
    "able to find."
)
_UNKNOWN = "Some probes gave no full answer. What they ask about is unknown, not good."
_NO_MORE = "A PASS means that the stated rules hold for the stated measurements, and no more than that."


def limitations(report: Report) -> tuple[str, ...]:
    """What no number of this report says."""
    results, claims = report.record.results, _claims(report)
    said: tuple[tuple[bool, str], ...] = (
        (True, _HOLDS_FOR),
        (True, _SHIFT),
        (Claim.UPPER_BOUND in claims, _ATTACKED),
        (Claim.LOWER_BOUND in claims, _CERTIFIED),
        (True, _DETECTORS),
        (not results or any(result.status is not Status.MEASURED for result in results), _UNKNOWN),
        (report.gate is not None, _NO_MORE),
    )
    return tuple(text for applies, text in said if applies)
