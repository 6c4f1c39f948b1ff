"""Data of a document -> whether it has the shape of a contract, and a diagnostic with a place for all that it lacks."""

from __future__ import annotations

import types
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from pv.contract import models
from pv.contract.claims import Loc
from pv.contract.codes import (
    BINDINGS,
    COMPAT_SEVERITY,
    CONTRACT,
    MANIFEST,
    MISSING,
    MISSPELT,
    NO_CONTRACT,
    NOT_A_WORD,
    OUT_OF_RANGE,
    OWN_SHAPE,
    WRONG_TYPE,
    NearMiss,
    dotted,
    place,
)
from pv.contract.near import SIMILAR, near_miss, nearest
from pv.contract.project import Profile
from pv.diagnostics.model import Diagnostic, Severity, Span, TextEdit
from pv.document.reader import Document

SECTIONS = ("equations", "proof_obligations", "falsification_tests", "kani_harnesses")
ENTRY_LISTS = ("falsification_tests", "kani_harnesses")
OWN_FIELDS = frozenset(models.Entry.model_fields) - {"id"}  # fields of a claim that the reference does not know

_KINDS_OF_FILE: Mapping[str, type[BaseModel]] = {
    CONTRACT: models.ContractFile,
    BINDINGS: models.BindingRegistry,
    MANIFEST: models.PublishManifest,
}

_WANTED = {
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "list_type": "a list",
    "string_type": "text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
}


_LONGEST_KEY = 40  # nobody misspells a field by a paragraph


class Checked(NamedTuple):
    """What a look at the shape found. `data` has source text where a number stood in the place of text.

    `sound` means that a contract can be made of it; `misspelt` tells later rules which fields are there under a wrong
    name, so that one slip is reported once.
    """

    artifact: str
    data: Any
    sound: bool
    misspelt: tuple[NearMiss, ...]
    diagnostics: tuple[Diagnostic, ...]


def artifact_of(data: Any) -> str:
    """What kind of file the data is: a contract unless it has the marks of a binding registry or a manifest."""
    if isinstance(data, dict) and "metadata" not in data:
        if "bindings" in data and "target_crate" in data:
            return BINDINGS
        if "model_id" in data and "provenance" in data:
            return MANIFEST
    return CONTRACT


def is_contract(data: Any) -> bool:
    """Whether a file met in a folder is meant to be one of ours; `metadata` alone also heads Kubernetes objects."""
    if not isinstance(data, dict):
        return False
    if any(section in data for section in SECTIONS):
        return True
    return "apiVersion" not in data and ("metadata" in data or artifact_of(data) != CONTRACT)


def check(document: Document, profile: Profile) -> Checked:
    """Look at the shape of one document."""
    data = document.data
    artifact = artifact_of(data)
    if not isinstance(data, dict):
        lack = _not_a_mapping(document, data)
        return Checked(artifact, {}, False, (), (lack,))
    model = _KINDS_OF_FILE[artifact]
    data, errors = _validated(document, data, model)
    misspelt = tuple(dict.fromkeys(_near_misses(data, _level(model), ())))  # two shapes of one part see one slip
    if not errors and not misspelt:
        return Checked(artifact, data, True, (), ())
    diagnostics = _report(document, data, profile, errors, misspelt)
    return Checked(artifact, data, not errors, tuple(misspelt), tuple(diagnostics))


# ---------------------------------------------------------------------------------------------------- validation


def _validated(document: Document, data: Any, model: type[BaseModel]) -> tuple[Any, list[Any]]:
    """The data, with source text put where a number stood for text, and pydantic's errors about it."""
    errors = _errors(data, model)
    texts = [error for error in errors if error["type"] == "string_type" and _is_number(error["input"])]
    if not texts:
        return data, errors
    for error in texts:
        loc = real_loc(data, error["loc"])
        data = _replaced(data, loc, document.source_text(loc) or str(error["input"]))
    return data, _errors(data, model)


def _errors(data: Any, model: type[BaseModel]) -> list[Any]:
    try:
        _validator(model).validate_python(data)
    except ValidationError as error:
        return error.errors(include_url=False, include_context=True)
    return []


@cache
def _validator(model: type[BaseModel]) -> Any:
    model.model_rebuild()  # the models defer their building; here the whole is known
    return model.__pydantic_validator__


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _replaced(data: Any, loc: Loc, value: Any) -> Any:
    """A copy of `data` with `value` at `loc`; what lies beside the path is shared."""
    if not loc:
        return value
    copy = list(data) if isinstance(data, list) else dict(data)
    copy[loc[0]] = _replaced(data[loc[0]], loc[1:], value)  # type: ignore[index]  # loc was walked through this data
    return copy


def real_loc(data: Any, loc: Sequence[str | int]) -> Loc:
    """pydantic's `loc` without the segments that are no place in the data (tags of unions, names of functions).

    The last segment may be absent from the data: it is the field that is missing.
    """
    real: list[str | int] = []
    for index, segment in enumerate(loc):
        last = index == len(loc) - 1
        if isinstance(data, dict) and (segment in data or (last and not _is_tag(segment))):
            real.append(segment)
            data = data.get(segment)
        elif isinstance(data, list) and isinstance(segment, int) and segment < len(data):
            real.append(segment)
            data = data[segment]
    return tuple(real)


def _is_tag(segment: str | int) -> bool:
    return isinstance(segment, str) and segment.startswith("<")


# ---------------------------------------------------------------------------------------------------- near misses


def _near_misses(data: Any, level: _Level, loc: Loc) -> Iterator[NearMiss]:
    """Slips in a mapping and in what lies below it. Most mappings have none: the first line is for them."""
    if not level.known.issuperset(data):
        for key in data:
            meant = near_miss(key, level.known) if isinstance(key, str) and key not in level.known else None
            # Beside the field itself an odd key is no slip; at the top it still hides a section from every reader.
            if meant is not None and (meant not in data or not loc):
                yield NearMiss(loc, key, meant)
    if not level.parents.isdisjoint(data):
        for key, child, many in level.children:
            if key in data:
                yield from _below(data[key], child, many, (*loc, key))


def _below(value: Any, child: _Level, many: bool, loc: Loc) -> Iterator[NearMiss]:
    if isinstance(value, list):
        items: Any = enumerate(value)
    elif isinstance(value, dict) and many:
        items = value.items()
    else:
        if isinstance(value, dict):
            yield from _near_misses(value, child, loc)
        return
    known, parents = child.known, child.parents
    for step, item in items:
        # Most have nothing to look at: every key is known, and none leads further down.
        if isinstance(item, dict) and not (known.issuperset(item) and parents.isdisjoint(item)):
            yield from _near_misses(item, child, (*loc, step))


class _Level(NamedTuple):
    """The keys of one kind of mapping, and those below which there are mappings of another kind."""

    known: frozenset[str]
    parents: frozenset[str]
    children: tuple[tuple[str, _Level, bool], ...]  # key, level, whether a mapping holds many of them


@cache
def _level(model: type[BaseModel]) -> _Level:
    children = tuple(
        (name, _level(child), many)
        for name, info in model.model_fields.items()
        for child, many in _models_in(info.annotation, False)
    )
    return _Level(frozenset(model.model_fields), frozenset(name for name, _, _ in children), children)


def _models_in(annotation: Any, many: bool) -> Iterator[tuple[type[BaseModel], bool]]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _models_in(get_args(annotation)[0], many)
    elif origin in (Union, types.UnionType):
        yield from dict(pair for part in get_args(annotation) for pair in _models_in(part, many)).items()
    elif origin is dict:
        yield from _models_in(get_args(annotation)[1], True)
    elif origin is list:
        yield from _models_in(get_args(annotation)[0], many)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, many


# ---------------------------------------------------------------------------------------------------- diagnostics


def _report(
    document: Document, data: Any, profile: Profile, errors: list[Any], misspelt: Sequence[NearMiss]
) -> Iterator[Diagnostic]:
    told = {(miss.loc, miss.meant) for miss in misspelt}
    rivals = Counter((miss.loc, miss.meant) for miss in misspelt)
    for miss in misspelt:
        yield _misspelt(document, data, miss, alone=rivals[miss.loc, miss.meant] == 1)
    for error in errors:
        loc = real_loc(data, error["loc"])
        if error["type"] != "missing":
            yield _wrong(document, data, profile, loc, error)
        elif (loc[:-1], loc[-1]) not in told:
            similar = _similar_key(data, loc)
            if similar is None:
                yield _missing(document, data, profile, loc)
            else:
                yield _misspelt(document, data, NearMiss(loc[:-1], similar, str(loc[-1])))


def _similar_key(data: Any, loc: Loc) -> str | None:
    """The key beside a missing one that resembles it: one finding then says both."""
    from difflib import SequenceMatcher

    beside = at(data, loc[:-1])
    ratios = {
        key: SequenceMatcher(None, key, str(loc[-1])).ratio()
        for key in (beside if isinstance(beside, dict) else ())
        if isinstance(key, str) and len(key) <= _LONGEST_KEY
    }
    best = max(ratios, key=lambda key: ratios[key], default=None)
    return best if best is not None and ratios[best] > SIMILAR else None


def _misspelt(document: Document, data: Any, miss: NearMiss, *, alone: bool = True) -> Diagnostic:
    span = document.span((*miss.loc, miss.key), key=True)
    mapping = at(data, miss.loc)
    free = miss.meant not in mapping
    hidden = "" if miss.loc else f" Everything under `{miss.key}:` is invisible."
    return Diagnostic(
        code=MISSPELT,
        severity=Severity.ERROR,
        path=document.path,
        message=f"unknown key `{miss.key}`, did you mean `{miss.meant}`?{hidden}",
        span=span,
        expected=f"`{miss.meant}`",
        found=f"`{miss.key}`",
        where=place(data, miss.loc),
        help=f"rename the key to `{miss.meant}`" if free else f"`{miss.meant}` is there too: merge the two",
        edits=_renamed(document, span, miss) if free and alone else (),
    )


def _renamed(document: Document, span: Span | None, miss: NearMiss) -> tuple[TextEdit, ...]:
    if span is None:
        return ()
    start = document.text.find(miss.key, span.start, span.end)  # the key may stand in quotes, which stay
    return () if start < 0 else (TextEdit(start, start + len(miss.key), miss.meant),)


def _missing(document: Document, data: Any, profile: Profile, loc: Loc) -> Diagnostic:
    code, severity = _weighed(MISSING, profile, loc)
    return Diagnostic(
        code=code,
        severity=severity,
        path=document.path,
        message=f"missing field `{loc[-1]}`",
        span=document.span(loc[:-1], key=True),
        expected=f"`{loc[-1]}:` in this mapping",
        found=_listed(at(data, loc[:-1])),
        where=place(data, loc[:-1]),
        help=f"add `{loc[-1]}:`",
    )


def _wrong(document: Document, data: Any, profile: Profile, loc: Loc, error: Any) -> Diagnostic:
    code, expected, hint, edits = _judged(document, loc, error)
    code, severity = _weighed(code, profile, loc)
    found = describe(error["input"])
    return Diagnostic(
        code=code,
        severity=severity,
        path=document.path,
        message=f"`{dotted(loc)}`: expected {expected}, found {found}",
        span=document.span(loc),
        expected=expected,
        found=found,
        where=place(data, loc),
        help=hint,
        edits=edits,
    )


class _Judged(NamedTuple):
    code: str
    expected: str
    help: str
    edits: tuple[TextEdit, ...]


def _judged(document: Document, loc: Loc, error: Any) -> _Judged:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "literal_error":
        return _not_a_word(document, loc, value, context["expected"])
    if kind in _WANTED:
        return _Judged(WRONG_TYPE, _WANTED[kind], *_requoted(document, loc, kind, value))
    return _Judged(OUT_OF_RANGE, _range(kind, context, error["msg"]), "", ())


def _not_a_word(document: Document, loc: Loc, value: Any, expected: str) -> _Judged:
    words = [word.strip("' ") for word in expected.replace(" or ", ", ").split(",")]
    meant = nearest(value, words) if isinstance(value, str) else None
    slip = meant is not None and near_miss(value, frozenset(words)) == meant  # sure enough to be written by `--fix`
    listing = "one of: " + ", ".join(words) if len(words) > 1 else words[0]
    if meant is None:
        return _Judged(NOT_A_WORD, listing, "", ())
    scalar = document.scalar(loc)
    plain = scalar is not None and scalar.style == "plain" and not (scalar.anchor or scalar.tag or scalar.alias)
    edits = (TextEdit(scalar.span.start, scalar.span.end, meant),) if scalar is not None and plain and slip else ()
    return _Judged(NOT_A_WORD, listing, f"did you mean `{meant}`?", edits)


def _requoted(document: Document, loc: Loc, kind: str, value: Any) -> tuple[str, tuple[TextEdit, ...]]:
    """A fix where only the quotes are wrong: `true` where text is wanted, `"1e-6"` where a number is."""
    scalar = document.scalar(loc)
    if scalar is None or scalar.anchor or scalar.tag or scalar.alias:
        return "", ()
    span = scalar.span
    if kind == "string_type" and isinstance(value, bool):
        return "quote it", (TextEdit(span.start, span.end, f'"{document.text[span.start : span.end]}"'),)
    if kind in ("float_type", "int_type") and isinstance(value, str) and _spells(value, kind):
        return "take off the quotes", (TextEdit(span.start, span.end, value),)
    return "", ()


def _spells(text: str, kind: str) -> bool:
    if text.strip() != text or "_" in text:
        return False
    try:
        number = int(text) if kind == "int_type" else float(text)
    except ValueError:
        return False
    return number == number and abs(number) != float("inf")


def _range(kind: str, context: Mapping[str, Any], message: str) -> str:
    for key, words in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than")):
        if key in context:
            return f"a number of {words} {context[key]}"
    if kind == "string_too_short":
        return "text that is not empty"
    if "pattern" in context:
        return f"text that matches {context['pattern']}"
    if kind in ("too_short", "too_long"):
        return "two numbers, [low, high]"
    return message[:1].lower() + message[1:]


def _weighed(code: str, profile: Profile, loc: Loc) -> tuple[str, Severity]:
    """The code and its weight. Foreign files may use our words for their own purposes: there they only warn."""
    own = len(loc) > 2 and loc[0] in ENTRY_LISTS and loc[2] in OWN_FIELDS
    code = OWN_SHAPE if own else code
    return code, COMPAT_SEVERITY.get(code, Severity.ERROR) if profile is Profile.COMPAT else Severity.ERROR


def _not_a_mapping(document: Document, data: Any) -> Diagnostic:
    return Diagnostic(
        code=NO_CONTRACT,
        severity=Severity.ERROR,
        path=document.path,
        message=f"not a contract: expected a mapping with `metadata`, found {describe(data)}",
        span=document.span(()),
        expected="a mapping with `metadata`",
        found=describe(data),
        help="`pv schema contract` has the form of a contract",
    )


# ---------------------------------------------------------------------------------------------------- words


def at(data: Any, loc: Loc) -> Any:
    """The value at `loc`, or None where there is none."""
    for segment in loc:
        try:
            data = data[segment]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def describe(value: Any) -> str:
    """A value in a few words, for the `found` of a sentence."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"`{value}`" if len(value) <= 60 and "\n" not in value else f"text `{value[:57].splitlines()[0]}…`"
    return f"{value!r}"


def _listed(mapping: Any) -> str:
    keys = [f"`{key}`" for key in mapping] if isinstance(mapping, dict) else []
    return ", ".join(keys[:8]) + (", …" if len(keys) > 8 else "") if keys else "nothing"
