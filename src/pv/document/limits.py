"""How much a document may ask of us, and the refusal that says it asked for more."""

from __future__ import annotations

from typing import NamedTuple

from pv.diagnostics.model import Diagnostic


class Limits(NamedTuple):
    """Bounds that keep every later step fast and every recursion short.

    `depth` counts nested collections and `size` bytes; `nodes` counts scalars and both ends of each collection. Depth
    and nodes have aliases expanded: what a reader that follows every alias would visit.
    """

    depth: int = 64
    size: int = 16 * 1024 * 1024
    nodes: int = 500_000


LIMITS = Limits()


class Unreadable(Exception):  # noqa: N818 - it reads as what the document is: `except Unreadable`
    """The file cannot become a `Document`; `diagnostic` says why and where."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(f"{diagnostic.path}: {diagnostic.code} {diagnostic.message}")
        self.diagnostic = diagnostic
