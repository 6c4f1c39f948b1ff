"""`pv explain CODE|ID`: what a rule is for and how to mend its findings; what a claim says and where it stands."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from pv.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from pv.contract.claims import Claim, Contract
    from pv.contract.project import Project
    from pv.evidence.verify import Explanation
    from pv.rules.finding import Rule


def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Codes and the ids of this project's claims."""
    from pv.rules.table import RULES

    items = [CompletionItem(rule.code, help=rule.title) for rule in RULES]
    items += [CompletionItem(claim.id, help=claim.rule[:60]) for _, claim in _claims(_project())]
    return [item for item in items if str(item.value).upper().startswith(incomplete.upper())]


@click.command()
@click.argument("what", metavar="CODE|ID", nargs=-1, required=True, shell_complete=complete)
@click.option("--output-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_context
def explain(ctx: click.Context, what: tuple[str, ...], output_format: str) -> None:
    """Explain a rule (PV401, or SCHEMA-019 of the reference validator) or a claim of this project by its id.

    \b
    Examples:
      pv explain PV203
      pv explain SCHEMA-019
      pv explain FALSIFY-CPU-GPU-002
    """
    found: list[dict[str, Any]] = []
    for word in what:
        found += explained(word)
    if output_format == "json":
        click.echo(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        click.echo("\n\n".join("\n".join(_lines(one)) for one in found))
    ctx.exit(int(ExitCode.OK))


def explained(word: str) -> list[dict[str, Any]]:
    """Everything of that name. Raises click.UsageError, with near names, where there is none."""
    from pv.contract.near import nearest
    from pv.rules.table import RULES

    code = word.upper()
    rules = [rule for rule in RULES if rule.code == code or code in rule.reference]
    if rules:
        return [_of_rule(rule) for rule in rules]
    others = _codes_beside_rules()
    if code in others:
        return [_of_code(code, others[code])]
    project = _project()
    claims = [(contract, claim) for contract, claim in _claims(project) if word in claim.ids]
    if claims:
        return [_of_claim(contract, claim, project) for contract, claim in claims]
    known = [*(rule.code for rule in RULES), *others, *(claim.id for _, claim in _claims(project))]
    near = nearest(word, known)
    hint = f"did you mean {near}?" if near else "`pv list` names the claims, the codes stand in every finding"
    raise click.UsageError(f"expected a rule code or the id of a claim, found {word!r}; {hint}")


def _project() -> Project:
    from pv.cli.here import project_here

    return project_here()


def _claims(project: Project) -> Iterator[tuple[Contract, Claim]]:
    from pv.contract.load import load_all

    for loaded in load_all((), project):
        if loaded.contract is not None:
            for claim in loaded.contract.claims:
                yield loaded.contract, claim


def _codes_beside_rules() -> Mapping[str, Explanation]:
    """Codes of findings that no rule over a file makes: of records, of checks, of the gate."""
    from pv.evidence.verify import CODES as OF_RECORDS
    from pv.falsify.codes import CODES as OF_CHECKS
    from pv.falsify.gate import CODES as OF_THE_GATE

    return {**OF_CHECKS, **OF_RECORDS, **OF_THE_GATE}


def _of_code(code: str, explanation: Explanation) -> dict[str, Any]:
    weight = explanation.severity.value
    return {
        "code": code,
        "title": explanation.title,
        "why": explanation.why,
        "fix": explanation.fix or "nothing to mend",
        "strict": weight,
        "compat": weight,
        "emitted": "command",
        "reference": [],
        "suppress": None,
    }


def _of_rule(rule: Rule) -> dict[str, Any]:
    return {
        "code": rule.code,
        "title": rule.title,
        "why": rule.why,
        "fix": rule.fix,
        "strict": rule.strict.value,
        "compat": rule.compat.value,
        "emitted": rule.scope.value,
        "reference": list(rule.reference),
        "suppress": f"# pv: ignore[{rule.code}] <reason>" if rule.suppressible else None,
    }


def _of_claim(contract: Contract, claim: Claim, project: Project) -> dict[str, Any]:
    from pv.falsify.discovery import find_checks

    check = find_checks(project).of(contract.id, claim.id)
    known = claim.known_failing
    return {
        "id": claim.id,
        "contract": f"{contract.id} {contract.metadata.version}",
        "path": project.display(contract.path),
        "rule": claim.rule,
        "prediction": claim.prediction,
        "if_fails": claim.if_fails,
        "claim": claim.claim.value,
        "binds_to": list(claim.binds_to),
        "cells": [str(cell) for cell in claim.required_cells],
        "oracle": claim.oracle,
        "precondition": list(claim.precondition),
        "blocked_on": list(claim.blocked_on),
        "known_failing": f"{known.reason} ({known.owner}, since {known.since})" if known else None,
        "thresholds": {
            name: f"{threshold} {threshold.unit}".removesuffix(" 1")
            + (f", from {threshold.source}" * bool(threshold.source))
            for name, threshold in claim.thresholds.items()
        },
        "bound": claim.bound,
        "cost": claim.cost.value,
        "status": claim.status_text,
        "last_verified": claim.last_verified,
        "evidence": list(claim.evidence),
        "check": check.entry_point if check else None,
        "level": check.level.value if check else None,
        "controls": [f"{control.name} (must break {control.breaks})" for control in check.controls] if check else [],
        "attacks": list(check.attacks) if check else [],
    }


def _lines(one: dict[str, Any]) -> list[str]:
    return _rule_lines(one) if "code" in one else _claim_lines(one)


def _rule_lines(rule: dict[str, Any]) -> list[str]:
    weight = (
        rule["strict"] if rule["strict"] == rule["compat"] else f"{rule['strict']} (strict), {rule['compat']} (compat)"
    )
    rows = [("weight", weight), ("reference", ", ".join(rule["reference"])), ("suppress", rule["suppress"] or "never")]
    return [
        f"{rule['code']}  {rule['title']}",
        "",
        *_wrapped(rule["why"]),
        "",
        *_wrapped(f"Fix: {rule['fix']}"),
        "",
        *(f"{name:10} {value}" for name, value in rows if value),
    ]


def _claim_lines(claim: dict[str, Any]) -> list[str]:
    lines = [f"{claim['id']}  {claim['rule']}", f"{claim['contract']}, {claim['path']}", ""]
    for name in ("prediction", "if_fails"):
        lines += _wrapped(f"{name}: {' '.join(claim[name].split())}") if claim[name] else []
    lines.append("")
    rows: list[tuple[str, str]] = [
        (
            "status",
            f"{claim['status'] or 'none'}" + f", last verified {claim['last_verified']}" * bool(claim["last_verified"]),
        ),
        ("claim", claim["claim"]),
        ("binds to", ", ".join(claim["binds_to"])),
        ("cells", "; ".join(claim["cells"])),
        ("oracle", claim["oracle"] or ""),
        ("waits for", ", ".join(claim["precondition"])),
        ("blocked on", ", ".join(claim["blocked_on"])),
        ("known red", claim["known_failing"] or ""),
        ("bound", "" if claim["bound"] is None else str(claim["bound"])),
        ("cost", claim["cost"]),
        ("check", claim["check"] or "none registered"),
        ("level", claim["level"] or ""),
        ("attacks", ", ".join(claim["attacks"])),
        *(("control", control) for control in claim["controls"]),
        *(("threshold", f"{name} {bound}") for name, bound in claim["thresholds"].items()),
        *(("evidence", digest) for digest in claim["evidence"]),
    ]
    return lines + [f"{name:12} {value}" for name, value in rows if value]


def _wrapped(text: str) -> Sequence[str]:
    import textwrap

    return textwrap.wrap(text, 100)
