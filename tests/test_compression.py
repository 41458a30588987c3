"""Compression: for whom, of what, with which headers, and what it does not give away."""

from __future__ import annotations

import gzip as reference
import threading
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from exchanges import WIRES, exchange

from kyoukai import HTTPRequestContext, Kyoukai, Response
from kyoukai.compression import gzip
from kyoukai.exceptions import ConfigurationError
from kyoukai.pipeline import RequestPipeline
from kyoukai.testing import Client

if TYPE_CHECKING:
    from exchanges import Exchange

TEXT = "The same again. " * 200
GZIP = {"Accept-Encoding": "gzip"}


def app_with(response: Any) -> Kyoukai:
    app = Kyoukai("test")

    @app.route("/", methods=["GET", "POST"])
    async def handler(ctx: HTTPRequestContext) -> Any:
        return response()

    return app


async def ask(
    made: Any = lambda: TEXT, headers: dict[str, str] | None = None, **more: Any
) -> Exchange:
    more = {"compress": True, **more}
    return await exchange(app_with(made), "/", headers=GZIP if headers is None else headers, **more)


def is_compressed(answer: Exchange) -> bool:
    """Whether it is, and nothing about it contradicts that."""
    compressed = answer.headers.get("Content-Encoding") == "gzip"
    assert compressed == (answer.body[:2] == b"\x1f\x8b")
    assert int(answer.headers["Content-Length"]) == len(answer.body)
    return compressed


# -- What is compressed ------------------------------------------------------------------------


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    ("made", "body"),
    [
        (lambda: TEXT, TEXT.encode()),
        (lambda: {"a": TEXT}, b'{"a":"%b"}' % TEXT.encode()),
        (lambda: (TEXT, 404), TEXT.encode()),
        (lambda: Response([TEXT, "h\u00e9"]), f"{TEXT}h\u00e9".encode()),
    ],
)
async def test_it_is_the_body_again(made: Any, body: bytes, wire: str) -> None:
    answer = await ask(made, wire=wire)
    assert is_compressed(answer)
    assert reference.decompress(answer.body) == body
    assert answer.headers.getlist("Vary") == ["Accept-Encoding"]


async def test_it_is_off_by_default() -> None:
    answer = await exchange(app_with(lambda: TEXT), "/", headers=GZIP)
    assert not is_compressed(answer)
    assert "Vary" not in answer.headers


@pytest.mark.parametrize(
    "content_type",
    [
        "text/html; charset=utf-8",
        "TEXT/CSS",
        "application/json",
        "application/problem+json",
        "application/xhtml+xml",
        "application/javascript",
        "application/wasm",
        "image/svg+xml",
    ],
)
async def test_types_that_are(content_type: str) -> None:
    assert is_compressed(await ask(lambda: (TEXT, {"Content-Type": content_type})))


async def pieces() -> Any:
    yield TEXT


@pytest.mark.parametrize(
    "made",
    [
        lambda: Response(TEXT, content_type="image/png"),
        lambda: Response(TEXT, content_type="application/zip"),
        lambda: Response(TEXT, content_type=None, mimetype=""),
        lambda: TEXT.encode(),
        lambda: TEXT[:1023],
        lambda: (TEXT, {"Content-Encoding": "br"}),
        lambda: (TEXT, {"Content-Encoding": "identity"}),
        lambda: (TEXT, {"Cache-Control": "public, No-Transform"}),
        lambda: (TEXT, {"Cache-Control": ["no-transform", "public"]}),
        lambda: (TEXT, {"Content-Range": "bytes 0-1/2"}),
        lambda: (TEXT, {"Repr-Digest": "sha-256=:AAAA:"}),
        lambda: (TEXT, 206),
    ],
)
async def test_what_is_not_eligible_does_not_vary(made: Any) -> None:
    answer = await ask(made)
    assert not is_compressed(answer)
    assert "Vary" not in answer.headers


@pytest.mark.parametrize("status", [204, 205, 304])
async def test_answers_without_a_body(status: int) -> None:
    answer = await ask(lambda: Response(TEXT, status, content_type="text/plain"))
    assert (answer.status, answer.body) == (status, b"")
    assert "Content-Encoding" not in answer.headers


async def test_streamed_answers_are_not() -> None:
    answer = await ask(lambda: pieces())
    assert answer.body == TEXT.encode()
    assert not {"Vary", "Content-Encoding"} & set(answer.headers.keys())


async def test_what_does_not_get_smaller_stays() -> None:
    noise = "".join(chr(33 + (number * number * 7919 + number // 3) % 90) for number in range(40))
    answer = await ask(lambda: noise, compress_min_size=1)
    assert not is_compressed(answer)
    assert answer.headers["Vary"] == "Accept-Encoding"


async def test_settings_say_what_is() -> None:
    settings: dict[str, Any] = {"compress_types": ["application/*"], "compress_min_size": 30}
    assert not is_compressed(await ask(**settings))
    assert is_compressed(await ask(lambda: b"a" * 60, **settings))
    assert not is_compressed(await ask(lambda: b"a" * 29, **settings))
    assert not is_compressed(await ask(compress_types=[]))


@pytest.mark.parametrize("pattern", ["json", "text/html; charset=utf-8", "a/b/c"])
def test_types_that_cannot_be(pattern: str) -> None:
    with pytest.raises(ConfigurationError, match="compress_types: '.*' is no media type"):
        Client(Kyoukai("test"), compress_types=[pattern])


# -- For whom ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("br, gzip;q=0.5", True),
        ("*", True),
        ("*;q=0.1", True),
        ("gzip;q=0.001", True),
        ("identity;q=0.5, gzip", True),
        ("identity, gzip", True),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("x-gzip, gzip;q=0", False),
        ("*;q=0", False),
        ("br", False),
        ("identity", False),
        ("identity;q=1, gzip;q=0.5", False),
        ("", False),
        (None, False),
    ],
)
async def test_clients_that_accept_it(accepted: str | None, compressed: bool) -> None:
    answer = await ask(headers={} if accepted is None else {"Accept-Encoding": accepted})
    assert is_compressed(answer) == compressed
    assert answer.headers["Vary"] == "Accept-Encoding"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["Cookie"], ["Cookie, Accept-Encoding"]),
        (["accept-encoding"], ["accept-encoding"]),
        (["*"], ["*"]),
        (["Accept", "Cookie"], ["Accept, Cookie, Accept-Encoding"]),
        (["Cookie", "Accept-Encoding"], ["Cookie", "Accept-Encoding"]),
        (["Cookie", "*"], ["Cookie", "*"]),
    ],
)
async def test_vary_is_added_to(before: list[str], after: list[str]) -> None:
    answer = await ask(lambda: (TEXT, {"Vary": before}))
    assert answer.headers.getlist("Vary") == after


# -- With conditions and ranges ----------------------------------------------------------------


def tagged(etag: str = '"v1"') -> Any:
    return lambda: (TEXT, {"ETag": etag})


async def test_an_etag_becomes_weak() -> None:
    assert (await ask(tagged())).headers["ETag"] == 'W/"v1"'
    assert (await ask(tagged('W/"v1"'))).headers["ETag"] == 'W/"v1"'
    assert (await ask(tagged('w/"v1"'))).headers["ETag"] == 'w/"v1"'
    assert (await ask(tagged(), {})).headers["ETag"] == '"v1"'


@pytest.mark.parametrize("known", ['"v1"', 'W/"v1"'])
async def test_304_says_what_200_would_say(known: str) -> None:
    answer = await ask(tagged(), {**GZIP, "If-None-Match": known})
    assert (answer.status, answer.headers["ETag"]) == (304, 'W/"v1"')
    assert answer.headers["Vary"] == "Accept-Encoding"
    assert "Content-Encoding" not in answer.headers
    answer = await ask(tagged(), {"If-None-Match": known})
    assert (answer.status, answer.headers["ETag"]) == (304, '"v1"')


async def test_ranges_are_of_what_is_not_compressed() -> None:
    answer = await ask(tagged(), {**GZIP, "Range": "bytes=0-2"})
    assert (answer.status, answer.body, answer.headers["ETag"]) == (206, b"The", '"v1"')
    assert answer.headers["Vary"] == "Accept-Encoding"
    answer = await ask(tagged(), {**GZIP, "Range": "bytes=0-2", "If-Range": '"v2"'})
    assert (answer.status, answer.body) == (200, TEXT.encode())
    answer = await ask(headers={**GZIP, "Range": "bytes=0-2"})  # without a validator: no ranges
    assert is_compressed(answer)
    assert "Accept-Ranges" not in (await ask(tagged())).headers


# -- What it does not give away ----------------------------------------------------------------

CREDENTIALS = [{"Cookie": "a=1"}, {"Authorization": "Bearer x"}]


@pytest.mark.parametrize("credentials", CREDENTIALS)
async def test_answers_to_somebody_are_not(credentials: dict[str, str]) -> None:
    answer = await ask(headers={**GZIP, **credentials})
    assert not is_compressed(answer)
    assert answer.headers["Vary"] == "Accept-Encoding"


@pytest.mark.parametrize(
    "headers",
    [
        {"Set-Cookie": "a=1"},
        {"Cache-Control": "Private"},
        {"Cache-Control": "no-store, max-age=0"},
        {"Cache-Control": ["max-age=0", "private"]},
    ],
)
async def test_answers_for_somebody_are_not(headers: dict[str, Any]) -> None:
    assert not is_compressed(await ask(lambda: (TEXT, headers)))
    assert is_compressed(await ask(lambda: (TEXT, headers), compress_credentialed=True))


async def test_answers_to_clients_with_certificates_are_not(certificates: Any) -> None:
    settings = {"client_ca": certificates.path("a.pem"), "trusted_proxies": "*"}
    assert is_compressed(await ask(**settings))
    https = {**GZIP, "X-Forwarded-Proto": "https"}
    assert not is_compressed(await ask(headers=https, **settings))


@pytest.mark.parametrize(
    ("site", "compressed"),
    [
        (None, True),
        ("none", True),
        ("same-origin", True),
        ("same-site", False),
        ("cross-site", False),
        ("anything", False),
    ],
)
async def test_credentials_from_another_site(site: str | None, compressed: bool) -> None:
    came = {} if site is None else {"Sec-Fetch-Site": site}
    answer = await ask(headers={**GZIP, **CREDENTIALS[0], **came}, compress_credentialed=True)
    assert is_compressed(answer) == compressed
    assert is_compressed(await ask(headers={**GZIP, **came}))  # nothing secret in it


async def test_lengths_of_what_may_be_secret_are_random() -> None:
    settings: dict[str, Any] = {"compress": True, "compress_credentialed": True}
    async with Client(app_with(lambda: TEXT), **settings) as client:
        for credentials, least, most in ((CREDENTIALS[0], 10, 100), ({}, 1, 1)):
            headers = {**GZIP, **credentials}
            bodies = [(await client.get("/", headers=headers)).body for _ in range(40)]
            assert {reference.decompress(body) for body in bodies} == {TEXT.encode()}
            lengths = {len(body) for body in bodies}
            assert least <= len(lengths) <= most
            assert max(lengths) - min(lengths) <= 100
            assert len(set(bodies)) >= len(lengths)


# -- How ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"", b"name"])
@pytest.mark.parametrize("body", [b"", b"a", bytes(range(256)) * 300])
def test_gzip(name: bytes, body: bytes) -> None:
    encoded = gzip(body, name)
    assert reference.decompress(encoded) == body
    assert zlib.decompress(encoded, wbits=31) == body
    assert encoded[4:8] == bytes(4)  # no time: the same body gives the same bytes
    assert (encoded[3], encoded[10 : 10 + len(name)]) == (8 if name else 0, name)


@pytest.mark.parametrize(("size", "in_thread"), [(65536, 0), (65537, 1)])
async def test_what_is_large_does_not_stop_the_loop(size: int, in_thread: int) -> None:
    threads: list[str] = []

    class Watching(RequestPipeline):
        async def in_thread(self, function: Any, *args: Any, **kwargs: Any) -> Any:
            def watched() -> Any:
                threads.append(threading.current_thread().name)
                return function(*args, **kwargs)

            return await super().in_thread(watched)

    app = app_with(lambda: "a" * size)
    app.pipeline_class = Watching
    answer = await exchange(app, "/", headers=GZIP, compress=True)
    assert reference.decompress(answer.body) == b"a" * size
    assert len(threads) == in_thread
    assert all(name.startswith("kyoukai-test") for name in threads)
