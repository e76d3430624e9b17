"""What the probe says about itself: its metrics, sources and limits, as the report prints them."""

from __future__ import annotations

from audit.api import MetricSpec

_BINNING = {"binning": "equal-width or equal-mass bins of the confidence", "bins": "number of bins"}


def _error(name: str, meaning: str, where: dict[str, str] | None = None) -> MetricSpec:
    return MetricSpec(id=f"calibration.{name}", meaning=meaning, better="lower", where=where or {}, low=0, high=1)


METRICS = (
    MetricSpec(
        id="calibration.nll",
        meaning="Mean negative log-probability given to the true class; punishes confident mistakes hardest.",
        better="lower",
        unit="nat",
        low=0,
    ),
    MetricSpec(
        id="calibration.brier",
        meaning="Mean squared error of the probabilities, summed over classes: 0 is perfect, 2 is certain and wrong.",
        better="lower",
        where={"variant": "sum-over-classes: not divided by 2 or by the number of classes"},
        low=0,
        high=2,
    ),
    MetricSpec(
        id="calibration.confidence_gap",
        meaning="Mean confidence minus accuracy: positive is over-confident, negative under-confident.",
        better="neither",
        low=-1,
        high=1,
    ),
    _error("ece", "Expected calibration error: average distance between confidence and accuracy over bins.", _BINNING),
    _error(
        "ece_debiased",
        "Root-mean-square calibration error over bins, without the part that noise alone would show.",
        {**_BINNING, "norm": "l2: root of the mean squared distance"},
    ),
    _error("ece_sweep", "Expected calibration error over as many bins as keep accuracy rising with confidence."),
    _error(
        "smooth_ece", "Calibration error smoothed by a kernel in place of bins; does not jump when data move a little."
    ),
    _error("classwise_ece", "Calibration error of every class's probability, averaged over classes.", _BINNING),
    _error("mce", "Largest distance between confidence and accuracy over bins; n is that bin's.", _BINNING),
    MetricSpec(
        id="calibration.null_ece",
        meaning="Expected calibration error that a perfectly calibrated model with these confidences shows at this n.",
        better="neither",
        where=_BINNING,
        low=0,
        high=1,
    ),
    MetricSpec(
        id="calibration.p_value",
        meaning="Share of perfectly calibrated models with these confidences that show as large an error by chance.",
        better="neither",
        where={"statistic": "the error that is compared", **_BINNING},
        low=0,
        high=1,
    ),
    MetricSpec(
        id="calibration.temperature",
        meaning="Number that the logits would best be divided by: above 1 over-confident, below 1 under-confident.",
        better="neither",
        low=0,
    ),
    _error("ece_after_temperature", "Expected calibration error after cross-fitted temperature scaling.", _BINNING),
    MetricSpec(
        id="calibration.nll_after_temperature",
        meaning="Mean negative log-probability of the true class after cross-fitted temperature scaling.",
        better="lower",
        unit="nat",
        low=0,
    ),
    _error("aurc", "Area under the risk-coverage curve: mean error rate over all shares of samples answered."),
    MetricSpec(
        id="calibration.augrc",
        meaning="Mean, over all shares answered, of errors made among all samples: how well confidence ranks errors.",
        better="lower",
        low=0,
        high=1,
    ),
    MetricSpec(
        id="calibration.accuracy_at_coverage",
        meaning="Accuracy when only the most confident share of the samples is answered.",
        better="higher",
        where={"coverage": "share answered"},
        low=0,
        high=1,
    ),
)

HOW_TO_READ = (
    "Of all answers given with 80 % confidence, 80 % should be right. Read the sign first (confidence_gap; temperature "
    "above 1 is over-confident), then the size (ece), then whether it is more than noise: null_ece is what a perfect "
    "model would show on this many samples, and p_value how often it would show as much. Calibration does not say "
    "how often it is right: a model that always states its base rate is calibrated and useless, so read it beside "
    "accuracy and nll. If ece_after_temperature is much smaller than ece, dividing the logits by one number mends most "
    "of it and changes no prediction. aurc and augrc tell whether abstaining on low confidence would avoid errors."
)

LIMITS = (
    "Calibration holds for data like these; under shift it usually worsens, and a temperature fitted here does not "
    "transfer.",
    "Errors average over all inputs with the same confidence: groups may be miscalibrated in opposite directions.",
    "A binned error never exceeds the true calibration error of the confidences: a small one is no proof within bins.",
    "Plug-in errors (ece, mce, classwise_ece, smooth_ece, ece_sweep) are biased upward by noise, the more the fewer "
    "samples; their intervals allow for it and are wide on purpose: a calibrated model needs more samples to pass.",
    "All but classwise_ece, nll and brier look at the top label alone.",
    "Intervals treat the samples as independent; near-duplicates make them too narrow.",
    "With many classes classwise_ece is tiny because almost all probabilities are.",
)

REFERENCES = (
    "Naeini, Cooper & Hauskrecht 2015, Obtaining well calibrated probabilities using Bayesian binning (AAAI)",
    "Guo, Pleiss, Sun & Weinberger 2017, arXiv:1706.04599",
    "Nixon, Dusenberry, Zhang, Jerfel & Tran 2019, arXiv:1904.01685",
    "Kumar, Liang & Ma 2019, arXiv:1909.10155",
    "Roelofs, Cain, Shlens & Mozer 2022, arXiv:2012.08668",
    "Blasiok & Nakkiran 2024, arXiv:2309.12236",
    "Kull et al. 2019, arXiv:1910.12656",
    "Gupta & Ramdas 2022, arXiv:2107.08353",
    "Brocker & Smith 2007, Increasing the reliability of reliability diagrams, Weather and Forecasting 22(3)",
    "Sun, Chaudhari, Barnett & Dobriban 2024, arXiv:2408.08998",
    "Andrews 2000, Inconsistency of the bootstrap when a parameter is on the boundary, Econometrica 68(2)",
    "Andrews & Soares 2010, Inference for parameters defined by moment inequalities, Econometrica 78(1)",
    "Royall & Tsou 2003, Interpreting statistical evidence by using imperfect models, JRSS B 65(2)",
    "Geifman, Uziel & El-Yaniv 2019, arXiv:1805.08206",
    "Traub et al. 2024, arXiv:2407.01032",
    "Clopper & Pearson 1934, Biometrika 26(4)",
)
