"""A version, the committed one and a bump -> the version to write: one bump since the commit, however many runs."""

from __future__ import annotations

import re
from typing import NamedTuple

from pv.contract.meaning import Numbers, least_version
from pv.contract.vocabulary import Bump

_VERSION = re.compile(r"(?P<v>v?)(?P<numbers>\d{1,9}(?:\.\d{1,9}(?:\.\d{1,9}(?:[-+][0-9A-Za-z.+-]+)?)?)?)")


class VersionError(ValueError):
    """A version that cannot be bumped: it is none that pv can read."""


class _Parsed(NamedTuple):
    prefix: str
    numbers: Numbers
    parts: int


def next_version(current: str, committed: str, bump: Bump) -> str:
    """The version a file must carry after changes that demand `bump` since the committed version.

    A current version that is high enough already stays as it is: it was bumped by an earlier run, or by hand. The form
    is kept (`v1.2`, `1.2.0`); a part is added only when it is needed; a pre-release tag goes. Raises VersionError.
    """
    now, base = _parse(current), _parse(committed)
    least = least_version(base.numbers, bump)
    if bump is Bump.NONE or now.numbers >= least:
        return current
    parts = max(now.parts, next((n for n in (3, 2) if least[n - 1]), 1))
    return now.prefix + ".".join(str(number) for number in least[:parts])


def at_least(version: str, other: str) -> str:
    """The later of two versions, in its own form. Raises VersionError."""
    return version if _parse(version).numbers >= _parse(other).numbers else other


def _parse(text: str) -> _Parsed:
    match = _VERSION.fullmatch(text.strip())
    if match is None:
        raise VersionError(f"expected a version like 1.2.0, found {text!r}")
    numbers = [int(part) for part in re.split(r"[-+]", match["numbers"])[0].split(".")]
    return _Parsed(match["v"], Numbers(*numbers, *[0] * (3 - len(numbers))), len(numbers))
