"""One group of images under suspicion, with all that is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan

from torch import Tensor
from torch.nn.functional import avg_pool2d

from audit.api import IntArray
from audit.toolkit.detection import ALPHA, Found
from probes.backdoor_data.config import FAR_APART
from probes.backdoor_data.content import Agreement
from probes.backdoor_data.taught import Taught
from probes.backdoor_data.transfer import Transfer

LOCAL = 0.5
"""Share of a residual's energy in its strongest pixels from which on it is called local."""
FEW_PIXELS = 0.06
"""Share of all pixels that these are."""


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """A group of images of one class.

    Attributes:
        network: `suspect` or `own`, by which it was found and tested.
        label: the class that the group is labelled.
        rows: of the samples.
        of: number of the samples that were searched.
        place: (top, left, side) of a tile, or None for a cluster.
        gain: of a cluster; NaN of a tile, and of a group that features did not show.
        agreement: of the content with the class.
        residual: (c, h, w) what is added, or, of a tile, its pixels.
        transfer: of the residual.
        p: adjusted for all groups that were tested (Holm); None where it was not compared.
        taught: whether the images teach one another's label; None where that was not tried.
    """

    network: str
    label: int
    rows: IntArray
    of: int
    place: tuple[int, int, int] | None
    gain: float
    agreement: Agreement
    residual: Tensor
    transfer: Transfer
    p: float | None = None
    taught: Taught | None = None

    @property
    def contradicted(self) -> bool:
        """Whether the images' content is that of other classes."""
        return self.agreement.contradicts

    @property
    def acts(self) -> bool:
        """Whether the residual leads images to the class more often than that of random parts of the class."""
        return self.p is not None and self.p <= ALPHA

    @property
    def transferred(self) -> bool:
        """Whether it leads most images there, beyond all that other parts of the class do."""
        return self.acts and self.transfer.strong and self.transfer.unrivalled

    @property
    def teaches(self) -> bool:
        """Whether the images teach one another a label that is foreign to their content.

        A natural part of a class may do so too, but its images are alike, and have one another near them.
        """
        return self.agreement.foreign and self.taught is not None and self.taught.strong

    @property
    def found(self) -> Found:
        """What it comes to."""
        if self.transferred or self.teaches:
            return Found.DETECTED
        acts = self.acts and self.transfer.notable
        odd = self.contradicted and (self.place is not None or self.gain >= FAR_APART)
        if self.taught is not None:
            foreign = self.agreement.foreign
            odd = self.taught.strong or (foreign and self.taught.differs) or (odd and not self.taught.refutes(foreign))
        return Found.SUSPICIOUS if odd or acts else Found.NOT_DETECTED

    @property
    def fraction(self) -> float:
        """Share of the samples."""
        return len(self.rows) / self.of

    @property
    def kind(self) -> str:
        """What the trigger looks like, as far as it can be told."""
        labels = "on images whose content is that of other classes" if self.contradicted else (
            "on images whose content may well be of the class"
        )  # fmt: skip
        if self.place is not None:
            top, left, side = self.place
            where = _where((top + side / 2, left + side / 2), (self.residual.shape[1], self.residual.shape[2]))
            return f"a static patch at the {where} ({labels})"
        if not (self.transferred or (self.teaches and self.acts)):
            return f"{self._untransferred}, which no added pattern explains well; a warp would do so ({labels})"
        strength = (self.residual**2).sum(dim=0)
        count = max(1, round(FEW_PIXELS * strength.numel()))
        if float(strength.flatten().topk(count).values.sum()) >= LOCAL * float(strength.sum()):
            around = avg_pool2d(strength[None], 3, stride=1, padding=1, count_include_pad=False)[0]
            middle = divmod(int(around.argmax()), strength.shape[1])
            return f"a change at the {_where(middle, (strength.shape[0], strength.shape[1]))} ({labels})"
        return f"an additive pattern over the whole image ({labels})"

    @property
    def _untransferred(self) -> str:
        if self.teaches:
            return "a trigger"
        return "content of other classes" if isnan(self.gain) else "features of their own"


def _where(middle: tuple[float, float], size: tuple[int, int]) -> str:
    down = ("upper", "", "lower")[min(2, int(3 * middle[0] / size[0]))]
    across = ("left", "", "right")[min(2, int(3 * middle[1] / size[1]))]
    return " ".join(filter(None, (down, across))) or "middle"
