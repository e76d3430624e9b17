"""The cards of made-up probes."""

from audit.schema import MetricSpec, ProbeCard


def _spec(name: str, meaning: str, better: str = "higher", **rest: object) -> MetricSpec:
    return MetricSpec.model_validate({"id": name, "meaning": meaning, "better": better, "low": 0, "high": 1} | rest)


CARDS = (
    ProbeCard(
        id="accuracy", version=1, question="How often is the model right?", needs=("logits", "data:eval"),
        how_to_read="Compare the whole with the worst class: a high average can hide a class that fails.",
        limits=("Labels are taken as true.",),
        metrics=(
            _spec("accuracy.top1", "Share of images whose highest-scored class is the label."),
            _spec("accuracy.worst_class", "Lowest accuracy of any class."),
            _spec("accuracy.per_class", "Accuracy on the images of one class."),
        ),
    ),
    ProbeCard(
        id="calibration", version=2, question="Do the confidences mean what they say?",
        how_to_read="At a confidence of 80 %, eight answers in ten should be right.",
        metrics=(
            _spec("calibration.ece", "Mean distance between confidence and accuracy.", "lower"),
            _spec("calibration.nll", "Mean surprise at the true label.", "lower", unit="nats", high=None),
        ),
    ),
    ProbeCard(
        id="evasion", version=1, question="Can small changes to an image make the model wrong?",
        threat_model="Goal: any wrong class. Knowledge: weights and gradients. Capability: changes each pixel by at "
        "most eps. Budget: 100 steps, five restarts.",
        how_to_read="Accuracy under attack is an upper bound: a stronger attack can only lower it.",
        limits=("Attacks are finite; an adaptive attacker may do better.", "Only L∞ and L2 balls are searched."),
        references=("Croce and Hein 2020, arXiv:2003.01690", "Code: https://github.com/fra31/auto-attack."),
        metrics=(_spec("evasion.robust_accuracy", "Share of samples that stay right under every attack tried."),),
    ),
    ProbeCard(
        id="certified", version=1, question="For how many images is it proved that no small change matters?",
        metrics=(_spec("certified.accuracy", "Share of samples with a proof."),),
    ),
    ProbeCard(id="membership", version=1, question="Does the model betray who was in its training data?",
              metrics=(_spec("membership.tpr", "True-positive rate at a low false-positive rate.", "lower"),)),
    ProbeCard(id="poisoning", version=1, question="Does a hidden trigger steer the model?",
              metrics=(_spec("poisoning.anomaly_index", "Outlyingness.", "lower", high=None),)),
    ProbeCard(id="unlearning", version=1, question="Was the data really forgotten?"),
)  # fmt: skip
