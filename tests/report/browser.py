"""A real Chromium, driven over its own pipe (Chrome DevTools Protocol): no driver, no network, no other package."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 60.0  # a busy machine; what never comes is waited for once
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync "
    "--disable-component-update --disable-dev-shm-usage --hide-scrollbars --remote-debugging-pipe about:blank"
).split()


def found() -> str | None:
    """Path of a Chromium on this machine, or None."""
    named = os.environ.get("PV_CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


def started() -> Iterator[Browser]:
    """A started Chromium, closed at the end, for a fixture to yield from; a test that finds none is skipped aloud."""
    program = found()
    if program is None:
        pytest.skip("no Chromium on this machine: install one, or name it in PV_CHROMIUM")
    browser = Browser(program)
    yield browser
    browser.close()


class Browser:
    """One Chromium; `open` gives a page of it."""

    def __init__(self, program: str) -> None:
        self._profile = tempfile.mkdtemp(prefix="pv-chromium-")
        theirs_in, self._out = _pipe()
        self._in, theirs_out = _pipe()
        quiet = os.open(os.devnull, os.O_RDWR)
        moves = [
            (os.POSIX_SPAWN_DUP2, old, new) for old, new in ((quiet, 1), (quiet, 2), (theirs_in, 3), (theirs_out, 4))
        ]
        command = [program, f"--user-data-dir={self._profile}", *FLAGS]
        self._pid = os.posix_spawn(program, command, os.environ, file_actions=moves, setpgroup=0)
        for descriptor in (quiet, theirs_in, theirs_out):
            os.close(descriptor)
        self._rest = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def open(self, width: int = 1280, height: int = 900, scheme: str = "light") -> Page:
        """A new page of this size and colour scheme; what its console says and what it asks for is kept."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        return page

    def call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events on the way are kept."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        until = time.monotonic() + SECONDS
        while True:
            answer = self.receive(until)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def receive(self, until: float) -> dict[str, Any]:
        """The next message. Raises TimeoutError."""
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0.0, until - time.monotonic()))
            piece = os.read(self._in, 1 << 20) if ready else b""
            if not piece:
                raise TimeoutError("the browser ended or said nothing in time")
            self._rest += piece
        line, self._rest = self._rest.split(b"\0", 1)
        message = json.loads(line)
        if "id" not in message:
            self.events.append(message)
        return message

    def close(self) -> None:
        """End the browser and remove its profile."""
        for descriptor in (self._in, self._out):
            os.close(descriptor)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        shutil.rmtree(self._profile, ignore_errors=True)


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser, self._session, self._target = browser, session, target

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command to this page."""
        return self._browser.call(method, self._session, **parameters)

    def go(self, path: Path, anchor: str = "") -> None:
        """Open a file and wait until its script has run."""
        self.call("Page.navigate", url=path.as_uri() + (f"#{anchor}" if anchor else ""))
        self.wait("document.readyState === 'complete' && !document.getElementById('p-filters').hidden")

    def run(self, expression: str) -> Any:
        """The value of an expression of JavaScript in the page. Raises RuntimeError where it throws."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']['exception'].get('description')}")
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Until an expression holds. Raises TimeoutError."""
        until = time.monotonic() + SECONDS
        while not self.run(expression):
            if time.monotonic() > until:
                raise TimeoutError(f"never came true: {expression}")
            time.sleep(0.02)

    def click(self, selector: str) -> None:
        """Press the mouse at the middle of an element that can be seen, once it has stopped moving."""
        where = (
            f"(() => {{ const r = document.querySelector({json.dumps(selector)}).getClientRects()[0];"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        self.run(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
        spot, before = self.run(where), None
        while spot != before:  # a page that still scrolls smoothly would move away from under the mouse
            time.sleep(0.05)
            spot, before = self.run(where), spot
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=spot[0], y=spot[1], button="left", clickCount=1)

    def press(self, key: str) -> None:
        """One key: Tab, Enter."""
        code = {"Tab": 9, "Enter": 13}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)

    def type(self, text: str) -> None:
        """Text into what has the focus."""
        self.call("Input.insertText", text=text)

    def picture(self) -> bytes:
        """What can be seen, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    @property
    def troubles(self) -> list[str]:
        """What went wrong so far: errors, warnings, dialogs, anything asked of another place than a file."""
        self.run("1")  # what was said before this answer has arrived by now
        return [
            said
            for event in self._browser.events
            if event.get("sessionId") == self._session
            if (said := _trouble(event))
        ]

    def close(self) -> None:
        """Close the tab."""
        self._browser.call("Target.closeTarget", targetId=self._target)


def _trouble(event: dict[str, Any]) -> str:
    what, told = event["method"], event["params"]
    if what == "Runtime.exceptionThrown":
        return f"thrown: {told['exceptionDetails']}"
    if what == "Runtime.consoleAPICalled":
        return f"console: {told['args']}"
    if what == "Log.entryAdded":
        return f"{told['entry']['level']}: {told['entry']['text']}"
    if what == "Page.javascriptDialogOpening":
        return f"dialog: {told['message']}"
    if what == "Network.requestWillBeSent" and not told["request"]["url"].startswith(("file:", "data:")):
        return f"request: {told['request']['url']}"
    return ""


def _pipe() -> tuple[int, int]:
    """A pipe whose ends lie above 9, so that none is in the way of 3 and 4 in the child."""
    ends = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return high[0], high[1]
