"""What pv promises about itself: no file torn, no work lost, no status without its evidence, no code run by reading."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import rfc8785

from pv.contract.claims import Claim
from pv.contract.vocabulary import Cell, DeviceClass, Level, Status, Verdict
from pv.document.files import compare_and_swap, locked, replace_atomically
from pv.document.reader import parse
from pv.evidence.carry_out import carry_out
from pv.evidence.ledger import Ledger
from pv.evidence.rejudge import contradictions
from pv.evidence.rename import rename_claim, rename_contract
from pv.evidence.settle import settle
from pv.evidence.store import Store
from pv.evidence.verify import verify
from pv.falsify import Blocked, Control, Measurement, falsifier, harness, measure
from pv.falsify.judge import control_record, margin, verdict
from pv.falsify.reading import read_module
from pv.falsify.workers import Worker
from pv.ladder import entitlement
from pv.ladder.entitlement import RecordView, entitle
from pv.ladder.writeback import write

from . import _self_kill
from ._self import (
    CHECKS,
    CONTRACT,
    GOOD,
    House,
    entry,
    heads_in,
    must,
    planted,
    registration,
    replaced,
    statuses_in,
    variables,
)

BAD = "return measure('m', 0)"


# --- 001: no torn file ------------------------------------------------------------------------------------------------

WRITE_IN_PLACE = """
    import pv.document.files as files

    def in_place(path, content):
        half = len(content) // 2
        with open(path, "wb") as file:
            file.write(content[:half])
        with open(path, "ab") as file:
            file.write(content[half:])

    files.replace_atomically = in_place
"""


@falsifier(
    "FALSIFY-PV-SELF-001",
    level="live",
    controls=[Control("contracts are written in place, in two steps", plant=planted(WRITE_IN_PLACE), breaks="torn")],
    attacks=[replace_atomically, write, settle],
    timeout=120,
)
def a_kill_tears_no_file(ctx: Any) -> list[Measurement]:
    """`pv settle`, killed before each of its file operations and at random moments, leaves old bytes or new ones."""
    house = House(ctx)
    house.write(FALSIFY_X_001=GOOD, FALSIFY_X_002=GOOD)
    old = house.contract.read_bytes()
    must(house.pv_as_it_is("falsify", "--all"), 0)
    house.contract.write_bytes(old)
    seen = killed(ctx, house, shots=20, folders="contracts", command=["settle"])
    new = (seen[0] / "contracts" / "x-v1.yaml").read_bytes()
    torn = [where.name for where in seen if (where / "contracts" / "x-v1.yaml").read_bytes() not in (old, new)]
    recovered = 0
    for where in (where for where in seen[1:3] if (where / "contracts" / "x-v1.yaml").read_bytes() == old):
        shutil.rmtree(house.root)
        shutil.copytree(where, house.root)
        recovered += must(house.pv("settle"), 0).returncode == 0 and house.contract.read_bytes() == new
    return [
        measure("torn", len(torn), unit="files", n=len(seen)),
        measure("kills", len(seen) - 1, unit="kills"),
        measure("changed", new != old),
        measure("recovered", recovered, unit="runs"),
    ]


def killed(ctx: Any, house: House, *, shots: int, folders: str, command: Sequence[str]) -> list[Path]:
    """What each killed run left behind; the first one is that of the run that came through."""
    snapshots = ctx.scratch / "snapshots"
    snapshots.mkdir()
    script = Path(_self_kill.__file__)
    told = json.loads(house.python(script, str(house.root), str(snapshots), "7", str(shots), folders, *command))
    ctx.note(
        f"killed before: {', '.join(told['operations'])}; and {told['shots']} times within {told['seconds']:.2f} s"
    )
    kills = len(told["operations"]) + told["shots"]
    return [snapshots / "whole", *(snapshots / str(number) for number in range(1, kills + 1))]


# --- 002: no lost update ----------------------------------------------------------------------------------------------

WRITERS = 4
# The lock and the comparison are gone. So that luck plays no part, each writer keeps its record back until the one
# before it has made its text; then they write in the opposite order, who knows least last.
BLIND_WRITER = f"""
    import contextlib, pathlib, time
    import pv.document.files as files
    from pv.evidence.store import Store

    marks = pathlib.Path(__file__).parent
    write, add = files.replace_atomically, Store.add
    turn = []

    def wait_for(mark):
        end = time.monotonic() + 60
        while not (marks / mark).exists() and time.monotonic() < end:
            time.sleep(0.01)

    def take_a_turn():
        for number in range({WRITERS}):
            with contextlib.suppress(FileExistsError):
                (marks / f"turn-{{number}}").mkdir()
                return number

    def in_turn(*arguments, **named):
        if not turn:
            turn.append(take_a_turn())
            if turn[0]:
                wait_for(f"made-{{turn[0] - 1}}")
        return add(*arguments, **named)

    def blind(path, expected, content):
        (marks / f"made-{{turn[0]}}").touch()
        wait_for("made-{WRITERS - 1}")
        if turn[0] < {WRITERS - 1}:
            wait_for(f"written-{{turn[0] + 1}}")
        write(path, content)
        (marks / f"written-{{turn[0]}}").touch()

    @contextlib.contextmanager
    def unlocked(path, **_):
        yield

    files.compare_and_swap, files.locked, Store.add = blind, unlocked, in_turn
"""


@falsifier(
    "FALSIFY-PV-SELF-002",
    level="live",
    controls=[Control("writers neither lock nor look", plant=planted(BLIND_WRITER), breaks="lost")],
    attacks=[compare_and_swap, locked, write, settle],
    timeout=180,
)
def writers_at_once_all_land(ctx: Any) -> list[Measurement]:
    """Several `pv falsify` at once, each of another claim of one file: every status is there, with one version move."""
    if shutil.which("git") is None:
        raise Blocked("git, against which versions are compared")
    house = House(ctx)
    claims = [f"FALSIFY-X-00{number}" for number in range(WRITERS)]
    house.write(**{claim.replace("-", "_"): GOOD for claim in claims})
    git = ["git", "-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "as it was"]):
        subprocess.run([*git, *arguments], cwd=house.root, check=True, capture_output=True)
    command = [sys.executable, "-P", "-m", "pv", "falsify", "--id"]
    how = {"cwd": house.root, "env": variables(), "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = [subprocess.Popen([*command, claim], **how) for claim in claims]
    failed = [process.args[-1] for process in running if process.wait() != 0]
    text = house.contract.read_text("utf-8")
    lost = [claim for claim, status in statuses_in(text).items() if status != "FUNCTIONAL"]
    return [
        measure("lost", len(lost), unit="statuses", n=WRITERS),
        measure("failed", len(failed), unit="runs", n=WRITERS),
        measure("one_version", "version: 1.1.0\n" in text),
    ]


# --- 003: no status without its record --------------------------------------------------------------------------------

# The records are put back only after the contract points to them.
STATUS_FIRST = """
    import pathlib
    import pv.document.files as files

    real = files.compare_and_swap

    def status_first(path, expected, content):
        records = {p: p.read_bytes() for p in pathlib.Path("evidence").rglob("*.json")}
        for record in records:
            record.unlink()
        real(path, expected, content)
        for record, written in records.items():
            record.write_bytes(written)

    files.compare_and_swap = status_first
"""


@falsifier(
    "FALSIFY-PV-SELF-003",
    level="live",
    controls=[Control("the status is written before its record", plant=planted(STATUS_FIRST), breaks="unfounded")],
    attacks=[Store.add, settle, write, replace_atomically],
    timeout=180,
)
def every_status_has_its_record(ctx: Any) -> list[Measurement]:
    """`pv falsify`, killed before each file operation: whatever the contract claims by then, its record is on disk."""
    house = House(ctx)
    house.write(FALSIFY_X_001=GOOD)
    seen = killed(ctx, house, shots=4, folders="contracts,evidence", command=["falsify", "--all"])
    unfounded = [where.name for where in seen if not founded(where)]
    earned = statuses_in((seen[0] / "contracts" / "x-v1.yaml").read_text("utf-8"))
    return [
        measure("unfounded", len(unfounded), unit="statuses", n=len(seen)),
        measure("kills", len(seen) - 1, unit="kills"),
        measure("earned", sum(status == "FUNCTIONAL" for status in earned.values()), unit="statuses"),
    ]


def founded(project: Path) -> bool:
    """Whether every status above UNBOUND points to records that are there and are what their digest says."""
    text = (project / "contracts" / "x-v1.yaml").read_text("utf-8")
    written = [path.read_bytes() for path in (project / "evidence").rglob("*.json") if not path.name.startswith(".")]
    there = {hashlib.sha256(content.removesuffix(b"\n")).hexdigest() for content in written}
    heads = heads_in(text)
    return all(
        status == "UNBOUND" or (heads[claim] and set(heads[claim]) <= there)
        for claim, status in statuses_in(text).items()
    )


# --- 004: a vacuous check never promotes ------------------------------------------------------------------------------

MISSED_IS_CAUGHT = """
    import dataclasses
    import pv.evidence.rejudge as rejudge
    import pv.falsify.judge as judge

    real = judge.control_record

    def generous(*arguments, **named):
        return dataclasses.replace(real(*arguments, **named), caught=True)

    judge.control_record = generous
    rejudge.contradictions = lambda record: iter(())  # the store judges again before it writes
"""
VACUOUS = {
    "FALSIFY_X_001": "return measure('m', 1)",  # never looks
    "FALSIFY_X_002": "if defect: raise ValueError('under the defect')\nreturn measure('m', 1)",
    "FALSIFY_X_003": "if defect: os._exit(1)\nreturn measure('m', 1)",
    "FALSIFY_X_004": "return measure('m', 2 - 1)",
}


@falsifier(
    "FALSIFY-PV-SELF-004",
    level="live",
    controls=[Control("a missed control counts as caught", plant=planted(MISSED_IS_CAUGHT), breaks="promoted")],
    attacks=[verdict, control_record, entitle],
    timeout=120,
)
def a_vacuous_check_earns_nothing(ctx: Any) -> list[Measurement]:
    """Checks that cannot fail, and such whose control crashes, beside one that is sound."""
    house = House(ctx)
    house.write(**VACUOUS, FALSIFY_X_009=GOOD)
    told = house.results(house.pv("falsify", "--all", "--output-format", "json"))
    statuses = house.statuses()
    sound = statuses.pop("FALSIFY-X-009")
    return [
        measure("promoted", sum(status != "UNBOUND" for status in statuses.values()), unit="claims", n=len(statuses)),
        measure("told", sum(found == "VACUOUS" for found in told.values()), unit="claims"),
        measure("sound_promoted", sound == "FUNCTIONAL"),
    ]


# --- 005: reading runs nothing ----------------------------------------------------------------------------------------

TAGS = """
    import pv.document.reader as reader
    import yaml

    real = reader.parse

    def trusting(content, *arguments, **named):
        try:
            yaml.unsafe_load(content)
        except Exception:
            pass
        return real(content, *arguments, **named)

    reader.parse = trusting
"""
IMPORTS = """
    import runpy
    import pv.falsify.reading as reading

    real = reading.read_module

    def importing(path, *arguments, **named):
        try:
            runpy.run_path(str(path))
        except BaseException:
            pass
        return real(path, *arguments, **named)

    reading.read_module = importing
"""
PAYLOADS = (
    '!!python/object/apply:os.system ["touch {canary}"]',
    '!!python/object/apply:subprocess.check_call [["touch", "{canary}"]]',
    "!!python/object/new:os.system [touch {canary}]",
    '"$(touch {canary})"',
    '"`touch {canary}`"',
    "\"{{{{ open('{canary}', 'w') }}}}\"",
    '"| touch {canary}"',
)
READERS = (
    ["validate"],
    ["list"],
    ["status"],
    ["verify"],
    ["settle", "--dry-run"],
    ["explain", "FALSIFY-X-001"],
    ["why-not", "FUNCTIONAL", "FALSIFY-X-001"],
)


@falsifier(
    "FALSIFY-PV-SELF-005",
    level="live",
    controls=[
        Control("the reader constructs what a language tag asks for", plant=planted(TAGS), breaks="executed"),
        Control("checks are found by importing them", plant=planted(IMPORTS), breaks="executed"),
    ],
    attacks=[parse, read_module],
    timeout=180,
)
def reading_runs_no_code(ctx: Any) -> list[Measurement]:
    """Contracts and check modules full of traps, under every command that only reads."""
    house = House(ctx)
    canaries = ctx.scratch / "canaries"
    canaries.mkdir()
    trapped(house, canaries)
    refused = 0
    for command in READERS:
        done = house.pv(*command)
        refused += command == ["validate"] and sum(done.stdout.count(f"trap-{number}.yaml:") > 0 for number in range(3))
    executed = sorted(path.name for path in canaries.iterdir())
    if executed:
        ctx.note(f"executed: {', '.join(executed)}")
    return [
        measure("executed", len(executed), unit="payloads", n=len(READERS) * (len(PAYLOADS) + 3)),
        measure("tags_refused", refused, unit="files"),
    ]


def trapped(house: House, canaries: Path) -> None:
    """A project in which everything that could be executed creates a file."""

    def touch(name: str) -> str:
        return f"open({str(canaries / name)!r}, 'w').close()\n"

    for number, payload in enumerate(PAYLOADS):
        trap = payload.format(canary=canaries / f"yaml-{number}")
        text = CONTRACT.replace("description: a scratch contract", f"description: {trap}")
        text += entry("FALSIFY-T-001").replace("a rule of FALSIFY-T-001", trap).replace("binds_to: e", f"test: {trap}")
        (house.root / "contracts" / f"trap-{number}.yaml").write_text(text, "utf-8")
    cited = "    algorithm_evidence: {file_paths: [cited.py], function_names: [cited]}\n"
    house.contract.write_text(CONTRACT + entry("FALSIFY-X-001") + cited, "utf-8")
    (house.root / "cited.py").write_text(touch("cited") + "def cited(): ...\n")
    checks = house.root / "falsifiers"
    (checks / "x_v1.py").write_text(touch("module") + CHECKS + registration("FALSIFY-X-001") + "def f(ctx): ...\n")
    (checks / "__init__.py").write_text(touch("package"))
    (checks / "_support.py").write_text(touch("helper"))
    (house.root / "conftest.py").write_text(touch("conftest"))
    (house.root / "pv.py").write_text(touch("shadow"))
    (house.root / "yaml.py").write_text(touch("shadowed-library"))


# --- 006: a hand-raised status is refused -----------------------------------------------------------------------------

BELIEVES = """
    import dataclasses
    from pv.evidence.ledger import Ledger

    real = Ledger.entitlements

    def believing(self, contract):
        told = real(self, contract)
        return {
            claim.id: dataclasses.replace(told[claim.id], status=claim.status or told[claim.id].status)
            for claim in contract.claims
        }

    Ledger.entitlements = believing
"""
RUNGS = ("PARTIAL_ALGORITHM_LEVEL", "FUNCTIONAL", "DISCHARGED")


@falsifier(
    "FALSIFY-PV-SELF-006",
    level="live",
    controls=[Control("what is written is believed", plant=planted(BELIEVES), breaks="accepted")],
    attacks=[Ledger.entitlements, entitle],
    timeout=120,
)
def a_hand_raised_status_is_refused(ctx: Any) -> list[Measurement]:
    """A broken claim raised to each rung with an honest claim's evidence under it; and an honest one raised too far."""
    house = House(ctx)
    house.write(FALSIFY_X_001=GOOD, FALSIFY_X_002=BAD)
    must(house.pv_as_it_is("falsify", "--all"), 1)
    accused = house.pv("validate").returncode
    accepted = named = 0
    lies = list(lies_about(house.contract.read_text("utf-8")))
    for text, line in lies:
        house.contract.write_text(text, "utf-8")
        done = house.pv("validate")
        accepted += done.returncode == 0
        named += f"x-v1.yaml:{line}:" in done.stdout
    return [
        measure("accepted", accepted, unit="lies", n=len(lies)),
        measure("line_named", named, unit="lies", n=len(lies)),
        measure("honest_refused", accused != 0),
    ]


def lies_about(honest: str) -> Iterator[tuple[str, int]]:
    """Texts that claim too much, each with the line of the status that does."""
    before, broken = honest.split("  - id: FALSIFY-X-002\n")
    evidence = before.split("    status: FUNCTIONAL\n")[1]
    for rung in RUNGS:
        discharge = "    discharge_evidence: [seen twice]\n" if rung == "DISCHARGED" else ""
        text = f"{before}{entry('FALSIFY-X-002', status=rung)}{evidence}{discharge}"
        yield text, text[: text.rindex(f"    status: {rung}\n")].count("\n") + 1
    raised = before.replace("status: FUNCTIONAL\n", "status: DISCHARGED\n    discharge_evidence: [seen twice]\n")
    yield f"{raised}  - id: FALSIFY-X-002\n{broken}", before[: before.index("status: FUNCTIONAL")].count("\n") + 1


# --- 007: an edited record is found -----------------------------------------------------------------------------------

BLIND_TO_FIGURES = """
    import pv.evidence.rejudge as rejudge

    rejudge.contradictions = lambda record: iter(())
"""
BLIND_TO_NAMES = """
    import pv.evidence.store as store

    def believed(record):
        place = next(store_root.rglob(f"*-{record.digest.removeprefix('sha256:')[:12]}.json"), None)
        return str(place.relative_to(store_root)) if place else found_as(record)

    import pathlib
    store_root = pathlib.Path("evidence").absolute()
    real = store.relative_name

    def found_as(record):
        for path in store_root.rglob("*.json"):
            if record.claim_id == path.parent.name:
                return str(path.relative_to(store_root))
        return real(record)

    store.relative_name = found_as
    import pv.evidence.verify as verify
    verify._pointer = lambda *_: ("", "")
"""


@falsifier(
    "FALSIFY-PV-SELF-007",
    level="live",
    controls=[
        Control("stored figures are not compared again", plant=planted(BLIND_TO_FIGURES), breaks="missed"),
        Control("a record's name and pointer are not compared", plant=planted(BLIND_TO_NAMES), breaks="missed"),
    ],
    attacks=[verify, contradictions],
    timeout=180,
)
def an_edited_record_is_found(ctx: Any) -> list[Measurement]:
    """Records edited in place, forged together with their digest and pointer, deleted, renamed; logs edited."""
    honest = House(ctx, "honest")
    honest.write(FALSIFY_X_001=f"print('a log')\n{GOOD}")
    must(honest.pv_as_it_is("falsify", "--all"), 0)
    alarms = honest.pv("verify").returncode
    missed = []
    for number, (name, tamper) in enumerate(TAMPERINGS.items()):
        house = House(ctx, f"house-{number}")
        shutil.rmtree(house.root)
        shutil.copytree(honest.root, house.root)
        tamper(house)
        if house.pv("verify").returncode == 0:
            missed.append(name)
    if missed:
        ctx.note(f"missed: {', '.join(missed)}")
    return [
        measure("missed", len(missed), unit="tamperings", n=len(TAMPERINGS)),
        measure("tamperings", len(TAMPERINGS), unit="tamperings"),
        measure("false_alarms", alarms != 0),
    ]


def record_of(house: House) -> Path:
    return next(house.evidence.glob("FALSIFY-X-001/*.json"))


def forge(house: House, change: Any) -> None:
    """Change a record and everything that its digest stands in: bytes, name, pointer."""
    path = record_of(house)
    data = json.loads(path.read_text("utf-8"))
    change(data["predicate"])
    before = hashlib.sha256(path.read_bytes().removesuffix(b"\n")).hexdigest()
    content = rfc8785.dumps(data)
    after = hashlib.sha256(content).hexdigest()
    path.with_name(f"{path.name.split('-')[0]}-{after[:12]}.json").write_bytes(content + b"\n")
    path.unlink()
    replaced(house.contract, before, after)


def value_edited(house: House) -> None:
    replaced(record_of(house), '"value":1}', '"value":2}')


def record_deleted(house: House) -> None:
    record_of(house).unlink()


def record_renamed(house: House) -> None:
    record_of(house).rename(record_of(house).with_name("20200101T000000Z-0123456789ab.json"))


def value_forged(house: House) -> None:
    forge(house, lambda predicate: predicate["measurements"][0].update(value=0))


def verdict_forged(house: House) -> None:
    forge(house, lambda predicate: predicate.update(verdict="FALSIFIED", observed="if_fails"))


def bound_forged(house: House) -> None:
    forge(house, lambda predicate: predicate["measurements"][0]["threshold"].update(op=">=", value=0.5))


def control_forged(house: House) -> None:
    forge(house, lambda predicate: predicate["negativeControls"][0]["measurements"][0].update(value=1, passed=True))


def log_edited(house: House) -> None:
    log = next((house.evidence / "logs").iterdir())
    log.write_bytes(gzip.compress(b"another log\n", mtime=0))


TAMPERINGS = {
    "a value edited in place": value_edited,
    "a record deleted": record_deleted,
    "a record renamed": record_renamed,
    "a value forged with its digest": value_forged,
    "a verdict forged with its digest": verdict_forged,
    "a bound forged with its digest": bound_forged,
    "a control forged with its digest": control_forged,
    "a log edited": log_edited,
}


# --- 008: NaN and infinity fail every threshold -----------------------------------------------------------------------

NAN_IS_FINE = """
    import math
    import pv.evidence.rejudge as rejudge
    import pv.falsify.judge as judge

    rejudge.contradictions = lambda record: iter(())  # the store judges again before it writes
    real = judge.margin
    judge.margin = lambda value, op, bound: real(value, op, bound) if math.isfinite(value) else 0.0
"""
BOUNDS = {"<": 1, "<=": 1, ">": 1, ">=": 1, "==": 1, "!=": 1, "within": [0, 1]}


@falsifier(
    "FALSIFY-PV-SELF-008",
    level="live",
    controls=[Control("what is not finite passes", plant=planted(NAN_IS_FINE), breaks="passed")],
    attacks=[margin, verdict],
    timeout=120,
)
def nan_passes_no_threshold(ctx: Any) -> list[Measurement]:
    """NaN and both infinities against each of the seven operations, through `pv falsify`."""
    house = House(ctx)
    contract, checks = CONTRACT, CHECKS
    for number, ((op, bound), special) in enumerate(itertools.product(BOUNDS.items(), ("nan", "inf", "-inf"))):
        claim = f"FALSIFY-X-{number:03}"
        contract += entry(claim, f'{{op: "{op}", value: {bound}}}')
        checks += f"{registration(claim)}def f{number}(ctx): return measure('m', float('{special}'))\n\n"
    house.contract.write_text(contract, "utf-8")
    (house.root / "falsifiers" / "x_v1.py").write_text(checks, "utf-8")
    told = house.results(house.pv("falsify", "--all", "--output-format", "json"))
    return [
        measure("passed", sum(found != "FALSIFIED" for found in told.values()), unit="claims", n=len(told)),
        measure("tried", len(told), unit="claims"),
    ]


# --- 009: one check that crashes ends no other ------------------------------------------------------------------------

DEATH_IS_CONTAGIOUS = """
    import pv.falsify.workers as workers

    def helpless(self, process):
        raise RuntimeError("a worker died")

    workers.Worker._obituary = helpless
"""
CRASHES = {
    "FALSIFY_X_001": "os.kill(os.getpid(), signal.SIGSEGV)",
    "FALSIFY_X_002": "os._exit(0)",
    "FALSIFY_X_003": "sys.exit(0)",
    "FALSIFY_X_004": "raise MemoryError",
    "FALSIFY_X_005": "os.kill(os.getpid(), signal.SIGKILL)",
    "FALSIFY_X_006": "os.close(1); os.close(2); raise OSError('no voice')",
}


@falsifier(
    "FALSIFY-PV-SELF-009",
    level="live",
    controls=[Control("a dead worker ends the run", plant=planted(DEATH_IS_CONTAGIOUS), breaks="others_survived")],
    attacks=[Worker.ask],
    timeout=120,
)
def a_crash_is_recorded_and_the_others_go_on(ctx: Any) -> list[Measurement]:
    """Checks that die in six ways, and after them a sound one."""
    house = House(ctx)
    house.write(**CRASHES, FALSIFY_X_009=GOOD)
    house.pv("falsify", "--all")
    statuses = house.statuses()
    verdicts = [json.loads(path.read_text("utf-8"))["predicate"]["verdict"] for path in house.evidence.rglob("*.json")]
    return [
        measure("recorded", verdicts.count("ERROR"), unit="records", n=len(CRASHES)),
        measure("others_survived", statuses.pop("FALSIFY-X-009") == "FUNCTIONAL"),
        measure("promoted", sum(status != "UNBOUND" for status in statuses.values()), unit="claims", n=len(statuses)),
    ]


# --- 010: a rename loses nothing --------------------------------------------------------------------------------------

FORGETS_FORMER_NAMES = """
    from pv.contract.claims import Claim

    Claim.ids = property(lambda self: (self.id,))
"""
TAKES_A_RENAME_FOR_A_CHANGE = """
    from pv.contract.claims import Claim

    Claim.first_id = property(lambda self: self.id)
"""
RENAMES = (
    ("FALSIFY-X-001", "FALSIFY-Y-001"),
    ("contracts/x-v1.yaml", "contracts/y-v1.yaml"),
    ("FALSIFY-X-002", "FALSIFY-Y-002"),
    ("FALSIFY-Y-001", "FALSIFY-Z-001"),
)


@falsifier(
    "FALSIFY-PV-SELF-010",
    level="live",
    controls=[
        Control("records go by today's name alone", plant=planted(FORGETS_FORMER_NAMES), breaks="lost"),
        Control("a rename changes what is claimed", plant=planted(TAKES_A_RENAME_FOR_A_CHANGE), breaks="stale"),
    ],
    attacks=[rename_claim, rename_contract, carry_out, Ledger.records_of],
    timeout=120,
)
def a_rename_loses_nothing(ctx: Any) -> list[Measurement]:
    """Claims and their contract are renamed one after another; then everything that was earned is looked for."""
    house = House(ctx)
    house.write(FALSIFY_X_001=GOOD, FALSIFY_X_002=GOOD)
    must(house.pv_as_it_is("falsify", "--all"), 0)
    renamed = sum(house.pv("mv", old, new).returncode == 0 for old, new in RENAMES)
    stale = house.pv("validate").stdout.count("PV403")
    orphans = house.pv("verify").stdout.count("PV459")
    house.pv("settle")
    statuses = statuses_in((house.root / "contracts" / "y-v1.yaml").read_text("utf-8"))
    kept = [claim for claim in ("FALSIFY-Z-001", "FALSIFY-Y-002") if statuses.get(claim) == Status.FUNCTIONAL.value]
    return [
        measure("renamed", renamed, unit="renames", n=len(RENAMES)),
        measure("lost", 2 - len(kept), unit="statuses", n=2),
        measure("stale", stale, unit="claims", n=2),
        measure("orphans", orphans, unit="records", n=2),
    ]


# --- KH 001: entitlement never exceeds the evidence -------------------------------------------------------------------

CELLS = (Cell(DeviceClass.CPU, "code"), Cell(DeviceClass.CUDA, "code"))
CLAIM = Claim("FALSIFY-X-001", ("falsification_tests", 0), "falsifier", required_cells=CELLS)
BOUND = 3


@contextlib.contextmanager
def vacuous_survives(ctx: Any) -> Iterator[None]:
    """A survival counts, whatever its controls did."""
    real = RecordView.effective
    RecordView.effective = property(lambda view: view.verdict)  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        RecordView.effective = real  # type: ignore[method-assign]


@contextlib.contextmanager
def any_cell_will_do(ctx: Any) -> Iterator[None]:
    """The best cell decides, not the worst."""
    real = entitlement._status

    def best(claim: Claim, states: Any) -> Status:
        return max((state.rung for state in states), key=lambda rung: rung.rung)

    entitlement._status = best
    try:
        yield
    finally:
        entitlement._status = real


@harness(
    "KH-PV-SELF-001",
    bound=3,
    controls=[
        Control("a survival with a missed control counts", plant=vacuous_survives, breaks="above"),
        Control("one cell stands for all", plant=any_cell_will_do, breaks="above"),
    ],
    attacks=[entitle],
    timeout=120,
)
def no_set_of_records_earns_more_than_it_says(ctx: Any) -> list[Measurement]:
    """Every sequence of up to three records in two required cells, against the ladder's rules written down again."""
    kinds = [
        (cell, verdict_, level, caught)
        for cell in CELLS
        for verdict_ in Verdict
        for level in Level
        for caught in ((True, False) if verdict_ is Verdict.SURVIVED else (True,))
    ]
    above = below = cases = 0
    for length in range(BOUND + 1):
        for chosen in itertools.product(kinds, repeat=length):
            views = [view(number, *kind) for number, kind in enumerate(chosen)]
            status, due = entitle(CLAIM, views).status, deserved(chosen)
            above += status.rung > due.rung
            below += status is not due
            cases += 1
    ctx.exhaust(BOUND, cases, complete=True)
    return [
        measure("above", above, unit="cases", n=cases),
        measure("differs", below, unit="cases", n=cases),
        measure("cases", cases, unit="cases"),
    ]


def view(number: int, cell: Cell, found: Verdict, level: Level, caught: bool) -> RecordView:
    return RecordView(
        f"sha256:{number}", f"2026-11-20T00:00:0{number}Z", cell, level, found, "g", controls_caught=caught
    )


def deserved(chosen: Sequence[tuple[Cell, Verdict, Level, bool]]) -> Status:
    """The ladder of design and README in the fewest words: one host, one generation of code, two required cells."""

    def in_cell(cell: Cell) -> list[tuple[Verdict, Level]]:
        return [
            (Verdict.VACUOUS if found is Verdict.SURVIVED and not caught else found, level)
            for where, found, level, caught in chosen
            if where == cell
        ]

    cells = [in_cell(cell) for cell in CELLS]
    if any(found is Verdict.FALSIFIED for records in cells for found, _ in records):
        return Status.FALSIFIED
    if any(found is Verdict.VACUOUS for records in cells for found, _ in records):
        return Status.UNBOUND
    if all((Verdict.SURVIVED, Level.LIVE) in records for records in cells):
        return Status.FUNCTIONAL
    if any(found is Verdict.SURVIVED for records in cells for found, _ in records):
        return Status.PARTIAL_ALGORITHM_LEVEL
    if any(records and records[-1][0] is Verdict.BLOCKED for records in cells):
        return Status.BLOCKER_FIXTURE_ABSENT
    return Status.UNBOUND
