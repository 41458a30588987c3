"""How the client in memory reads answers over HTTP/1.1."""

from __future__ import annotations

from collections import deque

import pytest

from kyoukai.memory_http1 import ClientResponse, _ResponseReader

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
#: Three answers, one behind the other; the first's body looks like an end, and it has a trailer.
ANSWERS = (
    (CHUNKED + b"9\r\na0\r\n\r\n\r\nb\r\n2\r\ncd\r\n0\r\nX-T: u\r\n\r\n", b"a0\r\n\r\n\r\nbcd"),
    (CHUNKED + b"1\r\ne\r\n0\r\n\r\n", b"e"),
    (HEAD + b"Content-Length: 4\r\n\r\n\r\n\r\n", b"\r\n\r\n"),
)


@pytest.mark.parametrize("size", range(1, 41))
def test_answers_in_pieces_of_any_size(size: int) -> None:
    ready: deque[ClientResponse] = deque()
    reader = _ResponseReader(deque(), ready)
    sent = b"".join(answer for answer, _ in ANSWERS)
    for start in range(0, len(sent), size):
        reader.feed(sent[start : start + size])
    assert [response.body for response in ready] == [body for _, body in ANSWERS]
    assert [[*response.trailers] for response in ready] == [[("X-T", "u")], [], []]
    assert reader.take_rest() == b""


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_each_answer_is_there_as_soon_as_it_has_come(size: int) -> None:
    ready: deque[ClientResponse] = deque()
    reader = _ResponseReader(deque(), ready)
    for number, (answer, _) in enumerate(ANSWERS):
        for start in range(0, len(answer) - 1, size):
            reader.feed(answer[: len(answer) - 1][start : start + size])
        assert len(ready) == number
        reader.feed(answer[-1:])
        assert len(ready) == number + 1
