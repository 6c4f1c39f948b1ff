"""`make docs` builds: no broken link, no page without a place, and nothing that asks another host."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from tests.docs.conftest import build
from tests.docs.pages import ROOT

FETCHED = {"src", "srcset", "poster", "data"}


class Requests(HTMLParser):
    """What a browser fetches by itself when it opens the page; what a reader may click is no part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        names = FETCHED | ({"href"} if tag == "link" and given.get("rel") != "canonical" else set())
        self.asked += [value for name in names if (value := given.get(name))]


def requests(text: str) -> list[str]:
    parser = Requests()
    parser.feed(text)
    return parser.asked


def foreign(addresses: list[str]) -> list[str]:
    return [address for address in addresses if re.match(r"(?:[a-z]+:)?//", address)]


def test_every_page_has_its_place(site):
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert pages <= {path.relative_to(site) for path in site.rglob("*.html")}


def test_a_page_asks_no_other_host(site):
    asked = {page.name: requests(page.read_text("utf-8")) for page in site.rglob("*.html")}
    assert sum(map(len, asked.values())) > 100  # the reader sees requests at all
    assert {name: found for name, found in ((n, foreign(a)) for n, a in asked.items()) if found} == {}


def test_a_style_asks_no_other_host(site):
    for style in site.rglob("*.css"):
        text = style.read_text("utf-8")
        assert not foreign(re.findall(r"url\([\"']?([^)\"']+)", text)), style
        assert not re.search(r"@import\s+[\"']?(?:https?:)?//", text), style


def test_no_diagram_would_load_its_library(site):
    """The theme fetches Mermaid from a CDN as soon as a page has a diagram of it."""
    assert not [page for page in site.rglob("*.html") if 'class="mermaid"' in page.read_text("utf-8")]


def test_requests_are_seen():
    text = '<link rel="stylesheet" href="//x.org/a.css"><img src="https://y.org/b"><a href="https://z.org">z</a>'
    assert foreign(requests(text)) == ["//x.org/a.css", "https://y.org/b"]


def test_a_broken_link_is_an_error(tmp_path):
    pytest.importorskip("mkdocs", reason="the site needs the extra [docs]: `make setup` installs it")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Start\n\n[there](nowhere.md)\n")
    settings = (ROOT / "mkdocs.yml").read_text("utf-8")
    (tmp_path / "mkdocs.yml").write_text(settings.split("nav:\n")[0])
    done = build(tmp_path / "site", "--config-file", str(tmp_path / "mkdocs.yml"))
    assert done.returncode == 1
    assert "nowhere.md" in done.stderr
