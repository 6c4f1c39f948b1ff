"""Run as a script: a `pv` command, killed at every file operation it makes in some folders, then at random moments.

`PROJECT SNAPSHOTS SEED RANDOM FOLDER[,FOLDER] COMMAND…`: for each kill the project is put back as it was, the command
runs in a forked process, and what it left behind is copied to SNAPSHOTS/N. The last line of stdout is JSON: how many
kills there were, at which operations, and how long an unharmed run takes.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

# Operations that change what is on disk. Each is announced before it happens, so the kill comes just before it.
CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def main(project: Path, snapshots: Path, seed: int, shots: int, folders: list[str], command: list[str]) -> None:
    """Kill, look, put back; until a run comes through unharmed, then `shots` times at random."""
    warm_up()
    pristine = snapshots / "pristine"
    shutil.copytree(project, pristine)
    operations: list[str] = []
    while True:
        told = run_killed_at(project, command, folders, len(operations))
        if told is None:
            break
        operations.append(told)
        keep(project, pristine, snapshots / str(len(operations)))
    seconds = whole_run(project, command)
    keep(project, pristine, snapshots / "whole")
    draw = random.Random(seed)
    for shot in range(shots):
        run_killed_after(project, command, draw.uniform(0, seconds))
        keep(project, pristine, snapshots / str(len(operations) + shot + 1))
    print(json.dumps({"operations": operations, "shots": shots, "seconds": seconds}))


def warm_up() -> None:
    """Import what the command imports, once, so that a forked run is all work."""
    import pv.cli.falsify
    import pv.cli.main
    import pv.cli.settle
    import pv.evidence.settle
    import pv.falsify.request
    import pv.falsify.session  # noqa: F401 - for its imports


def run_killed_at(project: Path, command: list[str], folders: list[str], number: int) -> str | None:
    """Kill the run before its operation `number` (from 0) in the folders; None when it makes fewer."""
    receiver, sender = os.pipe()
    child = os.fork()
    if not child:
        os.close(receiver)
        sys.addaudithook(killer([str(project / folder) for folder in folders], number, sender))
        run(project, command)
    os.close(sender)
    _, status = os.waitpid(child, 0)
    told = os.read(receiver, 4096).decode()
    os.close(receiver)
    return told if os.WIFSIGNALED(status) else None


def killer(folders: list[str], number: int, sender: int):
    seen = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event not in CHANGES and not (event == "open" and writes(arguments)):
            return
        paths = [os.path.abspath(os.fsdecode(a)) for a in arguments if isinstance(a, str | bytes | os.PathLike)]
        if any(path.startswith(folder) for path in paths for folder in folders):
            if seen == number:
                os.write(sender, f"{event} {os.path.basename(paths[-1])}".encode())
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    return hook


def writes(arguments: tuple[object, ...]) -> bool:
    flags = arguments[2] if len(arguments) > 2 else 0
    return isinstance(flags, int) and bool(flags & WRITING)


def run_killed_after(project: Path, command: list[str], seconds: float) -> None:
    child = os.fork()
    if not child:
        run(project, command)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def whole_run(project: Path, command: list[str]) -> float:
    begun = time.monotonic()
    child = os.fork()
    if not child:
        run(project, command)
    os.waitpid(child, 0)
    return time.monotonic() - begun


def run(project: Path, command: list[str]) -> None:
    """The public entry point, in this forked process; never returns."""
    from pv.cli.main import main as pv

    os.chdir(project)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    sys.argv = ["pv", *command]
    try:
        pv()
    except SystemExit:
        pass
    finally:
        os._exit(0)


def keep(project: Path, pristine: Path, snapshot: Path) -> None:
    """Move what is there aside and put the project back."""
    shutil.move(project, snapshot)
    shutil.copytree(pristine, project)


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        Path(sys.argv[2]),
        int(sys.argv[3]),
        int(sys.argv[4]),
        sys.argv[5].split(","),
        sys.argv[6:],
    )
