"""Extensions of ASGI: trailers, early hints, files, debug, TLS."""

from __future__ import annotations

import asyncio
import datetime
import io
import logging
import os
import ssl
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from interfaces.asgi_peers import TEXT, ask, body, hosted, interface, sends, sound, start, wires  # noqa: F401
from talks import lines_of, turns

from kyoukai.interfaces.asgi_files import PIECE
from kyoukai.interfaces.asgi_scope import distinguished_name, own_certificate
from kyoukai.testing import MemoryServer

if TYPE_CHECKING:
    from support import Certificates


def trailers(*pairs: tuple[bytes, bytes], more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.trailers", "headers": pairs, "more_trailers": more}


def hint(*links: bytes) -> dict[str, Any]:
    return {"type": "http.response.early_hint", "links": list(links)}


def path_of(path: Any) -> dict[str, Any]:
    return {"type": "http.response.pathsend", "path": str(path)}


def file_of(file: Any, **more: Any) -> dict[str, Any]:
    return {"type": "http.response.zerocopysend", "file": file, **more}


# -- Trailers ----------------------------------------------------------------------------------


@wires
@pytest.mark.parametrize("length", [False, True])
@pytest.mark.parametrize("parts", [[b"ab"], [b"a", b"b"], [b"", b"ab"]])
async def test_trailers(wire: str, length: bool, parts: list[bytes]) -> None:
    headers = [(b"content-length", b"2")] if length else []
    bodies = [body(part, part is not parts[-1]) for part in parts]
    app = sends(
        start(200, *headers, (b"trailer", b"x-sum"), trailers=True),
        *bodies,
        trailers((b"X-Sum", b"1"), more=True),
        trailers((b"x-more", b"2")),
    )
    async with hosted(app, wire) as peer:
        for _ in range(2):
            peer.request()
            response = await peer.response()
            assert (response.status, response.body) == (200, b"ab")
            assert list(response.trailers.items()) == [("x-sum", "1"), ("x-more", "2")]


@wires
async def test_trailers_that_are_none(wire: str, caplog: pytest.LogCaptureFixture) -> None:
    response = await ask(sends(start(200, trailers=True), body(b"ab"), trailers()), wire)
    assert (response.body, list(response.trailers)) == (b"ab", [])
    assert lines_of(caplog) == []


@wires
async def test_trailers_of_an_answer_without_a_body(wire: str) -> None:
    app = sends(start(200, trailers=True), body(b"ab"), trailers((b"x-sum", b"1")))
    async with hosted(app, wire) as peer:
        for _ in range(2):
            peer.request("HEAD")
            assert (await peer.response()).body == b""


# -- Early hints -------------------------------------------------------------------------------


@wires
@pytest.mark.parametrize("first", ["hints", "start"])
async def test_early_hints(wire: str, first: str, caplog: pytest.LogCaptureFixture) -> None:
    """Before the start, as servers had it, and after it, as the specification has it."""
    hints = [hint(b"</a.css>; rel=preload", b"</b.css>; rel=preload"), hint(b"</c>")]
    messages = [start(200, TEXT), *hints] if first == "start" else [*hints, start(200, TEXT)]
    late = hint(b"</late>")  # the head is out: ignored, as the specification allows
    response = await ask(sends(*messages, body(b"o", True), late, body(b"k")), wire)
    assert response.body == b"ok"
    assert [(status, headers.getlist("link")) for status, headers in response.informational] == [
        (103, ["</a.css>; rel=preload", "</b.css>; rel=preload"]),
        (103, ["</c>"]),
    ]
    assert lines_of(caplog) == []


async def test_http_10_gets_no_hints() -> None:
    async with hosted(sends(hint(b"</a>"), start(), body(b"ok"))) as peer:
        peer.connection.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
        response = await peer.response()
        assert (response.informational, response.body) == ([], b"ok")


async def test_a_hint_that_may_not_be_sent(caplog: pytest.LogCaptureFixture) -> None:
    assert (await ask(sends(hint(b"</a>\r\nx: y"), start(), body(b"ok")))).status == 500
    (line,) = lines_of(caplog)
    assert "header 'link' has an illegal value" in line


# -- Files by path -----------------------------------------------------------------------------


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page"
    path.write_bytes(bytes(range(256)) * 4)
    return path


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(4 * PIECE + 12345))
    return path


@wires
@pytest.mark.parametrize("length", [False, True])
@pytest.mark.parametrize("which", ["page", "large"])
async def test_a_path(wire: str, length: bool, which: str, page: Path, large: Path) -> None:
    path = page if which == "page" else large
    content = path.read_bytes()
    headers = [(b"content-length", b"%d" % len(content))] if length else []
    async with hosted(sends(start(200, *headers), path_of(path)), wire) as peer:
        for _ in range(2):
            peer.request()
            response = await peer.response()
            assert response.body == content
            if which == "page":  # short enough for one write
                assert response.headers["content-length"] == str(len(content))
        peer.request("HEAD")
        response = await peer.response()
        assert (response.status, response.body) == (200, b"")
        if length:
            assert response.headers["content-length"] == str(len(content))


@wires
async def test_a_path_with_trailers(wire: str, page: Path) -> None:
    app = sends(start(200, trailers=True), path_of(page), trailers((b"x-sum", b"1")))
    response = await ask(app, wire)
    assert response.body == page.read_bytes()
    assert response.trailers["x-sum"] == "1"


async def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    response = await ask(sends(start(), path_of(tmp_path / "empty")))
    assert (response.status, response.body) == (200, b"")


@wires
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere", "No such file or directory"),
        ("", "Is a directory"),
        ("pipe", "it is no regular file"),
        ("a\0b", "embedded null byte"),
    ],
)
async def test_a_path_that_cannot_be_sent(
    wire: str, name: str, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(tmp_path / "pipe")
    path = f"{tmp_path}/{name}" if name else str(tmp_path)
    async with hosted(sends(start(), path_of(path)), wire) as peer:
        peer.request()
        assert (await peer.response()).status == 500
    (line,) = lines_of(caplog)
    rule = f"http.response.pathsend: {path!r} cannot be sent: {reason}"
    assert line == f"GET /: asgi application test:app: {rule}"


@wires
async def test_a_path_of_another_length(
    wire: str, page: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for length in (b"3", b"3000"):
        app = sends(start(200, (b"content-length", length)), path_of(page))
        assert (await ask(app, wire)).status == 500
    assert len(lines_of(caplog)) == 2


@wires
async def test_a_file_is_read_when_there_is_room(wire: str, large: Path) -> None:
    """A client that takes nothing makes the reading stop."""
    reads = []

    class Counted(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            reads.append(threading.current_thread() is threading.main_thread())
            return super().read(size)

    async with hosted(lambda *each: app(*each), wire) as peer:
        held = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            with Counted(large) as file:
                await send(start())
                await send(file_of(file))

        await turns()
        peer.hold()
        peer.request()
        while not reads:
            await turns(1)
        for _ in range(3):  # threads have had their time when these have run
            await asyncio.get_running_loop().run_in_executor(None, held.is_set)
            await turns()
        assert len(reads) <= 2
        peer.release()
        assert (await peer.response()).body == large.read_bytes()
        assert not any(reads), "read on the loop"


@wires
async def test_a_client_that_leaves_a_file(
    wire: str, large: Path, caplog: pytest.LogCaptureFixture
) -> None:
    errors = []
    done = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        try:
            await send(path_of(large))
        except OSError as error:
            errors.append(error)
            raise
        finally:
            done.set()

    before = len(os.listdir("/proc/self/fd"))
    async with hosted(app, wire) as peer:
        await turns()
        peer.hold()
        peer.request()
        while not peer.transport.output:
            await turns(1)
        peer.leave()
        await done.wait()
        await turns()
    assert len(errors) == 1
    assert len(os.listdir("/proc/self/fd")) <= before + 3  # those of the loop
    assert lines_of(caplog) == []


# -- Files by descriptor -----------------------------------------------------------------------


@wires
@pytest.mark.parametrize("number", [False, True])
@pytest.mark.parametrize(
    ("options", "first", "last"),
    [
        ({}, 100, None),
        ({"count": 50}, 100, 150),
        ({"count": 0}, 100, 100),
        ({"count": 100_000}, 100, None),
        ({"offset": 30}, 30, None),
        ({"offset": 30, "count": 20}, 30, 50),
        ({"offset": 0, "count": None}, 0, None),
        ({"offset": 100_000}, 100_000, None),
    ],
)
async def test_a_descriptor(
    wire: str, number: bool, options: dict[str, Any], first: int, last: int | None, page: Path
) -> None:
    positions = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with page.open("rb", 0 if number else -1) as file:
            file.read(100)  # where the file is, though it may have read ahead
            await send(start())
            await send(file_of(file.fileno() if number else file, **options))
            positions.append(file.tell())

    response = await ask(app, wire)
    sent = page.read_bytes()[first:last]
    assert response.body == sent
    assert positions == [
        100 if "offset" in options and options["offset"] is not None else 100 + len(sent)
    ]


@wires
async def test_descriptors_between_bodies(wire: str, page: Path, large: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        with page.open("rb") as one, large.open("rb") as two:
            await send(start())
            await send(body(b"<", True))
            await send(file_of(one, count=10, more_body=True))
            await send(body(b"|", True))
            await send(file_of(two, more_body=True))
            await send(file_of(one, offset=0, count=3, more_body=True))
            await send(body(b">"))

    content = page.read_bytes()
    expected = b"<" + content[:10] + b"|" + large.read_bytes() + content[:3] + b">"
    assert (await ask(app, wire)).body == expected


async def test_a_pipe_is_sent_as_it_is_written() -> None:
    reading, writing = os.pipe()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send(file_of(reading))

    try:
        async with hosted(app) as peer:
            peer.request()
            await turns()
            os.write(writing, b"ab")
            while b"ab" not in peer.transport.output:
                await turns(1)
            os.close(writing)
            assert (await peer.response()).body == b"ab"
    finally:
        os.close(reading)


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda path: io.BytesIO(b"abc"), "file must have an open descriptor; BytesIO has none"),
        (lambda path: None, "file must have an open descriptor; NoneType has none"),
        (lambda path: 99999, "the file cannot be read: Bad file descriptor"),
        (lambda path: path.open("ab"), "the file cannot be read: read"),
    ],
)
async def test_a_descriptor_that_cannot_be_read(
    make: Any, rule: str, page: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = make(page)
    assert (await ask(sends(start(), file_of(file)))).status == 500
    if hasattr(file, "close"):
        file.close()
    (line,) = lines_of(caplog)
    assert line == f"GET /: asgi application test:app: http.response.zerocopysend: {rule}"


async def test_a_cancelled_send_lets_go_of_its_file_first() -> None:
    """The application closes it then; its number may be another file's a moment later."""
    reading, writing = os.pipe()
    order = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        try:
            await send(file_of(reading))
        finally:
            order.append("let go")

    async with hosted(app) as peer:
        peer.request()
        await turns()
        (task,) = peer.server.connections.tasks
        task.cancel()
        await turns()
        assert order == []
        order.append("written")
        os.close(writing)
        assert (await peer.response()).status == 500
    assert order == ["written", "let go"]
    os.close(reading)


# -- Debug -------------------------------------------------------------------------------------


@wires
async def test_debug_goes_into_the_log(wire: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "kyoukai")
    debug = {"type": "http.response.debug", "info": {"template": "a.html"}}
    assert (await ask(sends(debug, start(), body(b"ok")), wire)).body == b"ok"
    assert "GET b'/': http.response.debug: {'template': 'a.html'}" in caplog.messages
    assert lines_of(caplog) == []


# -- TLS ---------------------------------------------------------------------------------------


def shake_hands(
    server_side: ssl.SSLContext, client_side: ssl.SSLContext
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Return both ends of a TLS connection."""
    one, two = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_side.wrap_bio(one, two, server_side=True)
    client = client_side.wrap_bio(two, one, server_hostname="localhost")
    for _ in range(10):
        for each in (client, server):
            try:
                each.do_handshake()
            except ssl.SSLWantReadError:
                pass
    try:
        client.read(1)  # TLS 1.3: tickets
    except ssl.SSLWantReadError:
        pass
    return server, client


NAME = x509.Name(
    [
        x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, 'A, "B" + C'),
        x509.NameAttribute(NameOID.COMMON_NAME, " #me "),
    ]
)


@pytest.fixture(scope="module")
def client_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A client's certificate, which nobody else has signed, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(NAME, NAME, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("client")
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    (folder / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(key.private_bytes(pem, form, plain))
    return str(folder / "cert.pem"), str(folder / "key.pem")


async def scopes_over_tls(
    certificates: Certificates,
    version: ssl.TLSVersion,
    verify: ssl.VerifyMode,
    pair: tuple[str, str] | None,
    trusted: str,
) -> list[dict[str, Any]]:
    """Return the scopes of two requests on one connection, and of a handshake on it."""
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certfile, keyfile = certificates.path("a.pem"), certificates.path("a-key.pem")
    server_side.load_cert_chain(certfile, keyfile)
    server_side.minimum_version = server_side.maximum_version = version
    server_side.verify_mode = verify
    server_side.load_verify_locations(trusted)
    client_side = certificates.trusting("a")
    if pair is not None:
        client_side.load_cert_chain(*pair)
    tls, _ = shake_hands(server_side, client_side)
    scopes = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        if scope["type"] == "http":
            await sends(start(), body(b"ok"))(scope, receive, send)
        else:
            await send({"type": "websocket.close"})

    made = interface(app, certfile=certfile, keyfile=keyfile)
    async with MemoryServer(made) as server:
        connection = server.connect(ssl_object=tls)
        for _ in range(2):
            connection.request("GET", "/")
            await connection.response()
        key = "AAECAwQFBgcICQoLDA0ODw=="
        fields = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": key}
        connection.request("GET", "/", headers={**fields, "Sec-WebSocket-Version": "13"})
        assert (await connection.response()).status == 403
    return scopes


@pytest.mark.parametrize(
    ("version", "number"),
    [(ssl.TLSVersion.TLSv1_2, 0x0303), (ssl.TLSVersion.TLSv1_3, 0x0304)],
)
async def test_tls(
    version: ssl.TLSVersion, number: int, certificates: Certificates, client_pair: tuple[str, str]
) -> None:
    scopes = await scopes_over_tls(
        certificates, version, ssl.CERT_REQUIRED, client_pair, client_pair[0]
    )
    assert [scope["scheme"] for scope in scopes] == ["https", "https", "wss"]
    found = [scope["extensions"]["tls"] for scope in scopes]
    assert found[0] == found[1] == found[2]
    tls = found[0]
    # RFC 8446 appendix B.4, RFC 5289 section 3.2: by version, what OpenSSL prefers.
    assert tls.pop("cipher_suite") == (0x1302 if number == 0x0304 else 0xC02C)
    assert tls == {
        "server_cert": Path(certificates.path("a.pem")).read_text(),
        "client_cert_chain": [Path(client_pair[0]).read_text()],
        "client_cert_name": NAME.rfc4514_string(),
        "client_cert_error": None,
        "tls_version": number,
    }


@pytest.mark.parametrize("verify", [ssl.CERT_NONE, ssl.CERT_OPTIONAL])
async def test_tls_without_a_clients_certificate(
    verify: ssl.VerifyMode, certificates: Certificates, client_pair: tuple[str, str]
) -> None:
    scopes = await scopes_over_tls(
        certificates, ssl.TLSVersion.TLSv1_3, verify, None, client_pair[0]
    )
    tls = scopes[0]["extensions"]["tls"]
    assert (tls["client_cert_chain"], tls["client_cert_name"]) == ([], None)


async def test_without_tls_there_is_no_extension() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert "tls" not in scope["extensions"]
        await sends(start(), body(b"ok"))(scope, receive, send)

    async with MemoryServer(interface(app), trusted_proxies=("*",)) as server:
        connection = server.connect()
        connection.request("GET", "/", headers={"X-Forwarded-Proto": "https"})
        assert (await connection.response()).body == b"ok"


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ((), ""),
        (((("commonName", "a"),),), "CN=a"),
        (((("commonName", "a"), ("userId", "b")),), "CN=a+UID=b"),
        (((("domainComponent", "org"),), (("domainComponent", "a"),)), "DC=a,DC=org"),
        (((("emailAddress", "a@b"),),), "emailAddress=a@b"),
        (((("commonName", "a\\b;<c>=d"),),), r"CN=a\\b\;\<c\>=d"),
        (((("commonName", "\0"),),), r"CN=\00"),
        (((("commonName", " "),),), "CN=\\ "),
    ],
)
def test_distinguished_names(subject: Any, name: str) -> None:
    assert distinguished_name(subject) == name


def test_the_certificate_is_read_again_when_it_changes(
    certificates: Certificates, tmp_path: Path
) -> None:
    path = tmp_path / "cert.pem"
    for number, name in enumerate("ab"):
        text = Path(certificates.path(f"{name}.pem")).read_text()
        path.write_text(f"before\n{text}{text}")
        os.utime(path, ns=(number, number))
        assert own_certificate(str(path)) == text
    path.write_text("junk")
    os.utime(path, ns=(3, 3))
    assert own_certificate(str(path)) is None
    path.unlink()
    assert own_certificate(str(path)) is None
