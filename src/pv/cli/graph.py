"""`pv graph`: what contracts depend on, what claims are about, and what a change touches."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from pv.cli.exit_codes import ExitCode
from pv.cli.here import project_of, tell_empty

if TYPE_CHECKING:
    from pv.contract.graph import Graph
    from pv.contract.project import Project
    from pv.evidence.impact import Impact


@click.command()
@click.argument("paths", nargs=-1, type=click.Path())
@click.option(
    "--format", "style", type=click.Choice(["text", "dot", "mermaid", "json"]), default="text", show_default=True
)
@click.option("--contracts-only", is_flag=True, help="Leave out claims and what they are bound to.")
@click.option("--impact", metavar="STEM|ID|PATH", help="What a change of a contract, a claim or a file touches.")
def graph(paths: tuple[str, ...], style: str, contracts_only: bool, impact: str | None) -> int:
    """Draw depends_on and binds_to; contracts come after what they depend on.

    Contracts that depend on each other in a ring are an error: each ring is named, the exit is 1. Names that no
    contract has are shown as unknown.

    \b
    Examples
      pv graph --contracts-only
      pv graph --format dot | dot -Tsvg > contracts.svg
      pv graph --impact src/pv/model/operators.py
    """
    from pv.contract.graph import Graph
    from pv.contract.load import load_all
    from pv.evidence.ledger import open_contracts
    from pv.rules.rings import rings

    project = project_of(paths)
    loaded = load_all(paths, project)
    drawn = Graph.of(open_contracts(loaded))
    if not drawn.contracts:
        tell_empty(project, paths)
        return ExitCode.NOTHING
    found = rings(drawn.depends)
    if impact is not None:
        _print_impact(_impact(impact, drawn, project), drawn, style)
    else:
        order = list(drawn.contracts) if found else drawn.order()
        _print(drawn, order, found, style, claims=not contracts_only)
    for name, askers in drawn.unknown.items():
        click.echo(f"unknown: no contract here is called {name}, named by {', '.join(askers)}", err=True)
    for ring in found:
        click.echo(f"error: contracts depend on each other: {' -> '.join([*ring, ring[0]])}", err=True)
    return ExitCode.FINDINGS if found else ExitCode.OK


def _print(drawn: Graph, order: list[str], rings: list[list[str]], style: str, *, claims: bool) -> None:
    from pv.contract.graph import as_data, as_dot, as_mermaid, as_text

    if style == "json":
        data = {
            "contracts": as_data(drawn, order),
            "unknown": {k: list(v) for k, v in drawn.unknown.items()},
            "cycles": rings,
        }
        click.echo(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        draw = {"text": as_text, "dot": as_dot, "mermaid": as_mermaid}[style]
        click.echo(draw(drawn, order, claims=claims))


def _impact(name: str, drawn: Graph, project: Project) -> Impact:
    from difflib import get_close_matches

    from pv.evidence.impact import impact_of
    from pv.evidence.ledger import Ledger
    from pv.falsify.discovery import find_checks

    ledger = Ledger.open(project, find_checks(project))
    found = impact_of(name, drawn, ledger)
    ledger.sources.save()
    if found is None:
        known = [*drawn.contracts, *(claim.id for contract in drawn.contracts.values() for claim in contract.claims)]
        near = get_close_matches(name, known, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else "`pv list` shows contracts and claims"
        raise click.UsageError(f"expected a contract, a claim or a file, found {name!r}; {hint}")
    return found


def _print_impact(found: Impact, drawn: Graph, style: str) -> None:
    if style in ("dot", "mermaid"):
        raise click.UsageError(f"expected --format text or json with --impact, found {style}")
    if style == "json":
        data = {
            "kind": found.kind,
            "name": found.name,
            "claims": [{"contract": stem, "id": claim} for stem, claim in found.claims],
            "waiting": [{"contract": stem, "id": claim} for stem, claim in found.waiting],
            "contracts": list(found.contracts),
        }
        click.echo(json.dumps(data, indent=2, ensure_ascii=False))
        return
    click.echo(f"{found.kind} {found.name}")
    for title, keys in (("claims that rest on it", found.claims), ("claims that wait for those", found.waiting)):
        click.echo(f"  {title}: {len(keys)}")
        for stem, claim_id in keys:
            claim = drawn.contracts[stem].claim(claim_id)
            click.echo(f"    {stem}  {claim_id}  {claim.status_text if claim and claim.status_text else 'no status'}")
    click.echo(f"  contracts that depend on theirs: {', '.join(found.contracts) or 'none'}")
