"""Entries in every style that YAML has: each flip is either written, provably, or refused with the entry untouched."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pv.contract.load import load_bytes
from pv.contract.project import Project
from pv.contract.vocabulary import Status
from pv.ladder.writeback import AlgorithmEvidence, Flip, plan

WHERE = Path("x.yaml")
PROJECT = Project(Path("/nowhere"))
ALGORITHM = AlgorithmEvidence((("src/a.py", "f"), ("falsifiers/x.py", "check")), ("cosine >= 0.99",))
STYLES = ("{}", "'{}'", '"{}"', "{}  # c", "!!str {}", "&a {}", ">-\n      {}", "|-\n      {}")
HEADS = (
    "[]",
    f"[sha256:{'a' * 64}]",
    "see PR 12",
    f"\n      - sha256:{'b' * 64}  # old\n      - PR",
    "{a: 1}",
    "~",
    "",
)
BLOCKS = (
    "\n      status: UNBOUND\n      notes: |\n        hi\n        there",
    "\n      - one text # c\n      - two",
    "{notes: x}",
    "text",
    "\n      # lead\n      file_paths: [a.py]\n      function_names:\n      - g # k",
    "~",
    "",
)
LINES = ("[a]", "\n      - x", "\n      k: v", "|\n      txt", "''")


class Author:
    """Somebody who writes contracts in every way there is."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def often(self, share: float) -> bool:
        return self.chance.random() < share

    def text(self) -> bytes:
        version = self.chance.choice(['"1.0.0"', "1.0.0", "'1.2'", "1.10", "v1.0.0"])
        text = f"metadata:\n  version: {version}\n  description: d\n  kind: registry\n  references: [x]\n"
        text += '  changelog:\n    - "1.0.0: begun"\n' if self.often(0.3) else ""
        text += "falsification_tests:\n" + "".join(map(self.entry, range(self.chance.randint(1, 4))))
        text += "other: *e\n" if "&e" in text and self.often(0.5) else ""
        content = (text.rstrip("\n") if self.often(0.2) else text).encode()
        content = content.replace(b"\n", b"\r\n") if self.often(0.3) else content
        return b"\xef\xbb\xbf" + content if self.often(0.1) else content

    def entry(self, number: int) -> str:
        fields = [("rule", "a rule"), ("prediction", "it holds"), ("if_fails", "no")]
        fields += [("status", self.chance.choice(["UNBOUND", "FUNCTIONAL", "weird one"]))] if self.often(0.6) else []
        fields += [("last_verified", "2026-01-01")] if self.often(0.4) else []
        lines = [f"{key}: {self.styled(value)}" for key, value in fields]
        for key, shapes, share in (
            ("evidence", HEADS, 0.3), ("algorithm_evidence", BLOCKS, 0.5), ("functional_evidence", LINES, 0.4)
        ):  # fmt: skip
            lines += [f"{key}: {self.chance.choice(shapes)}"] if self.often(share) else []
        self.chance.shuffle(lines)
        anchor = "&e\n    " if self.often(0.05) else ""
        text = f"  - {anchor}id: {self.styled(f'F-{number}')}\n"
        for line in lines:
            text += "    # a comment\n" * self.often(0.15) + "\n" * self.often(0.1) + f"    {line}\n"
        return text + "# between\n" * self.often(0.2)

    def styled(self, value: str) -> str:
        return self.chance.choice(STYLES).format(value) if self.often(0.4) else value


def climb(seed: int) -> tuple[int, int]:
    """Take every claim of one text up and down; (written, refused)."""
    author = Author(seed)
    loaded = base = load_bytes(author.text(), WHERE, PROJECT)
    assert base.contract is not None, base.diagnostics
    written = refused = 0
    for step, status in enumerate(author.chance.sample(list(Status), 4)):
        flips = [flip(claim.id, status, step, author.chance.randint(0, 3)) for claim in loaded.contract.claims]
        made = plan(loaded, flips, "2026-11-20", base.contract, adopt=author.often(0.5))
        after = load_bytes(made.after, WHERE, PROJECT)
        for done in made.written:
            claim = after.contract.claim(done.claim_id)
            assert claim.status is done.status
            assert tuple(head for head in claim.evidence if head.startswith("sha256:")) == done.evidence
        for refusal in made.refused:
            before = loaded.contract.claim(refusal.claim_id)
            assert after.contract.claim(refusal.claim_id).data == before.data, refusal
        assert not plan(after, made.written, "2026-11-20", base.contract, adopt=True).changes
        written, refused, loaded = written + len(made.written), refused + len(made.refused), after
    return written, refused


def flip(claim_id: str, status: Status, step: int, heads: int) -> Flip:
    day = f"2026-11-{10 + step}"
    return Flip(
        claim_id,
        status,
        tuple(f"sha256:{step * 10 + k:064x}" for k in range(heads)),
        day,
        ALGORITHM,
        (f"cpu · code · {day} · m 1 · pv falsify --id {claim_id}",),
        (f"cpu · code · {day} · oracle hf agreed · pv falsify --id {claim_id}",),
    )


def climb_all(seeds: range) -> None:
    counts = [climb(seed) for seed in seeds]
    written, refused = (sum(column) for column in zip(*counts, strict=True))
    assert written > len(seeds) * 3, "hardly anything was written: the texts are too odd to tell"
    assert refused > len(seeds), "hardly anything was refused: the texts are too tame to tell"


def test_any_style_is_written_or_refused():
    climb_all(range(40))


@pytest.mark.slow
def test_any_style_is_written_or_refused_a_thousand_times():
    climb_all(range(40, 1040))
