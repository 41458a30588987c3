"""TLS contexts, certificates that are replaced, and certificates that we make."""

from __future__ import annotations

import datetime
import ssl
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kyoukai.config import ServerConfig
from kyoukai.exceptions import ConfigurationError
from kyoukai.server.tls import Certificate, make_context, write_certificate

if TYPE_CHECKING:
    from support import Certificates


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[ssl.SSLObject, bytes]:
    """Connect two contexts in memory; return the server's side and its certificate."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = server.wrap_bio(to_server, to_client, server_side=True)
    other = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    waiting = [other, one]
    while waiting:
        side = waiting.pop(0)
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            waiting.append(side)
    certificate = other.getpeercert(binary_form=True)
    assert certificate is not None
    return one, certificate


def der(path: str) -> bytes:
    return ssl.PEM_cert_to_DER_cert(Path(path).read_text())


def test_a_client_that_trusts_the_certificate_connects(certificates: Certificates) -> None:
    client = certificates.trusting("a")
    client.set_alpn_protocols(["h3", "http/1.1"])
    server = make_context(ServerConfig(**certificates.pair("a")), ("http/1.1",))
    connection, certificate = shake_hands(server, client)
    assert certificate == der(certificates.path("a.pem"))
    assert connection.selected_alpn_protocol() == "http/1.1"
    assert connection.version() == "TLSv1.3"


def test_a_client_without_a_common_protocol_connects_without_one(
    certificates: Certificates,
) -> None:
    client = certificates.trusting("a")
    client.set_alpn_protocols(["spdy/3"])
    server = make_context(ServerConfig(**certificates.pair("a")), ("http/1.1",))
    assert shake_hands(server, client)[0].selected_alpn_protocol() is None


def test_tls_1_2_has_forward_secrecy_and_no_renegotiation(certificates: Certificates) -> None:
    server = make_context(ServerConfig(**certificates.pair("a")), ("http/1.1",))
    assert server.options & ssl.OP_NO_RENEGOTIATION
    old = [each for each in server.get_ciphers() if each["protocol"] != "TLSv1.3"]
    assert old
    assert all("Kx=ECDH" in each["description"] and each["aead"] for each in old)
    client = certificates.trusting("a")
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    assert shake_hands(server, client)[0].version() == "TLSv1.2"


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["http/1.1", "h2"], "h2"),
        (["h2"], "h2"),
        (["http/1.1"], "http/1.1"),
        (["h3"], None),
    ],
)
def test_http2_is_preferred(
    certificates: Certificates, offered: list[str], chosen: str | None
) -> None:
    client = certificates.trusting("a")
    client.set_alpn_protocols(offered)
    server = make_context(ServerConfig(**certificates.pair("a")), ("h2", "http/1.1"))
    assert shake_hands(server, client)[0].selected_alpn_protocol() == chosen


def test_http2_over_tls_1_2_has_the_suite_that_every_client_knows(
    certificates: Certificates,
) -> None:
    """RFC 9113 section 9.2.2, but for the kind of key that the certificate happens to have."""
    client = certificates.trusting("a")
    client.set_alpn_protocols(["h2"])
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    server = make_context(ServerConfig(**certificates.pair("a")), ("h2", "http/1.1"))
    connection = shake_hands(server, client)[0]
    assert connection.selected_alpn_protocol() == "h2"
    assert connection.cipher()[0] == "ECDHE-ECDSA-AES128-GCM-SHA256"
    assert connection.compression() is None


@pytest.mark.parametrize(
    ("ciphers", "message"),
    [
        ("ECDHE+AESGCM:AES128-SHA", "HTTP/2 prohibits AES128-SHA; leave out"),
        ("AES128-GCM-SHA256", "HTTP/2 prohibits AES128-GCM-SHA256; leave out"),
        ("ECDHE-ECDSA-AES128-SHA", "HTTP/2 prohibits ECDHE-ECDSA-AES128-SHA; leave out"),
        ("AES128-SHA:AES256-SHA", r"HTTP/2 prohibits AES\S+ and 1 more; leave out"),
    ],
)
def test_ciphers_that_http2_prohibits(
    certificates: Certificates, ciphers: str, message: str
) -> None:
    config = ServerConfig(**certificates.pair("a"), ciphers=ciphers)
    with pytest.raises(ConfigurationError, match=message):
        make_context(config, ("h2", "http/1.1"))
    make_context(config, ("http/1.1",))


def test_other_ciphers_that_http2_allows(certificates: Certificates) -> None:
    config = ServerConfig(**certificates.pair("a"), ciphers="ECDHE+AESCCM:DHE+AESGCM")
    assert make_context(config, ("h2",)).get_ciphers()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1 is deprecated")
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_tls_1_1_is_refused(certificates: Certificates) -> None:
    server = make_context(ServerConfig(**certificates.pair("a")), ("http/1.1",))
    client = certificates.trusting("a")
    client.minimum_version = ssl.TLSVersion.TLSv1
    client.maximum_version = ssl.TLSVersion.TLSv1_1
    client.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        shake_hands(server, client)


@pytest.mark.parametrize(
    ("certfile", "keyfile", "message"),
    [
        ("none.pem", "a-key.pem", "certfile: cannot read '.*none.pem': No such file"),
        ("a.pem", "none.pem", "keyfile: cannot read '.*none.pem': No such file"),
        ("junk.pem", "a-key.pem", "certfile: '.*junk.pem' holds no certificate in PEM form"),
        ("a.pem", "junk.pem", "keyfile: '.*junk.pem' holds no private key in PEM form"),
        ("a-key.pem", "a-key.pem", "certfile: '.*a-key.pem' holds no certificate in PEM form"),
        ("a.pem", "b-key.pem", "keyfile: '.*b-key.pem' is not the key of the certificate in"),
        ("damaged.pem", "a-key.pem", "certfile, keyfile: '.*damaged.pem' or .* is damaged"),
        ("a.pem", "damaged-key.pem", "certfile, keyfile: .* or '.*damaged-key.pem' is damaged"),
    ],
)
def test_files_that_cannot_be_used_are_named(
    certificates: Certificates, certfile: str, keyfile: str, message: str
) -> None:
    config = ServerConfig(certfile=certificates.path(certfile), keyfile=certificates.path(keyfile))
    with pytest.raises(ConfigurationError, match=message) as info:
        make_context(config, ("http/1.1",))
    assert "\n" not in str(info.value)


def test_an_encrypted_key_is_refused_without_asking(
    certificates: Certificates, tmp_path: Path
) -> None:
    keyfile = tmp_path / "key.pem"
    command = f"openssl ec -aes128 -passout pass:secret -in {certificates.path('a-key.pem')}"
    subprocess.run([*command.split(), "-out", keyfile], check=True, capture_output=True)
    config = ServerConfig(certfile=certificates.path("a.pem"), keyfile=str(keyfile))
    with pytest.raises(ConfigurationError, match="keyfile: .* is encrypted"):
        make_context(config, ("http/1.1",))


def test_missing_settings_and_ciphers(certificates: Certificates) -> None:
    with pytest.raises(ConfigurationError, match="certfile is missing"):
        make_context(ServerConfig(), ("http/1.1",))
    with pytest.raises(ConfigurationError, match="keyfile is missing"):
        make_context(ServerConfig(certfile=certificates.path("a.pem")), ("http/1.1",))
    with pytest.raises(ConfigurationError, match="ciphers: 'NONE' selects no cipher"):
        make_context(ServerConfig(**certificates.pair("a"), ciphers="NONE"), ("http/1.1",))


class Files:
    """A pair whose files can be replaced."""

    def __init__(self, certificates: Certificates, folder: Path) -> None:
        self.certificates = certificates
        self.certfile, self.keyfile = folder / "cert.pem", folder / "key.pem"
        self.config = ServerConfig(certfile=str(self.certfile), keyfile=str(self.keyfile))

    def copy(self, certificate: str, key: str) -> None:
        self.certfile.write_bytes(Path(self.certificates.path(certificate)).read_bytes())
        self.keyfile.write_bytes(Path(self.certificates.path(key)).read_bytes())


def test_a_pair_is_replaced_for_new_handshakes(certificates: Certificates, tmp_path: Path) -> None:
    files = Files(certificates, tmp_path)
    files.copy("a.pem", "a-key.pem")
    certificate = Certificate(files.config, ("http/1.1",))
    client = certificates.trusting("a", "b")
    client.set_alpn_protocols(["http/1.1"])
    assert shake_hands(certificate.context, client)[1] == der(certificates.path("a.pem"))
    for name in ("b", "a"):
        files.copy(f"{name}.pem", f"{name}-key.pem")
        certificate.reload()
        connection, shown = shake_hands(certificate.context, client)
        assert shown == der(certificates.path(f"{name}.pem"))
        assert connection.selected_alpn_protocol() == "http/1.1"


def test_a_replaced_pair_is_shown_to_clients_that_name_no_server(
    certificates: Certificates, tmp_path: Path
) -> None:
    files = Files(certificates, tmp_path)
    files.copy("a.pem", "a-key.pem")
    certificate = Certificate(files.config, ("http/1.1",))
    files.copy("b.pem", "b-key.pem")
    certificate.reload()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.load_verify_locations(certificates.path("b.pem"))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = certificate.context.wrap_bio(to_server, to_client, server_side=True)
    other = client.wrap_bio(to_client, to_server)
    for side in (other, server):
        with pytest.raises(ssl.SSLWantReadError):
            side.do_handshake()
    other.do_handshake()
    assert other.getpeercert(binary_form=True) == der(certificates.path("b.pem"))


@pytest.mark.parametrize(
    ("certificate_name", "key_name"), [("a.pem", "b-key.pem"), ("junk.pem", "b-key.pem")]
)
def test_a_broken_pair_leaves_the_old_one(
    certificates: Certificates, tmp_path: Path, certificate_name: str, key_name: str
) -> None:
    files = Files(certificates, tmp_path)
    files.copy("a.pem", "a-key.pem")
    certificate = Certificate(files.config, ("http/1.1",))
    files.copy(certificate_name, key_name)
    with pytest.raises(ConfigurationError):
        certificate.reload()
    shown = shake_hands(certificate.context, certificates.trusting("a"))[1]
    assert shown == der(certificates.path("a.pem"))


# -- Our own --------------------------------------------------------------------------------------


def test_a_certificate_for_localhost(tmp_path: Path) -> None:
    certfile, keyfile = write_certificate(tmp_path / "certs")
    assert (certfile.name, keyfile.name) == ("localhost.pem", "localhost-key.pem")
    assert stat.S_IMODE(keyfile.stat().st_mode) == 0o600
    assert sorted(path.name for path in certfile.parent.iterdir()) == [keyfile.name, certfile.name]
    certificate = x509.load_pem_x509_certificate(certfile.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == [
        "127.0.0.1",
        "::1",
    ]
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days == 397


def test_files_that_are_there_stay_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "localhost-key.pem").write_text("mine")
    with pytest.raises(ConfigurationError, match="localhost-key.pem exists; --force replaces it"):
        write_certificate(tmp_path)
    assert not (tmp_path / "localhost.pem").exists()
    certfile, keyfile = write_certificate(tmp_path, force=True)
    make_context(ServerConfig(certfile=str(certfile), keyfile=str(keyfile)), ("http/1.1",))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot write .*file.*"):
        write_certificate(tmp_path / "file" / "certs")


# -- Certificates of clients ----------------------------------------------------------------------


def make_client(folder: Path) -> tuple[str, str]:
    """Write an authority's certificate, and a pair of a client's that it has signed."""
    now = datetime.datetime.now(datetime.UTC)
    made: list[tuple[x509.Name, ec.EllipticCurvePrivateKey]] = []
    for text, authority in (("authority", True), ("client", False)):
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
        made.append((name, key))
        issuer, issuers_key = made[0]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .sign(issuers_key, hashes.SHA256())
        )
        encoding = serialization.Encoding.PEM
        plain = serialization.NoEncryption()
        pem = certificate.public_bytes(encoding)
        if not authority:
            pem += key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
        (folder / f"{text}.pem").write_bytes(pem)
    return str(folder / "authority.pem"), str(folder / "client.pem")


@pytest.mark.parametrize("optional", [False, True])
@pytest.mark.parametrize(("shown", "accepted"), [("good", True), ("other", False), (None, None)])
def test_certificates_of_clients(
    certificates: Certificates,
    tmp_path: Path,
    optional: bool,
    shown: str | None,
    accepted: bool | None,
) -> None:
    authority, pair = make_client(tmp_path)
    config = ServerConfig(
        **certificates.pair("a"), client_ca=authority, client_cert_optional=optional
    )
    client = certificates.trusting("a")
    if shown == "good":
        client.load_cert_chain(pair)
    elif shown == "other":
        client.load_cert_chain(*certificates.pair("b").values())
    server = make_context(config, ("http/1.1",))
    if accepted is False or (accepted is None and not optional):
        with pytest.raises(ssl.SSLError, match="CERTIFICATE"):
            shake_hands(server, client)
        return
    connection, _ = shake_hands(server, client)
    subject = dict(pair[0] for pair in (connection.getpeercert() or {}).get("subject", ()))
    assert subject == ({} if shown is None else {"commonName": "client"})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.pem", "client_ca: cannot read '.*none.pem': No such file"),
        ("junk.pem", "client_ca: '.*junk.pem' holds no certificate in PEM form"),
        ("damaged.pem", "client_ca: '.*damaged.pem' is damaged"),
    ],
)
def test_a_client_ca_that_cannot_be_used(
    certificates: Certificates, name: str, message: str
) -> None:
    config = ServerConfig(**certificates.pair("a"), client_ca=certificates.path(name))
    with pytest.raises(ConfigurationError, match=message):
        make_context(config, ("http/1.1",))


def test_an_option_without_a_client_ca() -> None:
    with pytest.raises(ConfigurationError, match="client_ca is missing"):
        ServerConfig(client_cert_optional=True)
