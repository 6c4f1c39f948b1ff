"""`pv env`: what this machine has, and why something is not there."""

from __future__ import annotations

import json
import os
import platform
import sys
from typing import TYPE_CHECKING, Any

import click

from pv import __version__

if TYPE_CHECKING:
    from pv.contract.project import Project

LIBRARIES = (
    "torch", "numpy", "safetensors", "tokenizers", "transformers", "wgpu", "gguf", "xllamacpp", "nvidia-ml-py", "ray",
    "pydantic", "PyYAML", "ruamel.yaml", "jsonschema", "click", "filelock", "rfc8785",
)  # fmt: skip


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.option("--ray", "for_ray", is_flag=True, help="Only what `ray start --resources` must be told, as JSON.")
def env(as_json: bool, for_ray: bool) -> None:
    """What this machine has, and why something is not there.

    Versions, device classes, and the subjects that checks run on. Drivers are asked in child processes.

    \b
    Examples:
      pv env
      pv env --json | jq .devices.cuda
      ray start --address=HEAD:6379 --resources="$(pv env --ray)"
    """
    if for_ray:
        from pv.falsify.ray_engine import offered

        click.echo(json.dumps(offered()))
        return
    from pv.cli.here import project_here

    facts = facts_of(project_here())
    if as_json:
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        click.echo(as_text(facts))


def facts_of(project: Project) -> dict[str, Any]:
    """Everything that `pv env` tells; probes the drivers."""
    from pv.falsify.devices import present, versions
    from pv.falsify.environment import cpu, host

    return {
        "pv": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "host": host(),
        "cpu": cpu(),
        "cores": os.cpu_count() or 0,
        "libraries": versions(LIBRARIES),
        "devices": {
            report.device.value: {
                "present": report.present,
                "name": report.name,
                "driver": report.driver,
                "why_not": report.why_not,
                "cards": [{"name": card.name, "visible": card.visible} for card in report.cards],
            }
            for report in present().values()
        },
        "project": {
            "root": str(project.root),
            "configured": project.configured,
            "profile": project.profile.value,
            "contracts": list(project.contracts),
            "falsifiers": str(project.falsifiers),
            "evidence": str(project.evidence),
        },
        "subjects": {
            name: {"path": str(path), "present": path.exists()} for name, path in sorted(project.subjects.items())
        },
    }


def as_text(facts: dict[str, Any]) -> str:
    """The same for people: one line a fact, and what to do about what is missing."""
    lines = [f"{name:12} {facts[name]}" for name in ("pv", "python", "platform", "cpu", "cores", "host")]
    lines += ["", "devices"]
    for name, device in facts["devices"].items():
        driver = f" (driver {device['driver']})" if device["driver"] else ""
        driver += f", {len(device['cards'])} cards" if len(device["cards"]) > 1 else ""
        lines.append(
            f"  {name:10} {'yes  ' if device['present'] else 'no   '}{device['name'] or device['why_not']}{driver}"
        )
    lines += ["", "libraries"]
    lines += [f"  {name:14} {version or 'not installed'}" for name, version in facts["libraries"].items()]
    project = facts["project"]
    settings = "[tool.pv]" if project["configured"] else "no [tool.pv]; `pv init` writes one"
    lines += ["", f"project      {project['root']} ({settings}, profile {project['profile']})", "", "subjects"]
    lines += [
        f"  {name:14} {subject['path']}{'' if subject['present'] else '  (not there)'}"
        for name, subject in facts["subjects"].items()
    ] or ["  none; name them in [tool.pv.subjects] or as PV_SUBJECT_<NAME>"]
    return "\n".join(lines)
