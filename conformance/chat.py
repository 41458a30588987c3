"""
The chat example in Chromium: its page in several tabs, over HTTP/1.1 and over HTTP/2.

``make conformance`` calls this. It starts the example on free ports and lets people talk on its
page: with sockets in the clear, and over TLS, where Chromium must open them on the connection that
the page came by (RFC 8441). The exit status is 0 only if they saw what they should.

    python conformance/run.py chat
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from chromium import Chromium, Tab, find_chromium
from program import LOOPS, ROOT, Failure, Program

EXAMPLE = ROOT / "examples" / "chat"

#: Seconds that everything may take for each way.
RUN_TIMEOUT = 120

#: For each way, by the scheme: what it is, the version of HTTP that must carry the page's sockets,
#: and the status that accepts them.
WAYS = {"http": ("ws:", "1.1", 101), "https": ("wss:", "2", 200)}

#: Something to say, and a name, that must not become HTML.
MARKUP = '<img src="x" onerror="document.title=1"><b>bold</b> & so on'
EVE = "<i>Eve</i> & Co"

#: The messages in a page's log, as pairs of who and what.
MESSAGES = """
[...document.querySelectorAll("#log li:has(time)")]
  .map(item => [item.children[1].textContent, item.lastChild.textContent])
"""


def main(arguments: list[str] | None = None) -> int:
    """
    Let people talk both ways, on each event loop.

    :param arguments: what was typed; by default, what the process was started with
    :return: the exit status
    """
    argparse.ArgumentParser(description="Drive the chat example in Chromium.").parse_args(arguments)
    try:
        find_chromium()
        for scheme, (kind, version, _) in WAYS.items():
            for loop in LOOPS:
                with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                    later = converse(scheme, loop, Path(folder))
                print(
                    f"the chat in Chromium, {kind} and {loop}: passed; its sockets came by "
                    f"HTTP/{version}, and by HTTP/{', HTTP/'.join(later)} when the server was back",
                    flush=True,
                )
    except Failure as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 1
    return 0


def converse(scheme: str, loop: str, folder: Path) -> list[str]:
    """
    Start the example and the browser, and have the whole conversation.

    :param scheme: the page's
    :param loop: the example's event loop
    :param folder: for files that are not kept
    :return: the versions of HTTP that sockets came by after the restart
    :raises Failure: if something is not as it should be
    """
    example = Example(folder, loop)
    try:
        browser = Chromium(folder, time.monotonic() + RUN_TIMEOUT)
        try:
            conversation = Conversation(browser, example, scheme)
            first = conversation.hold()
        finally:
            browser.close()
        later = example.stop()
    except Failure as error:
        raise Failure(f"the chat, {WAYS[scheme][0]} and {loop}: {error}") from None
    finally:
        example.close()
    # Each tab's, and one that was refused.
    expect("versions of HTTP", first, [WAYS[scheme][1]] * (len(conversation.tabs) + 1))
    return sorted({*later})


@dataclass
class Person:
    """
    Somebody with a tab.

    :param tab: the tab
    :param room: the room that the page is in
    :param name: the name there
    """

    tab: Tab
    room: str
    name: str

    def sees(self, condition: str) -> None:
        """
        Wait until something is true of the page.

        :param condition: JavaScript, in which ``$`` finds elements by their id
        :raises Failure: if it is not in time
        """
        self.tab.wait(re.sub(r"\$(\w+)", r'document.getElementById("\1")', condition))

    def hears(self, text: str) -> None:
        """Wait until a text is in the log."""
        self.sees(f"$log.textContent.includes({json.dumps(text)})")

    def is_with(self, *others: str) -> None:
        """Wait until the page shows these names, and its own, and no others."""
        self.sees(f"$people.textContent === {json.dumps(', '.join(sorted([self.name, *others])))}")


class Conversation:
    """
    What people do on the page, and what they must see.

    :param browser: the browser
    :param example: the example, running
    :param scheme: which of its addresses
    """

    def __init__(self, browser: Chromium, example: Example, scheme: str) -> None:
        self.browser = browser
        self.example = example
        self.scheme = scheme
        self.url = f"{scheme}://localhost:{example.ports[scheme]}/"
        self.tabs: list[Tab] = []
        #: For each room, who has said what.
        self.said: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)

    def hold(self) -> list[str]:
        """
        Go through everything.

        :return: the versions of HTTP that sockets came by before the restart
        :raises Failure: if something is not as it should be
        """
        ada, bob = self.join("kitchen", "Ada"), self.join("kitchen", "Bob")
        ada.hears("Bob has come")
        ada.is_with("Bob")
        bob.is_with("Ada")
        self.talk(ada, bob)
        late = self.join("kitchen", "Cy")
        self.agree(late)
        self.talk_elsewhere(ada, bob)
        self.take_a_name(ada, bob)
        late.tab.close()
        ada.hears("Cy has left")
        bob.is_with("Ada", EVE)
        versions = self.restart(ada, bob)
        for tab in self.tabs:
            self.check(tab)
        return versions

    def visit(self, room: str, name: str) -> Person:
        """Open the page and try to enter a room."""
        tab = self.browser.open(self.url)
        self.tabs.append(tab)
        person = Person(tab, room, name)
        person.sees('$state.textContent === "closed"')
        tab.type("#room", room)
        tab.type("#name", name, enter=True)
        return person

    def join(self, room: str, name: str) -> Person:
        """Open the page and enter a room."""
        person = self.visit(room, name)
        person.sees('$state.textContent === "open"')
        while not person.tab.handshakes:
            self.browser.receive()
        expect("handshakes of a page", person.tab.handshakes, [WAYS[self.scheme][2]])
        return person

    def say(self, person: Person, text: str) -> None:
        """Type a message and send it."""
        self.said[person.room].append((person.name, text))
        person.tab.type("#text", text, enter=True)

    def agree(self, *people: Person) -> None:
        """Wait until the pages show what was said in their rooms, all of it, and nothing else."""
        for person in people:
            said = json.dumps(self.said[person.room], ensure_ascii=False, separators=(",", ":"))
            person.sees(f"JSON.stringify({MESSAGES}) === {json.dumps(said)}")

    def talk(self, ada: Person, bob: Person) -> None:
        """Say something, and be answered; what is said is text and never HTML."""
        self.say(ada, "Hello, Bob!")
        self.agree(bob)
        self.say(bob, "Hello, Ada!")
        self.agree(ada)
        self.say(ada, MARKUP)
        self.agree(ada, bob)

    def talk_elsewhere(self, ada: Person, bob: Person) -> None:
        """Another room hears nothing of this one, nor this one of it."""
        dee = self.join("garden", "Ada")
        dee.is_with()
        self.say(dee, "Nobody here?")
        self.agree(dee)
        # If that comes to the kitchen, it comes before this...
        self.say(bob, "Still here.")
        self.agree(ada)
        # ...and this comes to the garden before the next.
        self.say(dee, "Nobody.")
        self.agree(dee)

    def take_a_name(self, ada: Person, bob: Person) -> None:
        """A name that somebody has is refused, and another one is taken."""
        eve = self.visit("kitchen", "ada")
        eve.hears("Somebody here has that name.")
        eve.sees('$state.textContent === "closed" && $send.hidden && !$join.hidden')
        eve.name = EVE
        eve.tab.type("#name", EVE, enter=True)
        ada.hears(f"{EVE} has come")
        self.agree(eve)
        self.say(eve, "Am I late?")
        self.agree(ada, bob, eve)
        eve.is_with("Ada", "Bob", "Cy")

    def restart(self, ada: Person, bob: Person) -> list[str]:
        """Without the server the page says so, and it comes back by itself."""
        versions = self.example.stop()
        for person in (ada, bob):
            person.sees('$state.textContent === "closed" && $send.querySelector("button").disabled')
        self.example.start()
        for person in (ada, bob):
            person.sees('$state.textContent === "open"')
        # The server's memory is new, and so is what the pages show.
        self.said.clear()
        ada.sees('$people.textContent.includes("Bob")')
        self.say(ada, "There we are again.")
        self.agree(ada, bob)
        return versions

    def check(self, tab: Tab) -> None:
        """No page has had an error, or asked anybody else for anything."""
        expect("errors of a page", tab.errors, [])
        own = (self.url, self.url.replace("http", "ws", 1), "data:,")
        foreign = [url for url in tab.requests if not url.startswith(own)]
        expect("foreign requests of a page", foreign, [])


def expect(what: str, value: object, expected: object) -> None:
    """Insist on a value."""
    if value != expected:
        raise Failure(f"{what}: {value!r}, not {expected!r}")


# -- The example ----------------------------------------------------------------------------------


class Example:
    """
    The chat as a program, on ports that are free and stay its own.

    :param folder: where its configuration and its certificate go
    :param loop: its event loop
    """

    def __init__(self, folder: Path, loop: str) -> None:
        self._folder = folder
        self._loop = loop
        kyoukai = (sys.executable, "-m", "kyoukai")
        subprocess.run(
            [*kyoukai, "cert", "certs"], cwd=folder, stdout=subprocess.DEVNULL, check=True
        )
        self.ports = dict.fromkeys(WAYS, 0)
        self.start()

    def start(self) -> None:
        """
        Start it, on the ports that it had before, if it had any.

        :raises Failure: if it does not start
        """
        ports = iter(self.ports.values())
        config = (EXAMPLE / "config.yaml").read_text(encoding="utf-8")
        config = re.sub(r"\bport: \d+", lambda _: f"port: {next(ports)}", config)
        (self._folder / "config.yaml").write_text(config, encoding="utf-8")
        self._program = Program(
            ["config.yaml", "--app-dir", str(EXAMPLE)], self._folder, self._loop
        )
        found = self._program.ports(*WAYS)
        self.ports = {scheme: found[scheme] for scheme in WAYS}

    def stop(self) -> list[str]:
        """
        Stop it in order; what happened on the pages must not have hurt it.

        :return: the version of HTTP that each socket has come by
        :raises Failure: if it has been hurt
        """
        self._program.stop()
        lines = self._program.lines
        expect("warnings", [line for line in lines if " WARNING " in line], [])
        return re.findall(r"comes to '\w+' by HTTP/(\S+)", "".join(lines))

    def close(self) -> None:
        """End it at once, if it has not ended."""
        self._program.close()


if __name__ == "__main__":
    sys.exit(main())
