"""``make conformance``, our own cases of WebSockets: that they fail where a server is wrong."""

from __future__ import annotations

import importlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

ROOT = Path(__file__).parent.parent

#: What a server may send for a text message "a", and for the Close frame that follows.
ECHO, CLOSE = b"\x81\x01a", b"\x88\x02\x03\xe8"

Talk = Callable[[socket.socket, ServerProtocol], None]


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "conformance")
    return importlib.import_module("ws_suite")


@cache
def all_cases(suite: Any, kind: Any) -> list[Any]:
    """The cases over one protocol, which take long to make."""
    cases: list[Any] = suite.all_cases(kind)
    return cases


@contextmanager
def serving(talk: Talk) -> Iterator[int]:
    """Accept every handshake, and hold conversations as they are given."""

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock, suppress(OSError):  # a client that has seen enough leaves
                serve(sock)

    def serve(sock: socket.socket) -> None:
        protocol = ServerProtocol()
        while data := sock.recv(65536):
            protocol.receive_data(data)
            if protocol.handshake_exc is not None:
                return
            for event in protocol.events_received():
                assert isinstance(event, Request)
                protocol.send_response(protocol.accept(event))
                sock.sendall(b"".join(protocol.data_to_send()))
                talk(sock, protocol)
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def canned(*answers: bytes) -> Talk:
    """Return a conversation with an answer for each read."""

    def talk(sock: socket.socket, protocol: ServerProtocol) -> None:
        for answer in answers:
            sock.recv(65536)
            sock.sendall(answer)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass

    return talk


def library(sock: socket.socket, protocol: ServerProtocol) -> None:
    """Echo with the library alone, which looks neither at UTF-8 nor at how many fragments come."""
    pieces: list[bytes] = []
    opcode = Opcode.TEXT
    ended = False
    while not ended and (data := sock.recv(1 << 20)):
        protocol.receive_data(data)
        for frame in protocol.events_received():
            assert isinstance(frame, Frame)
            if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                opcode = opcode if frame.opcode is Opcode.CONT else frame.opcode
                pieces.append(bytes(frame.data))
                if frame.fin:
                    send = protocol.send_text if opcode is Opcode.TEXT else protocol.send_binary
                    send(b"".join(pieces))
                    pieces.clear()
        for answer in protocol.data_to_send():
            ended = not answer
            sock.sendall(answer)


@pytest.mark.parametrize(
    ("answers", "wrong"),
    [
        ((ECHO, CLOSE), None),
        ((b"\x01\x01a\x80\x00", CLOSE), None),
        ((ECHO, b"\x88\x05\x03\xe8bye"), None),
        ((b"\x81\x01b", CLOSE), "text b'b' came, not text b'a'"),
        ((b"\x82\x01a", CLOSE), "binary b'a' came, not text b'a'"),
        ((b"",), "the end came, not text b'a'"),
        ((ECHO, b""), "the end came, not Close 1000"),
        ((ECHO + ECHO, CLOSE), "text b'a' came, not Close 1000"),
        ((ECHO, b"\x88\x02\x03\xe9"), "Close 1001 b'' came, not Close 1000"),
        ((ECHO, b"\x88\x00"), "Close b'' came, not Close 1000"),
        ((ECHO, CLOSE + ECHO), "text b'a' came after the Close frame"),
        ((ECHO, CLOSE + ECHO[:2]), "a part of a frame came after the Close frame"),
        ((b"\x81\x81\0\0\0\0a", CLOSE), "a frame is masked"),
        ((b"\x81\x7e\x00\x01a", CLOSE), "the length 1 is not in its shortest form"),
        ((b"\xc1\x01a", CLOSE), "a frame has reserved bits: 0x40"),
        ((b"\x83\x01a", CLOSE), "a frame has opcode 3"),
        ((b"\x80\x01a", CLOSE), "a frame continues nothing, or a message is not finished"),
        (
            (b"\x01\x01a" + ECHO, CLOSE),
            "a frame continues nothing, or a message is not finished",
        ),
        (
            (b"\x09\x00", CLOSE),
            "a control frame is compressed, in fragments or too long",
        ),
    ],
)
def test_what_the_server_does_is_told(
    suite: Any, answers: tuple[bytes, ...], wrong: str | None
) -> None:
    frames, case = importlib.import_module("ws_frames"), importlib.import_module("ws_case")
    script = (frames.text("a"), frames.Message(frames.TEXT, b"a"))
    with serving(canned(*answers)) as port:
        assert case.Case("section", "name", script).run(suite.Http1(port)) == wrong


def test_cases_fail_where_a_server_is_wrong(suite: Any, capsys: pytest.CaptureFixture[str]) -> None:
    bad = {
        f"{name}{where}"
        for name in suite.ws_cases.BAD
        for where in ("", ", in the second fragment")
    }
    good = {f"U+{point:04X}" for point in suite.ws_cases.EDGES}
    good |= {f"{name}, in binary" for name in suite.ws_cases.BAD}
    cases = [case for case in suite.ws_cases.cases() if case.name in bad | good]
    with serving(library) as port:
        results = suite.run_way(suite.Http1, port, cases)
        assert suite.main(["--port", str(port), "--way", "2"]) == 1
    passed, failed = results["UTF-8"]
    assert set(failed) == bad
    assert passed == len(good)
    lines = capsys.readouterr().err.splitlines()
    assert "HTTP/1.1, UTF-8, FF: text b'\\xff' came, not Close 1007" in lines
    assert lines[-1] == "conformance: the server closed the connection"
    with pytest.raises(suite.Failure, match=r"^cases of WebSockets failed over HTTP/1.1: UTF-8$"):
        suite.check({"HTTP/1.1": results})


@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", ["1", "2"])
def test_the_server_passes(suite: Any, way: str) -> None:
    kind = suite.WAYS[way]
    with suite.echo_server("asyncio", *suite.SETTINGS) as port:
        cases = [case for case in all_cases(suite, kind) if case.section != "UTF-8"]
        results = suite.run_way(kind, port, cases)
    assert [failed for _, failed in results.values()] == [[]] * 6


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        ("permessage-deflate", None),
        ("permessage-deflate; server_no_context_takeover", None),
        ("permessage-deflate; server_max_window_bits=10", None),
        ("", "the offer of permessage-deflate was declined"),
        ("permessage-deflate; client_max_window_bits=10", "does not go with the offer"),
        ("permessage-deflate; server_max_window_bits=16", "does not go with the offer"),
        ("permessage-deflate; x", "does not go with the offer"),
        ("permessage-deflate, permessage-deflate", "accepts what was not offered"),
        ("x-other", "accepts what was not offered"),
    ],
)
def test_what_was_not_offered_may_not_be_accepted(
    suite: Any, answer: str, wrong: str | None
) -> None:
    deflate = importlib.import_module("ws_deflate")
    wire = SimpleNamespace(fields=[("sec-websocket-extensions", answer)] if answer else [])
    if wrong is None:
        assert deflate.PLAIN.agree(wire) is not None
    else:
        with pytest.raises(suite.Lost, match=wrong):
            deflate.PLAIN.agree(wire)


def test_what_must_be_declined_is_not_accepted(suite: Any) -> None:
    case = importlib.import_module("ws_case")
    wire = SimpleNamespace(fields=[("sec-websocket-extensions", "permessage-deflate")])
    with pytest.raises(suite.Lost, match="accepts what was not offered"):
        case.Offer("permessage-deflate; unknown").agree(wire)


def test_what_failed_in_one_run_has_failed(suite: Any) -> None:
    first = {"framing": (2, ["a"]), "closing": (1, [])}
    second = {"framing": (1, ["a", "b"]), "closing": (0, ["c"])}
    merged = suite.merge([first, second])
    assert merged == {"framing": (1, ["a", "b"]), "closing": (0, ["c"])}
    assert suite.merge([second, first]) == merged
    words = [
        line.split() for line in suite.summary({"HTTP/1.1": first, "HTTP/2": merged}).splitlines()
    ]
    assert words[2:] == [
        ["HTTP/1.1", "HTTP/2"],
        ["section", *["cases", "passed", "failed"] * 2],
        ["framing", *"321312"],
        ["closing", *"110101"],
        ["all", *"431413"],
    ]


def test_every_case_has_a_name_of_its_own(suite: Any) -> None:
    for kind in (suite.Http1, suite.Http2):
        names = [(case.section, case.name) for case in all_cases(suite, kind)]
        assert len(set(names)) == len(names)


def test_the_committed_summary_is_of_these_cases_without_failures(suite: Any) -> None:
    lines = (ROOT / "docs" / "conformance_websocket.txt").read_text().splitlines()
    numbers = []
    for kind in (suite.Http1, suite.Http2):
        count = str(len(all_cases(suite, kind)))
        numbers += [count, count, "0"]
    end = lines.index("", 3)
    assert lines[end - 1].split() == ["all", *numbers]
    counts = [
        sum(case.section != "handshake" for case in all_cases(suite, kind))
        for kind in (suite.Http1, suite.Http2)
    ]
    assert lines[end + 1 :] == [
        f"{kind.upper()}, all but the handshakes: {counts[0]} of {counts[0]} over HTTP/1.1, "
        f"{counts[1]} of {counts[1]} over HTTP/2 passed"
        for kind in suite.HOSTED
    ]
