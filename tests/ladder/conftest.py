"""Claims and views to test the ladder with."""

from __future__ import annotations

import itertools

import pytest

from pv.contract.claims import Claim
from pv.contract.vocabulary import DEFAULT_CELL, Level, Verdict
from pv.ladder.entitlement import RecordView

_counter = itertools.count()


@pytest.fixture
def make_claim():
    def make(claim_id="FALSIFY-X-001", **fields):
        return Claim(id=claim_id, loc=("falsification_tests", 0), family="falsifier", **fields)

    return make


@pytest.fixture
def make_view():
    """A live survival in cpu · code; views made later are later in time."""

    def make(**fields):
        serial = next(_counter)
        base = {
            "digest": f"sha256:{serial:064x}",
            "started_at": f"2026-11-20T{serial // 3600 % 24:02d}:{serial // 60 % 60:02d}:{serial % 60:02d}Z",
            "cell": DEFAULT_CELL,
            "level": Level.LIVE,
            "verdict": Verdict.SURVIVED,
        }
        return RecordView(**{**base, **fields})

    return make


@pytest.fixture
def load_text(tmp_path):
    """A contract file from text or bytes, loaded; the name of the file is `toy-v1.yaml`."""
    from pv.contract.load import load
    from pv.contract.project import Project

    def loaded(content):
        path = tmp_path / "toy-v1.yaml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return load(path, Project(tmp_path))

    return loaded
