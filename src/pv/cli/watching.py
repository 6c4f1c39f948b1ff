"""Folders -> the moment when something in them changes: the system tells it where `watchfiles` is installed."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

try:  # here, not below: the import takes a while, and what changes meanwhile would be noticed late
    from watchfiles import watch
except ImportError:
    watch = None

ASK_EVERY = 0.5  # seconds
# What the system does not tell (of a network drive, a folder two levels down, the moment between two waits) is noticed
# by looking, only more rarely.
LOOK_EVERY = 3.0
_GATHER = 50  # milliseconds without a further change after which several count as one


def wait_for_a_change(folders: Iterable[Path]) -> None:
    """Come back soon after something directly in one of the folders changes, and now and then without a reason.

    The caller looks whether anything of interest changed. Raises KeyboardInterrupt at Ctrl-C.
    """
    if watch is None:
        time.sleep(ASK_EVERY)
        return
    there = [folder for folder in folders if folder.is_dir()]
    timeout = int(1000 * LOOK_EVERY)
    try:
        changes = watch(
            *there, watch_filter=None, recursive=False, step=_GATHER, rust_timeout=timeout, yield_on_timeout=True
        )
        next(changes)
    except (OSError, RuntimeError):  # a folder that went meanwhile, or more folders than the system will watch
        time.sleep(ASK_EVERY)
