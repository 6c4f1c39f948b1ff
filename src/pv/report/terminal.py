"""Standings, entitlements and records -> plain text for a terminal, a pager or a log. No colour carries a meaning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pv.contract.vocabulary import Status
from pv.evidence.record import MeasurementRecord, Record
from pv.evidence.standing import ClaimStanding, ContractStanding, ProjectStanding, ScopeStanding
from pv.evidence.statement import plain
from pv.ladder.entitlement import CLIMB, Entitlement

Row = Sequence[str]


def table(rows: Sequence[Row], headings: Row = (), *, indent: str = "  ") -> list[str]:
    """Rows in aligned columns, the headings first where there are any; no line ends in blanks."""
    everything = [*([headings] if headings else []), *rows]
    if not everything:
        return []
    widths = [max(len(row[column]) for row in everything) for column in range(len(everything[0]))]
    lines = ("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in everything)
    return [f"{indent}{line}".rstrip() for line in lines]


def status(standing: ProjectStanding) -> str:
    """`pv status`: a table for each contract, then stale and known-failing claims apart, the scopes, the tally."""
    lines: list[str] = []
    for one in standing.contracts:
        lines += [*_contract(one), ""]
    lines += _apart(
        "stale", [(c.id, s.claim.id, s.entitlement.stale) for c, s in standing.claims if s.entitlement.stale]
    )
    lines += _apart(
        "known failing",
        [
            (c.id, s.claim.id, f"{s.claim.known_failing.reason} ({s.claim.known_failing.owner})")
            for c, s in standing.claims
            if s.claim.known_failing
        ],
    )
    return "\n".join([*lines, short_status(standing)])


def short_status(standing: ProjectStanding) -> str:
    """The scopes and the tally."""
    return "\n".join([*map(_scope, standing.scopes), summary(standing)])


def summary(standing: ProjectStanding) -> str:
    """`tally 20+36 (20 discharged, 36 functional or partial) of 59 claims in 12 contracts; 2 blocked; 3 stale`."""
    tally, claims = standing.tally, standing.claims
    parts = [
        f"tally {tally} ({tally.discharged} discharged, {tally.functional + tally.partial} functional or partial) "
        f"of {_count(tally.total, 'claim')} in {_count(len(standing.contracts), 'contract')}"
    ]
    asides = [
        (sum(bool(s.entitlement.stale) for _, s in claims), "stale"),
        (sum(s.claim.known_failing is not None for _, s in claims), "known failing"),
        (sum(bool(s.written) for _, s in claims), "written otherwise than earned"),
    ]
    told = ", ".join(f"{count} {word}" for count, word in asides if count)
    return "; ".join(filter(None, [*parts, tally.apart, told]))


def missing(entitlement: Entitlement, rung: Status) -> str:
    """`pv why-not`: what a claim lacks for a rung, or that it stands on it."""
    head = f"{entitlement.claim_id} is {entitlement.status.value}"
    if entitlement.status.rung >= rung.rung:
        stale = f", and its evidence is stale: {entitlement.stale}" if entitlement.stale else ""
        return f"{head}: it holds {rung.value}{stale}"
    lines = [f"{head}; for {rung.value} it lacks:"]
    needed = dict.fromkeys(
        item for step in CLIMB if step.rung <= rung.rung for item in entitlement.missing.get(step, ())
    )
    lines += [f"  - {item}" for item in needed] or ["  - nothing on record"]
    if entitlement.stale:
        lines.append(f"  its evidence is stale: {entitlement.stale}")
    return "\n".join(lines)


def record(one: Record, *, retracted: str = "", log: str | None = None) -> str:
    """`pv evidence show`: prediction -> observation, figures, controls, environment, reproducer."""
    lines = [f"{one.verdict.value}  {one.claim_id}  on {one.cell}, {one.level.value} level", f"  {one.digest}"]
    if one.invalidates:
        lines.append(f"  retracts {one.invalidates}")
    if retracted:
        lines.append(f"  RETRACTED: {retracted}")
    came = {"prediction": "came true", "if_fails": "did not come true"}.get(one.observed, "could not be told")
    lines += ["", f"  predicted   {one.predicted}", f"  observed    the prediction {came}"]
    lines += [f"  reason      {one.reason}"] if one.reason else []
    lines += [f"  missing     {item}" for item in one.missing]
    lines += (
        ["", "  figures", *table([_figure(m) for m in one.measurements], indent="    ")] if one.measurements else []
    )
    lines += _controls(one)
    lines += _facts(one)
    lines += [f"  note        {note}" for note in one.notes]
    lines += ["", f"  again       {one.command}"]
    if log is not None:
        lines += ["", "  log", *(f"    {line}" for line in log.splitlines())]
    return "\n".join(lines)


def _contract(one: ContractStanding) -> Iterator[str]:
    head = one.contract.metadata
    words = "".join(f"  {word}" for word in one.words)
    apart = f"; {one.tally.apart}" if one.tally.apart else ""
    life = f"  {head.status}" if head.status else ""
    yield f"{one.contract.id}  {head.version}{life}  {one.tally} of {one.tally.total}{apart}{words}"
    yield from table([_claim(claim) for claim in one.claims])


def _claim(one: ClaimStanding) -> Row:
    states = [state for state in one.entitlement.cells if state.required]
    cells = ", ".join(f"{state.cell}{f' {state.verified_at[:10]}' if state.verdict else ''}" for state in states)
    notes = [
        "stale" if one.entitlement.stale else "",
        "known failing" if one.claim.known_failing else "",
        f"written {one.written[:40]}" if one.written else "",
        "" if one.has_check or one.claim.blocked_on else "no check",
    ]
    return one.claim.id, one.status.value, cells, ", ".join(filter(None, notes))


def _apart(title: str, rows: Sequence[Row]) -> list[str]:
    return [f"{title}:", *table(rows), ""] if rows else []


def _scope(scope: ScopeStanding) -> str:
    absent = f"; not there: {', '.join(scope.absent)}" if scope.absent else ""
    return f"ship {scope.name}: {scope.percent:.1f} % ({scope.shippable} of {_count(scope.total, 'claim')}){absent}"


def _figure(measured: MeasurementRecord) -> Row:
    bound = measured.threshold
    said = "no threshold"
    if bound is not None:
        value = bound.value if isinstance(bound.value, tuple) else (bound.value,)
        said = f"{bound.op} {', '.join(_number(plain(v)) for v in value)}"
    margin = "" if measured.margin is None else f"margin {_number(plain(measured.margin))}"
    unit = "" if measured.unit == "1" else f" {measured.unit}"
    word = "holds" if measured.passed else "BROKEN"
    return measured.name, f"{_number(plain(measured.value))}{unit}", said, word, margin, f"n = {measured.n}"


def _controls(one: Record) -> list[str]:
    rows = [
        (control.name, "caught" if control.caught else "NOT CAUGHT", f"breaks {control.breaks}", control.observed)
        for control in one.controls
    ]
    return ["", "  planted defects", *table(rows, indent="    ")] if rows else []


def _facts(one: Record) -> list[str]:
    environment = one.environment
    facts = [
        ("ran", f"{one.started_at} for {one.duration_seconds:g} s"),
        ("contract", f"{one.contract_id} {one.contract_version}"),
        ("check", one.entry_point),
        ("attacks", ", ".join(one.attacks)),
        ("oracle", f"{one.oracle.name} {one.oracle.version}, {_agreed(one)}" if one.oracle else ""),
        ("exhausted", f"{one.exhausted.cases} cases of bound {one.exhausted.bound}" if one.exhausted else ""),
        ("device", " ".join(filter(None, [environment.device, environment.driver]))),
        ("python", " ".join(filter(None, [environment.python, environment.platform]))),
        ("torch", environment.torch),
        ("seed", "" if one.seed is None else str(one.seed)),
        ("commit", f"{one.git_commit[:12]}{' with changes' if one.git_dirty else ''}" if one.git_commit else ""),
        ("bound to", ", ".join(file.path for file in one.bound)),
        ("follows", one.previous),
    ]
    return ["", *(f"  {name:11} {value}" for name, value in facts if value)]


def _agreed(one: Record) -> str:
    return "which agreed" if one.oracle and one.oracle.agreed else "which DISAGREED"


def _number(value: float) -> str:
    return f"{value:.7g}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
