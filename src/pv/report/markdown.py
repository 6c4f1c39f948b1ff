"""A story -> compact Markdown for a pull request. Whatever comes from a contract or a record stands in code spans.

In a code span nothing is a link, a mention, an image or HTML; a table's bars are escaped, line ends become spaces.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from pv.diagnostics.words import one_line
from pv.falsify.judge import bound_text, number_text
from pv.report.matrix import LEGEND, Matrix
from pv.report.story import CellStory, ClaimStory, ContractStory, Story, short

MOST = 20  # lines of one list
MOST_CONTRACTS = 200
LONGEST = 160  # characters of one text

Row = Sequence[str]


def page(story: Story) -> str:
    """The report: scoreboard, what needs attention, contracts, matrix."""
    return (
        "\n".join([*_scoreboard(story), *_attention(story), *_contracts(story), *_matrix(story), "", _foot(story)])
        + "\n"
    )


def matrix(found: Matrix) -> str:
    """A matrix as a table."""
    heads = [f"{cell.device.value}<br>{code(cell.subject)}" for cell in found.cells]
    rows = [
        [code(line.name), *(str(line.places[cell]) if cell in line.places else "–" for cell in found.cells)]
        for line in found.lines
    ]
    return "\n".join([*table(["", *heads], rows), "", f"({LEGEND})"])


def table(headings: Row, rows: Sequence[Row]) -> list[str]:
    """Lines of a table; the cells are Markdown already."""
    return [_line(headings), _line(["---"] * len(headings)), *map(_line, rows)]


def code(text: str, most: int = LONGEST) -> str:
    """Any text as a code span that may stand in a table: fenced by more backticks than it holds, cut at `most`."""
    line = one_line(text)
    line = line if len(line) <= most else f"{line[: most - 1]}…"
    if not line:
        return ""
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " if line[0] in "` " or line[-1] in "` " else ""
    return f"{fence}{space}{line}{space}{fence}".replace("|", "\\|")


def _line(cells: Row) -> str:
    return f"| {' | '.join(cells)} |"


def _scoreboard(story: Story) -> Iterator[str]:
    tally = story.standing.tally
    yield f"### Contracts: {tally} of {_count(tally.total, 'claim')}"
    yield ""
    parts = [
        f"{tally.discharged} discharged",
        f"{tally.functional} functional",
        f"{tally.partial} partial",
        f"{tally.blocked} blocked",
        f"{tally.unbound} unbound",
        f"{tally.falsified} falsified",
    ]
    yield f"{', '.join(parts)}; in {_count(len(story.contracts), 'contract')}."
    for scope in story.standing.scopes:
        absent = f"; not there: {', '.join(map(code, scope.absent))}" if scope.absent else ""
        yield f"Ship {code(scope.name)}: **{scope.percent:.1f} %** ({scope.shippable} of {scope.total}){absent}."
    if story.standing.unsound:
        yield f"**Not counted, unsound:** {_some([code(path) for path in story.standing.unsound], ', ')}."
    if story.damaged:
        yield f"**Damaged records:** {_some([code(name) for name, _ in story.damaged], ', ')}."


def _attention(story: Story) -> Iterator[str]:
    yield ""
    if story.broken:
        yield f"**Broken: {len(story.broken)}**"
        yield ""
        rows = [_red(one, cell) for one in story.broken for cell in one.red]
        yield from table(["claim", "cell", "verdict", "what broke", "record"], rows[:MOST])
        if len(rows) > MOST:
            yield f"\nand {len(rows) - MOST} more"
    else:
        yield "Nothing is broken."
    apart: list[tuple[str, list[ClaimStory], Callable[[ClaimStory], str]]] = [
        ("Known failing", story.known_failing, _known),
        ("Drifting", story.drifting, _drifting),
        ("Stale", story.stale, lambda one: one.standing.entitlement.stale),
        ("Blocked", story.blocked, _blocked),
        ("Without a check", story.unchecked, lambda one: one.claim.rule),
        ("Written otherwise than earned", story.misstated, lambda one: f"{one.standing.written}, earned {one.status}"),
    ]
    for title, claims, why in apart:
        if claims:
            lines = [f"- {code(one.claim.id)} {code(why(one))}" for one in claims]
            yield from _folded(f"{title}: {len(claims)}", [_some(lines, "\n")])


def _red(one: ClaimStory, cell: CellStory) -> Row:
    broken = [
        code(f"{m.name} = {number_text(m.value)}" + (f", expected {bound_text(m.threshold)}" if m.threshold else ""))
        for m in cell.broken[:3]
    ]
    stages = [code(f"stage {stage}") for stage in cell.guilty[:3]]
    return (
        code(one.claim.id),
        code(str(cell.state.cell)),
        cell.state.verdict.value if cell.state.verdict else "",
        "<br>".join([*(broken or [code(cell.trouble)]), *stages]),
        code(short(cell.record.digest)) if cell.record else "",
    )


def _known(one: ClaimStory) -> str:
    known = one.claim.known_failing
    return f"{known.reason} ({known.owner}, since {known.since})" if known else ""


def _drifting(one: ClaimStory) -> str:
    return "; ".join(f"{series.measurement} on {series.cell}: {series.points[-1].drift}" for series in one.drifts)


def _blocked(one: ClaimStory) -> str:
    return "; ".join(f"{what} ({', '.join(cells)})" if cells else what for what, cells in one.blockers.items())


def _contracts(story: Story) -> Iterator[str]:
    rows = [_contract(one) for one in story.contracts[:MOST_CONTRACTS]]
    more = len(story.contracts) - len(rows)
    body = table(["contract", "version", "tally", "of", "apart", "words"], rows)
    yield from _folded(_count(len(story.contracts), "contract"), [*body, *([f"\nand {more} more"] if more else [])])


def _contract(one: ContractStory) -> Row:
    standing = one.standing
    words = ", ".join(standing.words)
    tally = standing.tally
    version = code(one.contract.metadata.version)
    return code(one.contract.id), version, str(tally), str(tally.total), tally.apart, words


def _matrix(story: Story) -> Iterator[str]:
    found = story.matrix
    if found.lines:
        kept = Matrix(found.cells, found.lines[:MOST_CONTRACTS])
        yield from _folded("Device matrix", [matrix(kept)])


def _folded(title: str, lines: Sequence[str]) -> Iterator[str]:
    """Folded on a page; `title` is ours. Without the empty lines Markdown within would not be read."""
    yield f"\n<details><summary>{title}</summary>\n"
    yield from lines
    yield "\n</details>"


def _some(lines: Sequence[str], joint: str) -> str:
    more = f"{joint}and {len(lines) - MOST} more" if len(lines) > MOST else ""
    return joint.join(lines[:MOST]) + more


def _foot(story: Story) -> str:
    return f"<sub>pv {code(story.version)}; nothing was run: contracts and records alone.</sub>"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
