"""What spares work must not spare a finding: each short cut against the long way, on real, broken and random data."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pv.contract.claims import written_status
from pv.contract.load import discover, load_bytes, of_document
from pv.contract.near import nearest
from pv.contract.project import Profile, Project
from pv.diagnostics.model import Diagnostic
from pv.document import plain_style
from pv.document.reader import parse
from pv.rules import across, table, validation
from pv.rules.finding import Scope
from pv.rules.outline import _status, outline_of
from pv.rules.view import _PV_KEYS, View
from tests.contract.samples import KERNEL, SOUND
from tests.rules.test_table import EXAMPLES, varied

KINDS = ["kernel", "schema", "kaizen", "beat-benchmark", "competitive-parity", "registry", "pattern"]
FIELDS = sorted(
    {field for rule in table.RULES for field in rule.fields} | {"id", "prediction", "test", "type", "formal"}
)
SECTIONS = sorted(({key for rule in table.RULES for key in rule.sections} | {"gates", "stories"}) - {"metadata"})


def rules_that_found_though_not_asked(view: View, profile: Profile) -> set[str]:
    """Codes of the rules that `_applicable` leaves out and that would have something to say."""
    asked = {
        rule.code
        for rule, _ in table._applicable(profile, Scope.FILE, (), view.kind, frozenset(view.data), view.fields)
    }
    rules = table._active(profile, Scope.FILE, ())
    return {rule.code for rule, check in rules if rule.code not in asked and list(check(view))}


def mutations(text: str, dice: random.Random, count: int) -> list[str]:
    """Copies of a file with a line lost, doubled, indented, or with a field that it did not have."""
    made = []
    for _ in range(count):
        lines = text.split("\n")
        at = dice.randrange(len(lines))
        indent = " " * (len(lines[at]) - len(lines[at].lstrip(" -")))
        field = (
            f"{indent}{dice.choice(FIELDS + SECTIONS)}: {dice.choice(['x', '3', '[a/b.py::c]', '{a: 1}', 'yes', ''])}"
        )
        lines[at : at + 1] = dice.choice(
            [[], [lines[at]] * 2, [" " + lines[at]], [field, lines[at]], [lines[at], field]]
        )
        made.append("\n".join(lines))
    return made


@pytest.fixture(scope="module")
def files(corpus: Path) -> list[str]:
    """Real contracts, our samples, and broken copies of both."""
    dice = random.Random(3)
    sound = [SOUND, KERNEL, *(path.read_text("utf-8") for path in sorted(corpus.rglob("*.yaml")))]
    small = [text for text in sound if len(text) < 8000]
    return sound + [copy for _ in range(150) for copy in mutations(dice.choice(small), dice, 1)]


@pytest.mark.parametrize("profile", list(Profile))
def test_a_rule_that_is_not_asked_would_have_found_nothing(files, profile, project):
    missed = set()
    for text in files:
        loaded = load_bytes(text.encode(), project.root / "x-v1.yaml", project)
        if loaded.document is not None and loaded.artifact == "contract" and loaded.data:
            missed |= rules_that_found_though_not_asked(View(loaded, loaded.document, project), profile)
    assert missed == set()


@pytest.mark.parametrize("profile", list(Profile))
def test_nor_in_the_examples_of_all_rules_with_a_section_or_a_field_taken_out(profile, project):
    """The example of a rule breaks it: where its own section is gone as well as where another one is."""
    missed = set()
    for text in {varied(example) for example in EXAMPLES}:
        loaded = load_bytes(text.encode(), project.root / "x-v1.yaml", project)
        whole = loaded.data
        for gone in ("", *whole):
            if loaded.document is None or gone == "metadata":
                continue
            less = replace(loaded, data={key: value for key, value in whole.items() if key != gone})
            missed |= rules_that_found_though_not_asked(View(less, loaded.document, project), profile)
    assert missed == set()


scalars = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "x", "a/b.py::c", "DISCHARGED", *KINDS])
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=3),
    max_leaves=6,
)
entries = st.lists(st.dictionaries(st.sampled_from(FIELDS), values, max_size=5) | scalars, max_size=3)
heads = st.fixed_dictionaries(
    {}, optional={"kind": st.sampled_from(KINDS), "registry": st.booleans(), "formerly": values}
)
contents = st.fixed_dictionaries(
    {"metadata": heads},
    optional=dict.fromkeys([*SECTIONS, "falsification_tests", "kani_harnesses", "proof_obligations"], entries | values),
)


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture], max_examples=200)
@given(contents, st.sampled_from(list(Profile)))
def test_nor_on_data_of_any_shape(project, data, profile):
    document = parse(b"metadata: {}\n", "x-v1.yaml")
    document.data = data
    loaded = of_document(document, project.root / "x-v1.yaml", "x-v1.yaml", profile)
    view = View(loaded, document, project)
    assert rules_that_found_though_not_asked(view, profile) == set()
    assert view.own == [placed for placed in view.claims if not _PV_KEYS.isdisjoint(placed[1])]
    for claim in outline_of(loaded).claims:
        entry = data[claim.section][claim.position]
        assert claim.status == _status(entry) == (written_status(entry, ())[0] or "")


def findings(text: str, project: Project) -> list[Diagnostic]:
    return table.check(load_bytes(text.encode(), project.root / "x-v1.yaml", project, display="x-v1.yaml"), project)


@pytest.mark.parametrize("profile", list(Profile))
def test_findings_do_not_depend_on_who_read_the_file(files, profile, tmp_path, monkeypatch):
    """Line by line or by events: the same codes, words, places and fixes, in the same order."""
    project = Project(root=tmp_path, profile=profile)
    quickly = [findings(text, project) for text in files]
    monkeypatch.setattr(plain_style, "build", lambda text, limits: None)
    assert quickly == [findings(text, project) for text in files]


@pytest.mark.parametrize(
    "entry",
    [
        {"status": "FUNCTIONAL"},
        {"algorithm_evidence": {"status": "FUNCTIONAL"}},
        {"algorithm_evidence": {"notes": "n"}},
        {"algorithm_evidence": ["a.py"], "status": None},
        {"status": 3},
        {},
    ],
)
def test_the_status_of_an_outline_is_the_one_that_is_written(entry):
    assert _status(entry) == (written_status(entry, ())[0] or "")


def test_a_file_is_not_read_twice_for_the_place_of_an_id_that_another_has(project, monkeypatch):
    for stem in ("a-v1", "b-v1"):
        (project.root / f"{stem}.yaml").write_text(SOUND, "utf-8")
    monkeypatch.setattr(validation, "load", None)  # it would be called to read one again
    found = validation.validate(discover([project.root], project), project).diagnostics
    shared = [each for each in found if each.code == "PV701"]
    assert [(each.path[-9:], each.span.line) for each in shared] == [
        ("b-v1.yaml", SOUND[: SOUND.index(name)].count("\n") + 1) for name in ("FALSIFY-SOUND-001", "KH-SOUND-001")
    ]


def test_of_many_names_that_begin_alike_only_the_first_are_compared():
    known = [f"same-{number:02}" for number in range(40)]
    assert across.Stems(known).alike("same-x") == known[: across._ENOUGH]


@given(st.lists(st.text("abc-", min_size=1, max_size=7), max_size=60), st.text("abc-", min_size=1, max_size=7))
def test_names_that_begin_alike_are_those_that_a_look_at_all_would_find(known, stem):
    alike = across.Stems(known).alike(stem)
    everything = sorted(name for name in set(known) if name[: across._HEAD] == stem[: across._HEAD])
    assert alike == everything[: across._ENOUGH]
    assert nearest(stem, alike) == nearest(stem, everything[: across._ENOUGH])
