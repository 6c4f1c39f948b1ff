"""An HTML page as a tree, and what must hold of every page: balanced, labelled, headed, free of foreign code."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = frozenset({"meta", "link", "input", "br", "img", "hr"})
INLINE = frozenset({"a", "b", "code", "strong", "span", "svg"})
OURS = frozenset({"https", "http"})


@dataclass
class Element:
    """One element; `content` is what stands directly in it: texts and elements."""

    tag: str
    attributes: dict[str, str]
    above: Element | None = field(default=None, repr=False)
    content: list[Element | str] = field(default_factory=list, repr=False)

    @property
    def below(self) -> list[Element]:
        """The elements directly in it."""
        return [part for part in self.content if isinstance(part, Element)]

    @property
    def text(self) -> str:
        """The text directly in it."""
        return "".join(part for part in self.content if isinstance(part, str))

    def all(self, *tags: str) -> Iterator[Element]:
        """Every element of these tags below this one, in order; all elements without tags."""
        for child in self.below:
            if not tags or child.tag in tags:
                yield child
            yield from child.all(*tags)

    @property
    def words(self) -> str:
        """All text in it, in order, with single blanks; a cell or a line of its own is set off by one."""
        return " ".join(self._words().split())

    def _words(self) -> str:
        inside = "".join(
            part if isinstance(part, str) else part._words() for part in self.content if self.tag != "script"
        )
        return inside if self.tag in INLINE else f" {inside} "

    def by_id(self, name: str) -> Element:
        return next(e for e in self.all() if e.attributes.get("id") == name)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("", {})
        self.here = self.root

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        element = Element(tag, {name: value or "" for name, value in attrs}, self.here)
        self.here.content.append(element)
        if tag not in VOID:
            self.here = element

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert tag == self.here.tag, f"</{tag}> ends <{self.here.tag} {self.here.attributes}>"
        self.here = self.here.above

    def handle_data(self, data):
        self.here.content.append(data)


def read(html: str) -> Element:
    """The page as a tree. Fails where an end tag does not fit."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert reader.here is reader.root, f"<{reader.here.tag} {reader.here.attributes}> is never ended"
    return reader.root


def packed(page: Element) -> dict[str, str]:
    """Anchor -> HTML of every detail that is kept packed."""
    held: dict[str, str] = {}
    for script in page.all("script"):
        if script.attributes.get("type") == "text/plain":
            held |= json.loads(gzip.decompress(base64.b64decode(script.text)))
    return held


def outline(page: Element) -> list[str]:
    """Every tag in order: equal for two pages that differ only in their data."""
    return [element.tag for element in page.all()]


def complaints(page: Element) -> list[str]:
    """What is wrong with a page; empty for a sound one."""
    return [*_ids(page), *_headings(page), *_labels(page), *_tables(page), *_code(page), *_links(page)]


def _ids(page: Element) -> Iterator[str]:
    seen = set()
    for element in page.all():
        name = element.attributes.get("id")
        if name is None:
            continue
        if name in seen or not re.fullmatch(r"[A-Za-z0-9._-]+", name):
            yield f"id {name!r} occurs twice, or is not fit for an address"
        seen.add(name)


def _headings(page: Element) -> Iterator[str]:
    before = 0
    for heading in page.all("h1", "h2", "h3", "h4", "h5", "h6"):
        level = int(heading.tag[1])
        if level > before + 1:
            yield f"<{heading.tag}> {heading.words[:40]!r} follows <h{before}>"
        if not heading.words:
            yield f"an empty <{heading.tag}>"
        before = level
    for one, tag in ((1, "h1"), (1, "main"), (1, "header"), (1, "footer"), (1, "nav")):
        if len(list(page.all(tag))) != one:
            yield f"expected one <{tag}>"


def _labels(page: Element) -> Iterator[str]:
    named = {label.attributes.get("for") for label in page.all("label")}
    for field_ in page.all("input", "select", "textarea"):
        above = field_.above
        while above is not None and above.tag != "label":
            above = above.above
        if above is None and field_.attributes.get("id") not in named:
            yield f"<{field_.tag} {field_.attributes}> has no label"
    for button in page.all("button", "summary", "a"):
        if not button.words:
            yield f"<{button.tag} {button.attributes}> has no words"
    for drawing in page.all("svg"):
        spoken = drawing.attributes.get("role") == "img" and drawing.attributes.get("aria-label")
        if not spoken and drawing.attributes.get("aria-hidden") != "true":
            yield f"a drawing without words: {drawing.attributes}"
    for details in page.all("details"):
        if details.below[0].tag != "summary":
            yield "a <details> that does not begin with its <summary>"


def _tables(page: Element) -> Iterator[str]:
    for table in page.all("table"):
        caption = next(table.all("caption"), None)
        name = caption.words if caption else ""
        if not name:
            yield "a table without a caption"
        for head in table.all("th"):
            if head.attributes.get("scope") not in ("row", "col", "colgroup"):
                yield f"a heading without a scope in {name!r}"
        widths = {sum(int(cell.attributes.get("colspan", 1)) for cell in row.below) for row in table.all("tr")}
        if len(widths) > 1:
            yield f"rows of {sorted(widths)} cells in {name!r}"


def _code(page: Element) -> Iterator[str]:
    policy = next(
        e.attributes["content"] for e in page.all("meta") if e.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    if not policy.startswith("default-src 'none';"):
        yield f"a policy that lets something in: {policy}"
    for element in page.all():
        for name in element.attributes:
            if name.startswith("on") or name in ("style", "srcdoc", "formaction"):
                yield f"<{element.tag}> has {name}"
        if element.tag in ("iframe", "object", "embed", "img", "base", "video", "audio"):
            yield f"a foreign <{element.tag}>"
        if element.tag in ("style", "script") and element.attributes.get("type") != "text/plain":
            digest = base64.b64encode(hashlib.sha256(element.text.encode()).digest()).decode()
            if f"{element.tag}-src 'sha256-{digest}'" not in policy:
                yield f"a <{element.tag}> that the page's policy does not name: {element.text[:60]!r}"
            if "url(" in element.text or "@import" in element.text or "fetch(" in element.text:
                yield f"the <{element.tag}> loads something"


def _links(page: Element) -> Iterator[str]:
    known = {element.attributes["id"] for element in page.all() if "id" in element.attributes}
    for element in page.all():
        for name in ("href", "src", "action", "xlink:href"):
            address = element.attributes.get(name)
            if address is None:
                continue
            if address.startswith("#"):
                if address[1:].split(".rec-")[0] not in known:
                    yield f"a link to {address}, which is nowhere"
            elif element.tag == "link" and address == "data:,":
                continue  # the empty picture that keeps browsers from asking for one
            elif element.tag != "a" or address.split(":")[0].lower() not in OURS:
                yield f"<{element.tag} {name}={address!r}>"
