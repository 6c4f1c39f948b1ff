"""In every real contract a claim is renamed: a few lines change, and no claim of the file claims anything else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from pv.contract.load import load, load_bytes
from pv.contract.meaning import ChangeKind, compare, demanded
from pv.contract.project import Project
from pv.contract.vocabulary import Bump
from pv.evidence import rename
from pv.evidence.digests import claim_digest
from pv.evidence.rename import rename_claim
from pv.falsify.discovery import Checks

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"
FILES = sorted(CORPUS.rglob("*.yaml"))
NEW = "FALSIFY-RENAMED-999"


@pytest.mark.skipif(not FILES, reason=f"the corpus of real contracts is not at {CORPUS}")
def test_a_claim_of_every_real_contract_is_renamed(monkeypatch):
    monkeypatch.setattr(rename, "committed", lambda *_: None)  # the corpus is no repository of ours
    monkeypatch.setattr(rename, "_tracked", lambda *_: [])
    project = Project(CORPUS)
    done = Counter()
    for file in FILES:
        one = load(file, project)
        ids = [claim.id for claim in one.contract.claims] if one.contract else []
        chosen = next((name for name in ids if ids.count(name) == 1), None)
        if chosen is None:
            done["no claim"] += 1
            continue
        (change,) = rename_claim(project, [one], Checks(), chosen, NEW).changes
        after = load_bytes(change.after, file, project).contract
        assert after.claim(NEW).formerly == (chosen,)
        for claim in one.contract.claims:
            now = after.claim_known_as(claim.id)
            assert ids.count(claim.id) > 1 or claim_digest(after, now) == claim_digest(one.contract, claim), file
        changes = compare(one.contract, after)
        assert demanded(changes, "ACTIVE") is Bump.MINOR, file
        assert [each.after for each in changes if each.kind is ChangeKind.RENAMED] == [NEW], file
        before, text = change.before.decode().splitlines(), change.after.decode().splitlines()
        lost = Counter(before) - Counter(text)
        assert all(chosen in line or "version" in line or "pv falsify" in line for line in lost), (file, lost)
        done["renamed"] += 1
    assert done["renamed"] > 150
