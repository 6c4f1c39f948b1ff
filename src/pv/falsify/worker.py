"""`python -m pv.falsify.worker`: requests on stdin, one JSON line each -> answers on stdout; runs checks, never judges.

The pipes are moved away before any check runs: a check's own stdout and stderr go to the log of its run, down to the
file descriptors, so that what C code and child processes print is kept too. When the runner is gone, the worker kills
its whole process group, itself included.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import queue
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from pv.falsify.api import Blocked, Control, Inconclusive, Measurement
from pv.falsify.context import RunContext, Subjects
from pv.falsify.environment import environment
from pv.falsify.loader import load, make_importable
from pv.falsify.protocol import Answer, Outcome, Request, answer_line, progress_line, read_request


def main() -> int:
    """Serve requests until stdin ends."""
    requests, answers = _take_pipes()
    inbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    busy = threading.Event()
    threading.Thread(target=_listen, args=(requests, inbox, busy), daemon=True).start()
    subjects = Subjects()
    while (line := inbox.get()) is not None:
        request = read_request(line)
        with _logging_to(request.log):
            answer = serve(request, subjects, lambda *said: _send(answers, progress_line(*said)))
        busy.clear()
        _send(answers, answer_line(answer))
    return 0


def serve(request: Request, subjects: Subjects, report: Callable[[int, int, str], None]) -> Answer:
    """Run one request. Whatever the check does short of killing the process becomes an answer."""
    context = RunContext(
        cell=request.cell,
        project=request.project,
        scratch=request.scratch,
        control=request.control,
        given_seed=request.seed,
        paths=request.subjects,
        subjects=subjects,
        report=report,
    )
    _seed_everything(request.seed)
    begun = time.perf_counter()
    answer = _outcome(request, context)
    subjects.planted.clear()
    return replace(
        answer,
        seeded=context.seeded,
        notes=tuple(context.notes),
        bound=context.digests(),
        oracle=context.oracle,
        exhausted=context.exhausted,
        environment=environment(device=request.device, driver=request.driver),
        seconds=time.perf_counter() - begun,
    )


def _outcome(request: Request, context: RunContext) -> Answer:
    try:
        make_importable(context.project)
        check = load(request.module, request.function, request.stated, request.claim)
        control = next((c for c in check.registration.controls if c.name == request.control), None)
        with _planted(control, context):
            measured = check.function(context)
        return Answer(Outcome.MEASURED, _measurements(measured))
    except Blocked as absent:
        return Answer(Outcome.BLOCKED, reason=str(absent), missing=absent.missing)
    except Inconclusive as doubt:
        return Answer(Outcome.INCONCLUSIVE, reason=str(doubt))
    except BaseException as error:  # a check may raise anything, SystemExit included; the worker goes on
        traceback.print_exc()
        return Answer(Outcome.ERROR, reason=_sentence(error))


@contextlib.contextmanager
def _planted(control: Control | None, context: RunContext) -> Iterator[None]:
    if control is None:
        yield
    else:
        with control.plant(context):
            yield


def _measurements(measured: Any) -> tuple[Measurement, ...]:
    items = (measured,) if isinstance(measured, Measurement) else measured
    if not isinstance(items, list | tuple) or not all(isinstance(item, Measurement) for item in items):
        raise TypeError(f"expected the check to return measure(…) or a list of them, found {measured!r}")
    return tuple(Measurement(str(item.name), float(item.value), str(item.unit), int(item.n)) for item in items)


def _sentence(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}{': ' if text else ''}{text}{place}"


def _seed_everything(seed: int) -> None:
    """The global generators of what is loaded; a check that draws on purpose asks `context.seed`."""
    random.seed(seed)
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)
    torch: Any = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "manual_seed"):
        torch.manual_seed(seed)


def _take_pipes() -> tuple[BinaryIO, int]:
    """Keep the runner's pipes for ourselves; give checks an empty stdin and our stderr for a stdout.

    Duplicated descriptors are not inherited by child processes, so nothing that a check leaves behind holds the pipes.
    """
    requests, answers = os.fdopen(os.dup(0), "rb"), os.dup(1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return requests, answers


def _listen(requests: BinaryIO, inbox: queue.SimpleQueue[bytes | None], busy: threading.Event) -> None:
    for line in requests:
        busy.set()
        inbox.put(line)
    if busy.is_set():
        _die()
    inbox.put(None)


def _die() -> None:
    """The runner is gone: end this run and everything that it started."""
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    with path.open("ab", buffering=0) as log:
        faulthandler.enable(log)
        _flush()
        kept = os.dup(1), os.dup(2)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            _flush()
            for descriptor, target in zip(kept, (1, 2), strict=True):
                os.dup2(descriptor, target)
                os.close(descriptor)
            faulthandler.disable()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a check may have closed or replaced them
            stream.flush()


def _send(answers: int, line: bytes) -> None:
    while line:
        line = line[os.write(answers, line) :]


if __name__ == "__main__":
    sys.exit(main())
