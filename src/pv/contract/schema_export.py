"""The models -> JSON Schemas for editors and other programs, in the dialect that all of them read (draft-07)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pv.contract.models import ContractFile
from pv.contract.project import SETTINGS

DIALECT = "http://json-schema.org/draft-07/schema#"


def schemas() -> dict[str, dict[str, Any]]:
    """The schemas of this room, by name: `contract` (one file) and `config` (the table [tool.pv])."""
    return {"contract": _contract(), "config": _config()}


def as_text(schema: Mapping[str, Any]) -> str:
    """A schema as it is written to disk: indented, with a final newline."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _contract() -> dict[str, Any]:
    body = ContractFile.model_json_schema(mode="validation")
    return {"$schema": DIALECT, "title": "A contract", **_plain(body)}


def _plain(schema: Any) -> Any:
    """The schema without what pydantic adds of its own: titles made from names, and defaults that editors insert."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    # Below `properties` and `$defs` the keys are names of fields and shapes, `title` possibly among them.
    return {
        key: {name: _plain(item) for name, item in value.items()} if key in ("properties", "$defs") else _plain(value)
        for key, value in schema.items()
        if key not in ("title", "default")
    }


def _config() -> dict[str, Any]:
    return {
        "$schema": DIALECT,
        "title": "The table [tool.pv] of pyproject.toml",
        "type": "object",
        "additionalProperties": False,
        "properties": {name: {**setting.schema, "description": setting.help} for name, setting in SETTINGS.items()},
    }
