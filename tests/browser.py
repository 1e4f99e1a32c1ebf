"""A real headless Chromium for tests, driven over its DevTools protocol; nothing but the system's browser is needed.

Read `browser`, the context manager that tests use, then `Page`: open, wait for a condition, evaluate, take a picture.
A condition is a JavaScript expression and is asked until it holds: no sleep stands in its place. The browser can
reach this machine alone.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.real_prefect import wait_until

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE_S = 30.0
OPTIONS = (
    "--headless=new",
    "--remote-debugging-port=0",
    "--no-sandbox",  # root, as in containers, may not have one
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--lang=en-US",
    "--force-color-profile=srgb",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
Theme = Literal["light", "dark"]
# A page that shows what came first is still changed by what comes next: the condition is that it stopped.
SETTLED = """new Promise(done => {
    const ended = () => { observer.disconnect(); document.fonts.ready.then(() => done(true)) };
    let timer = setTimeout(ended, 300);
    const observer = new MutationObserver(() => { clearTimeout(timer); timer = setTimeout(ended, 300) });
    observer.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
})"""


class Browser:
    """One process of Chromium, and the one connection to it."""

    def __init__(self, program: str, folder: Path) -> None:
        self._numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        with (folder / "browser.log").open("wb") as log:
            self._process = subprocess.Popen(
                [program, *OPTIONS, f"--user-data-dir={folder / 'profile'}", "about:blank"],
                env={**os.environ, "HOME": str(folder), "TZ": "UTC"}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        try:
            self._socket = self._connected(folder / "profile" / "DevToolsActivePort", folder / "browser.log")
        except BaseException:
            self.stop()
            raise

    def _connected(self, told: Path, log: Path) -> ClientConnection:
        def is_told() -> bool:
            assert self._process.poll() is None, log.read_text(errors="replace")
            return told.is_file() and len(told.read_text().split()) == 2

        wait_until(is_told)
        port, path = told.read_text().split()
        return connect(f"ws://127.0.0.1:{port}{path}", max_size=None, proxy=None)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for its answer; events that come meanwhile are kept."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        self._socket.send(json.dumps({**message, "sessionId": session} if session else message))
        give_up_s = time.monotonic() + PATIENCE_S
        while True:
            told: dict[str, Any] = json.loads(self._socket.recv(timeout=max(0.0, give_up_s - time.monotonic())))
            if told.get("id") == number:
                if "error" in told:
                    raise RuntimeError(f"{method}: {told['error']['message']}")
                result: dict[str, Any] = told["result"]
                return result
            self.events.append(told)

    def page(self, *, width: int = 1280, height: int = 800) -> Page:
        """A new page, with a window of this size [px]."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Page(self, session, width=width, height=height)

    def stop(self) -> None:
        """End it with everything that it started; asked to, it ends its own children and leaves none to others."""
        if socket := getattr(self, "_socket", None):
            with suppress(Exception):  # it may have gone, or hang
                self.call("Browser.close")
                self._process.wait(5)
            socket.close()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Page:
    """One page of the browser."""

    def __init__(self, browser: Browser, session: str, *, width: int, height: int) -> None:
        self._browser, self._session = browser, session
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")
        self.resize(width, height)

    def resize(self, width: int, height: int) -> None:
        """Give the window this size [px]."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def prefer(self, theme: Theme) -> None:
        """Be the browser of somebody whose system is light or dark."""
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self._call("Emulation.setEmulatedMedia", features=features)

    def open(self, url: str, until: str) -> None:
        """Go to `url` and wait until the JavaScript expression `until` holds there."""
        told = self._call("Page.navigate", url=url)
        assert not told.get("errorText"), f"{url}: {told['errorText']}"
        self.wait_for(until)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        told = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if failed := told.get("exceptionDetails"):
            raise RuntimeError(f"{expression}: {failed.get('exception', failed).get('description', failed)}")
        return told["result"].get("value")

    def wait_for(self, expression: str, patience_s: float = PATIENCE_S) -> Any:
        """Wait until the expression is true and return its value; fails with what the page shows."""
        found: Any = None

        def holds() -> bool:
            nonlocal found
            try:
                # An element of the page is there or not; its value has no end.
                found = self.evaluate(f"(found => found instanceof Object ? true : found)({expression})")
            except RuntimeError as error:  # the page it was asked of has just gone, or has no body yet
                found = None
                if "context" not in str(error) and "TypeError" not in str(error):
                    raise
            return bool(found)

        try:
            wait_until(holds, patience_s)
        except AssertionError as error:
            shown = self.evaluate("document.body?.innerText")
            raise AssertionError(f"{expression} never held; the page shows: {shown}; {self.errors()}") from error
        return found

    def settle(self) -> None:
        """Wait until nothing has changed on the page for 0.3 s and its letters are there."""
        self.evaluate(SETTLED)

    def text(self) -> str:
        """What can be read on the page."""
        return str(self.evaluate("document.body.innerText"))

    def screenshot(self, path: Path) -> Path:
        """Write what the window shows as a PNG, once it has settled."""
        self.settle()
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))
        return path

    def errors(self) -> list[str]:
        """What the page complained about so far: exceptions, console errors, requests that failed."""
        self._call("Page.getNavigationHistory")  # so that what was said before has arrived
        found = [_complaint(one) for one in self._browser.events if one.get("sessionId") == self._session]
        return [text for text in found if text]

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)


def _complaint(event: dict[str, Any]) -> str:
    told: dict[str, Any] = event.get("params", {})
    match event.get("method"):
        case "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            return str(details.get("exception", {}).get("description") or details["text"])
        case "Runtime.consoleAPICalled" if told["type"] == "error":
            return " ".join(str(one.get("value", one.get("description", ""))) for one in told["args"])
        case "Log.entryAdded" if told["entry"]["level"] == "error":
            return f"{told['entry']['text']} ({told['entry'].get('url', '')})"
    return ""


@contextmanager
def browser() -> Iterator[Browser]:
    """A running browser; skips where none is installed, and fails there on CI."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        reason = f"no browser is installed (looked for {', '.join(NAMES)})"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}, and on CI nothing may be skipped")
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="eraflow-browser-", ignore_cleanup_errors=True) as folder:
        started = Browser(program, Path(folder))
        try:
            yield started
        finally:
            started.stop()
