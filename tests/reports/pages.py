"""Reading a page as a browser would, without one."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "br", "img", "link", "hr", "input", "wbr", "col"}
HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")


@dataclass
class Page:
    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    headings: list[tuple[int, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    text: str = ""

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.tags if "id" in attributes]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.page, self.open = Page(), []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        if len(names) != len(set(names)):
            self.page.problems.append(f"doubled attribute in <{tag}>")
        self.page.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
        if tag in HEADINGS:
            self.page.headings.append((int(tag[1]), ""))

    def handle_startendtag(self, tag, attrs):
        self.page.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.page.problems.append(f"unexpected </{tag}> at {self.getpos()}")

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.page.text += data
        if self.open and set(self.open) & set(HEADINGS) and self.page.headings:
            level, text = self.page.headings[-1]
            self.page.headings[-1] = (level, text + data)


def read(html: str) -> Page:
    """Tags, headings and text; what does not balance is listed as a problem."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    reader.page.problems += [f"<{tag}> never closed" for tag in reader.open]
    return reader.page
