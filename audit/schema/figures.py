"""Pictures as data. Reports draw every kind here, so a new probe's pictures touch no report code."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from audit.schema.base import Frozen, Scalar


class _FigureBase(Frozen):
    id: str = Field(pattern=r"^[a-z0-9-]+$")
    title: str
    caption: str
    """What to see in it, in one or two sentences."""
    alt: str
    """The same for someone who cannot see it."""


class Series(Frozen):
    """One line of a curve, with an optional band."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _equal_lengths(self) -> Self:
        lengths = {len(values) for values in (self.x, self.y, self.low, self.high) if values is not None}
        if len(lengths) != 1:
            raise ValueError(f"Expected x, y, low and high of equal length in series {self.name!r}, got {lengths}.")
        return self


class Curve(_FigureBase):
    """Lines over a common axis."""

    kind: Literal["curve"] = "curve"
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    y_range: tuple[float, float] | None = None
    log_x: bool = False


class Bars(_FigureBase):
    """One bar a label, with optional whiskers and a reference line."""

    kind: Literal["bars"] = "bars"
    value_label: str
    labels: tuple[str, ...]
    values: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    reference: float | None = None
    reference_label: str = ""


class ReliabilityBin(Frozen):
    """One bin of a reliability diagram."""

    confidence: float
    accuracy: float
    n: int
    null_low: float
    """Lower end of what a perfectly calibrated model shows in this bin at this n."""
    null_high: float


class Reliability(_FigureBase):
    """Accuracy against confidence, with the band of a perfectly calibrated model."""

    kind: Literal["reliability"] = "reliability"
    bins: tuple[ReliabilityBin, ...]
    null_level: float = 0.95


class Matrix(_FigureBase):
    """Counts or rates in a grid; `values[row][column]`."""

    kind: Literal["matrix"] = "matrix"
    row_label: str
    column_label: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]


class Histogram(_FigureBase):
    """Counts between edges; several named series share the edges."""

    kind: Literal["histogram"] = "histogram"
    x_label: str
    edges: tuple[float, ...]
    counts: dict[str, tuple[int, ...]]


class ImageTile(Frozen):
    """An image of the run folder with what to say about it."""

    path: str
    """Relative to the run folder; also listed as `Evidence`."""
    label: str


class ImageGrid(_FigureBase):
    """Rows of images under common column heads."""

    kind: Literal["image_grid"] = "image_grid"
    columns: tuple[str, ...]
    rows: tuple[tuple[ImageTile, ...], ...]


class Table(_FigureBase):
    """Rows of values under heads."""

    kind: Literal["table"] = "table"
    columns: tuple[str, ...]
    rows: tuple[tuple[Scalar | None, ...], ...]


Figure = Annotated[
    Curve | Bars | Reliability | Matrix | Histogram | ImageGrid | Table,
    Field(discriminator="kind"),
]
