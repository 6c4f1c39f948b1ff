"""Only the intended lines change, all else keeps its bytes, and what is unsafe is refused with the lines to write."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest

from pv.contract.vocabulary import Status
from pv.document.files import Changed, NotWritten
from pv.document.prove import NotProven
from pv.ladder import writeback
from pv.ladder.writeback import AlgorithmEvidence, Flip, is_written, plan, write

HEAD = """\
metadata:
  version: "1.0.0"
  description: a toy
  status: ACTIVE
  kind: registry
  references: [none]
falsification_tests:
"""
D1, D2, D3 = (f"sha256:{letter * 64}" for letter in "abc")
ALGORITHM = AlgorithmEvidence((("src/ops.py", "cosine"), ("falsifiers/toy.py", "agrees")), ("cosine >= 0.99",))
LINE = "cpu · code · 2026-11-20 · cosine 1 · pv falsify --id F-1"
FLIP = Flip(
    "F-1",
    Status.FUNCTIONAL,
    (D1,),
    "2026-11-20",
    ALGORITHM,
    (LINE,),
    ("cpu · code · 2026-11-20 · oracle hf agreed · pv falsify --id F-1",),
)
ENTRY = """\
  - id: F-1
    rule: a rule
    prediction: it holds
    if_fails: it does not
"""
WRITTEN = f"""\
    last_verified: "2026-11-20"
    evidence: ["{D1}"]
    algorithm_evidence:
      file_paths: ["src/ops.py", "falsifiers/toy.py"]
      function_names: ["cosine", "agrees"]
      invariants_enforced: ["cosine >= 0.99"]
    functional_evidence: ["{LINE}"]
"""


@pytest.fixture
def flip(load_text):
    """The text after a flip, with the version set back so that only the entry is compared."""

    def flipped(text: str | bytes, change: Flip = FLIP, **options):
        made = plan(load_text(text), [change], "2026-11-20", **options)
        assert made.refused == (), made.refused
        return made.after.decode()

    return flipped


@pytest.fixture
def refuse(load_text):
    """The one refusal of a flip; nothing may change."""

    def refused(text: str | bytes, change: Flip = FLIP, **options):
        made = plan(load_text(text), [change], "2026-11-20", **options)
        assert made.after == made.before
        assert not made.changes
        (refusal,) = made.refused
        return refusal

    return refused


def bumped(text: str) -> str:
    return text.replace('version: "1.0.0"', 'version: "1.1.0"')


# --- where things go -------------------------------------------------------------------------------------------------


def test_a_status_is_replaced_and_the_rest_goes_directly_after_it(flip):
    text = HEAD + ENTRY + "    status: UNBOUND   # waiting\n    # about the next\n  - id: F-2\n    prediction: y\n"
    assert flip(text) == bumped(
        HEAD + ENTRY + "    status: FUNCTIONAL   # waiting\n" + WRITTEN
        + "    # about the next\n  - id: F-2\n    prediction: y\n"
    )  # fmt: skip


def test_an_absent_status_is_inserted_after_the_id(flip):
    text = HEAD + "  - id: F-1  # first\n    # about the rule\n    rule: a rule\n    prediction: y\n# the end\n"
    assert flip(text) == bumped(
        HEAD + "  - id: F-1  # first\n    status: FUNCTIONAL\n" + WRITTEN
        + "    # about the rule\n    rule: a rule\n    prediction: y\n# the end\n"
    )  # fmt: skip


def test_a_status_inside_the_evidence_is_written_where_it_stands(flip):
    text = HEAD + ENTRY + (
        "    algorithm_evidence:\n      status: PARTIAL_ALGORITHM_LEVEL\n      last_verified: '2026-01-01'\n"
        "      test_locations:\n      - 'a.py::test — passes'\n      notes: |\n        foreign\n        text\n"
    )  # fmt: skip
    assert flip(text) == bumped(
        HEAD + "  - id: F-1\n" + f'    evidence: ["{D1}"]\n    functional_evidence: ["{LINE}"]\n'
        + ENTRY.split("\n", 1)[1]
        + "    algorithm_evidence:\n      status: FUNCTIONAL\n"
        '      file_paths: ["src/ops.py", "falsifiers/toy.py"]\n      function_names: ["cosine", "agrees"]\n'
        '      invariants_enforced: ["cosine >= 0.99"]\n'
        "      last_verified: '2026-11-20'\n"
        "      test_locations:\n      - 'a.py::test — passes'\n      notes: |\n        foreign\n        text\n"
    )  # fmt: skip


def test_a_status_that_stands_in_both_places_is_written_in_both(flip):
    text = HEAD + ENTRY + "    status: UNBOUND\n    algorithm_evidence:\n      status: UNBOUND\n      notes: foreign\n"
    after = flip(text)
    assert after.count("status: FUNCTIONAL") == 2
    assert "      notes: foreign\n" in after


def test_the_quotes_of_the_file_are_kept(flip):
    text = HEAD.replace('"1.0.0"', "'1.0.0'") + ENTRY + "    status: 'UNBOUND'\n    last_verified: 2025-01-01\n"
    after = flip(text)
    assert "    status: 'FUNCTIONAL'\n" in after
    assert "    last_verified: 2026-11-20\n" in after
    assert "  version: '1.1.0'\n" in after


def test_a_plain_version_that_is_a_number_gets_quotes(flip):
    after = flip(HEAD.replace('"1.0.0"', "1.10") + ENTRY)
    assert '  version: "1.11"\n' in after


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("final", [True, False])
def test_line_ends_the_mark_and_a_missing_final_newline_are_kept(load_text, newline, bom, final):
    text = HEAD + ENTRY + "    status: UNBOUND"
    expected = bumped(HEAD + ENTRY + "    status: FUNCTIONAL\n" + WRITTEN)
    content = bom + (text + ("\n" if final else "")).replace("\n", newline).encode()
    made = plan(load_text(content), [FLIP], "2026-11-20")
    wanted = expected if final else expected.removesuffix("\n")
    assert made.after == bom + wanted.replace("\n", newline).encode()


def test_an_indentless_list_and_wide_indentation_are_followed(flip):
    text = HEAD + "-     id: F-1\n      status: UNBOUND\n      prediction: y\n"
    assert '      status: FUNCTIONAL\n      last_verified: "2026-11-20"\n' in flip(text)


def test_a_long_list_gets_a_line_for_each_item(flip):
    heads = (D1, D2, D3)
    after = flip(HEAD + ENTRY, replace(FLIP, evidence=heads))
    assert f'    evidence:\n      - "{D1}"\n      - "{D2}"\n      - "{D3}"\n' in after


def test_only_a_blocker_with_nothing_run_needs_notes_alone(flip):
    blocker = Flip("F-1", Status.BLOCKER_FIXTURE_ABSENT, algorithm=AlgorithmEvidence(notes="blocked on model-1"))
    assert flip(HEAD + ENTRY, blocker) == bumped(
        HEAD + "  - id: F-1\n    status: BLOCKER_FIXTURE_ABSENT\n    algorithm_evidence:\n"
        '      notes: "blocked on model-1"\n' + ENTRY.split("\n", 1)[1]
    )  # fmt: skip


# --- evidence that is there ------------------------------------------------------------------------------------------


def test_heads_are_replaced_and_foreign_evidence_stays(flip):
    text = HEAD + ENTRY + f'    status: UNBOUND\n    evidence: [PR 12, "{D2}"]  # both\n'
    assert f'    evidence: [PR 12, "{D1}"]  # both\n' in flip(text)
    text = HEAD + ENTRY + f"    status: UNBOUND\n    evidence:\n    - PR 12  # whose\n    - {D2}\n    prediction2: y\n"
    assert f"    evidence:\n    - PR 12  # whose\n    - {D1}\n    prediction2: y\n" in flip(text)


def test_a_single_head_stays_a_single_value_and_becomes_a_list_for_two(flip):
    text = HEAD + ENTRY + f"    status: UNBOUND\n    evidence: {D2}\n"
    assert f"    evidence: {D1}\n" in flip(text)
    assert f'    evidence: ["{D1}", "{D3}"]\n' in flip(text, replace(FLIP, evidence=(D1, D3)))


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_a_block_list_of_heads_grows_and_shrinks(flip, count):
    heads = tuple(f"sha256:{i:064x}" for i in range(count))
    text = HEAD + ENTRY + f"    status: UNBOUND\n    evidence:\n      - {D2}\n      - {D3}\n    other: y\n"
    after = flip(text, replace(FLIP, evidence=heads))
    if count:
        assert [line for line in after.split("\n") if "- sha256" in line or '- "sha256' in line] == [
            f"      - {head}" if i < 2 else f'      - "{head}"' for i, head in enumerate(heads)
        ]
    else:
        assert "    evidence: []\n" in after
    assert "    other: y\n" in after


def test_a_comment_on_a_line_that_would_go_is_a_refusal(refuse):
    text = HEAD + ENTRY + f"    status: UNBOUND\n    evidence:\n      - {D2}\n      - {D3}  # because\n"
    assert "a comment stands on a line that would have to go" in refuse(text).reason


def test_foreign_algorithm_evidence_is_kept_and_ours_added_beside(flip):
    text = HEAD + ENTRY + (
        "    status: UNBOUND\n    algorithm_evidence:\n      # about it\n      file_paths:\n"
        "        - old.rs  # theirs\n      notes: theirs\n    other: y\n"
    )  # fmt: skip
    after = flip(text)
    assert (
        "    algorithm_evidence:\n"
        '      function_names: ["cosine", "agrees"]\n      invariants_enforced: ["cosine >= 0.99"]\n'
        "      # about it\n      file_paths:\n        - old.rs  # theirs\n"
        '        - "src/ops.py"\n        - "falsifiers/toy.py"\n      notes: theirs\n    other: y\n'
    ) in after


def test_ours_of_an_earlier_run_are_replaced_and_theirs_are_not(flip):
    before = AlgorithmEvidence((("src/ops.py", "old_name"),), ("cosine >= 0.9",))
    text = HEAD + ENTRY + (
        "    status: UNBOUND\n    algorithm_evidence:\n      file_paths: [src/ops.py]\n"
        '      function_names: [old_name, theirs]\n      invariants_enforced: ["cosine >= 0.9", mine]\n'
    )  # fmt: skip
    after = flip(text, replace(FLIP, before=before))
    assert '      function_names: [theirs, "cosine", "agrees"]\n' in after
    assert '      invariants_enforced: [mine, "cosine >= 0.99"]\n' in after
    assert '      file_paths: [src/ops.py, "falsifiers/toy.py"]\n' in after


def test_algorithm_evidence_that_is_a_list_gets_citations(flip):
    text = HEAD + ENTRY + "    status: UNBOUND\n    algorithm_evidence:\n    - their text\n"
    assert (
        '    - their text\n    - "src/ops.py::cosine"\n    - "falsifiers/toy.py::agrees"\n    - "cosine >= 0.99"\n'
    ) in flip(text)


def test_functional_lines_of_ours_are_renewed_and_theirs_stay(flip):
    old = LINE.replace("2026-11-20", "2025-01-01")
    text = HEAD + ENTRY + f'    status: UNBOUND\n    functional_evidence:\n      - seen by hand\n      - "{old}"\n'
    assert f'    functional_evidence:\n      - seen by hand\n      - "{LINE}"\n' in flip(text)


def test_functional_evidence_that_is_a_mapping_gets_a_list_of_runs(flip):
    text = HEAD + ENTRY + "    status: UNBOUND\n    functional_evidence:\n      host: theirs\n"
    after = flip(text)
    assert f'    functional_evidence:\n      runs: ["{LINE}"]\n      host: theirs\n' in after
    again = flip(after, replace(FLIP, functional=(LINE.replace("2026-11-20", "2026-12-01"),), evidence=(D2,)))
    assert "2026-12-01" in again
    assert again.count("runs:") == 1


@pytest.mark.parametrize(
    "block",
    [
        "algorithm_evidence: one text of theirs",
        "algorithm_evidence: {notes: theirs}",
        "functional_evidence: |\n      theirs",
    ],
)
def test_a_block_that_cannot_be_added_to_is_left_with_a_note(load_text, block):
    made = plan(load_text(HEAD + ENTRY + f"    status: UNBOUND\n    {block}\n"), [FLIP], "2026-11-20")
    assert made.refused == ()
    assert block in made.after.decode()
    assert "was left as it is" in made.notes[0]


def test_discharge_evidence_comes_with_discharged_only(flip):
    assert "discharge_evidence" not in flip(HEAD + ENTRY)
    assert "    discharge_evidence: [" in flip(HEAD + ENTRY, replace(FLIP, status=Status.DISCHARGED))


def test_a_demotion_keeps_the_blocks_as_history(flip):
    up = flip(HEAD + ENTRY + "    status: UNBOUND\n")
    down = flip(up, Flip("F-1", Status.FALSIFIED, (D2,), "2026-11-21"))
    assert "status: FALSIFIED" in down
    assert f'evidence: ["{D2}"]' in down
    assert LINE in down


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ("  - {id: F-1, prediction: y, status: UNBOUND}\n", "written in braces"),
        ("  - {id: F-1, prediction: y}\n", "written in braces"),
        ("  - id: F-1\n    prediction: y\n    status: &s UNBOUND\n", "has the anchor"),
        ("  - id: F-1\n    prediction: y\n    status: !!str UNBOUND\n", "has the tag"),
        ("  - id: F-1\n    prediction: &p UNBOUND\n    status: *p\n", "the alias or merge"),
        ("  - id: F-1\n    prediction: y\n    status: |\n      UNBOUND\n", "no word of the ladder|block scalar"),
        ("  - id: F-1\n    prediction: y\n    status: >-\n      UNBOUND\n", "block scalar"),
        ("  - id: F-1\n    prediction: y\n    status:\n", "status is empty"),
        ("  - id: F-1\n    prediction: y\n    status:\n      UNBOUND\n", "stand on different lines"),
        ("  - id: >-\n      F-1\n    prediction: y\n", "no single-line value"),
        ("  - &e\n    id: F-1\n    prediction: y\n  - <<: *e\n    id: F-2\n", r"used again elsewhere, as \*e"),
        ("  - &e\n    id: F-1\n    prediction: y\nother: *e\n", r"used again elsewhere, as \*e"),
        ("  - ? id\n    : F-1\n    prediction: y\n", "beginning of its line|different lines"),
        ("  - id: F-1\n    prediction: y\n    evidence: {mine: 1}\n", "`evidence` is a mapping"),
        ("  - id: F-1\n    prediction: y\n    evidence: [1, 2]\n", "something else than texts"),
    ],
)
def test_an_unsafe_place_is_refused_with_the_lines_to_write(refuse, entries, reason):
    refusal = refuse(HEAD + entries)
    assert re.search(reason, refusal.reason), refusal.reason
    assert "+    status: FUNCTIONAL" in refusal.patch
    assert f'+    evidence: ["{D1}"]' in refusal.patch


def test_an_anchor_that_is_set_twice_is_nothing_to_warn_of(flip):
    assert "status: FUNCTIONAL" in flip("a: &x 1\nb: &x 2\n" + HEAD + ENTRY)


def test_an_entry_that_is_an_alias_is_refused(refuse):
    text = "kept: &e\n  id: F-1\n  prediction: y\n" + HEAD + "  - *e\n"
    assert "the alias or merge" in refuse(text).reason


def test_an_anchored_version_refuses_the_whole_file(refuse):
    text = HEAD.replace('version: "1.0.0"', 'version: &v "1.0.0"') + ENTRY
    assert "anchor" in refuse(text).reason


def test_a_foreign_status_is_never_overwritten_without_adopt(refuse, flip):
    text = HEAD + ENTRY + '    status: "VERIFIED — 129 TFLOP/s"\n'
    refusal = refuse(text)
    assert refusal.foreign_status
    assert "--adopt" in refusal.reason
    assert '    status: "FUNCTIONAL"\n' in flip(text, adopt=True)


def test_one_unsafe_entry_does_not_stop_the_others(load_text):
    text = HEAD + ENTRY + "  - {id: F-2, prediction: y}\n" + ENTRY.replace("F-1", "F-3")
    flips = [replace(FLIP, claim_id=f"F-{i}") for i in (1, 2, 3)]
    made = plan(load_text(text), flips, "2026-11-20")
    assert [flip.claim_id for flip in made.written] == ["F-1", "F-3"]
    assert [refusal.claim_id for refusal in made.refused] == ["F-2"]


def test_one_unprovable_entry_does_not_stop_the_others(load_text, monkeypatch):
    """The judge refuses an edit of F-2 for a reason that no plan foresees; F-1 is written all the same."""
    real = writeback.prove.proves

    def judge(before, after, intended, lines):
        if intended["falsification_tests"][1].get("status"):
            raise NotProven("two readers disagree")
        real(before, after, intended, lines)

    monkeypatch.setattr(writeback.prove, "proves", judge)
    text = HEAD + ENTRY + ENTRY.replace("F-1", "F-2")
    flips = [replace(FLIP, claim_id=f"F-{i}") for i in (2, 1)]
    made = plan(load_text(text), flips, "2026-11-20")
    assert [flip.claim_id for flip in made.written] == ["F-1"]
    assert [(refusal.claim_id, refusal.reason) for refusal in made.refused] == [("F-2", "two readers disagree")]
    assert made.version_after == "1.1.0"


def test_a_claim_that_went_is_refused(refuse):
    assert "no such claim" in refuse(HEAD + ENTRY, replace(FLIP, claim_id="F-9")).reason


def test_an_unsound_contract_is_no_place_to_write(load_text):
    with pytest.raises(ValueError, match="shape is sound"):
        plan(load_text("metadata: 3\n"), [FLIP], "2026-11-20")


# --- version and changelog -------------------------------------------------------------------------------------------


def test_several_flips_make_one_bump(load_text):
    text = HEAD + ENTRY + ENTRY.replace("F-1", "F-2")
    made = plan(load_text(text), [FLIP, replace(FLIP, claim_id="F-2")], "2026-11-20")
    assert (made.version_before, made.version_after) == ("1.0.0", "1.1.0")
    assert made.moves == (("F-1", "", "FUNCTIONAL"), ("F-2", "", "FUNCTIONAL"))


def test_runs_before_a_commit_make_one_bump_against_it(load_text):
    committed = load_text(HEAD + ENTRY + ENTRY.replace("F-1", "F-2"))
    first = plan(committed, [FLIP], "2026-11-20", committed.contract)
    second = plan(load_text(first.after), [replace(FLIP, claim_id="F-2")], "2026-11-20", committed.contract)
    assert (first.version_after, second.version_before, second.version_after) == ("1.1.0", "1.1.0", "1.1.0")


def test_the_changelog_says_what_moved_since_the_base(load_text):
    head = HEAD.replace("  kind:", '  changelog:\n    - "1.0.0: begun"\n  kind:')
    base = load_text(head + ENTRY + "    status: UNBOUND\n" + ENTRY.replace("F-1", "F-2"))
    first = plan(base, [FLIP], "2026-11-20", base.contract)
    assert '    - "1.1.0: pv: UNBOUND -> FUNCTIONAL: F-1"\n    - "1.0.0: begun"\n' in first.after.decode()
    second = plan(load_text(first.after), [replace(FLIP, claim_id="F-2")], "2026-11-20", base.contract)
    assert (
        '    - "1.1.0: pv: UNBOUND -> FUNCTIONAL: F-1; no status -> FUNCTIONAL: F-2"\n    - "1.0.0: begun"\n'
    ) in second.after.decode()


def test_ids_of_one_family_are_told_briefly(load_text):
    head = (
        HEAD.replace("  kind:", '  changelog: ["1.0.0: begun"]\n  kind:')
        .replace('["1', '\n  - "1')
        .replace('n"]', 'n"')
    )
    ids = ["F-1", "F-2", "G-1", "G", "F-3"]
    made = plan(
        load_text(head + "".join(ENTRY.replace("F-1", name) for name in ids)),
        [replace(FLIP, claim_id=name) for name in ids],
        "2026-11-20",
    )
    assert '"1.1.0: pv: no status -> FUNCTIONAL: F-1, -2, G-1, G, F-3"' in made.after.decode()


def test_a_version_that_is_none_is_left_with_a_note(load_text):
    made = plan(load_text(HEAD.replace("1.0.0", "draft-7") + ENTRY), [FLIP], "2026-11-20")
    assert made.version_after == "draft-7"
    assert "metadata.version was left as it is" in made.notes[0]
    assert "status: FUNCTIONAL" in made.after.decode()


# --- doing it again --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", list(Status))
def test_a_second_time_nothing_changes(load_text, status):
    change = replace(FLIP, status=status)
    once = plan(load_text(HEAD + ENTRY), [change], "2026-11-20")
    again = load_text(once.after)
    assert is_written(again.contract, change)
    assert not plan(again, [change], "2026-11-25").changes


def test_nothing_earned_and_nothing_claimed_needs_no_writing(load_text):
    assert not plan(load_text(HEAD + ENTRY), [Flip("F-1", Status.UNBOUND)], "2026-11-20").changes


def test_a_hand_raised_status_falls(flip):
    text = HEAD + ENTRY + f"    status: DISCHARGED\n    evidence: [{D1}]\n"
    after = flip(text, Flip("F-1", Status.UNBOUND))
    assert "    status: UNBOUND\n    evidence: []\n" in after


def test_a_block_that_was_taken_out_is_put_back(load_text):
    once = plan(load_text(HEAD + ENTRY), [FLIP], "2026-11-20").after.decode()
    without = "".join(line for line in once.splitlines(keepends=True) if "functional_evidence" not in line)
    assert plan(load_text(without), [FLIP], "2026-11-20", load_text(without).contract).after.decode().count(LINE) == 1


# --- to disk ---------------------------------------------------------------------------------------------------------


def test_a_plan_is_put_on_disk_whole(load_text):
    made = plan(load_text(HEAD + ENTRY), [FLIP], "2026-11-20")
    write(made)
    assert made.path.read_bytes() == made.after
    assert "+    status: FUNCTIONAL" in made.diff


def test_a_file_that_changed_meanwhile_is_planned_anew(load_text):
    made = plan(load_text(HEAD + ENTRY), [FLIP], "2026-11-20")
    made.path.write_text("# a note\n" + HEAD + ENTRY)

    def again():
        return plan(load_text(made.path.read_bytes()), [FLIP], "2026-11-20")

    done = write(made, again)
    assert made.path.read_bytes() == done.after
    assert done.after.startswith(b"# a note\n")
    assert b"status: FUNCTIONAL" in done.after


def test_without_a_new_plan_a_changed_file_is_left_alone(load_text):
    made = plan(load_text(HEAD + ENTRY), [FLIP], "2026-11-20")
    made.path.write_text("# somebody else's\n")
    with pytest.raises(Changed, match="changed since it was read"):
        write(made)
    assert made.path.read_text() == "# somebody else's\n"


def test_a_file_that_is_gone_is_not_made_again(load_text):
    made = plan(load_text(HEAD + ENTRY), [FLIP], "2026-11-20")
    made.path.unlink()
    with pytest.raises(NotWritten):
        write(made)
    assert not made.path.exists()


def test_a_plan_without_changes_touches_nothing(load_text):
    made = plan(load_text(HEAD + ENTRY), [], "2026-11-20")
    before = made.path.stat().st_mtime_ns
    write(made)
    assert made.path.stat().st_mtime_ns == before


def test_a_link_stays_a_link(load_text, tmp_path):
    made = plan(load_text(HEAD + ENTRY), [FLIP], "2026-11-20")
    link = tmp_path / "link.yaml"
    link.symlink_to(made.path)
    write(replace(made, path=link))
    assert link.is_symlink()
    assert hashlib.sha256(Path(made.path).read_bytes()).digest() == hashlib.sha256(made.after).digest()
