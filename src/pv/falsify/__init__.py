"""Falsification: finds the registered checks, runs them in workers, and judges what they measured.

Enters: ids and the project's check modules. Leaves: one record for each check and cell, with measurements, margins and
negative controls. A check's author imports `falsifier`, `harness`, `Control` and `measure` from here.
"""

from pv.falsify.api import (
    Blocked,
    Completed,
    Context,
    Control,
    Inconclusive,
    Measurement,
    falsifier,
    harness,
    measure,
    passes,
)

__all__ = [
    "Blocked",
    "Completed",
    "Context",
    "Control",
    "Inconclusive",
    "Measurement",
    "falsifier",
    "harness",
    "measure",
    "passes",
]
