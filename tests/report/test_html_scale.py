"""Many contracts: the work and the page grow with the number of claims, and not faster."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from pv.contract.vocabulary import Verdict
from pv.evidence import statement
from pv.evidence.digests import claim_digest
from pv.evidence.store import relative_name
from pv.falsify.api import Measurement
from pv.falsify.judge import judge, threshold_record
from pv.report import html
from pv.report.story import Story
from tests.evidence.conftest import RECORD
from tests.report.pages import complaints, packed, read
from tests.report.samples import CPU, Town

pytestmark = pytest.mark.slow

HEAD = """\
metadata: {{version: "1.0.0", description: "contract {at}", kind: schema, references: [none]}}
equations: {{e: {{formula: "a = b"}}}}
proof_obligations:
  - {{id: PO-1, type: invariant, property: "a is b"}}
falsification_tests:
"""
CLAIM = """\
  - id: FALSIFY-S{at:04}-{number}
    rule: rule {number} of contract {at}
    prediction: the cosine is at least 0.99
    if_fails: it is not
    binds_to: PO-1
    thresholds: {{cosine: {{op: ">=", value: 0.99}}}}
"""


def city(root: Path, contracts: int) -> Story:
    """That many contracts of four claims, each with a record; every hundredth claim is red."""
    town = Town(root)
    for path in [*(root / "contracts").iterdir(), *(root / "falsifiers").iterdir()]:
        path.unlink()
    for at in range(contracts):
        claims = "".join(CLAIM.format(at=at, number=number) for number in range(4))
        town.write(f"contracts/s-{at:04}-v1.yaml", HEAD.format(at=at) + claims)
        town.checks(f"s_{at:04}_v1", *(f"FALSIFY-S{at:04}-{number}" for number in range(4)))
    for at, (contract, claim) in enumerate(
        (one.contract, claim) for one in town.loaded for claim in one.contract.claims
    ):
        bounds = {name: threshold_record(threshold) for name, threshold in claim.thresholds.items()}
        red = at % 100 == 7
        planted = judge([Measurement("cosine", 0.1)], bounds)
        record = replace(
            RECORD,
            claim_id=claim.id,
            contract_id=contract.id,
            cell=CPU,
            verdict=Verdict.FALSIFIED if red else Verdict.SURVIVED,
            observed="if_fails" if red else "prediction",
            measurements=judge([Measurement("cosine", 0.4 if red else 0.999)], bounds),
            controls=(replace(RECORD.controls[0], breaks="cosine", measurements=planted),),
            claim_digest=claim_digest(contract, claim),
            log=None,
        )
        content = statement.to_bytes(record)
        town.write(f"evidence/{relative_name(record)}", content.decode() + "\n")
    return town.story


def work(story: Story) -> tuple[float, str]:
    """Seconds of processor time for one page, and the page."""
    start = time.process_time()
    page = html.page(story, lazy=True)
    return time.process_time() - start, page


def test_a_page_grows_with_its_claims_and_not_faster(tmp_path):
    small, large = city(tmp_path / "small", 60), city(tmp_path / "large", 480)
    work(small)  # templates are compiled once
    (seconds_small, page_small), (seconds_large, page_large) = work(small), work(large)
    assert seconds_large < 2.5 * 8 * seconds_small  # eight times the claims; a square would be sixty-four
    assert len(page_large) < 1.5 * 8 * len(page_small)
    assert len(page_large) < 3000 * len(large.claims)
    assert complaints(read(page_large)) == []
    assert len(packed(read(page_large))) == 480 + 4 * 480
    assert len(large.broken) == 20  # 7, 107, … of 1,920
