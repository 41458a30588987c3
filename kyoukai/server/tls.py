"""
TLS: contexts whose certificate can be replaced while they serve, and certificates for localhost.
"""

from __future__ import annotations

import ctypes
import datetime
import ipaddress
import os
import platform
import ssl
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from kyoukai.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kyoukai.config import ServerConfig

__all__ = ("Certificate", "make_context", "spare_memory", "write_certificate")

#: Days that a certificate of ours holds: the most that browsers accept.
VALID_DAYS = 397


#: The size of the buffer that uvloop allocates for each TLS connection, and glibc's number for
#: the size from which memory comes from the system in pages of its own.
_UVLOOP_BUFFER = 262144
_M_MMAP_THRESHOLD = -3


@cache
def spare_memory() -> None:
    """
    Keep large buffers out of the C library's heap; once in a process.

    uvloop allocates one for each TLS connection and uses little of it. After glibc has freed the
    first, it takes the others from its heap, where they are reused and so take real memory: about
    20 KB for each idle connection. (Decrypted data must not be in such buffers then, as each
    would come from the system anew; see :class:`~kyoukai.backends.tls_reader.TlsReader`.)
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _UVLOOP_BUFFER)


def make_context(config: ServerConfig, protocols: Sequence[str]) -> ssl.SSLContext:
    """
    Make the context of a TLS server.

    TLS 1.2 and up, no compression, no renegotiation, and by default forward secrecy only: RFC 9113
    section 9.2 asks for no less where HTTP/2 is spoken, and RFC 9325 recommends it everywhere.

    :param config: for ``certfile``, ``keyfile``, ``ciphers`` and ``client_ca``
    :param protocols: what ALPN offers, the best first (RFC 7301)
    :raises ConfigurationError: if the pair or the ciphers cannot be used
    """
    certfile = _readable("certfile", config.certfile, b"CERTIFICATE-----", "certificate")
    keyfile = _readable("keyfile", config.keyfile, b"PRIVATE KEY-----", "private key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    try:
        context.set_ciphers(config.ciphers)
    except ssl.SSLError:
        raise ConfigurationError(f"ciphers: {config.ciphers!r} selects no cipher") from None
    if "h2" in protocols:
        _check_ciphers(context)
    context.set_alpn_protocols(list(protocols))
    passwords = _NoPassword()
    try:
        context.load_cert_chain(certfile, keyfile, password=passwords)
    except ssl.SSLError as error:
        if passwords.asked:
            message = f"keyfile: {keyfile!r} is encrypted; Kyoukai needs it without a password"
        elif error.reason == "KEY_VALUES_MISMATCH":
            message = f"keyfile: {keyfile!r} is not the key of the certificate in {certfile!r}"
        else:
            message = f"certfile, keyfile: {certfile!r} or {keyfile!r} is damaged"
        raise ConfigurationError(message) from None
    if config.client_ca is not None:
        _ask_clients(context, config.client_ca, config.client_cert_optional)
    return context


def _ask_clients(context: ssl.SSLContext, path: str, optional: bool) -> None:
    """Let clients show certificates that these have signed (RFC 8446 section 4.4.2.4)."""
    _readable("client_ca", path, b"CERTIFICATE-----", "certificate")
    try:
        context.load_verify_locations(path)
    except ssl.SSLError:
        raise ConfigurationError(f"client_ca: {path!r} is damaged") from None
    context.verify_mode = ssl.CERT_OPTIONAL if optional else ssl.CERT_REQUIRED


def _check_ciphers(context: ssl.SSLContext) -> None:
    """
    Refuse what HTTP/2 prohibits: suites without forward secrecy, or without AEAD.

    Browsers close an HTTP/2 connection that has one of them (RFC 9113 section 9.2.2, appendix A),
    and what ALPN chooses does not depend on the suite.
    """
    wrong = [
        each["name"]
        for each in context.get_ciphers()
        if not each["aead"] or not each["kea"].startswith(("kx-ecdhe", "kx-dhe", "kx-any"))
    ]
    if wrong:
        others = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise ConfigurationError(
            f"ciphers: HTTP/2 prohibits {wrong[0]}{others}; leave out what has no forward secrecy"
            " and no AEAD, or say http2: false"
        )


class _NoPassword:
    """Stands in for the prompt that OpenSSL would put on the terminal."""

    asked = False

    def __call__(self) -> str:
        self.asked = True
        return ""


def _readable(setting: str, path: str | None, marker: bytes, what: str) -> str:
    if path is None:
        raise ConfigurationError(f"{setting} is missing: TLS needs certfile and keyfile")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise ConfigurationError(f"{setting}: cannot read {path!r}: {reason}") from None
    if marker not in content:
        raise ConfigurationError(f"{setting}: {path!r} holds no {what} in PEM form")
    return path


class Certificate:
    """
    The certificate of a server, which can be read again while the server runs.

    Connections are made on :attr:`context`; at each handshake it passes on to the newest context.
    (Loading a second pair into one context would not do: OpenSSL keeps a certificate for each kind
    of key, and a pair that does not match leaves it with none.)

    :param config: for ``certfile``, ``keyfile`` and ``ciphers``
    :param protocols: what ALPN offers, the best first
    :raises ConfigurationError: if the pair or the ciphers cannot be used
    """

    def __init__(self, config: ServerConfig, protocols: Sequence[str]) -> None:
        self._config = config
        self._protocols = protocols
        self.context = make_context(config, protocols)
        self._newest = self.context

    def reload(self) -> None:
        """
        Read the pair again, for handshakes from now on.

        :raises ConfigurationError: if it cannot be used; the one in use stays
        """
        self._newest = make_context(self._config, self._protocols)
        self.context.sni_callback = self._pass_on

    def _pass_on(self, connection: object, name: str | None, context: ssl.SSLContext) -> None:
        # OpenSSL asks for every ClientHello, also one without a server name.
        connection.context = self._newest  # type: ignore[attr-defined]


def write_certificate(folder: Path, force: bool = False) -> tuple[Path, Path]:
    """
    Write a self-signed certificate for localhost and its key.

    :param folder: where ``localhost.pem`` and ``localhost-key.pem`` go; made if need be
    :param force: whether to replace files that are there
    :raises ConfigurationError: if they are there, cannot be written, or cryptography is missing
    """
    certfile, keyfile = folder / "localhost.pem", folder / "localhost-key.pem"
    if not force:
        for path in (certfile, keyfile):
            if path.exists():
                raise ConfigurationError(f"{path} exists; --force replaces it")
    certificate, key = _make_pair()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(keyfile, key, 0o600)
        _write(certfile, certificate, 0o644)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise ConfigurationError(f"cannot write {error.filename}: {reason}") from None
    return certfile, keyfile


def _make_pair() -> tuple[bytes, bytes]:
    # Imported here because it is an extra, and because no server needs it.
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
    except ImportError:
        raise ConfigurationError(
            "making certificates needs the extra 'cert': pip install \"kyoukai[cert]\""
        ) from None

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=5)
    alternatives = x509.SubjectAlternativeName(
        [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            x509.IPAddress(ipaddress.ip_address("::1")),
        ]
    )
    # A server's certificate, not an authority's: browsers refuse an authority's on a server.
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    # With both of these, a client that trusts several certificates for localhost finds this one.
    subject_key = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject_key)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=VALID_DAYS))
        .add_extension(alternatives, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(purpose, critical=False)
        .add_extension(subject_key, critical=False)
        .add_extension(issuer_key, critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write a file that never exists with another mode, nor half written under its name."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    fresh.replace(path)
