"""Every entry of every real contract is given a status and taken up and down the ladder, on a copy."""

from __future__ import annotations

from pathlib import Path

import pytest

from pv.contract.load import load, load_bytes
from pv.contract.project import Project
from pv.contract.vocabulary import Status
from pv.ladder.writeback import AlgorithmEvidence, Flip, plan

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"
FILES = sorted(CORPUS.rglob("*.yaml"))
LADDER = (
    Status.UNBOUND,
    Status.BLOCKER_FIXTURE_ABSENT,
    Status.PARTIAL_ALGORITHM_LEVEL,
    Status.FUNCTIONAL,
    Status.DISCHARGED,
    Status.FALSIFIED,
    Status.FUNCTIONAL,
    Status.UNBOUND,
)
# Four entries of one file hold somebody's prose over several lines where pv would keep its pointers.
REFUSED = {"FALSIFY-CHAT-001", "FALSIFY-CHAT-002", "FALSIFY-CHAT-003", "FALSIFY-CHAT-004"}
OURS = ("status:", "last_verified:", "version:", "evidence:", '- "sha256:', '- "cpu')
needs_corpus = pytest.mark.skipif(not FILES, reason=f"the corpus of real contracts is not at {CORPUS}")


def flips(claims, step: int, status: Status, *, blocks: bool) -> list[Flip]:
    """Each claim to `status`; with evidence blocks or with none."""
    day = f"2026-11-{step + 1:02d}"
    algorithm = AlgorithmEvidence((("src/a.py", "f"), ("falsifiers/x.py", "check")), ("cosine >= 0.99",))
    return [
        Flip(
            claim.id,
            status,
            (f"sha256:{step:064x}", f"sha256:{step + 50:064x}")[: 1 + step % 2],
            day,
            algorithm if blocks else AlgorithmEvidence(),
            (f"cpu · code · {day} · cosine 0.9999 · pv falsify --id {claim.id}",) if blocks else (),
            (f"cpu · code · {day} · oracle hf agreed · pv falsify --id {claim.id}",) if blocks else (),
        )
        for claim in claims
    ]


def climb(path: Path, *, blocks: bool) -> int:
    """Take every claim of a file up and down; returns how many flips were written."""
    project = Project(CORPUS)
    loaded = original = load(path, project)
    if loaded.contract is None:
        return 0
    count = 0
    for step, status in enumerate(LADDER):
        made = plan(
            loaded, flips(loaded.contract.claims, step, status, blocks=blocks), "x", original.contract, adopt=True
        )
        assert {refusal.claim_id for refusal in made.refused} <= REFUSED, made.refused
        assert not made.notes
        loaded = load_bytes(made.after, path, project)
        for flip in made.written:
            claim = loaded.contract.claim(flip.claim_id)
            assert (claim.status, claim.evidence, claim.last_verified) == (status, flip.evidence, flip.last_verified)
        assert not plan(loaded, made.written, "x", original.contract).changes, "a second run changed something"
        count += len(made.written)
    assert_rest_untouched(original.document.content.decode(), made.after.decode())
    return count


def assert_rest_untouched(before: str, after: str) -> None:
    """Every line of the file is still there, in its order; only lines that pv owns were replaced."""
    left = iter(after.split("\n"))
    for line in before.split("\n"):
        if not line.strip().startswith(OURS):
            assert any(found == line for found in left), f"gone or moved: {line!r}"


@needs_corpus
@pytest.mark.parametrize("blocks", [True, False])
def test_a_part_of_the_corpus_climbs(blocks):
    chosen = [path for path in FILES if path.parent.name == "aprender" or "chat-model" in path.name] + FILES[::20]
    assert sum(climb(path, blocks=blocks) for path in chosen) > 300


@pytest.mark.slow
@needs_corpus
@pytest.mark.parametrize("blocks", [True, False])
def test_the_whole_corpus_climbs(blocks):
    count = sum(climb(path, blocks=blocks) for path in FILES)
    assert count > 8 * 1000, f"only {count} flips of about 1,060 claims"
