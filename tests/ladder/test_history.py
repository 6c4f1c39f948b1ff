"""The history of three contracts replayed: each version follows from the change of meaning, and from nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pv.contract.meaning import compare, demanded
from pv.contract.vocabulary import Status
from pv.ladder.tally import Tally
from pv.ladder.versions import next_version
from pv.ladder.writeback import AlgorithmEvidence, Flip, plan

P, F, D, B = Status.PARTIAL_ALGORITHM_LEVEL, Status.FUNCTIONAL, Status.DISCHARGED, Status.BLOCKER_FIXTURE_ABSENT


class History:
    """One contract through time. Every amendment is compared with the version before it."""

    def __init__(self, load_text, life: str, version: str, entries: dict[str, Status]) -> None:
        self.load_text = load_text
        text = (
            f'metadata:\n  version: "{version}"\n  description: a contract\n  status: {life}\n  kind: registry\n'
            f'  references: [a paper]\n  changelog:\n    - "{version}: begun"\nfalsification_tests:\n'
        )
        self.now = load_text(text + "".join(map(self.entry, entries)))
        self.at(version)  # nothing of the first text was released before it
        self.flip(entries, release=version)

    @staticmethod
    def entry(claim_id: str) -> str:
        return (
            f"  - id: {claim_id}\n    rule: a rule\n    prediction: {claim_id} holds\n    if_fails: it does not\n"
            '    thresholds:\n      cosine: {op: ">=", value: 0.99}\n'
        )

    def at(self, version: str) -> None:
        assert self.now.contract.metadata.version == version

    def flip(self, statuses: dict[str, Status], evidence: str = "0", *, release: str = "", base=None) -> None:
        """What a run writes. `release`: the first release keeps its version, whatever it earned before."""
        flips = [
            Flip(
                claim_id, status, (f"sha256:{evidence * 64}",), "2026-11-20",
                AlgorithmEvidence((("src/a.py", f"f{evidence}"),), ("cosine >= 0.99",)),
                (f"cpu · code · 2026-11-20 · cosine 1 · pv falsify --id {claim_id}",),
                (f"cpu · code · 2026-11-20 · oracle hf agreed · pv falsify --id {claim_id}",),
            )
            for claim_id, status in statuses.items()
        ]  # fmt: skip
        made = plan(self.now, flips, "2026-11-20", base or self.now.contract)
        assert made.refused == ()
        assert made.notes == ()
        text = made.after.decode()
        if release:
            text = text.replace(f'version: "{made.version_after}"', f'version: "{release}"')
            text = "".join(line for line in text.splitlines(keepends=True) if f'"{made.version_after}: pv' not in line)
        self.now = self.load_text(text)

    def amend(self, edit) -> None:
        """What a person writes: the text is edited, and the version becomes what the change demands."""
        old = self.now.contract
        new = self.load_text(edit(self.now.document.text)).contract
        version = next_version(
            old.metadata.version, old.metadata.version, demanded(compare(old, new), old.metadata.status)
        )
        text = edit(self.now.document.text).replace(f'version: "{old.metadata.version}"', f'version: "{version}"')
        self.now = self.load_text(text)

    @property
    def tally(self) -> Tally:
        return Tally.of(claim.status for claim in self.now.contract.claims)

    @property
    def changelog(self) -> list[str]:
        return self.now.contract.metadata.changelog


@pytest.fixture
def history(load_text):
    return lambda *told: History(load_text, *told)


def ids(*numbers: int) -> list[str]:
    return [f"F-{number:03d}" for number in numbers]


def test_the_parity_contract(history):
    """1.2.0 -> 1.3.0 (it lands, still PARTIAL) -> 1.4.0 (005 discharged) -> 1.5.0 (four flips, one bump)."""
    parity = history("ACTIVE", "1.2.0", {**dict.fromkeys(ids(1, 2, 3, 5), P), "F-004": F})
    parity.at("1.2.0")
    parity.flip({"F-005": P}, evidence="1")
    parity.at("1.3.0")
    parity.flip({"F-005": D}, evidence="2")
    parity.at("1.4.0")
    assert str(parity.tally) == "1+4"
    parity.flip(dict.fromkeys(ids(1, 2, 3, 4), D), evidence="3")
    parity.at("1.5.0")
    assert str(parity.tally) == "5+0"
    assert parity.tally.complete
    assert parity.changelog == [
        "1.5.0: pv: PARTIAL_ALGORITHM_LEVEL -> DISCHARGED: F-001, -002, -003; FUNCTIONAL -> DISCHARGED: F-004",
        "1.4.0: pv: PARTIAL_ALGORITHM_LEVEL -> DISCHARGED: F-005",
        "1.3.0: pv: evidence renewed: F-005",
        "1.2.0: begun",
    ]


def test_the_save_tensor_contract(history):
    """1.0.0 -> 1.1.0 (009 added) -> 1.2.0 (010) -> 1.3.0 (011) -> 1.4.0 (009, 010, 011 to FUNCTIONAL)."""
    save = history("ACTIVE", "1.0.0", dict.fromkeys(ids(*range(1, 9)), P))
    for number, version in ((9, "1.1.0"), (10, "1.2.0"), (11, "1.3.0")):
        (new,) = ids(number)
        written = f"{History.entry(new)}    status: PARTIAL_ALGORITHM_LEVEL\n    algorithm_evidence: [src/a.py::f]\n"
        save.amend(lambda text, written=written: text + written)
        save.at(version)
    save.flip(dict.fromkeys(ids(9, 10, 11), F), evidence="4")
    save.at("1.4.0")
    assert str(save.tally) == "0+11"


def test_the_attention_contract_proposed_throughout(history):
    """1.0.0 -> 1.1.0 (loosened while PROPOSED) -> 1.2.0 (a name corrected and a flip: two commits, one bump)."""
    attention = history("PROPOSED", "1.0.0", {**dict.fromkeys(ids(1, 2, 3), P), "F-004": B})
    attention.amend(lambda text: text.replace("value: 0.99", "value: 0.9", 1))
    attention.at("1.1.0")
    base = attention.now.contract
    attention.amend(lambda text: text.replace('["f0"]', '["right_name"]', 1))
    attention.at("1.2.0")
    attention.flip({"F-004": P}, evidence="5", base=base)
    attention.at("1.2.0")
    assert str(attention.tally) == "0+4"


def test_the_same_loosening_of_an_active_contract_is_major(history):
    active = history("ACTIVE", "1.0.0", dict.fromkeys(ids(1), P))
    active.amend(lambda text: text.replace("value: 0.99", "value: 0.9", 1))
    active.at("2.0.0")


def test_prose_is_a_patch_and_a_blank_line_is_nothing(history):
    active = history("ACTIVE", "1.0.0", dict.fromkeys(ids(1), P))
    active.amend(lambda text: text.replace("falsification_tests:", "\nfalsification_tests:"))
    active.at("1.0.0")
    active.amend(lambda text: text.replace("a rule", "a better rule"))
    active.at("1.0.1")


def test_the_history_of_the_tally_of_several_contracts(history):
    """15+35 -> 15+37 -> 16+36 -> 20+36: the parity contract's part of it is what its statuses say at each version."""
    rest = Tally.of([D] * 15 + [P] * 18 + [F] * 10 + [B] * 2)
    parity = history("ACTIVE", "1.1.0", {**dict.fromkeys(ids(1, 2, 3), P), "F-004": F, "F-005": P})
    others = replace(rest, partial=rest.partial + 2)
    told = [str(others + parity.tally)]
    others = replace(others, partial=others.partial + 2)
    told.append(str(others + parity.tally))
    parity.flip({"F-005": D}, evidence="1")
    told.append(str(others + parity.tally))
    parity.flip(dict.fromkeys(ids(1, 2, 3, 4), D), evidence="2")
    wired_in = Tally.of([P] * 4)
    told.append(str(others + parity.tally + wired_in))
    assert told == ["15+35", "15+37", "16+36", "20+36"]
