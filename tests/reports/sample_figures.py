"""One made-up figure of each kind, and names that try to break the page."""

# ruff: noqa: RUF001

import hashlib
import io
import math
import random
from pathlib import Path

from PIL import Image

from audit.schema import (
    Bars,
    Curve,
    Evidence,
    Histogram,
    ImageGrid,
    ImageTile,
    Matrix,
    Reliability,
    ReliabilityBin,
    Series,
    Table,
)

CLASSES = ("aeroplane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NASTY = (
    "<script>alert(1)</script>",
    "]]>",
    "a$b$c_{x}",
    "قطة",
    "\u202egnp.exe",
    "\"' onload=x",
    "a & b",
    "נמר",
    "\x00\x07",
    "é漢🐈",
)


def small_image(seed: int, size: int = 28) -> bytes:
    """A seeded PNG of coloured blobs."""
    rng = random.Random(seed)
    cx, cy, spread = rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7), rng.uniform(0.02, 0.08)
    tint = [rng.uniform(0.3, 1) for _ in range(3)]
    image = Image.new("RGB", (size, size))
    for y in range(size):
        for x in range(size):
            strength = math.exp(-(((x / size - cx) ** 2 + (y / size - cy) ** 2) / spread)) + rng.uniform(0, 0.12)
            image.putpixel((x, y), tuple(min(255, int(255 * strength * share)) for share in tint))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_images(run_dir: Path, rows: int = 3, columns: int = 3, size: int = 28) -> tuple[Evidence, ...]:
    """Small PNG files of a run folder, with their evidence records."""
    folder = run_dir / "probes" / "evasion"
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for index in range(rows * columns):
        content = small_image(index, size)
        (folder / f"{index}.png").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        found.append(Evidence(path=f"probes/evasion/{index}.png", sha256=digest, kind="image", text=f"example {index}"))
    return tuple(found)


def grid(evidence: tuple[Evidence, ...], columns: int = 3) -> ImageGrid:
    """The evidence as original, adversarial and difference."""
    texts = ("cat, 98 % sure", "dog, 71 % sure, L∞ = 8/255", "× 15")
    tiles = [ImageTile(path=e.path, label=texts[i % columns]) for i, e in enumerate(evidence)]
    rows = tuple(tuple(tiles[i : i + columns]) for i in range(0, len(tiles), columns))
    return ImageGrid(
        id="examples",
        title="Nearest misses",
        caption="The samples that broke at the smallest change, each with the change enlarged fifteenfold.",
        alt="Three rows of original, adversarial and difference images; the changes cannot be seen by eye.",
        columns=("original", "adversarial", "difference")[:columns],
        rows=rows,
    )


def curve() -> Curve:
    eps = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
    attacked, noise = (0.941, 0.842, 0.702, 0.463, 0.123, 0.004), (0.941, 0.940, 0.938, 0.93, 0.912, 0.861)

    def band(name: str, values: tuple[float, ...]) -> Series:
        low, high = tuple(max(0, v - 0.03) for v in values), tuple(min(1, v + 0.03) for v in values)
        return Series(name=name, x=eps, y=values, low=low, high=high)

    return Curve(
        id="robust-accuracy",
        title="Accuracy under attack, L∞",
        caption="Share of samples still right at each radius. Stronger attacks may lower the attacked line further.",
        alt="Attacked accuracy falls from 94 % without change to 12 % at 8/255; under noise it stays above 86 %.",
        x_label="L∞ radius, in 1/255",
        y_label="accuracy",
        series=(band("attacked (at most)", attacked), band("random noise", noise)),
        y_range=(0, 1),
    )


def roc() -> Curve:
    xs = tuple(10 ** (-4 + 4 * i / 60) for i in range(61))
    ys = tuple(min(1.0, x**0.72 * 1.05) for x in xs)
    return Curve(
        id="roc",
        title="Members against non-members",
        caption="How many members an attacker finds at each rate of false accusations.",
        alt="The curve lies slightly above the diagonal at every false-positive rate.",
        x_label="false-positive rate",
        y_label="true-positive rate",
        series=(Series(name="LiRA", x=xs, y=ys), Series(name="chance", x=xs, y=xs)),
        log_x=True,
    )


def bars(labels: tuple[str, ...] = CLASSES) -> Bars:
    values = tuple(0.97 - 0.13 * abs(math.sin(3 * i + 1)) for i in range(len(labels)))
    return Bars(
        id="per-class",
        title="Accuracy by class",
        caption="Cats are confused most. Whiskers are 95 % intervals.",
        alt="Accuracy by class lies between 84 % and 97 %.",
        value_label="accuracy",
        labels=labels,
        values=values,
        low=tuple(v - 0.03 for v in values),
        high=tuple(min(1.0, v + 0.02) for v in values),
        reference=0.9,
        reference_label="all classes",
    )


def reliability() -> Reliability:
    bins = []
    for i in range(10):
        c = 0.05 + 0.1 * i
        n = 5 + int(3 * math.exp(0.55 * i))
        half = 1.4 * math.sqrt(c * (1 - c) / n)
        bins.append(
            ReliabilityBin(confidence=c, accuracy=max(0, c - 0.06 * math.sin(math.pi * c)), n=n,
                           null_low=max(0, c - half), null_high=min(1, c + half))
        )  # fmt: skip
    return Reliability(
        id="reliability",
        title="Reliability",
        caption="Below the diagonal the model is surer than it is right.",
        alt="Accuracy stays about five points under the confidence in the middle bins.",
        bins=tuple(bins),
    )


def matrix(names: tuple[str, ...] = CLASSES) -> Matrix:
    size = len(names)
    values = tuple(
        tuple(float(90 + (i * 7) % 10) if i == j else float((i * 3 + j * 5) % 7 // 3) for j in range(size))
        for i in range(size)
    )
    return Matrix(
        id="confusion",
        title="Confusion",
        caption="Rows are true classes, columns predicted ones.",
        alt="Most samples lie on the diagonal.",
        row_label="true",
        column_label="predicted",
        rows=names,
        columns=names,
        values=values,
    )


def histogram() -> Histogram:
    edges = tuple(i / 20 for i in range(21))
    right = tuple(int(300 * math.exp(-((i - 18) ** 2) / 12)) for i in range(20))
    wrong = tuple(int(90 * math.exp(-((i - 11) ** 2) / 30)) for i in range(20))
    return Histogram(
        id="confidence",
        title="Confidence of right and wrong answers",
        caption="Wrong answers are less sure, yet many lie above one half.",
        alt="Right answers pile up near 1; wrong ones spread around one half.",
        x_label="confidence",
        edges=edges,
        counts={"right": right, "wrong": wrong},
    )


def table() -> Table:
    return Table(
        id="attacks",
        title="Attacks that were run",
        caption="What each attack reached alone.",
        alt="Four attacks; the ensemble leaves 12.3 % right.",
        columns=("attack", "steps", "robust accuracy", "verified", "remark"),
        rows=(
            ("FGSM", 1, 0.312, True, None),
            ("PGD", 50, 0.148, True, None),
            ("APGD-DLR", 100, 0.131, True, "five restarts"),
            ("Square", 5000, 0.226, True, "no gradients"),
        ),
    )
