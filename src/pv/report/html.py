"""A story -> one self-contained HTML page: no network, no file beside it, the same bytes for the same story.

Whatever comes from a contract or a record is data. The templates escape it; what could repaint or reorder text is
written as an escape; a text beyond `LONGEST` is cut; a reference is a link only if it begins with https:// or http://.
The page's policy allows its own script and style, by their digests, and nothing else.

With more than `LAZY_ABOVE` claims the details are kept packed and become elements when they are opened; the bytes then
also depend on the zlib of the Python that wrote them.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from pv.contract.claims import text_of
from pv.contract.vocabulary import DeviceClass, Status, Verdict
from pv.diagnostics.words import safe
from pv.evidence.record import MeasurementRecord
from pv.evidence.statement import plain
from pv.falsify.judge import bound_text, number_text
from pv.report import svg
from pv.report.assurance import argument, equations, undeveloped
from pv.report.matrix import SHORT, Line
from pv.report.notes import Chart, parts
from pv.report.spread import shared_out
from pv.report.story import RED, ClaimStory, ContractStory, Story, relative_margin, short
from pv.report.trend import RULE, Series

TEMPLATES = Path(__file__).parent / "templates"
LAZY_ABOVE = 400
LONGEST = 20_000  # characters of one text
MOST_PARTS = 400  # of a piece of free data
DOTS = svg.SHAPES  # columns of a chart that are drawn on one line
SYMBOLS: Mapping[Status, str] = {
    Status.DISCHARGED: "◆",
    Status.FUNCTIONAL: "●",
    Status.PARTIAL_ALGORITHM_LEVEL: "◐",
    Status.BLOCKER_FIXTURE_ABSENT: "□",
    Status.UNBOUND: "○",
    Status.FALSIFIED: "✖",
}
DOWNWARDS = tuple(SYMBOLS)  # best first
_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")


def page(story: Story, *, lazy: bool | None = None) -> str:
    """The report. `lazy` keeps details packed until they are opened (default: where there are many claims)."""
    lazy = len(story.claims) > LAZY_ABOVE if lazy is None else lazy
    style, script = _file("report.css"), _file("report.js")
    anchors = Anchors(story)
    environment = _environment()
    environment.globals["anchors"] = anchors
    arguments = {id(one): argument(one) for one in story.contracts}  # two files may have one stem
    # Macros of modules: a render for each of ten thousand claims would set up a context for each.
    about, body = (_macro(environment, name) for name in ("about.html", "claim.html"))

    def about_body(contract: ContractStory) -> Markup:
        return about(contract, arguments[id(contract)])

    def packed(contract: ContractStory) -> str:
        """JSON of anchor -> HTML, gzip, base64: tables repeat themselves, so a tenth of the size."""
        held = {anchors.about(contract): about_body(contract)}
        held |= {anchors.claim(one): body(contract, one) for one in contract.claims}
        content = gzip.compress(json.dumps(held, ensure_ascii=False).encode(), compresslevel=6, mtime=0)
        return base64.b64encode(content).decode()

    details = shared_out(packed, story.contracts) if lazy else []
    payloads = {anchors.contract(one): detail for one, detail in zip(story.contracts, details, strict=False)}

    def payload(contract: ContractStory) -> Markup:
        return Markup(payloads[anchors.contract(contract)])  # noqa: S704 - base64 has no character to escape

    return environment.get_template("page.html").render(
        story=story,
        lazy=lazy,
        style=style,
        script=script,
        policy=f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        claim_body=body,
        about_body=about_body,
        payload=payload,
        counts=_counted(story.claims),
        devices=[device for device in DeviceClass if any(device is cell.device for cell in story.matrix.cells)],
        undeveloped={one.contract.id: len(undeveloped(arguments[id(one)])) for one in story.contracts},
    )


class Anchors:
    """Names for links: a claim's own id where it is the only one, made fit for an address and unlike any other."""

    def __init__(self, story: Story) -> None:
        self._taken: set[str] = set()
        self._contracts = {id(one): self._new(f"contract-{one.contract.id}") for one in story.contracts}
        self._abouts = {id(one): f"p-about-{number}" for number, one in enumerate(story.contracts, 1)}
        self._claims: dict[int, str] = {}
        self._by_id: dict[tuple[str, str], str] = {}
        for one in story.claims:
            anchor = self._new(one.claim.id)
            self._claims[id(one)] = anchor
            self._by_id.setdefault((one.contract_id, one.claim.id), anchor)
        self._stems = {one.contract.id: self._contracts[id(one)] for one in story.contracts}

    def claim(self, one: ClaimStory) -> str:
        """Of a claim."""
        return self._claims[id(one)]

    def contract(self, one: ContractStory) -> str:
        """Of a contract."""
        return self._contracts[id(one)]

    def about(self, one: ContractStory) -> str:
        """Of what is told of a contract beside its claims."""
        return self._abouts[id(one)]

    def record(self, one: ClaimStory, digest: str) -> str:
        """Of a record that is shown with a claim; the script finds the claim by what stands before the dot."""
        return f"{self.claim(one)}.rec-{short(digest)}"

    def stem(self, name: str) -> str:
        """Of the contract with this stem; "" where there is none."""
        return self._stems.get(name, "")

    def claim_of(self, contract_id: str, claim_id: str) -> str:
        """Of a claim by its id; "" where the contract has none."""
        return self._by_id.get((contract_id, claim_id), "")

    def line(self, line: Line) -> str:
        """Of what a line of a matrix is about."""
        return self.claim_of(line.contract_id, line.claim_id) if line.claim_id else self.stem(line.contract_id)

    def _new(self, wanted: str) -> str:
        fit = _UNFIT.sub("-", wanted)[:120].strip("-") or "unnamed"
        if fit.startswith("p-") or ".rec-" in fit:  # the page's own names, and those of records
            fit = f"id-{fit.replace('.rec-', '-rec-')}"
        name, number = fit, 2
        while name in self._taken:
            name, number = f"{fit}-{number}", number + 1
        self._taken.add(name)
        return name


@cache
def _file(name: str) -> Markup:
    """A file of ours that goes into the page as it is. Raises ValueError if it would end its own element."""
    text = (TEMPLATES / name).read_text("utf-8")
    if "</" in text:
        raise ValueError(f"expected no '</' in {name}: it would end the element that the file is put into")
    return Markup(text)  # noqa: S704 - our own file


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class _Attributes(Environment):
    """A dot in a template is an attribute and nothing else, which is looked up without a call of Python."""

    getattr = staticmethod(getattr)  # type: ignore[assignment]  # it takes its arguments by place, as templates do


def _environment() -> Environment:
    environment = _Attributes(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_harmless,
    )
    environment.filters |= {  # called without the detour over the context that a function in a template takes
        "short": short,
        "number": number_text,
        "many": _many,
        "prose": _prose,
        "bound_text": bound_text,
        "chip": CHIPS.__getitem__,
        "counted": _counted,
        "flat": _flat,
        "flags": _flags,
        "link": _link,
        "margin_text": _margin_text,
        "margin_bar": _margin_bar,
        "share_bar": _share_bar,
        "spark": _spark,
        "searched": _searched,
        "devices_of": _devices_of,
    }
    environment.globals |= {
        "Status": Status,
        "Verdict": Verdict,
        "RED": RED,
        "SHORT": SHORT,
        "RULE": RULE,
        "equations": equations,
        "is_chart": lambda part: isinstance(part, Chart),
        "parts": parts,
        "drawn": _drawn,
    }
    return environment


def _macro(environment: Environment, name: str) -> Callable[..., Markup]:
    """The macro `body` of a template, which escapes what it is given."""
    module: Any = environment.get_template(name).module
    macro: Callable[..., Markup] = module.body
    return macro


def _harmless(value: Any) -> Any:
    """What a template is about to write (and then escape): texts cut and made safe; our own markup as it is."""
    if type(value) is not str:  # most are; a subclass such as Markup or an enum is not
        if isinstance(value, Markup):
            return value
        value = "" if value is None else str(value)
    text: str = value
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]} … ({len(text) - LONGEST} more characters)"
    return text if text.isascii() and text.isprintable() else safe(text)


# --- words -----------------------------------------------------------------------------------------------------------


def _many(count: int, word: str, words: str = "") -> str:
    return f"{count} {word if count == 1 else words or word + 's'}"


def _prose(text: str) -> Markup:
    """A text whose pieces between backticks are code; where the backticks are odd in number, they stay."""
    pieces = str(_harmless(text)).split("`")
    if len(pieces) % 2 == 0:
        return escape("`".join(pieces))
    coded = Markup("<code>{}</code>")
    return Markup("").join(coded.format(piece) if at % 2 else piece for at, piece in enumerate(pieces))


def _chip(status: Status) -> Markup:
    """A status as a shape and a word; its colour says no more than they do."""
    chip = Markup('<span class="chip s-{}"><span aria-hidden="true">{}</span> {}</span>')
    return chip.format(SHORT[status].lower(), SYMBOLS[status], SHORT[status])


CHIPS: Mapping[Status, Markup] = {status: _chip(status) for status in Status}


def _counted(claims: Sequence[ClaimStory]) -> list[tuple[Status, int]]:
    """Each status, best first, and how many claims have earned it."""
    found = Counter(one.status for one in claims)
    return [(status, found[status]) for status in DOWNWARDS]


def _flags(one: ClaimStory) -> list[str]:
    """What sets a claim apart, as filters and tags name it."""
    told = {
        "broken": bool(one.red) and not one.claim.known_failing,
        "known failing": bool(one.claim.known_failing),
        "stale": bool(one.standing.entitlement.stale),
        "drifting": bool(one.drifts),
        "written otherwise": bool(one.standing.written),
        "no check": one.check is None and not one.claim.blocked_on,
    }
    return [word for word, holds in told.items() if holds]


def _searched(one: ClaimStory) -> str:
    """What the search box looks into."""
    claim = one.claim
    words = (claim.id, one.status.value, claim.rule, claim.prediction, *claim.binds_to, *claim.thresholds)
    guilty = (stage for cell in one.cells for stage in cell.guilty)
    return " ".join((*words, *guilty))[:1500].lower()


def _devices_of(one: ClaimStory) -> str:
    return " ".join(dict.fromkeys(cell.state.cell.device.value for cell in one.cells))


def _link(text: str) -> Markup:
    """A link where the text is an address of the web, else the text."""
    shown = Markup("{}").format(_harmless(text))
    if not re.fullmatch(r"https?://[^\s\"'<>]{1,2000}", text):
        return shown
    return Markup('<a href="{}" rel="noopener noreferrer">{}</a>').format(text, shown)


def _flat(value: Any, path: str = "") -> list[tuple[str, str]]:
    """Data of any shape as (path, text) lines: what is found in the first `MOST_PARTS` steps (aliases can multiply)."""
    found: list[tuple[str, str]] = []
    pending = [(path, value)]
    for _ in range(MOST_PARTS):
        if not pending:
            break
        name, item = pending.pop(0)
        if isinstance(item, Mapping):
            pending = [(f"{name}.{key}" if name else str(key), below) for key, below in item.items()] + pending
        elif isinstance(item, list):
            pending = [(name, below) for below in item] + pending
        elif item not in (None, ""):
            found.append((name, text_of(item)))
    return found


# --- figures ---------------------------------------------------------------------------------------------------------


def _margin_text(measured: MeasurementRecord) -> str:
    """`0.0099 (1 %)`, of the bound; `exact` where a value is the very one that was asked for."""
    if measured.margin is None:
        return "none"
    if measured.threshold and measured.threshold.op == "==" and measured.passed:
        return "exact"
    share = relative_margin(measured) if measured.threshold and measured.threshold.value != 0 else None
    percent = "" if share is None else f" ({100 * share:,.0f} %)" if abs(share) >= 1 else f" ({100 * share:.3g} %)"
    return f"{number_text(measured.margin)}{percent}"


def _margin_bar(measured: MeasurementRecord) -> Markup:
    if measured.threshold and measured.threshold.op == "==" and measured.passed:
        return Markup("")  # nothing to be near to
    share = relative_margin(measured)
    return Markup(svg.margin_bar(share, measured.passed, ""))  # noqa: S704 - made of numbers


def _share_bar(counts: list[tuple[Status, int]]) -> Markup:
    told = ", ".join(f"{count} {SHORT[status].lower()}" for status, count in counts if count)
    return Markup(svg.share_bar([(f"f-{SHORT[s].lower()}", n) for s, n in counts], told))  # noqa: S704 - ours


def _spark(series: Series) -> Markup:
    values = [float(plain(point.value)) for point in series.points]
    return Markup(svg.spark(values, [bool(point.drift) for point in series.points]))  # noqa: S704 - made of numbers


def _drawn(chart: Chart) -> SimpleNamespace:
    """What the template needs to lay a chart out: `bars` (one row), `dots` (few columns) or `lines` (many)."""
    values = [value for row in chart.rows for value in row.values]
    if len(chart.rows) == 1:
        over = svg.scale(values, zero=True)
        labels = [label or str(at) for at, label in enumerate(chart.labels, 1)]
        lines = [(label, Markup(svg.bar(v, over)), v) for label, v in zip(labels, values, strict=True)]  # noqa: S704
        return SimpleNamespace(shape="bars", title=chart.rows[0].title, lines=lines, log=over.logarithmic)
    over = svg.scale(values)
    if len(chart.labels) <= DOTS:
        heads = [(label or str(at + 1), Markup(svg.key(at))) for at, label in enumerate(chart.labels)]  # noqa: S704
        rows = [(row.title, row.values, Markup(svg.dots(row.values, over))) for row in chart.rows]  # noqa: S704
        return SimpleNamespace(shape="dots", heads=heads, rows=rows, log=over.logarithmic)
    drawn = [
        (row.title, row.values, Markup(svg.spark(row.values)), min(row.values), max(row.values))  # noqa: S704
        for row in chart.rows
    ]
    return SimpleNamespace(shape="lines", labels=chart.labels, rows=drawn, log=False)
