"""Writers that are killed, and writers that meet: no torn file, no lost flip, no status without its record."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

import pytest

from pv.contract.vocabulary import Status

ENTRY = """\
  - id: FALSIFY-TOY-00{n}
    rule: figures agree
    prediction: claim {n} holds
    if_fails: it does not
    binds_to: parity
    thresholds:
      cosine: {{op: ">=", value: 0.99}}
    status: UNBOUND   # {n}
"""


def child(work: Callable[[], None]) -> int:
    """Run `work` in a process of its own; its id."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def live_for_ever(toy, beat: int) -> None:
    """The code breaks and is mended over and over; every run is recorded and settled. Each begins with a beat."""
    step = toy.clock // 1000  # the next writer goes on where the killed one was
    while True:
        step += 1
        os.write(beat, b".")
        toy.write("src/engine/ops.py", f"def cosine():\n    return {step}\n")
        toy.run(value=0.5 if step % 2 else 1.0, run_id=str(step))


def assert_sound(toy) -> None:
    """The contract is whole, and every status in it stands on a record that is on disk and says so."""
    contract = toy.loaded.contract
    assert contract is not None, "a torn contract"
    ledger = toy.ledger
    assert ledger.problems == (), "a torn record"
    claim = contract.claim("FALSIFY-TOY-001")
    verdicts = [ledger.by_digest[digest].verdict.value for digest in claim.evidence]  # KeyError: status without record
    due = {Status.FUNCTIONAL: ["SURVIVED"], Status.FALSIFIED: ["FALSIFIED"], Status.UNBOUND: []}
    assert verdicts == due[claim.status]


def kill_at_random_moments(toy, times: int) -> None:
    chance = random.Random(20261120)
    toy.run()  # imports what the writers need
    started = time.perf_counter()
    toy.run(value=0.5)
    cycle = time.perf_counter() - started  # how long one writing takes
    seen = set()
    for _ in range(times):
        hear, beat = os.pipe()
        pid = child(lambda beat=beat: live_for_ever(toy, beat))
        for _ in range(chance.randint(1, 2)):
            os.read(hear, 1)
        time.sleep(chance.random() * cycle)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(hear)
        os.close(beat)
        assert_sound(toy)
        seen.add(toy.claim("FALSIFY-TOY-001").status)
        toy.clock += 1000  # the clock of the killed one is lost; later runs must be later
    toy.write("src/engine/ops.py", "def cosine():\n    return 'at last'\n")
    toy.run()
    assert toy.claim("FALSIFY-TOY-001").status is Status.FUNCTIONAL
    assert {Status.FUNCTIONAL, Status.FALSIFIED} <= seen, "the kills never met a writer at work"
    assert len(toy.ledger.summaries) > times // 4


def test_a_writer_killed_at_random_moments_loses_nothing(toy):
    kill_at_random_moments(toy, 20)


@pytest.mark.slow
def test_a_writer_killed_at_two_hundred_moments_loses_nothing(toy):
    kill_at_random_moments(toy, 200)


@pytest.mark.parametrize("git", [True, False])
def test_eight_writers_of_one_file_all_land_with_one_version(toy, git):
    head = toy.text.partition("falsification_tests:\n")[0]
    toy.write(
        "contracts/toy-v1.yaml", head + "falsification_tests:\n" + "".join(ENTRY.format(n=n) for n in range(1, 9))
    )
    toy.checked = {f"FALSIFY-TOY-00{n}" for n in range(1, 9)}
    if git:
        toy.commit()
    start = toy.loaded

    def flip(n: int) -> Callable[[], None]:
        def work() -> None:
            toy.ledger.store.add(toy.record(f"FALSIFY-TOY-00{n}", run_id=str(n)))
            toy.settle(starts={start.path: start.contract})

        return work

    pids = [child(flip(n)) for n in range(1, 9)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert codes == [0] * 8
    assert toy.statuses() == ["FUNCTIONAL"] * 8
    assert toy.loaded.contract.metadata.version == "1.1.0"
    assert all(f"    status: FUNCTIONAL   # {n}\n" in toy.text for n in range(1, 9))
    assert len(toy.ledger.summaries) == 8
