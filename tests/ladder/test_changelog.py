"""Seven shapes of changelogs, each written in its own way, and what is left alone."""

from __future__ import annotations

import pytest

from pv.document.prove import proves
from pv.document.reader import parse
from pv.ladder.changelog import Entry, add_entry
from pv.ladder.draft import Draft, Unsafe

ENTRY = Entry("1.3.0", "2026-11-20", "UNBOUND -> FUNCTIONAL: F-1")
OURS = "pv: UNBOUND -> FUNCTIONAL: F-1"


def added(text: str, entry: Entry = ENTRY) -> str:
    """The text with the entry in it, proven to say that and nothing else."""
    document = parse(text.encode(), "x.yaml")
    draft = Draft(document)
    add_entry(draft, entry)
    after = document.encode(draft.text())
    proves(document.content, after, draft.data, draft.lines)
    return after.decode()


SHAPES = {
    "a list of texts, newest first": (
        'metadata:\n  changelog:\n    - "v1.2.0: second"   # why\n    - "v1.1.0: first"\n  kind: x\n',
        'metadata:\n  changelog:\n    - "v1.3.0: {ours}"\n    - "v1.2.0: second"   # why\n'
        '    - "v1.1.0: first"\n  kind: x\n',
    ),
    "a list of texts, newest last": (
        "changelog:\n- '1.1.0 (2026-01-01) — first'\n- '1.2.0 (2026-02-01) — second'\n# after\nkind: x\n",
        "changelog:\n- '1.1.0 (2026-01-01) — first'\n- '1.2.0 (2026-02-01) — second'\n"
        '- "1.3.0 (2026-11-20) — {ours}"\n# after\nkind: x\n',
    ),
    "a list of mappings with a text": (
        'changelog:\n  - version: "1.2.0"\n    date: "2026-01-01"\n    author: me\n    changes: second\n',
        'changelog:\n  - version: "1.3.0"\n    date: "2026-11-20"\n    changes: "{ours}"\n'
        '  - version: "1.2.0"\n    date: "2026-01-01"\n    author: me\n    changes: second\n',
    ),
    "a list of mappings with a list": (
        "changelog:\n- version: 1.1.0\n  changes:\n  - first\n- version: 1.2.0\n  changes:\n  - second\nkind: x\n",
        "changelog:\n- version: 1.1.0\n  changes:\n  - first\n- version: 1.2.0\n  changes:\n  - second\n"
        '- version: "1.3.0"\n  changes: ["{ours}"]\nkind: x\n',
    ),
    "a mapping from version to text": (
        'changelog:\n  "1.2.0": second\n  "1.1.0": first\n',
        'changelog:\n  "1.3.0": "{ours}"\n  "1.2.0": second\n  "1.1.0": first\n',
    ),
    "a mapping from version to list": (
        "changelog:\n  v1.1.0:\n    - first\n  v1.2.0:\n    - second\n    - more\n\nkind: x\n",
        'changelog:\n  v1.1.0:\n    - first\n  v1.2.0:\n    - second\n    - more\n  v1.3.0: ["{ours}"]\n\nkind: x\n',
    ),
    "a mapping from version to mapping": (
        "changelog:\n  1.2.0:\n    date: 2026-01-01\n    notes: second\n  1.1.0: {date: 2025-01-01, notes: first}\n",
        'changelog:\n  1.3.0:\n    date: "2026-11-20"\n    notes: "{ours}"\n'
        "  1.2.0:\n    date: 2026-01-01\n    notes: second\n  1.1.0: {date: 2025-01-01, notes: first}\n",
    ),
    "a literal block, newest first": (
        "metadata:\n  changelog: |\n    v1.2.0 - second\n      and more\n    v1.1.0 - first\n  kind: x\n",
        "metadata:\n  changelog: |\n    v1.3.0 - {ours}\n    v1.2.0 - second\n      and more\n"
        "    v1.1.0 - first\n  kind: x\n",
    ),
    "a literal block, newest last": (
        "changelog: |-\n  1.1.0: first\n  1.2.0: second\nkind: x\n",
        "changelog: |-\n  1.1.0: first\n  1.2.0: second\n  1.3.0: {ours}\nkind: x\n",
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_an_entry_is_written_in_the_shape_of_the_file(shape):
    before, after = SHAPES[shape]
    assert added(before) == after.replace("{ours}", OURS)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_second_run_rewrites_our_entry_and_adds_none(shape):
    once = added(SHAPES[shape][0])
    assert added(once) == once
    later = added(once, ENTRY._replace(sentence="UNBOUND -> DISCHARGED: F-1, F-2"))
    assert later == once.replace(OURS, "pv: UNBOUND -> DISCHARGED: F-1, F-2")


@pytest.mark.parametrize("shape", SHAPES)
def test_line_ends_of_the_file_are_kept(shape):
    before, after = (text.replace("\n", "\r\n") for text in SHAPES[shape])
    assert added(before) == after.replace("{ours}", OURS)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_entry_that_somebody_wrote_for_this_version_is_left_alone(shape):
    foreign = SHAPES[shape][0].replace("1.2.0", "1.3.0")
    assert added(foreign) == foreign


@pytest.mark.parametrize(
    "text", ["kind: x\n", "changelog: []\n", "changelog:\nkind: x\n", "metadata: {changelog: {}}\n"]
)
def test_where_there_is_none_none_is_made(text):
    draft = Draft(parse(text.encode(), "x.yaml"))
    assert not add_entry(draft, ENTRY)
    assert draft.edits == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("changelog: [first, second]\n", "in brackets"),
        ("changelog: {1.2.0: first}\n", "in braces"),
        ("changelog: 7\n", "neither a list"),
        ("changelog: [1, {a: b}]\n", "different kinds"),
        ("changelog:\n  unreleased: first\n", "no version"),
        ("changelog: >\n  v1.2.0 first\n  v1.1.0 none\n", "literal block"),
        ("changelog: v1.2.0 first\n", "literal block"),
        ("changelog: |\n  what happened\n", "begins with a version"),
        ("changelog:\n  - {who: me}\n", "no key of"),
        ("a: &a\n  - v1.2.0 first\nchangelog: *a\n", "alias"),
    ],
)
def test_what_cannot_be_written_safely_is_refused_with_the_reason(text, reason):
    draft = Draft(parse(text.encode(), "x.yaml"))
    with pytest.raises(Unsafe, match=reason):
        add_entry(draft, ENTRY)
