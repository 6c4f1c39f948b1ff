"""An error of shape has a place, a sentence, and one diagnostic for one slip."""

from __future__ import annotations

from textwrap import dedent

from hypothesis import given
from hypothesis import strategies as st

from pv.contract import shape
from pv.contract.project import Profile
from pv.document.edits import apply
from pv.document.reader import parse


def at(text: str, needle: str, nth: int = 0) -> tuple[int, int]:
    """Line and column of the nth `needle`."""
    start = -1
    for _ in range(nth + 1):
        start = text.index(needle, start + 1)
    return text.count("\n", 0, start) + 1, start - text.rfind("\n", 0, start)


def only(loaded):
    (diagnostic,) = loaded.diagnostics
    return diagnostic


def place(diagnostic):
    return diagnostic.span.line, diagnostic.span.column


def test_a_slip_and_the_missing_field_it_causes_are_one_finding(read, sound):
    text = sound.replace("description: a sound", "descripton: a sound")
    found = only(read(text))
    assert found.code == "PV203"
    assert found.message == "unknown key `descripton`, did you mean `description`?"
    assert place(found) == at(text, "descripton")
    assert found.where == "metadata"
    assert apply(text, found.edits) == sound


def test_a_required_field_under_a_merely_similar_key_is_one_finding(read, sound):
    text = sound.replace("version:", "the_version:")
    found = only(read(text))
    assert found.message == "unknown key `the_version`, did you mean `version`?"
    assert apply(text, found.edits) == sound


def test_near_misses_are_found_at_every_level(read, sound):
    changes = {
        "equations:": "Equations:",
        "status: ACTIVE": "statuss: ACTIVE",
        "formula:": "formulas:",
        "property: a is b\n    formal": "propertys: a is b\n    formal",
        "prediction:": "predicton:",
        "source:": "sources:",
        "bound:": "bouns:",
        "kani_harnesses:": "kani_harness:",
    }
    text = sound
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new, 1)
    found = read(text).diagnostics
    wanted = {
        "Equations", "statuss", "propertys", "predicton", "sources", "kani_harness",
    }  # below a key that is itself misspelt nothing is looked at  # fmt: skip
    assert {each.found.strip("`") for each in found} == wanted
    assert {each.code for each in found} == {"PV203"}


def test_a_quoted_key_keeps_its_quotes(read, sound):
    text = sound.replace("prediction:", '"predicton":')
    assert apply(text, only(read(text)).edits) == sound.replace("prediction:", '"prediction":')


def test_a_near_miss_beside_the_field_itself_is_let_be_below_the_top(read, sound):
    assert read(sound.replace("    rule: a is b", "    rule: a is b\n    rules: more")).diagnostics == ()
    top = only(read(sound + "Metadata: {}\n"))
    assert top.code == "PV203"
    assert top.edits == ()
    assert "Everything under `Metadata:` is invisible" in top.message


def test_a_type_error_points_at_the_value(read, sound):
    text = sound.replace("references: [", "references: {a: [").replace('paper"]', 'paper"]}')
    found = only(read(text))
    assert found.message == "`metadata.references`: expected a list, found a mapping"
    assert place(found) == at(text, "{a: [")


def test_the_segments_that_pydantic_adds_are_no_places(read, sound):
    text = sound.replace("formula: a = b", "formula: [a]").replace(
        "binds_to: [parity, PO-1]", "binds_to: [parity, {x: y}]"
    )
    wrong = {each.message: place(each) for each in read(text).diagnostics}
    assert wrong == {
        "`equations.parity.formula`: expected text, found a list": at(text, "[a]"),
        "`falsification_tests[0].binds_to[1]`: expected text, found a mapping": at(text, "{x: y}"),
    }


def test_equations_as_a_list_have_places_too(read, sound):
    text = sound.replace("  parity:\n    formula: a = b\n    domain: numbers", "  - id: parity\n    formula: {a: b}")
    found = only(read(text))
    assert found.message.startswith("`equations[0].formula`")
    assert place(found) == at(text, "{a: b}")


def test_a_missing_field_points_at_what_lacks_it(read, sound):
    text = sound.replace("    obligation: PO-1\n", "")
    found = only(read(text))
    assert found.message == "missing field `obligation`"
    assert found.where == "kani_harnesses[0] (KH-SOUND-001)"
    assert found.span.line == at(text, "id: KH-SOUND-001")[0]


def test_a_boolean_for_text_is_quoted_and_a_quoted_number_unquoted(read, sound):
    text = sound.replace("rule: a is b", "rule: true").replace("tolerance: 1.0e-6", "tolerance: '1.0e-6'")
    found = read(text).diagnostics
    assert [each.help for each in found] == ["take off the quotes", "quote it"]
    fixed = apply(text, [edit for each in found for edit in each.edits])
    assert fixed == sound.replace("rule: a is b", 'rule: "true"')


def test_a_word_that_misses_by_a_slip_is_corrected_and_another_is_only_listed(read, sound):
    text = sound.replace("type: invariant", "type: invarient")
    found = only(read(text))
    assert found.help == "did you mean `invariant`?"
    assert apply(text, found.edits) == sound
    other = only(read(sound.replace("type: invariant", "type: promise")))
    assert (other.code, other.help, other.edits) == ("PV204", "", ())


def test_ranges_are_said_in_words(read, sound):
    found = only(read(sound.replace("bound: 8", "bound: -1")))
    assert (found.code, found.expected, found.found) == ("PV205", "a number of at least 0", "-1")
    manifest = "model_id: m\nprovenance: {}\nsha256: ABC\nsize_bytes: 0\nartifact_url: http://x\n"
    assert [each.expected for each in read(manifest).diagnostics] == [
        "text that matches ^[0-9a-f]{64}$",
        "a number of more than 0",
        "text that matches ^https://",
    ]


def test_what_is_no_mapping_is_no_contract(read):
    for text, what in (("[1, 2]", "a list"), ("just words", "`just words`"), ("null", "nothing")):
        found = only(read(text))
        assert (found.code, found.found) == ("PV207", what)


def test_all_errors_are_told_at_once(read):
    text = dedent("""\
        metadata: {kind: kernels, registry: perhaps}
        falsification_tests:
          - {rule: r}
          - {id: [x]}
        kani_harnesses: {}
        """)
    assert [each.code for each in read(text).diagnostics] == [
        "PV201", "PV201", "PV202", "PV204", "PV201", "PV202", "PV202",
    ]  # fmt: skip


def test_an_alias_is_not_edited_through(read, sound):
    text = sound.replace("type: invariant", "type: &t invarient")
    assert only(read(text)).edits == ()


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["metadata", "id", "version", "thresholds", "op", "zz"]), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@given(
    st.dictionaries(
        st.sampled_from([*shape.models.ContractFile.model_fields, "predicton", "bindings", "model_id"]),
        values,
        max_size=5,
    )
)
def test_no_data_makes_it_fail(data):
    document = parse(b"a: b", "x.yaml")
    document.data = data
    checked = shape.check(document, Profile.COMPAT)
    assert checked.sound == (not [d for d in checked.diagnostics if d.code != "PV203"])
    assert all(each.message and each.code.startswith("PV2") for each in checked.diagnostics)
