"""The rules for heads, in and out."""

from __future__ import annotations

from typing import Any

import pytest

from kyoukai.exceptions import InvalidResponse, ProtocolError
from kyoukai.rules import (
    apply_forwarded,
    bodyless,
    check_authority,
    check_response_head,
    check_trailers,
    decode_path,
    field_name,
    forwarded_client,
    is_trusted,
    split_target,
)


@pytest.mark.parametrize(
    "wire, known",
    [
        (b"Host", b"host"),
        (b"X-FORWARDED-For", b"x-forwarded-for"),
        (b"X_Forwarded_For", b""),
        (b"Content_Length", b""),
        (b"_", b""),
        (b"!#$%&'*+-.^`|~1a", b"!#$%&'*+-.^`|~1a"),
    ],
)
def test_field_name(wire: bytes, known: bytes) -> None:
    assert field_name(wire) == known
    assert field_name(wire) == known  # from memory


def test_field_names_are_not_remembered_without_end() -> None:
    from kyoukai import rules

    for index in range(5000):
        assert field_name(b"X-%d" % index) == b"x-%d" % index
    assert len(rules.known_names) <= 1024


@pytest.mark.parametrize(
    "value, text",
    [
        (b"Example.COM", "example.com"),
        (b"example.com:8000", "example.com:8000"),
        (b"example.com:", "example.com:"),
        (b"127.0.0.1", "127.0.0.1"),
        (b"a_b.example", "a_b.example"),
        (b"a%20b", "a%20b"),
        (b"[::1]", "[::1]"),
        (b"[2001:DB8::1]:443", "[2001:db8::1]:443"),
        (b"a:0", "a:0"),
        (b"a:65535", "a:65535"),
    ],
)
def test_check_authority(value: bytes, text: str) -> None:
    assert check_authority(value) == text


@pytest.mark.parametrize(
    "value",
    [
        b"", b" ", b"a b", b"a/b", b"a?b", b"a#b", b"a@b", b"a\\b", b"a:b", b"a:65536",
        b"a:999999", b"a:00080000000", b"a:-1", b"a:+1", b"a:1:2", b":80", b"[::1", b"::1",
        b"[::1]x", b"[::1]80", b"[]", b"[a]", b"[1.2.3.4]", b"[::1%25eth0]", b"[fe80::1%eth0]",
        b"a\xe9", b"a%", b"a%2", b"a%zz", b"a\0", b"a\t", b"a, b", b"a:\xb2", b"<a>", b'"a"',
    ],
)  # fmt: skip
def test_check_authority_refuses(value: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        check_authority(value)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "target, method, parts",
    [
        (b"/", "GET", (b"", b"/", b"")),
        (b"/a/b?c=d?e", "GET", (b"", b"/a/b", b"c=d?e")),
        (b"/a?", "GET", (b"", b"/a", b"")),
        (b"//a", "GET", (b"", b"//a", b"")),
        (b"/a#b", "GET", (b"", b"/a", b"")),
        (b"/a?b#c?d", "GET", (b"", b"/a", b"b")),
        (b"*", "OPTIONS", (b"", b"*", b"")),
        (b"http://a", "GET", (b"a", b"/", b"")),
        (b"HTTPS://A:1/b?c", "GET", (b"A:1", b"/b", b"c")),
        (b"http://a?b", "GET", (b"a", b"/", b"b")),
        (b"http://a#b", "GET", (b"a", b"/", b"")),
        (b"http://a/http://b/", "GET", (b"a", b"/http://b/", b"")),
        (b"/\xc3\xa9", "GET", (b"", b"/\xc3\xa9", b"")),
    ],
)
def test_split_target(target: bytes, method: str, parts: tuple[bytes, bytes, bytes]) -> None:
    assert split_target(target, method) == parts


@pytest.mark.parametrize(
    "target, method",
    [
        (b"", "GET"), (b"a", "GET"), (b"*", "GET"), (b"*x", "OPTIONS"), (b"a:443", "GET"),
        (b"http://", "GET"), (b"http:///a", "GET"), (b"http:/a", "GET"), (b"ftp://a/", "GET"),
        (b"javascript:alert(1)", "GET"), (b"/a b", "GET"), (b"/a\tb", "GET"), (b"/a\r\nb", "GET"),
        (b"/a\0", "GET"), (b"/a\x7f", "GET"), (b"http://a/\n", "GET"), (b"?a", "GET"),
    ],
)  # fmt: skip
def test_split_target_refuses(target: bytes, method: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        split_target(target, method)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "raw, path",
    [
        (b"/a", "/a"),
        (b"/%61", "/a"),
        (b"/%2561", "/%61"),
        (b"/%c3%a9", "/é"),
        (b"/\xc3\xa9", "/é"),
        (b"/%ff", "/\ufffd"),
        (b"/%2F%2e%2E", "//.."),
        (b"/%zz%", "/%zz%"),
        (b"/a+b", "/a+b"),
    ],
)
def test_decode_path(raw: bytes, path: str) -> None:
    assert decode_path(raw) == path


@pytest.mark.parametrize(
    "address, trusted, result",
    [
        ("10.1.2.3", ("10.0.0.0/8",), True),
        ("11.1.2.3", ("10.0.0.0/8",), False),
        ("::1", ("10.0.0.0/8", "::1"), True),
        ("2001:db8::5", ("2001:db8::/32",), True),
        ("unix", ("10.0.0.0/8",), False),
        ("unix", ("unix",), True),
        ("unix", ("*",), True),
        ("nonsense", ("10.0.0.0/8", "unix"), False),
        ("10.1.2.3", (), False),
    ],
)
def test_is_trusted(address: str, trusted: tuple[str, ...], result: bool) -> None:
    assert is_trusted(address, trusted) is result


@pytest.mark.parametrize(
    "headers, expected",
    [
        ([], (None, None, None)),
        ([(b"x-forwarded-for", b"1.1.1.1")], ("1.1.1.1", None, None)),
        ([(b"x-forwarded-for", b"1.1.1.1, 2.2.2.2 , 10.0.0.2")], ("2.2.2.2", None, None)),
        (
            [(b"x-forwarded-for", b"6.6.6.6"), (b"x-forwarded-for", b"2.2.2.2, 10.0.0.2")],
            ("2.2.2.2", None, None),
        ),
        ([(b"x-forwarded-for", b"10.0.0.3, 10.0.0.2")], ("10.0.0.3", None, None)),
        ([(b"x-forwarded-for", b"1.1.1.1:5000")], ("1.1.1.1", None, None)),
        ([(b"x-forwarded-for", b"[2001:db8::1]:5000")], ("2001:db8::1", None, None)),
        ([(b"x-forwarded-proto", b"HTTPS")], (None, "https", None)),
        ([(b"x-forwarded-proto", b"http, https")], (None, "https", None)),
        ([(b"x-forwarded-proto", b"javascript")], (None, None, None)),
        ([(b"x-forwarded-host", b"evil, a.example")], (None, None, "a.example")),
        (
            [(b"forwarded", b'for=6.6.6.6;host=evil, For="[2001:db8::1]:1";Proto=https;Host=a')],
            ("2001:db8::1", "https", "a"),
        ),
        (
            [(b"forwarded", b"for=1.1.1.1"), (b"x-forwarded-for", b"6.6.6.6")],
            ("1.1.1.1", None, None),
        ),
        ([(b"forwarded", b";;=,,for=")], ("", None, None)),
        (  # what is quoted separates nothing (RFC 7239 section 4)
            [(b"forwarded", b'for=6.6.6.6;host="x;for=1.2.3.4";proto=http')],
            ("6.6.6.6", "http", "x;for=1.2.3.4"),
        ),
        (
            [(b"forwarded", b'for=6.6.6.6;host="x\\",for=1.2.3.4;b=\\"";proto=https')],
            ("6.6.6.6", "https", 'x\\",for=1.2.3.4;b=\\'),
        ),
        ([(b"forwarded", b'for=6.6.6.6;host="x,for=1.2.3.4')], ("6.6.6.6", None, "x,for=1.2.3.4")),
    ],
)
def test_forwarded_client(headers: Any, expected: Any) -> None:
    address, scheme, host = forwarded_client(headers, ("10.0.0.0/8",))
    assert (address or None, scheme, host) == (expected[0] or None, *expected[1:])


@pytest.mark.parametrize(
    ("written", "client", "scheme", "authority", "left"),
    [
        ("x-forwarded", "1.1.1.1", "https", "a", [b"x-forwarded-for", b"x-forwarded-proto"]),
        ("forwarded", "6.6.6.6", "http", "b", [b"forwarded"]),
    ],
)
def test_a_proxy_is_believed_what_it_writes_itself(
    written: str, client: str, scheme: str, authority: str, left: list[bytes]
) -> None:
    headers = [
        (b"host", b"a"),
        (b"forwarded", b"for=6.6.6.6;host=b;proto=http"),  # which nginx, for one, passes on
        (b"x-forwarded-for", b"1.1.1.1"),
        (b"x-forwarded-proto", b"https"),
    ]
    kept, *rest = apply_forwarded(headers, "a", ("10.0.0.1", 5), "http", ("10.0.0.0/8",), written)
    assert rest == [(client, 0), scheme, authority]
    assert [name for name, _ in kept] == [b"host", *left]


@pytest.mark.parametrize("status", [200, 299, 304, 404, 599])
def test_good_response_heads(status: int) -> None:
    check_response_head(
        status, [(b"X-A", b"b\tc \xe9"), (b"set-cookie", b""), (b"!#$%&'*+-.^_`|~", b"x")]
    )


@pytest.mark.parametrize("status", [0, 99, 100, 101, 199, 600, -200, True, 200.0, "200", None])
def test_bad_statuses(status: Any) -> None:
    with pytest.raises(InvalidResponse):
        check_response_head(status, ())


@pytest.mark.parametrize(
    "name, value",
    [
        (b"", b"x"), (b"a b", b"x"), (b"a:", b"x"), (b"a\r\nb", b"x"), (b"a\n", b"x"),
        (b"a\0", b"x"), (b"\xe9", b"x"), (b"a(", b"x"), ("a", b"x"), (None, b"x"), ([], b"x"),
        (bytearray(b"a"), b"x"),
        (b"a", b"x\r\nb: c"), (b"a", b"x\n"), (b"a", b"x\r"), (b"a", b"\0"), (b"a", b"\x1b"),
        (b"a", b"\x7f"), (b"a", "x"), (b"a", None), (b"a", 1), (b"a", bytearray(b"x")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("check", [lambda h: check_response_head(200, h), check_trailers])
def test_bad_fields(check: Any, name: Any, value: Any) -> None:
    with pytest.raises(InvalidResponse):
        check([(b"x-good", b"y"), (name, value)])


@pytest.mark.parametrize(
    "headers", [None, 5, [b"ab"], ["ab"], [(b"a",)], [(b"a", b"b", b"c")], [None]]
)
def test_headers_of_a_wrong_shape(headers: Any) -> None:
    with pytest.raises(InvalidResponse):
        check_response_head(200, headers)


def test_the_message_names_the_header() -> None:
    with pytest.raises(InvalidResponse, match="x-evil"):
        check_response_head(200, [(b"x-evil", b"a\r\nb")])


@pytest.mark.parametrize("name", [b"Content-Length", b"transfer-encoding", b"HOST", b"trailer"])
def test_trailers_frame_nothing(name: bytes) -> None:
    with pytest.raises(InvalidResponse):
        check_trailers([(name, b"1")])


@pytest.mark.parametrize(
    "method, status, result",
    [
        ("HEAD", 200, True),
        ("GET", 204, True),
        ("GET", 304, True),
        ("GET", 200, False),
        ("POST", 205, True),
    ],
)
def test_bodyless(method: str, status: int, result: bool) -> None:
    assert bodyless(method, status) is result
