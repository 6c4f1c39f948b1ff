"""The site in a real Chromium: it asks its own server alone, is silent on the console, fits a phone, finds words."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.report import browser as browsers

SEEN = ("index.html", "gate.html", "gpu-measured.html", "reference/commands.html", "reference/rules.html")


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, *args: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def address(site) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    yield from browsers.started()


def opened(browser, url: str, width: int, scheme: str = "light"):
    page = browser.open(width, 900, scheme)
    for _ in range(2):  # the second time without what the page kept of another test's scheme
        page.call("Page.navigate", url=url)
        page.wait("document.readyState === 'complete' && document.body.dataset.mdColorScheme !== undefined")
        page.run("localStorage.clear()")
    return page


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
@pytest.mark.parametrize("name", SEEN)
def test_a_page_opens_without_a_word_and_fits_its_window(name, width, scheme, address, browser):
    page = opened(browser, address + name, width, scheme)
    assert [said for said in page.troubles if not said.startswith(f"request: {address}")] == []
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run("document.body.dataset.mdColorScheme") == {"light": "default", "dark": "slate"}[scheme]
    page.close()


def test_the_search_finds_a_rule(address, browser):
    page = opened(browser, address + "index.html", 1280)
    page.run("document.querySelector('[data-md-component=search-query]').focus()")
    page.type("PV501")
    page.wait("document.querySelectorAll('.md-search-result__link').length > 0")
    assert "reference/rules.html" in page.run("document.querySelector('.md-search-result__link').href")
    assert [said for said in page.troubles if not said.startswith(f"request: {address}")] == []
    page.close()


def test_a_request_elsewhere_would_be_seen(address, browser):
    page = opened(browser, address + "index.html", 1280)
    page.run("new Image().src = 'http://127.0.0.1:1/elsewhere.png'")
    assert any("elsewhere.png" in said for said in page.troubles)
    page.close()


def test_what_is_looked_at_exists(site: Path):
    assert all((site / name).exists() for name in SEEN)
