"""Bytes -> the events of libyaml, or of the pure-Python parser where the binding is missing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import yaml
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.scanner import Scanner, ScannerError

CParser: Any  # the stubs know it only as a base class of loaders
try:
    CParser = importlib.import_module("yaml._yaml").CParser
except ImportError:  # a PyYAML built without libyaml
    CParser = None

NOTICE = (
    "pv: PyYAML has no libyaml binding here; reading YAML with the pure-Python parser, about 30 times slower "
    "(install a PyYAML wheel, or libyaml-dev before building it)"
)
_noticed = False


class _PureParser(Reader, Scanner, Parser):
    """PyYAML's own scanner and parser; both are loops over a state stack, so nesting costs no recursion."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)

    def get_event(self) -> Any:
        event: Any = super().get_event()  # type: ignore[no-untyped-call]  # untyped in the stubs
        if event.__class__ is yaml.ScalarEvent and not _encodable(event.value):
            # libyaml refuses "\ud800" while scanning; half a surrogate pair could never be written back.
            mark: Any = event.start_mark
            problem = "found invalid Unicode character escape code"
            raise ScannerError("while parsing a quoted scalar", mark, problem, mark)
        return event


def events(body: bytes) -> Callable[[], Any]:
    """A function that returns the next event. `body` is strict UTF-8 without a byte order mark.

    Raises yaml.YAMLError, at the event where the text stops being YAML.
    """
    if CParser is not None:
        get_event: Callable[[], Any] = CParser(body).get_event
        return get_event
    global _noticed
    if not _noticed:
        _noticed = True
        print(NOTICE, file=sys.stderr)
    return _PureParser(body.decode()).get_event


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
