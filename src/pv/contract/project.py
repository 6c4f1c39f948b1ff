"""A folder -> `Project`: its root and its settings, from `[tool.pv]` of the nearest pyproject.toml and from `PV_*`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from pv.contract.near import nearest

ROOT_MARKS = ("pyproject.toml", ".git")
SUBJECT_PREFIX = "PV_SUBJECT_"


class Profile(StrEnum):
    """`strict`: every claim has a status, a check or a blocker. `compat`: errors only where the reference errs."""

    STRICT = "strict"
    COMPAT = "compat"


class ConfigError(Exception):
    """A setting cannot be used. `message` says what was expected and found; `hint` what to do; `path` where."""

    def __init__(self, message: str, *, hint: str = "", path: str = "") -> None:
        super().__init__(message)
        self.message, self.hint, self.path = message, hint, path

    def __str__(self) -> str:
        place = f"{self.path}: " if self.path else ""
        return f"{place}{self.message}" + (f" ({self.hint})" if self.hint else "")


class Setting(NamedTuple):
    """One key of `[tool.pv]`: how its value is read, the JSON Schema of it, what it means."""

    read: Callable[[str, Any], Any]
    schema: Mapping[str, Any]
    help: str


@dataclass(frozen=True)
class Project:
    """Settings of one project. Paths are absolute; `contracts` are globs relative to `root`.

    `origin` says where each value came from ("default", "pyproject.toml", the name of a variable, "command line").
    """

    root: Path
    contracts: tuple[str, ...] = ("contracts/*.yaml",)
    falsifiers: Path = Path("falsifiers")
    evidence: Path = Path("evidence")
    profile: Profile = Profile.COMPAT
    scopes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    subjects: Mapping[str, Path] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    configured: bool = False
    origin: Mapping[str, str] = field(default_factory=dict, compare=False)

    @staticmethod
    def find(start: Path, overrides: Mapping[str, Any] | None = None) -> Project:
        """The project around `start`: see `find`."""
        return find(start, overrides)

    @property
    def cache(self) -> Path:
        """Where disposable state lives: in a project; for a folder that is none, among the user's own caches."""
        if self.configured or any((self.root / mark).exists() for mark in ROOT_MARKS):
            return self.root / ".pv_cache"
        import hashlib

        own = os.environ.get("PV_CACHE")
        home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        name = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
        return Path(own or os.path.join(home, "pv"), "folders", name)

    def subject(self, name: str) -> Path | None:
        """Path of a configured subject (a model, a fixture), or None. It need not exist."""
        return self.subjects.get(name)

    def covers(self, path: Path) -> bool:
        """Whether a file at `path`, there or not, would be one of the project's contracts."""
        if not path.is_relative_to(self.root):
            return False
        name = path.relative_to(self.root)
        return any(_matches(name, pattern) for pattern in self.contracts)

    def display(self, path: Path) -> str:
        """`path` as messages show it: relative to where the user stands when it is below, else as given."""
        here = os.getcwd() + os.sep  # texts, not Paths: this runs for every one of thousands of files
        absolute = os.path.abspath(path)
        return (absolute[len(here) :] if absolute.startswith(here) else str(path)).replace(os.sep, "/")


def module_name(contract_id: str) -> str:
    """The check module of a contract: `pv-self-v1` -> `pv_self_v1`."""
    return contract_id.replace("-", "_").replace(".", "_")


def find(start: Path, overrides: Mapping[str, Any] | None = None) -> Project:
    """The project that `start` (a folder or file) belongs to.

    The root is the folder of the nearest pyproject.toml with a `[tool.pv]` table, else of the nearest pyproject.toml or
    `.git`, else `start` itself. A value given in `overrides` (the command line) wins over a `PV_*` variable, that over
    `[tool.pv]`. Raises ConfigError for an unknown key, a value of the wrong type, or a file that is not TOML.
    """
    root, table = _locate(start)
    values: dict[str, Any] = {}
    origin = dict.fromkeys(SETTINGS, "default")
    for name, value, source in _given(table, overrides or {}):
        values[name] = {**values.get(name, {}), **value} if isinstance(value, dict) else value
        origin[name] = source
    project = Project(root=root, configured=table is not None, origin=origin)
    return _anchored(replace(project, **values))


def _given(table: Mapping[str, Any] | None, overrides: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    for name, value in (table or {}).items():
        if name not in SETTINGS:
            raise _unknown(name)
        yield name, SETTINGS[name].read(name, value), "pyproject.toml"
    yield from _from_environment(os.environ)
    for name, value in overrides.items():
        if value is not None:
            yield name, SETTINGS[name].read(name, value), "command line"


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, Any, str]]:
    for variable, (name, split) in VARIABLES.items():
        text = environ.get(variable)
        if text:
            yield name, SETTINGS[name].read(variable, text.split(os.pathsep) if split else text), variable
    subjects = {_subject_name(key): value for key, value in environ.items() if key.startswith(SUBJECT_PREFIX) and value}
    if subjects:
        yield "subjects", _paths(SUBJECT_PREFIX + "*", subjects), SUBJECT_PREFIX + "*"


def _subject_name(variable: str) -> str:
    """`PV_SUBJECT_MODEL_1` names the subject `model-1`."""
    return variable.removeprefix(SUBJECT_PREFIX).lower().replace("_", "-")


def _anchored(project: Project) -> Project:
    root = project.root
    return replace(
        project,
        falsifiers=root / project.falsifiers,
        evidence=root / project.evidence,
        subjects={name: root / path.expanduser() for name, path in project.subjects.items()},
    )


def _matches(name: Path, pattern: str) -> bool:
    """Whether a path from the root is one that the glob finds. (`Path.match` looks at the end of a path alone.)"""
    if "**" in pattern:
        return fnmatchcase(name.as_posix(), pattern.replace("**/", "*"))
    parts = Path(pattern).parts
    return len(parts) == len(name.parts) and all(map(fnmatchcase, name.parts, parts))


def _locate(start: Path) -> tuple[Path, Mapping[str, Any] | None]:
    start = start.resolve()
    folder = start if start.is_dir() else start.parent
    marked = None
    for candidate in (folder, *folder.parents):
        file = candidate / "pyproject.toml"
        if file.is_file():
            table = _table(file)
            if table is not None:
                return candidate, table
        if marked is None and any((candidate / mark).exists() for mark in ROOT_MARKS):
            marked = candidate
    return marked or folder, None


def _table(file: Path) -> Mapping[str, Any] | None:
    import tomllib

    try:
        text = file.read_text("utf-8")
        # Most pyproject.toml files on the way up are other people's; do not judge those that never name us.
        content = tomllib.loads(text) if "tool.pv" in text or "[tool]" in text else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"expected TOML, found {error}", path=str(file)) from error
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", path=str(file)) from error
    tool = content.get("tool", {})
    table = tool.get("pv") if isinstance(tool, dict) else None
    if table is not None and not isinstance(table, dict):
        raise ConfigError(f"expected [tool.pv] to be a table, found {table!r}", path=str(file))
    return table


def _unknown(name: str) -> ConfigError:
    near = nearest(name, SETTINGS)
    hint = f"did you mean `{near}`?" if near else f"known: {', '.join(SETTINGS)}"
    return ConfigError(f"expected a known key in [tool.pv], found `{name}`", hint=hint, path="pyproject.toml")


def _expected(name: str, what: str, value: Any) -> ConfigError:
    return ConfigError(f"expected {name} to be {what}, found {value!r}")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _expected(name, "a text", value)
    return value


def _path(name: str, value: Any) -> Path:
    return value if isinstance(value, Path) else Path(_text(name, value))


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise _expected(name, "a list of texts", value)
    return tuple(_text(name, item) for item in value)


def _profile(name: str, value: Any) -> Profile:
    try:
        return Profile(value)
    except ValueError:
        raise _expected(name, "`strict` or `compat`", value) from None


def _scopes(name: str, value: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise _expected(name, "a table of lists of contract names", value)
    return {scope: _texts(f"{name}.{scope}", stems) for scope, stems in value.items()}


def _paths(name: str, value: Any) -> dict[str, Path]:
    if not isinstance(value, dict):
        raise _expected(name, "a table of paths", value)
    return {subject: _path(f"{name}.{subject}", path) for subject, path in value.items()}


_LIST = {"type": "array", "items": {"type": "string", "minLength": 1}}
_TEXT = {"type": "string", "minLength": 1}

SETTINGS: Mapping[str, Setting] = {
    "profile": Setting(
        _profile, {"enum": [profile.value for profile in Profile]}, "which severities hold: `strict` or `compat`"
    ),
    "contracts": Setting(_texts, _LIST, "globs of the contract files, relative to this file"),
    "falsifiers": Setting(_path, _TEXT, "folder of the check modules, one for each contract"),
    "evidence": Setting(_path, _TEXT, "folder of the evidence records"),
    "scopes": Setting(
        _scopes, {"type": "object", "additionalProperties": _LIST}, "named lists of contracts, for ship percentages"
    ),
    "subjects": Setting(
        _paths, {"type": "object", "additionalProperties": _TEXT}, "paths of the models and fixtures that claims name"
    ),
    "ignore": Setting(_texts, _LIST, "codes of rules that are not reported in this project"),
}

# variable -> (setting, whether it is a list separated like PATH)
VARIABLES: Mapping[str, tuple[str, bool]] = {
    "PV_PROFILE": ("profile", False),
    "PV_CONTRACTS": ("contracts", True),
    "PV_FALSIFIERS": ("falsifiers", False),
    "PV_EVIDENCE": ("evidence", False),
}
