"""The exported schemas are current, in the dialect of editors, and agree with the models."""

from __future__ import annotations

import copy
import random
from pathlib import Path

import jsonschema
import pytest

from pv.cli.schema import SCHEMAS, file_name, text_of
from pv.contract import shape
from pv.contract.load import load_all
from pv.contract.models import ContractFile
from pv.contract.project import Project
from pv.contract.schema_export import DIALECT, schemas

FOLDER = Path(__file__).parents[2] / "schemas"
NOT_DRAFT_7 = {
    "prefixItems",
    "unevaluatedProperties",
    "unevaluatedItems",
    "$dynamicRef",
    "dependentRequired",
    "minContains",
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_is_written_is_current(name):
    assert (FOLDER / file_name(name)).read_text("utf-8") == text_of(name), "run `pv schema --write`"


@pytest.mark.parametrize("name", ["contract", "config"])
def test_the_dialect_is_the_one_that_editors_read(name):
    schema = schemas()[name]
    assert schema["$schema"] == DIALECT
    jsonschema.Draft7Validator.check_schema(schema)
    assert not NOT_DRAFT_7 & keywords(schema)


def keywords(schema) -> set[str]:
    if isinstance(schema, list):
        return set().union(*map(keywords, schema)) if schema else set()
    if isinstance(schema, dict):
        return set(schema) | set().union(*map(keywords, schema.values())) if schema else set()
    return set()


def accepts(data) -> bool:
    return not shape._errors(data, ContractFile)


@pytest.fixture(scope="module")
def validator():
    return jsonschema.Draft7Validator(schemas()["contract"])


@pytest.fixture(scope="module")
def real(corpus):
    return [one.data for one in load_all([corpus], Project(root=corpus))]


def test_models_and_schema_agree_on_every_real_file(real, validator):
    verdicts = [(accepts(data), validator.is_valid(data)) for data in real]
    assert all(ours == theirs for ours, theirs in verdicts)
    assert [ours for ours, _ in verdicts].count(False) == 1


def test_models_and_schema_agree_on_files_that_were_damaged(real, validator):
    """One value of each file is replaced by one of another type, six hundred times."""
    chance = random.Random(7)
    rejected = 0
    for data in [data for data in real for _ in range(4)][:600]:
        damaged = copy.deepcopy(data)
        where = chance.choice(list(places(damaged)))
        holder = damaged
        for step in where[:-1]:
            holder = holder[step]
        holder[where[-1]] = chance.choice([None, True, "text", [], {}, ["x", {}], {"a": []}, -1, 2.5, "cpu"])
        ours = accepts_after_texts(damaged)
        assert ours == validator.is_valid(damaged), where
        rejected += not ours
    assert rejected > 100, "the damage must matter"


def accepts_after_texts(data) -> bool:
    """As the loader does it: a number may stand for text."""
    errors = [
        e
        for e in shape._errors(data, ContractFile)
        if not (e["type"] == "string_type" and shape._is_number(e["input"]))
    ]
    return not errors


def places(data, at=()):
    if at:
        yield at
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from places(value, (*at, key))


@pytest.mark.parametrize(
    ("entry", "sound"),
    [
        ({"thresholds": {"x": {"op": "within", "value": [0, 1]}}}, True),
        ({"thresholds": {"x": {"op": "within", "value": 1}}}, False),
        ({"thresholds": {"x": {"op": "<", "value": [0, 1]}}}, False),
        ({"requires": {"cells": [{"device": "vulkan-sw", "subject": "code"}], "oracle": "hf"}}, True),
        ({"requires": {"cells": [{"device": "gpu"}]}}, False),
        ({"requires": {"oracle": "friend"}}, False),
        ({"binds_to": "a"}, True),
        ({"binds_to": ["a", {}]}, False),
        ({"known_failing": {"owner": "me"}}, False),
        ({"algorithm_evidence": ["a.py::f"]}, True),
        ({"algorithm_evidence": {"file_paths": "a.py"}}, False),
        ({"algorithm_evidence": "words"}, True),
        ({"cost": "cheap"}, False),
        ({"status": {"any": "thing"}}, True),
    ],
)
def test_models_and_schema_agree_on_the_entry(entry, sound, validator):
    data = {"metadata": {"version": "1.0.0", "description": "d"}, "falsification_tests": [{"id": "F", **entry}]}
    assert accepts(data) is sound
    assert validator.is_valid(data) is sound


def test_editors_are_offered_the_ladder_and_told_what_a_field_is():
    entry = schemas()["contract"]["$defs"]["Falsifier"]["properties"]
    assert "DISCHARGED" in entry["status"]["anyOf"][0]["enum"]
    assert entry["thresholds"]["description"]


def test_the_settings_have_a_schema_that_refuses_unknown_keys():
    config = schemas()["config"]
    jsonschema.validate({"profile": "strict", "scopes": {"M": ["a-v1"]}, "subjects": {"t": "p"}}, config)
    for wrong in ({"profil": "strict"}, {"profile": "lax"}, {"contracts": "x"}, {"scopes": {"M": "a"}}):
        assert not jsonschema.Draft7Validator(config).is_valid(wrong), wrong
