"""A page as a list of its elements."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser


VOID = {"meta", "link", "img", "br", "input"}


@dataclass
class Element:
    """One element: its tag, what it lies in, and all text below it."""

    tag: str
    attributes: dict[str, str]
    above: Element | None
    text: str = ""
    below: list[Element] = field(default_factory=list)

    def get(self, name: str) -> str | None:
        return self.attributes.get(name)

    def all(self, tag: str = "", **attributes: str | None) -> list[Element]:
        """Elements below it; `None` for an attribute of any value. Underscores stand for dashes."""
        found = []
        for own in self.below:
            fits = [
                key.replace("_", "-") in own.attributes and value in (None, own.attributes[key.replace("_", "-")])
                for key, value in attributes.items()
            ]
            found += [own] if tag in ("", own.tag) and all(fits) else []
            found += own.all(tag, **attributes)
        return found


class _Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.root = Element("", {}, None)
        self.at = self.root

    def handle_starttag(self, tag, attrs):
        own = Element(tag, {key: value or "" for key, value in attrs}, self.at)
        self.at.below.append(own)
        if tag not in VOID:
            self.at = own

    def handle_startendtag(self, tag, attrs):
        self.at.below.append(Element(tag, {key: value or "" for key, value in attrs}, self.at))

    def handle_endtag(self, tag):
        assert self.at.tag == tag, f"</{tag}> closes <{self.at.tag}>"
        assert self.at.above is not None
        self.at = self.at.above

    def handle_data(self, data):
        own = self.at
        while own is not None:
            own.text += data
            own = own.above


def parsed(page: str) -> Element:
    """The elements of a page; every tag must be closed where it was opened."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert reader.at is reader.root, f"<{reader.at.tag}> is never closed"
    return reader.root
