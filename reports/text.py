"""Words for readers: cleaning of foreign text, short names, and links in references."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from audit.schema import Scalar

REPLACEMENT = "�"
_BIDI_CONTROLS = {chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C)}
_LINK = re.compile(r"https?://[^\s<>\"'`]+[^\s<>\"'`.,;:)\]]|arXiv:\s?(\d{4}\.\d{4,5})(?:v\d+)?")


_ABBREVIATIONS = frozenset("ace auc augrc aurc auroc ece fpr iou l1 l2 mce mmd nll ood roc sce tnr tpr tv".split())  # noqa: SIM905


@dataclass(frozen=True)
class Piece:
    """A stretch of text, with an address when it is a link."""

    text: str
    href: str = ""


def _clean_character(character: str) -> str:
    if character in "\n\t":
        return character
    if character in _BIDI_CONTROLS or unicodedata.category(character) in {"Cc", "Cs", "Cn"}:
        return REPLACEMENT
    return character


def clean(text: str) -> str:
    """The text without control characters, lone surrogates and direction overrides, each shown as a replacement mark.

    Class names, file names and metadata come with the artefact; none of them may reorder the words around it.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_clean_character, text))


def shorten(text: str, length: int) -> str:
    """The text on one line, cut with an ellipsis when longer than `length`."""
    line = " ".join(clean(text).split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def slug(text: str) -> str:
    """Letters, digits and hyphens alone, for anchors."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "x"


def words(identifier: str) -> str:
    """`evasion.robust_accuracy` as `robust accuracy`."""
    return plain(identifier.partition(".")[2] or identifier)


def metric_name(metric: str) -> str:
    """`evasion.robust_accuracy` as `Evasion, robust accuracy`."""
    probe, _, rest = metric.partition(".")
    return f"{capital(plain(probe))}, {plain(rest)}" if rest else capital(plain(metric))


def plain(identifier: str) -> str:
    """An identifier with spaces for its dots, hyphens and underscores, and the field's abbreviations in capitals."""
    parts = re.split(r"[._-]+", identifier)
    return " ".join(part.upper() if part in _ABBREVIATIONS else part for part in parts)


def sentence(text: str) -> str:
    """The text with one full stop at its end."""
    stripped = text.rstrip()
    return stripped if stripped.endswith((".", "!", "?", "…")) else f"{stripped}."


def capital(text: str) -> str:
    """The text with its first letter raised and the rest as it was."""
    return text[:1].upper() + text[1:]


def scalar_text(value: Scalar) -> str:
    """A setting's value: `true`, `0.1`, `8/255`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def setting_text(where: Mapping[str, Scalar]) -> str:
    """`eps = 8/255, norm = linf`: a setting in one line, keys in sorted order; empty when there is none."""
    return ", ".join(f"{key} = {scalar_text(where[key])}" for key in sorted(where))


def with_links(text: str) -> tuple[Piece, ...]:
    """The text cut into plain pieces and links; only http(s) addresses and arXiv numbers become links."""
    pieces: list[Piece] = []
    end = 0
    for match in _LINK.finditer(text):
        if match.start() > end:
            pieces.append(Piece(text[end : match.start()]))
        href = f"https://arxiv.org/abs/{match[1]}" if match[1] else match[0]
        pieces.append(Piece(match[0], href))
        end = match.end()
    if end < len(text):
        pieces.append(Piece(text[end:]))
    return tuple(pieces)
