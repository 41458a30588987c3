"""
Headless Chromium, driven through its DevTools protocol.

One connection to the browser carries the commands for all tabs. Nothing here waits by sleeping:
what a page must show is awaited in the page, by a ``MutationObserver``, and every answer of the
browser has to come before one deadline.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from program import Failure
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-breakpad",
    # Tabs in the background are as lively as the one in front.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    # The example's certificate is signed by nobody.
    "--ignore-certificate-errors",
    "--remote-debugging-port=0",
)

#: Seconds that the browser has to start, and to end when it is told to.
START_TIMEOUT = 30
STOP_TIMEOUT = 10

#: Seconds that a page has to show what is awaited.
SHOW_TIMEOUT = 30

#: Resolves to true when an expression is true, which is looked at again after each change of the
#: page; to false if that takes too long.
WAIT = """
new Promise(done => {{
  const end = outcome => {{ clearTimeout(timer); observer.disconnect(); done(outcome); }};
  const look = () => {{ if ({condition}) end(true); }};
  const timer = setTimeout(end, {milliseconds}, false);
  const observer = new MutationObserver(look);
  observer.observe(document, {{
    subtree: true, childList: true, attributes: true, characterData: true,
  }});
  look();
}})
"""


def find_chromium() -> str:
    """
    Return the path of Chromium.

    :raises Failure: if it is not there
    """
    path = shutil.which("chromium")
    if path is None:
        raise Failure("pages need Chromium, which is not on this machine (Debian: chromium)")
    return path


class Chromium:
    """
    A browser with a profile of its own.

    :param folder: where the profile goes
    :param deadline: when everything has to be over, by ``time.monotonic``
    """

    def __init__(self, folder: Path, deadline: float) -> None:
        self._deadline = deadline
        # A group of its own: Chromium is many processes, which must all end.
        self._process = subprocess.Popen(
            [find_chromium(), *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"],
            env={**os.environ, "HOME": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read_on, daemon=True)
        self._tabs: dict[str, Tab] = {}
        self._count = 0
        try:
            self._connection = connect(
                self._address(), max_size=None, compression=None, open_timeout=START_TIMEOUT
            )
        except BaseException:
            self._end()
            raise

    def _address(self) -> str:
        """Wait until it says where it listens; nobody else can know the port."""
        assert self._process.stderr is not None
        timer = threading.Timer(START_TIMEOUT, self._kill)
        timer.start()
        said = []
        try:
            for line in self._process.stderr:
                found = re.search(r"DevTools listening on (ws://\S+)", line)
                if found is not None:
                    self._reader.start()
                    return found[1]
                said.append(line.strip())
        finally:
            timer.cancel()
        raise Failure(f"Chromium did not start: {said[-1] if said else 'it says nothing'}")

    def _read_on(self) -> None:
        """Read what it says, or it waits for room in the pipe."""
        assert self._process.stderr is not None
        for _ in self._process.stderr:
            pass

    def call(self, method: str, tab: Tab | None = None, **parameters: Any) -> Any:
        """
        Give a command and wait for its result.

        :param method: the command
        :param tab: the tab that it is for; None: the browser
        :param parameters: the command's
        :raises Failure: if it fails, or its result does not come in time
        """
        self._count += 1
        number = self._count
        message = {"id": number, "method": method, "params": parameters}
        if tab is not None:
            message["sessionId"] = tab.session
        try:
            self._connection.send(json.dumps(message))
        except ConnectionClosed:
            raise Failure("Chromium has ended") from None
        while True:
            answer = self.receive()
            if answer.get("id") != number:
                continue
            if "error" in answer:
                raise Failure(f"{method}: {answer['error']['message']}")
            return answer["result"]

    def receive(self) -> Any:
        """
        Return the next message; if it is an event of a tab, the tab has seen it.

        :raises Failure: if none comes in time
        """
        try:
            message = json.loads(self._connection.recv(max(self._deadline - time.monotonic(), 0)))
        except TimeoutError:
            raise Failure("the time is over") from None
        except ConnectionClosed:
            raise Failure("Chromium has ended") from None
        tab = self._tabs.get(message.get("sessionId", ""))
        if tab is not None and "method" in message:
            tab.event(message["method"], message["params"])
        return message

    def open(self, url: str) -> Tab:
        """
        Open a page in a new tab, and wait until it is loaded.

        :param url: the page's address
        """
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = self._tabs[session] = Tab(self, target, session)
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable", tab)
        went = self.call("Page.navigate", tab, url=url)
        if "errorText" in went:
            raise Failure(f"Chromium cannot open {url}: {went['errorText']}")
        while not tab.loaded:
            self.receive()
        return tab

    def close(self) -> None:
        """End the browser, with all its processes."""
        try:
            self.call("Browser.close")
            self._process.wait(STOP_TIMEOUT)
        except (Failure, subprocess.TimeoutExpired):
            pass
        self._connection.close()
        self._end()

    def _end(self) -> None:
        self._kill()
        self._process.wait()
        if self._reader.ident is not None:
            self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def _kill(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


class Tab:
    """
    One tab.

    :param browser: its browser
    :param target: what the browser calls the tab
    :param session: what it calls our conversation with it
    """

    def __init__(self, browser: Chromium, target: str, session: str) -> None:
        self.browser = browser
        self.target = target
        self.session = session
        self.loaded = False
        #: Uncaught errors of the page; all that it has asked for; statuses of its sockets.
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.handshakes: list[int] = []

    def event(self, method: str, parameters: dict[str, Any]) -> None:
        """
        Note what has happened in the tab.

        :param method: what it was
        :param parameters: more of it
        """
        match method:
            case "Page.loadEventFired":
                self.loaded = True
            case "Runtime.exceptionThrown":
                details = parameters["exceptionDetails"]
                thrown = details.get("exception", {}).get("description", details["text"])
                self.errors.append(thrown.splitlines()[0])
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])
            case "Network.webSocketCreated":
                self.requests.append(parameters["url"])
            case "Network.webSocketHandshakeResponseReceived":
                self.handshakes.append(parameters["response"]["status"])

    def evaluate(self, expression: str) -> Any:
        """
        Return the value of an expression, or of the promise that it is.

        :param expression: JavaScript
        :raises Failure: if it throws
        """
        answer = self.browser.call(
            "Runtime.evaluate",
            self,
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            thrown = details.get("exception", {}).get("description", details["text"])
            raise Failure(f"fails in {expression!r}: {thrown.splitlines()[0]}")
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """
        Wait until something is true of the page.

        :param condition: JavaScript
        :raises Failure: if it is not in time
        """
        if not self.evaluate(WAIT.format(condition=condition, milliseconds=1000 * SHOW_TIMEOUT)):
            shown = self.evaluate("document.body.innerText")
            raise Failure(f"a page shows {shown!r}, but never {' '.join(condition.split())}")

    def type(self, selector: str, text: str, *, enter: bool = False) -> None:
        """
        Type into a field, as somebody at the keyboard does, in place of what is there.

        :param selector: the field
        :param text: what is typed
        :param enter: whether the Enter key follows
        """
        self.browser.call("Page.bringToFront", self)
        self.evaluate(f"document.querySelector({selector!r}).select()")
        self.evaluate(f"document.querySelector({selector!r}).focus()")
        self.browser.call("Input.insertText", self, text=text)
        if enter:
            key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
            self.browser.call("Input.dispatchKeyEvent", self, type="keyDown", text="\r", **key)
            self.browser.call("Input.dispatchKeyEvent", self, type="keyUp", **key)

    def close(self) -> None:
        """Close the tab, as somebody does who has seen enough."""
        self.browser.call("Target.closeTarget", targetId=self.target)
