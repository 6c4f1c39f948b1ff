"""The evidence folder and the contracts -> files that nothing rests on and nothing will miss."""

from __future__ import annotations

from pathlib import Path

from pv.contract.load import load_all
from pv.contract.project import Project
from pv.evidence.ledger import open_contracts
from pv.evidence.store import LOGS, Store


def prunable(project: Project, store: Store) -> list[Path]:
    """Sound records of claims that no contract has, logs that only they or nobody names, leftovers of killed writes.

    Every contract of the project is read; while one of them is not sound, its claims are unknown and no record goes.
    Files that are no record are left for a person to look at.
    """
    loaded = load_all((), project)
    claims = {name for contract in open_contracts(loaded) for claim in contract.claims for name in claim.ids}
    all_known = bool(loaded) and all(one.contract is not None for one in loaded)
    gone = [s for s in store.summaries() if all_known and s.claim_id not in claims]
    kept = {s.digest for s in store.summaries()} - {s.digest for s in gone}
    named = {record.log.stored for record in store.all() if record.log and record.digest in kept}
    logs = [path for path in store.log_files() if f"{LOGS}/{path.name}" not in named and not store.problems()]
    return [*(store.root / s.path for s in gone), *logs, *store.leftovers()]
