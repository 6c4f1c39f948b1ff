"""The page in a real Chromium: clicks, keys, search, themes, sizes; no error, no request, no stranger's code."""

from __future__ import annotations

import json
import zlib

import pytest

from pv.report import html
from tests.report.test_html import hostile_story

pytestmark = pytest.mark.slow

SIZES = [(1280, 900), (390, 844)]
RED = "FALSIFY-PARITY-001"


@pytest.fixture(scope="module", params=[False, True], ids=["whole", "lazy"])
def file(request, story, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html.page(story, lazy=request.param), "utf-8")
    return path


@pytest.fixture
def page(browser, file):
    opened = browser.open()
    opened.go(file)
    yield opened
    assert opened.troubles == []
    opened.close()


def is_open(anchor: str) -> str:
    return f"document.getElementById({json.dumps(anchor)}).open"


def shown(selector: str) -> str:
    """Whether an element is there and not folded away."""
    return f"Boolean(document.querySelector({json.dumps(selector)})?.checkVisibility())"


def in_sight(selector: str) -> str:
    """Whether it also lies in the part of the page that the window shows."""
    box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
    return f"{shown(selector)} && {box}.bottom > 0 && {box}.top < innerHeight"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), SIZES, ids=["desk", "phone"])
def test_the_page_opens_without_a_word_and_fits_its_window(browser, file, width, height, scheme):
    page = browser.open(width, height, scheme)
    page.go(file, RED)
    page.wait(shown(f"[id='{RED}'] tr.broken"))
    assert page.run("document.documentElement.scrollWidth") == width
    ground = page.run("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}[scheme]
    picture = page.picture()
    assert picture.startswith(b"\x89PNG")
    assert len(zlib.compress(picture)) > 20_000  # an empty page has a few hundred
    assert page.troubles == []
    page.close()


def test_from_a_red_row_to_the_guilty_measurement_and_stage_in_one_click(page):
    page.click("#p-attention .reds td a")
    page.wait(in_sight("tr.broken"))
    assert page.run("document.querySelector('details.cell[open] tr.broken').innerText").startswith("cosine")
    words = page.run(f"document.getElementById('{RED}').innerText")
    assert "ffn_up of layer 2" in words
    page.wait("document.activeElement.tagName === 'SUMMARY'")  # the focus follows, a moment after what is seen
    assert page.run("document.activeElement.closest('details').id").startswith(f"{RED}.rec-")


def test_a_link_to_a_claim_opens_all_that_it_lies_in(browser, file):
    page = browser.open()
    page.go(file, "FALSIFY-WORDS-001")
    page.wait(shown("[id='FALSIFY-WORDS-001'] tr.broken"))
    assert page.run(is_open("contract-words-v1"))
    assert not page.run(is_open("contract-parity-v1"))
    page.run("location.hash = '#nowhere'")
    page.run("location.hash = '#%E0%A4%A'")  # no address
    page.run(f"location.hash = '#{RED}'")
    page.wait(shown(f"[id='{RED}'] tr.broken"))
    assert page.troubles == []
    page.close()


def test_the_search_narrows_and_says_how_far(page):
    assert page.run("document.getElementById('p-count').innerText") == "6 of 6 claims in 2 of 2 contracts"
    page.click("#p-search")
    page.type("ffn_up cosine")
    page.wait("document.getElementById('p-count').innerText.startsWith('1 of 6')")
    assert page.run(
        "[...document.querySelectorAll('details.claim')].filter(e => e.checkVisibility()).map(e => e.id)"
    ) == [RED]
    assert not page.run("document.getElementById('contract-words-v1').checkVisibility()")
    page.type(" nothing at all")
    page.wait("document.getElementById('p-count').innerText.startsWith('0 of 6')")
    assert page.run("document.getElementById('p-none').checkVisibility()")
    page.click("button[type=reset]")
    page.wait("document.getElementById('p-count').innerText.startsWith('6 of 6')")


@pytest.mark.parametrize(
    ("choose", "left"),
    [
        ("document.querySelector('[value=FALSIFIED]').click()", ["FALSIFY-PARITY-001", "FALSIFY-PARITY-003"]),
        ("pick('p-device', 'cuda')", ["FALSIFY-PARITY-001"]),
        ("pick('p-flag', 'drifting')", ["FALSIFY-PARITY-002"]),
        ("pick('p-flag', 'no check')", ["KH-PARITY-001"]),
    ],
)
def test_filters_show_what_they_name(page, choose, left):
    page.run(
        "globalThis.pick = (id, value) => { const e = document.getElementById(id); e.value = value;"
        "e.dispatchEvent(new Event('input', {bubbles: true})); }"
    )
    page.run(choose)
    page.wait(f"document.getElementById('p-count').innerText.startsWith('{len(left)} of 6')")
    visible = "[...document.querySelectorAll('details.claim')].filter(e => !e.closest('[hidden]')).map(e => e.id)"
    assert page.run(visible) == left
    page.run("location.hash = '#FALSIFY-WORDS-001'")  # a link to what is filtered away clears the filters
    page.wait("document.getElementById('p-count').innerText.startsWith('6 of 6')")
    page.wait(shown("[id='FALSIFY-WORDS-001'] tr.broken"))


def test_all_can_be_opened_and_closed(page):
    page.click("#p-open")
    page.wait("[...document.querySelectorAll('details.contract, details.claim')].every(e => e.open)")
    page.wait("document.querySelectorAll('.body[data-from]').length <= 2")  # the two contracts' own words stay folded
    page.click("#p-close")
    page.wait("[...document.querySelectorAll('details.contract, details.claim')].every(e => !e.open)")


def test_keys_alone_reach_and_open_a_claim(page):
    page.run("document.getElementById('p-close').focus()")
    for _ in range(2):
        page.press("Tab")  # Clear, then the first contract
    assert page.run("document.activeElement.closest('details').id") == "contract-parity-v1"
    assert page.run("document.activeElement.getAttribute('aria-expanded')") == "false"
    page.press("Enter")
    page.wait(is_open("contract-parity-v1"))
    page.wait("document.activeElement.getAttribute('aria-expanded') === 'true'")
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    for _ in range(2):
        page.press("Tab")  # what is told of the contract, then its first claim
    page.press("Enter")
    page.wait(is_open(RED))
    page.wait(shown(f"[id='{RED}'] tr.broken"))


def test_the_first_stop_skips_to_the_contracts(page):
    page.press("Tab")
    assert page.run("document.activeElement.innerText") == "Skip to the contracts"
    assert page.run("document.activeElement.getBoundingClientRect().x") >= 0


def test_the_theme_can_be_turned_and_is_kept(browser, file):
    page = browser.open(scheme="dark")
    page.go(file)
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.run("document.getElementById('p-theme').innerText") == "Light theme"
    page.click("#p-theme")
    assert page.run(ground) == "rgb(255, 255, 255)"
    page.go(file)
    assert page.run(ground) == "rgb(255, 255, 255)"
    page.click("#p-theme")
    assert page.run(ground) == "rgb(13, 17, 23)"
    page.run("localStorage.clear()")
    assert page.troubles == []
    page.close()


@pytest.mark.parametrize("lazy", [False, True], ids=["whole", "lazy"])
def test_nothing_of_a_stranger_runs(browser, tmp_path, lazy):
    path = tmp_path / "hostile.html"
    path.write_text(html.page(hostile_story(tmp_path), lazy=lazy), "utf-8")
    page = browser.open()
    page.go(path, "FALSIFY-WORDS-001")
    page.wait(shown("[id='FALSIFY-WORDS-001'] tr.broken"))
    page.click("#p-open")
    page.wait("!document.querySelector('details.claim:not([open])')")
    assert page.run("typeof window.hacked") == "undefined"
    assert page.run("document.querySelectorAll('img, iframe').length") == 0
    words = page.run("document.getElementById('FALSIFY-WORDS-001').innerText")
    assert "<script>window.hacked = 1</script>" in words
    assert page.troubles == []
    page.close()


def test_the_page_s_policy_stops_code_that_was_put_in(browser, file, tmp_path):
    """The second lock: were something not escaped, it would still not run."""
    path = tmp_path / "broken-in.html"
    text = file.read_text("utf-8")
    path.write_text(
        text.replace("<main>", "<main><script>window.hacked = 1</script><img src=x onerror='hacked = 2'>", 1)
    )
    page = browser.open()
    page.go(path)
    assert page.run("typeof window.hacked") == "undefined"
    assert any("Content Security Policy" in trouble for trouble in page.troubles)
    page.close()


def test_wide_tables_can_be_reached_by_key_and_narrow_ones_are_no_stop(browser, file):
    page = browser.open(390, 844)
    page.go(file, RED)
    page.wait(shown(f"[id='{RED}'] tr.broken"))
    stops = page.run(
        f"[...document.querySelectorAll('[id=\"{RED}\"] .scroll')].filter(e => e.checkVisibility())"
        ".map(e => [e.scrollWidth > e.clientWidth, e.tabIndex >= 0])"
    )
    assert any(wide for wide, _ in stops)
    assert all(wide == stop for wide, stop in stops)
    page.close()
