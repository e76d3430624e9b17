"""A matplotlib drawing as inline SVG: own ids, colours of the page's theme, a title and a description.

What matplotlib wrote is parsed and written again, so the markup is well formed and every text in it is escaped,
whatever the class names were.
"""

import io
import re
import warnings
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree as ET

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#010101", "#010102", "#010103", "#010104"
SERIES = ("#010111", "#010112", "#010113", "#010114", "#010115", "#010116")
_THEME = {INK: "--ink", MUTED: "--muted", GRID: "--rule", PAPER: "--paper"} | {
    colour: f"--s{index}" for index, colour in enumerate(SERIES, start=1)
}
WIDTH = 420
"""Drawn width; on a phone of 360 px it shrinks to about 0.78, so that 12.5 px text stays near 10 px."""
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "audit-report",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 12.5,
    "axes.formatter.useoffset": False,
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": True,
}
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_FONT_FAMILY = re.compile(r"\s*font-family:[^;]*;?")
_GEOMETRY = ("d", "x", "y", "transform", "points", "width", "height")


def render_svg(height: int, draw: Callable[[Figure], None], *, key: str, title: str, description: str) -> Markup:
    """Draw on a fresh canvas and return `<svg role="img">` scaled to the width of its box.

    Args:
        height: of the drawing, in pixels at its drawn width.
        draw: adds axes to the figure, coloured with this module's sentinels.
        key: unique on the page; begins every id.
        title: accessible name.
        description: accessible description.
    """
    buffer = io.BytesIO()
    with mpl.rc_context(_RC), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glyphs that the measuring font lacks; the browser has its own
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.04, h_pad=0.04)  # type: ignore[union-attr, call-arg]
        figure.patch.set_visible(False)
        draw(figure)
        FigureCanvasSVG(figure).print_svg(buffer, metadata=_NO_METADATA)  # type: ignore[no-untyped-call]
    root = ET.fromstring(buffer.getvalue())  # noqa: S314 - our own drawing
    _drop_global_style(root)
    _own_ids(root, key)
    _restyle(root)
    _describe(root, key, title, description)
    return Markup(ET.tostring(root, encoding="unicode"))  # noqa: S704 - serialised, hence escaped


def _local(name: str) -> str:
    return name.rsplit("}", 1)[-1]


def _drop_global_style(root: ET.Element) -> None:
    """Remove matplotlib's `* {...}` sheet: inside a page it would hit every element of it."""
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in {"style", "metadata"}:
                parent.remove(child)


def _own_ids(root: ET.Element, key: str) -> None:
    """Namespaces off, unused ids away, used ones renamed so that drawings of one page never collide."""
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(name): value for name, value in element.attrib.items()}
    used: dict[str, str] = {}
    for element in root.iter():
        for name in ("href", "clip-path"):
            value = element.get(name, "")
            target = value[1:] if name == "href" else value[5:-1]
            if value.startswith(("#", "url(#")):
                new = used.setdefault(target, f"{key}-{len(used)}")
                element.set(name, f"#{new}" if name == "href" else f"url(#{new})")
    for element in root.iter():
        old = element.attrib.pop("id", None)
        if old in used:
            element.set("id", used[old])


def _restyle(root: ET.Element) -> None:
    for element in root.iter():
        style = element.get("style")
        if style is not None:
            style = _FONT_FAMILY.sub("", style)
            for sentinel, variable in _THEME.items():
                style = style.replace(sentinel, f"var({variable})")
            element.set("style", style)
        for name in _GEOMETRY:
            if name in element.attrib and not element.attrib[name].startswith("#"):
                element.set(name, _LONG_NUMBER.sub(_two_decimals, element.attrib[name]).replace("\n", ""))
        element.tail = None
        if element.tag != "text":
            element.text = None


def _two_decimals(match: re.Match[str]) -> str:
    return f"{float(match[0]):.2f}".rstrip("0").rstrip(".")


def _describe(root: ET.Element, key: str, title: str, description: str) -> None:
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"class": "plot", "role": "img", "aria-labelledby": f"{key}-t {key}-d"}
    for position, (tag, mark, text) in enumerate((("title", "t", title), ("desc", "d", description))):
        element = ET.Element(tag, {"id": f"{key}-{mark}"})
        element.text = text
        root.insert(position, element)
