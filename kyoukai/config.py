"""
``ServerConfig``: every address, limit and time-out of a server, in one frozen dataclass.

YAML (``settings: {…}``), the command line and keyword arguments all map onto it. Sizes are bytes,
times are seconds, and a value that cannot work is refused when the configuration is made.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kyoukai.config_checks import check_server
from kyoukai.exceptions import ConfigurationError

__all__ = ("ServerConfig", "check_keys", "nearest_name")


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """
    The settings of one server.

    :raises ConfigurationError: if a value has the wrong type or lies outside its range; the
        message names the setting
    """

    # -- Where to listen ----------------------------------------------------------------------

    bind: tuple[str, ...] = ()
    """Plain addresses: ``HOST:PORT``, ``[V6]:PORT``, ``unix:PATH`` or ``fd://N``."""

    tls_bind: tuple[str, ...] = ()
    """TLS addresses, in the same forms as ``bind``. They need ``certfile`` and ``keyfile``."""

    certfile: str | None = None
    """Path of the certificate chain, PEM."""

    keyfile: str | None = None
    """Path of the certificate's private key, PEM."""

    client_ca: str | None = None
    """
    Path of the certificates, PEM, that have signed those of clients. Where it is given, clients
    must show a certificate in the TLS handshake. None: clients are not asked for any.
    """

    client_cert_optional: bool = False
    """Whether a client without a certificate may connect although there is a ``client_ca``."""

    ciphers: str = "ECDHE+AESGCM:ECDHE+CHACHA20"
    """
    Cipher suites of TLS 1.2, in OpenSSL's notation. TLS 1.3 has its own, which are all sound. Where
    HTTP/2 is offered, suites that it prohibits (RFC 9113 appendix A) are refused at the start.
    """

    tls_handshake_timeout: float = 10.0
    """Seconds that a client has to finish its TLS handshake."""

    backlog: int = 2048
    """Connections that may wait in the kernel for each listening socket."""

    unix_mode: int = 0o666
    """File mode of unix sockets: in YAML a quoted string such as ``"0660"``, read as octal."""

    max_connections: int | None = None
    """
    Connections served at once; those beyond are answered 503 and closed (over TLS: closed).
    None means 0.8 × the process's limit of open files.
    """

    # -- Heads --------------------------------------------------------------------------------

    max_head_size: int = 32768
    """
    Bytes of a request's head (request line and headers), and of its trailers. Beyond: 431. On
    HTTP/2, each field counts 32 more, and a block that comes to more than this before it is
    decoded, or twice this after, ends the connection.
    """

    max_target_size: int = 8192
    """Bytes of a request's target. Beyond: 414."""

    max_headers: int = 100
    """Headers of a request, and trailers. Beyond: 431."""

    max_chunk_overhead: int = 16384
    """
    Bytes of chunk framing (sizes, extensions, line ends) that a chunked body may carry beyond 16
    for each chunk and twice its data. Beyond: 400.
    """

    max_pipelined: int = 16
    """
    Requests of one HTTP/1.1 connection that are parsed at a time, the one in progress among them.
    Beyond, parsing stops, and reading when ``read_buffer_size`` is full.
    """

    max_requests_per_connection: int = 0
    """Requests after which a connection is closed. 0: no limit."""

    # -- HTTP/2 -------------------------------------------------------------------------------

    h2_max_concurrent_streams: int = 100
    """
    Streams of one connection that may be open at once; tasks of streams that were reset count
    until they finish. Beyond: RST_STREAM with REFUSED_STREAM.
    """

    h2_stream_window: int = 262144
    """Bytes of a request's body that a client may send ahead of the application, each stream."""

    h2_connection_window: int = 1048576
    """The same for all streams of a connection together; at least 65535."""

    h2_reset_burst: int = 200
    """
    Streams that a client may reset, or have us reset by its errors, in one burst. Beyond: GOAWAY
    with ENHANCE_YOUR_CALM.
    """

    h2_reset_rate: float = 33.0
    """Such resets a second that it may go on with."""

    h2_control_burst: int = 200
    """
    Frames that ask for nothing (PING, SETTINGS, WINDOW_UPDATE, priorities, empty DATA, unknown
    ones) in one burst, beyond those that go with its requests and our frames. Beyond: GOAWAY with
    ENHANCE_YOUR_CALM.
    """

    h2_control_rate: float = 20.0
    """Such frames a second that it may go on with."""

    # -- Upgrades -----------------------------------------------------------------------------

    upgrade_tokens: tuple[str, ...] = ("websocket",)
    """
    Protocols that clients may ask to go on with, in lower case: in ``Upgrade`` on HTTP/1.1, in
    ``:protocol`` on HTTP/2. There must be something behind the server that speaks them, such as
    the upstream of a proxy; others than ``websocket`` are of no use without. On HTTP/1.1, all other
    upgrades are ignored; on HTTP/2 they are answered 501. Without ``websocket`` there are no
    WebSockets, and with an empty list no upgrades at all. The one to ``h2c`` does not belong here.
    """

    # -- WebSockets ---------------------------------------------------------------------------

    ws_origins: tuple[str, ...] = ()
    """
    Origins that may open WebSockets, such as ``https://example.com``; ``*`` stands for any. Empty:
    the request's own host. A handshake without an Origin, which no browser sends, may always.
    Otherwise: 403.
    """

    ws_max_message_size: int = 1048576
    """Bytes of a WebSocket message, inflated. Beyond: close code 1009."""

    ws_max_fragments: int = 1024
    """Fragments of a WebSocket message. Beyond: close code 1008."""

    ws_deflate: bool = False
    """Whether WebSocket messages are compressed (permessage-deflate) if the client offers it."""

    ws_ping_interval: float = 20.0
    """Seconds between two pings that the server sends to each WebSocket. 0: none."""

    ws_ping_timeout: float = 20.0
    """Seconds that a client has to answer a ping. Later: it is lost. 0: no limit."""

    ws_ping_burst: int = 100
    """
    Pings and pongs of a client in one burst, beyond one for each of its messages and each ping of
    the server. Beyond: close code 1008.
    """

    ws_ping_rate: float = 10.0
    """Such pings and pongs a second that it may go on with."""

    ws_close_timeout: float = 10.0
    """Seconds that a client has to answer a Close frame before the connection is cut."""

    ws_write_limit: int = 65536
    """Bytes that may wait for a WebSocket's client before sending waits too."""

    # -- Bodies -------------------------------------------------------------------------------

    max_body_size: int = 16777216
    """Bytes of a request body on native routes. Beyond: 413. A route may set its own."""

    body_spool_size: int = 1048576
    """
    Bytes of a buffered body that are kept in memory; what is beyond goes to a temporary file.
    What was read ahead of the handler (``read_buffer_size``) stays in memory all the same.
    """

    body_spool_dir: str | None = None
    """Folder of those temporary files. None means the system's."""

    max_form_memory_size: int = 500000
    """Bytes of one form field that is not a file. Beyond: 413."""

    max_form_parts: int = 1000
    """Fields and files of one form. Beyond: 413."""

    read_buffer_size: int = 65536
    """
    Bytes of an HTTP/1.1 request that may wait for the application before reading from it stops. On
    HTTP/2 that is ``h2_stream_window``.
    """

    write_buffer_size: int = 65536
    """
    Bytes of an answer that may wait for the client before the application waits too. Over TLS it
    is a quarter of that, beside what waits encrypted.
    """

    # -- Time ---------------------------------------------------------------------------------

    header_timeout: float = 10.0
    """Seconds from the first byte of a head to its last. Beyond: 408."""

    keep_alive_timeout: float = 15.0
    """Seconds that an idle connection is kept between two requests."""

    min_body_rate: int = 240
    """
    Bytes per second, on average, that a body must bring while the server asks for it. Slower:
    408. 0: no limit.
    """

    min_body_grace: float = 5.0
    """Seconds before ``min_body_rate`` counts."""

    send_stall_timeout: float = 60.0
    """
    Seconds that a client may take nothing of an answer before its connection is cut. It is looked
    at once in that time, so a client that stops in between is cut in the next.
    """

    linger_timeout: float = 2.0
    """Seconds to read on after an answer that came before the end of its request."""

    graceful_timeout: float = 30.0
    """Seconds that requests in progress have to finish when the server stops."""

    # -- Behaviour ----------------------------------------------------------------------------

    trusted_proxies: tuple[str, ...] = ()
    """
    Peers whose headers about the client (``forwarded_headers``) count: addresses, networks,
    ``unix`` (any peer on a unix socket) or ``*``. From all others these headers are removed.
    """

    forwarded_headers: str = "x-forwarded"
    """
    Which headers these write: ``x-forwarded`` (``X-Forwarded-For``, ``-Proto``, ``-Host``) or
    ``forwarded`` (RFC 7239). The others are removed: most proxies pass them on as clients have sent
    them.
    """

    root_path: str = ""
    """Prefix under which a proxy publishes the application (``SCRIPT_NAME``), without its end."""

    server_header: str | None = "Kyoukai"
    """Value of the ``Server`` header. None: the header is not sent."""

    handler_threads: int = 16
    """Threads that run synchronous handlers, and the synchronous iterators that they return."""

    lifespan: str = "auto"
    """
    Whether ASGI applications get lifespan events: ``on``, ``off``, or ``auto``, which is on for
    those that know them.
    """

    lifespan_timeout: float = 60.0
    """Seconds that an ASGI application's startup may take, and its shutdown. 0: no limit."""

    wsgi_threads: int = 16
    """Threads that run the WSGI applications of a process, all of them together."""

    wsgi_queue: int = 1024
    """Requests that may wait for one of these threads. Beyond: 503 with Retry-After."""

    compress: bool = False
    """
    Whether whole answers of native handlers are compressed (gzip) for clients that accept it; see
    :doc:`responses`.
    """

    compress_min_size: int = 1024
    """Bytes that an answer must have to be compressed."""

    compress_types: tuple[str, ...] = (
        "text/*",
        "application/javascript",
        "application/json",
        "application/manifest+json",
        "application/wasm",
        "application/xml",
        "application/*+json",
        "application/*+xml",
        "font/otf",
        "font/ttf",
        "image/bmp",
        "image/svg+xml",
    )
    """Media types of answers that are compressed; ``*`` stands for any characters."""

    compress_credentialed: bool = False
    """
    Whether answers are compressed that may hold a secret: to requests with ``Cookie``,
    ``Authorization`` or a client's certificate, or with ``Set-Cookie`` or ``Cache-Control:
    private``. :doc:`responses` says why they should not.
    """

    security_headers: tuple[str, ...] = ()
    """
    Headers of all answers of native handlers and of proxies that do not have them: ``"Name:
    value"``, or ``default`` for those that :doc:`responses` lists. ``Strict-Transport-Security``
    is sent over TLS only.
    """

    error_pages: Mapping[str, str] | None = None
    """
    Paths of the pages of errors that no error handler answers, by status: ``404``, ``5xx``, or
    ``default`` for all others. ``$status``, ``$reason``, ``$description`` and ``$path`` in them are
    filled in.
    """

    access_log: bool = True
    """Whether each answer gets a line in the ``kyoukai.access`` log."""

    access_log_format: str = (
        '%(client)s "%(method)s %(target)s %(protocol)s" %(status)d %(bytes)d %(duration).6f'
    )
    """
    Format of that line; ``json`` gives an object a line. Fields: client, method, target, path,
    query, protocol, scheme, authority, status, bytes, duration (seconds), referer, user_agent.
    """

    def __post_init__(self) -> None:
        check_server(self)

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> ServerConfig:
        """
        Make a configuration from a mapping, as YAML gives it.

        :param settings: field names and values; lists stand for tuples
        :raises ConfigurationError: for a name that is no setting, with the nearest right one, or
            a value that cannot work
        """
        check_keys(settings, cls.field_names(), "setting")
        return cls(**settings)

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """The names of all settings."""
        return tuple(field.name for field in dataclasses.fields(cls))

    def replace(self, **changes: Any) -> ServerConfig:
        """Return a copy with some settings changed, checked like a new one."""
        return dataclasses.replace(self, **changes)


def nearest_name(wrong: str, right: Collection[str]) -> str | None:
    """Return the name in ``right`` that looks most like ``wrong``, or None."""
    found = difflib.get_close_matches(wrong, right, n=1, cutoff=0.5)
    return found[0] if found else None


def check_keys(given: Iterable[str], allowed: Collection[str], what: str) -> None:
    """
    Refuse the first key that is not allowed.

    :param given: the keys to check
    :param allowed: the right ones
    :param what: what a key is called in the message, such as ``setting``
    :raises ConfigurationError: naming the wrong key and the nearest right one
    """
    for key in given:
        if key not in allowed:
            near = nearest_name(str(key), allowed)
            hint = f"; did you mean {near!r}?" if near else f"; known: {', '.join(sorted(allowed))}"
            raise ConfigurationError(f"unknown {what} {key!r}{hint}")
