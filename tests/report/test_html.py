"""The page without a browser: sound, complete, the same twice, and indifferent to what its texts contain."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pv.contract.vocabulary import Status
from pv.evidence.record import MeasurementRecord, OracleRecord, ThresholdRecord
from pv.report import html
from pv.report.story import Story
from tests.report.pages import complaints, outline, packed, read
from tests.report.samples import CUDA, Town, town

HOSTILE = (
    "<script>window.hacked = 1</script></script></style></title><!--"
    '<img src=x onerror="window.hacked=1"> \' " javascript:alert(1) {{ 7 * 7 }} {% raw %} & &lt; ]]> \u202eback\u0000'
)


@pytest.fixture(scope="module")
def page(story) -> str:
    return html.page(story)


@pytest.fixture(scope="module")
def tree(page):
    return read(page)


def claim(tree, name):
    return tree.by_id(f"FALSIFY-{name}")


# --- what every page is ----------------------------------------------------------------------------------------------


def test_the_page_is_sound(tree):
    assert complaints(tree) == []


def test_a_lazy_page_is_sound_and_holds_the_same_details(story, tree):
    lazy = read(html.page(story, lazy=True))
    assert complaints(lazy) == []
    held = packed(lazy)
    for anchor, text in held.items():
        body = next(child for child in tree.by_id(anchor).below if child.attributes.get("class") == "body")
        assert outline(read(text)) == outline(body)
    details = [e for e in lazy.all("div") if "data-from" in e.attributes]
    assert sorted(e.above.attributes["id"] for e in details) == sorted(held)
    assert all(not e.below for e in details)


def test_many_claims_make_a_lazy_page(story, monkeypatch):
    monkeypatch.setattr(html, "LAZY_ABOVE", len(story.claims) - 1)
    assert packed(read(html.page(story)))
    monkeypatch.setattr(html, "LAZY_ABOVE", len(story.claims))
    assert not packed(read(html.page(story)))


def test_the_same_story_gives_the_same_bytes(story, page):
    assert html.page(story) == page
    assert html.page(story, lazy=True) == html.page(story, lazy=True)


def test_the_same_tree_gives_the_same_bytes_in_another_folder(tmp_path):
    town(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "elsewhere" / "another")
    one, other = (Town(tmp_path / name, fresh=False).story for name in ("one", "elsewhere/another"))
    assert html.page(one) == html.page(other)


def test_no_moment_stands_in_it_that_is_not_in_a_record(page, story):
    moments = {event.summary.started_at for one in story.claims for event in one.events}
    assert set(re.findall(r"\d{4}-\d\d-\d\dT[\d:.]+Z", page)) <= moments
    assert "pv 9.9.9" in page


# --- what it says ----------------------------------------------------------------------------------------------------


def test_the_scoreboard_has_tally_scopes_and_denominators(tree):
    words = tree.by_id("p-scoreboard").words
    assert "0+1 0 discharged + 1 functional or partial, of 6 claims in 2 contracts" in words
    assert "20.0 % ship SHIP: 1 of 5 claims functional or better; not there: absent-v1" in words
    assert "✖ FALSIFIED 2 33.3 %" in words
    assert "all 6" in words


def test_a_red_row_leads_to_its_record_with_the_guilty_measurement_first(tree):
    row = next(r for r in tree.by_id("p-attention").all("tr") if "cosine" in r.words)
    assert "stage ffn_up of layer 2" in row.words
    link = next(a for a in row.all("a") if "cosine = 0.41" in a.words)
    cell = tree.by_id(link.attributes["href"][1:])
    assert "open" in cell.attributes
    first = next(r for r in cell.all("tr") if r.above.tag == "tbody")
    assert first.attributes["class"] == "broken"
    assert first.words.startswith("cosine ✖ BROKEN 0.41 >= 0.99")
    assert "-0.58 (-58.6 %)" in first.words


def test_what_stands_apart_is_told_apart(tree):
    titles = [h.words for h in tree.by_id("p-attention").all("h3")]
    apart = ["Known failing 1", "Drifting 1", "Blocked 1", "Without a check 1", "Written otherwise than earned 4"]
    assert titles == ["Broken 2", *apart]


def test_a_claim_shows_cells_controls_history_series_and_reproducer(tree):
    words = claim(tree, "PARITY-002").words
    for expected in (
        "a run is quick",
        "1.9 s",
        "0.1 (5 %)",
        "a planted defect seconds caught FALSIFIED: seconds = NaN (bound <= 2)",
        "pv falsify --id FALSIFY-PARITY-002",
        "drifted 2026-11-20",
        "Status history 6 records",
        "For DISCHARGED it lacks",
    ):
        assert expected in words


@pytest.mark.parametrize(
    ("op", "bound", "margin", "passed", "said"),
    [
        (">=", 0.99, 0.0099, True, "0.0099 (1 %)"),
        ("<=", 0.01, -0.29, False, "-0.29 (-2,900 %)"),
        (">", 0, 0.33, True, "0.33"),  # a share of nothing would be none
        ("==", 4, 0, True, "exact"),
        ("==", 4, -1, False, "-1 (-25 %)"),
        (">=", 0.99, None, False, "none"),
    ],
)
def test_a_margin_is_told_with_its_share_of_the_bound(op, bound, margin, passed, said):
    measured = MeasurementRecord("m", 1.0, "1", 1, ThresholdRecord(op, bound), margin, passed)
    assert html._margin_text(measured) == said


def test_a_history_tells_retractions(tree):
    words = claim(tree, "PARITY-003").words
    assert "retracted the wrong model" in words
    assert re.search(r"retracts [0-9a-f]{12}: the wrong model", words)


def test_notes_with_figures_are_drawn_beside_their_numbers(tree):
    charts = [t for t in claim(tree, "PARITY-001").all("table") if t.attributes.get("class") == "chart"]
    assert len(charts) == 1
    assert "logarithmic scale" in charts[0].words
    assert "ffn_up of layer 2 0.031 0.031" in charts[0].words
    assert len(list(charts[0].all("svg"))) == 2 + 3  # two keys, three rows


def test_two_contracts_of_one_name_have_each_its_own_argument(story):
    first, other = story.contracts
    twin = replace(other, standing=replace(other.standing, contract=replace(other.contract, id=first.contract.id)))
    alone, both = (html.page(replace(story, contracts=those), lazy=False) for those in ((twin,), (first, twin)))

    def arguments(page: str) -> list[str]:
        found = re.findall(r'<ul class="gsn">.*?</ul></div></details>', page, re.DOTALL)
        return [re.sub(r'href="[^"]*"', "", text) for text in found]

    assert len(set(arguments(both))) == 2
    assert arguments(both)[1] == arguments(alone)[0]


def test_the_argument_is_in_the_words_of_gsn(tree):
    argument = next(
        d for d in tree.by_id("contract-parity-v1").all("details") if d.attributes.get("class") == "argument"
    )
    assert [e.words for e in argument.all("span") if e.attributes.get("class", "").startswith("kind")][:3] == [
        "Goal", "Context", "Context"
    ]  # fmt: skip
    for word in ("Strategy", "Solution", "Assumption", "Justification", "undeveloped"):
        assert word in argument.words


def test_the_matrix_links_contracts_to_their_cells(tree):
    rows = {row.below[0].words: row for row in tree.by_id("p-matrix").all("tr")}
    assert "FALSIFIED 2/5 2 never ran" in rows["parity-v1"].words
    assert rows["words-v1"].words.endswith("–")
    link = next(rows["parity-v1"].all("a"))
    assert tree.by_id(link.attributes["href"][1:]).tag == "details"


def test_only_addresses_of_the_web_become_links(tree):
    texts = [a.words for a in tree.by_id("contract-parity-v1").all("a") if not a.attributes["href"].startswith("#")]
    assert texts == ["https://example.org/paper"]


def test_text_between_backticks_is_code_and_a_lone_one_stays():
    assert str(html._prose("run `pv <x>` now")) == "run <code>pv &lt;x&gt;</code> now"
    assert str(html._prose("a lone ` tick")) == "a lone ` tick"


def test_filters_know_status_devices_and_words(tree):
    data = claim(tree, "PARITY-001").attributes
    assert data["data-status"] == "FALSIFIED"
    assert data["data-devices"] == "cpu cuda"
    assert data["data-flags"] == "broken|written otherwise"
    for word in ("falsify-parity-001", "logits agree", "cosine", "po-cosine", "ffn_up of layer 2"):
        assert word in data["data-text"]


def test_stale_evidence_is_told_with_its_reason(made):
    module = made.root / "falsifiers/parity_v1.py"
    module.write_text(module.read_text() + "\nmore = 1\n")
    page = read(html.page(made.story))
    assert "Stale 3" in page.by_id("p-attention").words
    assert "Stale: falsifiers/parity_v1.py changed since" in claim(page, "PARITY-002").words


def test_an_oracle_and_a_blocked_cell_are_told(tmp_path):
    made = Town(tmp_path / "town")
    made.tell("FALSIFY-PARITY-001", {"cosine": 1.0, "max_abs": 0}, oracle=OracleRecord("hf", "4.57", False))
    made.tell("FALSIFY-PARITY-001", cell=CUDA)
    words = claim(read(html.page(made.story)), "PARITY-001").words
    assert "hf 4.57 DISAGREED" in words
    assert "Missing: cuda" in words


def test_unsound_files_and_damaged_records_are_not_passed_over(made):
    made.write("contracts/bad-v1.yaml", "metadata: 3\n")
    next((made.root / "evidence").rglob("*.json")).write_text("{")
    page = read(html.page(made.story))
    assert complaints(page) == []
    words = page.by_id("p-scoreboard").words
    assert "1 file not counted" in words
    assert "bad-v1.yaml" in words
    assert "1 file in the evidence folder" in words


# --- nothing a contract or a record says can become code -------------------------------------------------------------


def hostile_story(tmp_path) -> Story:
    """Every text of the sample that a stranger could write is hostile; the claims' ids too."""
    made = Town(tmp_path / "town")
    text = (made.root / "contracts/words-v1.yaml").read_text()
    quoted = "'" + HOSTILE.replace("'", "''").replace("\x00", "").replace("\u202e", "") + "'"
    for plain in (
        "description: words",
        "rule: words are words",
        "prediction: every word is one",
        "if_fails: it is none",
    ):
        text = text.replace(plain, f"{plain.split(':')[0]}: {quoted}")
    text = text.replace("references: [none]", f"references: [{quoted}, 'javascript:alert(1)']")
    text += f"    known_failing: {{owner: {quoted}, reason: {quoted}, since: {quoted}}}\n    precondition: [{quoted}]\n"
    text += f"    blocked_on: [{quoted}]\n    binds_to: [{quoted}]\n    algorithm_evidence: [{quoted}]\n"
    made.write("contracts/words-v1.yaml", text)
    made.tell(
        "FALSIFY-WORDS-001",
        {"words": 50},
        notes=(HOSTILE, f"{HOSTILE}: a{HOSTILE.replace(',', '')} 1, b 2"),
        reason=HOSTILE,
        command=HOSTILE,
        tool_version=HOSTILE,
        torch=HOSTILE,
        oracle=OracleRecord(HOSTILE, HOSTILE, True),
        missing=(HOSTILE,),
    )
    return replace(made.story, version=HOSTILE)


def test_hostile_texts_are_shown_and_do_nothing(tmp_path):
    story = hostile_story(tmp_path)
    for lazy in (False, True):
        text = html.page(story, lazy=lazy)
        page = read(text)
        assert complaints(page) == []
        assert len([s for s in page.all("script") if s.attributes.get("type") != "text/plain"]) == 1
        bodies = [read(body) for body in packed(page).values()]
        assert not [e for body in bodies for e in body.all("script", "img", "style")]
        everything = text + "".join(packed(page).values())
        assert "<script>window" not in everything
        assert "49" not in claim(page, "WORDS-001").words  # no template was run
        assert "\u202e" not in everything
        assert "\\u202eback" in everything


def test_a_huge_text_is_cut(made):
    path = made.root / "contracts/words-v1.yaml"
    path.write_text(path.read_text().replace("description: words", f"description: {'x' * 3_000_000}"))
    page = html.page(made.story)
    assert len(page) < 1_000_000
    assert "… (2980000 more characters)" in page


@pytest.mark.parametrize(
    "name", ["FALSIFY-A/../<b>", "p-search", "contract-words-v1", "X.rec-000000000000", "ü ö", "-"]
)
def test_any_id_gets_an_anchor_of_its_own(made, name):
    path = made.root / "contracts/words-v1.yaml"
    path.write_text(path.read_text().replace("id: FALSIFY-WORDS-001", f"id: '{name}'"))
    assert complaints(read(html.page(made.story))) == []


def test_an_id_of_two_contracts_has_two_anchors(made):
    made.write("contracts/more-v1.yaml", (made.root / "contracts/words-v1.yaml").read_text())
    page = read(html.page(made.story))
    assert complaints(page) == []
    assert claim(page, "WORDS-001").attributes["data-text"] == claim(page, "WORDS-001-2").attributes["data-text"]


def test_data_that_refers_to_itself_many_times_is_cut():
    laughs = "ha"
    for _ in range(40):
        laughs = [laughs, laughs]
    assert 0 < len(html._flat(laughs)) <= html.MOST_PARTS
    empty: object = []
    for _ in range(40):
        empty = [empty, empty]
    assert html._flat(empty) == []


def with_texts(story: Story, text: str) -> Story:
    """The story with one claim's texts replaced."""
    contract = story.contracts[0]
    one = contract.claims[1]
    claim = replace(one.claim, rule=text, prediction=text, if_fails=text)
    cell = replace(one.cells[0], record=replace(one.cells[0].record, notes=(text,), command=text, reason=text))
    changed = replace(one, standing=replace(one.standing, claim=claim), cells=(cell,))
    claims = (contract.claims[0], changed, *contract.claims[2:])
    return replace(story, contracts=(replace(contract, claims=claims), *story.contracts[1:]))


# Backticks make code elements, on purpose; a note of figures makes a table.
@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(exclude_characters="`:"), min_size=1).filter(str.strip))
def test_the_elements_of_a_page_do_not_depend_on_its_texts(story, text):
    assert outline(read(html.page(with_texts(story, text)))) == outline(read(html.page(with_texts(story, "plain"))))


# --- the style -------------------------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


PAIRS = [(name, ground) for name in ("fg", "muted", "link", "good", "bad", "warn") for ground in ("bg", "card")] + [
    ("bad", "bad-bg"), ("warn", "warn-bg"), ("fg", "bad-bg"), ("fg", "warn-bg"), ("muted", "bad-bg"),
    *((SHORT, f"{SHORT}-bg") for SHORT in ("discharged", "functional", "partial", "blocked", "unbound", "falsified")),
]  # fmt: skip


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_words_can_be_read_on_their_ground(theme):
    style = (html.TEMPLATES / "report.css").read_text()
    colours = {
        name: pair[theme]
        for name, *pair in re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)", style)
    }
    poor = {
        f"{word} on {ground}": round(contrast(colours[word], colours[ground]), 2)
        for word, ground in PAIRS
        if contrast(colours[word], colours[ground]) < 4.5
    }
    assert not poor


def test_every_status_has_a_shape_and_a_colour_of_its_own():
    style = (html.TEMPLATES / "report.css").read_text()
    assert set(html.SYMBOLS) == set(Status)
    assert len(set(html.SYMBOLS.values())) == len(Status)
    for chip in html.CHIPS.values():
        assert f".{re.search(r's-[a-z]+', chip)[0]} " in style
