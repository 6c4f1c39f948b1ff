"""A request -> a worker process's answer, whatever becomes of that process: death, silence, nonsense are answers too.

A worker is a fresh interpreter in its own session, so that a run that overruns is killed with everything it started.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import pv
from pv.falsify.protocol import Answer, Outcome, ProtocolError, Request, read_event, request_line

TOKEN = "PV_WORKER"  # noqa: S105 - the name of a variable that marks our processes, no secret
FAREWELL = 2.0  # seconds that an idle worker has to leave after its stdin is closed

Progress = Callable[[int, int, str], None]


class Worker:
    """One worker process; started by the first `ask`, started anew after it died."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self.token = uuid.uuid4().hex
        self._process: subprocess.Popen[bytes] | None = None
        self._home: Path | None = None
        self._pending = b""
        self._stopped = False

    def ask(self, request: Request, timeout: float, progress: Progress = lambda *_: None) -> Answer:
        """The worker's answer within `timeout` seconds. A worker that died, overran or talked nonsense is an ERROR."""
        begun = time.monotonic()
        process = self._running()
        try:
            self._write(process, request_line(request))
            return self._read(process, begun + timeout, progress)
        except TimeoutError:
            self.kill()
            reason = f"killed: it overran its budget of {timeout:g} s"
        except ProtocolError as error:
            self.kill()
            reason = f"killed: {error}"
        except (EOFError, BrokenPipeError):
            reason = self._obituary(process)
            self.kill()
        return Answer(Outcome.ERROR, reason=reason, seconds=time.monotonic() - begun)

    def close(self) -> None:
        """Let the worker go: it ends by itself or is killed, and so is whatever its checks left running."""
        process = self._process
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(FAREWELL)
        self.kill()

    def stop(self) -> None:
        """Kill at once and start no new process; may be called from another thread than `ask`."""
        self._stopped = True
        process = self._process
        if process is not None:
            _kill_group(process)

    def kill(self) -> None:
        """Kill the worker and everything that carries its token."""
        process, self._process = self._process, None
        if process is not None:
            _kill_group(process)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            sweep(self.token)
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)
            self._home = None
        self._pending = b""

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.kill()
        self._home = Path(tempfile.mkdtemp(prefix="pv-worker-"))
        left_behind = self._home / "tmp"  # what checks, and processes that they kill, put aside and never remove
        left_behind.mkdir()
        source = str(Path(pv.__file__).parent.parent)
        path = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
        with (self._home / "stderr").open("wb") as stderr:
            # -P: a module in the folder we stand in shadows nothing; -u: what a crash interrupts is in the log
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-u", "-m", "pv.falsify.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={
                    **os.environ,
                    **self.environment,
                    "PYTHONPATH": path,
                    "TMPDIR": str(left_behind),
                    TOKEN: _lineage(self.token),
                },
                start_new_session=True,
            )
        if self._stopped:
            _kill_group(self._process)
        return self._process

    def _write(self, process: subprocess.Popen[bytes], line: bytes) -> None:
        assert process.stdin is not None
        process.stdin.write(line)
        process.stdin.flush()

    def _read(self, process: subprocess.Popen[bytes], deadline: float, progress: Progress) -> Answer:
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                line, newline, rest = self._pending.partition(b"\n")
                if newline:
                    self._pending = rest
                    event = read_event(line)
                    if isinstance(event, Answer):
                        return event
                    progress(*event)
                elif not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                else:
                    piece = os.read(process.stdout.fileno(), 65536)
                    if not piece:
                        raise EOFError
                    self._pending += piece

    def _obituary(self, process: subprocess.Popen[bytes]) -> str:
        """How the process ended, in words."""
        try:
            code = process.wait(FAREWELL)
        except subprocess.TimeoutExpired:
            return "the worker closed its pipe and lived on"
        if self._stopped:
            return "stopped"
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            hint = ", as when memory runs out" if name == "SIGKILL" else ""
            return f"the worker died of {name}{hint}"
        said = (self._home / "stderr").read_text("utf-8", "replace").strip() if self._home else ""
        last = f": {said.splitlines()[-1]}" if said else ""
        return f"the worker ended by itself with exit code {code}{last}"


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except (ProcessLookupError, PermissionError):  # macOS says EPERM of a group of zombies
        pass


def _lineage(token: str) -> str:
    """A worker that was started by a check of another worker is swept away with that one, too."""
    return f"{os.environ.get(TOKEN, '')}:{token}"


def sweep(token: str) -> list[int]:
    """Kill processes of a worker that left its process group (daemons); returns their ids. Needs /proc."""
    killed = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
            if any(v.startswith(f"{TOKEN}=".encode()) and token.encode() in v for v in variables):
                os.kill(int(entry.name), signal.SIGKILL)
                killed.append(int(entry.name))
        except OSError:  # it is gone, or another user's
            continue
    return killed
