"""The cases of frames, fragments, text and closing (RFC 6455 sections 5 to 8)."""

from __future__ import annotations

from collections.abc import Iterator

from ws_case import Case, Closed, Failed, Item
from ws_frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    RSV1,
    RSV2,
    RSV3,
    TEXT,
    Message,
    binary,
    close,
    frame,
    more,
    ping,
    pong,
    text,
)

#: The server's limits, as it is started: bytes and fragments of a message.
MAX_SIZE = 1 << 20
MAX_FRAGMENTS = 1024

PROTOCOL, BAD_TEXT, POLICY, TOO_BIG = Failed((1002,)), Failed((1007,)), Failed((1008,)), 1009
NAMES = {0: "continuation", 1: "text", 2: "binary", 8: "Close", 9: "ping", 10: "pong"}
GREETING = "κόσμε, мир, 世界, 𐍈🙂"

#: Text that is no UTF-8 (Unicode 3.9, table 3-7), and what it is.
BAD = {
    "a continuation byte alone": b"\x80",
    "the last continuation byte": b"\xbf",
    "text, then a continuation byte": b"abc\x80",
    "2 bytes without the second": b"\xc2a",
    "3 bytes without the third": b"\xe2\x82a",
    "4 bytes without the fourth": b"\xf0\x9f\x99a",
    "2 bytes, cut off": b"\xc3",
    "3 bytes, cut off": b"\xe2\x82",
    "4 bytes, cut off": b"\xf0\x9f\x99",
    "overlong U+0000 in 2": b"\xc0\x80",
    "overlong / in 2": b"\xc0\xaf",
    "overlong U+007F in 2": b"\xc1\xbf",
    "overlong / in 3": b"\xe0\x80\xaf",
    "overlong U+07FF in 3": b"\xe0\x9f\xbf",
    "overlong / in 4": b"\xf0\x80\x80\xaf",
    "overlong U+FFFF in 4": b"\xf0\x8f\xbf\xbf",
    "the first surrogate": b"\xed\xa0\x80",
    "the last surrogate": b"\xed\xbf\xbf",
    "a pair of surrogates": b"\xed\xa0\xbd\xed\xb9\x82",
    "beyond U+10FFFF": b"\xf4\x90\x80\x80",
    "F5": b"\xf5\x80\x80\x80",
    "5 bytes": b"\xf8\x88\x80\x80\x80",
    "6 bytes": b"\xfc\x84\x80\x80\x80\x80",
    "FE": b"\xfe",
    "FF": b"\xff",
}

#: Characters at the edges of what UTF-8 can say.
EDGES = (0, 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFEFF, 0xFFFD, 0xFFFE, 0xFFFF, 0x10000)
EDGES += (0x1FFFF, 0x10FFFF)


def cases() -> list[Case]:
    """Return them all."""
    made = [*framing(), *control(), *fragments(), *utf8(), *closing()]
    return [Case(section, name, tuple(script)) for section, name, *script in made]


Made = Iterator[tuple[str | Item, ...]]


def echo(data: str | bytes) -> Message:
    """Return what must come back for a message."""
    return Message(TEXT, data.encode()) if isinstance(data, str) else Message(BINARY, data)


def bytewise(data: bytes) -> list[bytes]:
    """Return each byte, to be sent in a write of its own."""
    return [data[at : at + 1] for at in range(len(data))]


def framing() -> Made:
    """Lengths, masks, reserved bits, opcodes."""
    section = "framing"
    for size in (0, 1, 124, 125, 126, 127, 128, 65534, 65535, 65536, 65537, MAX_SIZE):
        yield section, f"text of {size} bytes", text("x" * size), echo("x" * size)
        data = bytes(range(256)) * (size // 256) + bytes(size % 256)
        yield section, f"binary of {size} bytes", binary(data), echo(data)
    for size in (0, 1, 125):
        yield section, f"{size} bytes, length in 2", text(b"x" * size, form=2), PROTOCOL
    for size in (0, 125, 126, 65535):
        yield section, f"{size} bytes, length in 8", binary(bytes(size), form=8), PROTOCOL
    too_big = Failed((TOO_BIG,))
    yield section, "a byte too many", text("x" * (MAX_SIZE + 1)), too_big
    yield section, "too long, as its head says", binary(length=MAX_SIZE + 1), too_big
    yield section, "4 GiB, as its head says", binary(length=1 << 32), too_big
    huge = binary(length=1 << 63)
    yield section, "length with its highest bit", huge, Failed((1002, TOO_BIG))
    for mask in (bytes(4), b"\xff" * 4, b"\x00\xff\x00\xff", b"\x80\x01\x7e\x81"):
        yield section, f"mask {mask.hex()}", text(GREETING, mask=mask), echo(GREETING)
    for opcode, name in NAMES.items():
        yield section, f"{name} without a mask", frame(opcode, b"", mask=None), PROTOCOL
    yield section, "a message without a mask", text("hello", mask=None), PROTOCOL
    for opcode, name in NAMES.items():
        for rsv in (RSV1, RSV2, RSV3, RSV1 | RSV2 | RSV3):
            yield section, f"{name}, reserved bits {rsv >> 4:03b}", frame(opcode, rsv=rsv), PROTOCOL
    hello: tuple[Item, ...] = (text("hello"), echo("hello"))
    yield section, "reserved bits after a message", *hello, text("x", rsv=RSV2), PROTOCOL
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        yield section, f"opcode {opcode}", frame(opcode), PROTOCOL
        yield section, f"opcode {opcode}, payload", *hello, frame(opcode, b"x"), PROTOCOL
    for name, sent in (
        ("short", text(GREETING)),
        ("with 2 bytes of length", text("x" * 126)),
        ("with 8 bytes of length", b""),
    ):
        if sent:
            answer = GREETING if name == "short" else "x" * 126
            yield section, f"byte by byte, {name}", *bytewise(sent), echo(answer)
        else:
            whole = binary(bytes(65536))
            yield (
                section,
                f"byte by byte, {name}",
                *bytewise(whole[:20]),
                whole[20:],
                echo(bytes(65536)),
            )
    many = b"".join(text(str(number)) for number in range(200))
    yield section, "200 messages in one write", many, *(echo(str(n)) for n in range(200))
    cut = text("a") + text("b" * 200)
    yield section, "a message and half a message", cut[:100], echo("a"), cut[100:], echo("b" * 200)


def control() -> Made:
    """Pings and pongs, right and wrong."""
    section = "control frames"
    for payload in (b"", b"hello", b"\x00\xff\xfe\x80", bytes(125)):
        yield (
            section,
            f"ping with {payload[:5]!r}, {len(payload)} bytes",
            ping(payload),
            Message(PONG, payload),
        )
    pings = [b"%d" % number for number in range(10)]
    pongs = [Message(PONG, payload) for payload in pings]
    yield section, "10 pings in one write", b"".join(map(ping, pings)), *pongs
    yield (
        section,
        "10 pings in turn",
        *(item for payload in pings for item in (ping(payload), Message(PONG, payload))),
    )
    yield section, "ping byte by byte", *bytewise(ping(b"hello")), Message(PONG, b"hello")
    yield section, "pong that nobody asked for", pong(b"x"), text("a"), echo("a")
    yield section, "pong without a payload", pong(), text("a"), echo("a")
    yield (
        *(section, "pong, then ping", pong(b"x"), ping(b"y"), Message(PONG, b"y")),
        *(text("a"), echo("a")),
    )
    for opcode in (PING, PONG, CLOSE):
        name = NAMES[opcode]
        body = b"\x03\xe8" + b"x" * 124
        yield section, f"{name} of 126 bytes", frame(opcode, body), PROTOCOL
        yield section, f"{name} of 65536 bytes", frame(opcode, body + bytes(65410)), PROTOCOL
        yield section, f"{name} in fragments", frame(opcode, b"", fin=False), PROTOCOL
        yield (
            *(section, f"{name} of 2 bytes in fragments"),
            frame(opcode, body[:2], fin=False) + more(b"x"),
            PROTOCOL,
        )
        yield section, f"{name}, length in 2", frame(opcode, body[:2], form=2), PROTOCOL
        yield section, f"{name}, length in 8", frame(opcode, body[:2], form=8), PROTOCOL


def fragments() -> Made:
    """Messages in fragments, and what may come between."""
    section = "fragments"
    first = text("one ", fin=False)
    whole = echo("one two")
    yield section, "two", first, more("two"), whole
    yield section, "two in one write", first + more("two"), whole
    yield section, "two of binary", binary(b"\xff", fin=False), more(b"\xfe"), echo(b"\xff\xfe")
    yield section, "byte by byte", *bytewise(first + more("two")), whole
    yield section, "three", first, more("t", fin=False), more("wo"), whole
    yield section, "first empty", text("", fin=False), more("one two"), whole
    yield section, "last empty", text("one two", fin=False), more(), whole
    yield section, "middle empty", first, more(fin=False), more("two"), whole
    yield section, "all empty", text("", fin=False), more(fin=False), more(), echo("")
    long = [text("x" * 70000, fin=False), more("y" * 65535, fin=False), more("z" * 126)]
    yield section, "long ones", *long, echo("x" * 70000 + "y" * 65535 + "z" * 126)
    at_limit = text("", fin=False) + more(b"x", fin=False) * (MAX_FRAGMENTS - 2) + more("y")
    yield section, "as many as may be", at_limit, echo("x" * (MAX_FRAGMENTS - 2) + "y")
    beyond = text("", fin=False) + more(b"x", fin=False) * MAX_FRAGMENTS
    yield section, "one too many", beyond, POLICY
    empty = text("", fin=False) + more(fin=False) * MAX_FRAGMENTS
    yield section, "one too many, all empty", empty, POLICY
    half = b"x" * (MAX_SIZE // 2)
    both = echo(half * 2)
    yield section, "together as long as may be", binary(half, fin=False), more(half), both
    too_long = (binary(half, fin=False), more(half + b"x"))
    yield section, "together too long", *too_long, Failed((TOO_BIG,))

    answer = Message(PONG, b"p")
    yield section, "ping between", first, ping(b"p"), answer, more("two"), whole
    yield section, "ping between, one write", first + ping(b"p") + more("two"), answer, whole
    spread = first + ping(b"p") + more("t", fin=False) + ping(b"p") + more("wo")
    yield section, "pings between, byte by byte", *bytewise(spread), answer, answer, whole
    yield section, "pong between", first, pong(b"p"), more("two"), whole
    yield section, "Close between", first, close(1000), Closed((1000,))
    again = (text("three"), echo("three"), first, more("two"), whole)
    yield section, "then other messages", first, more("two"), whole, *again

    yield section, "continuation of nothing", more("x"), PROTOCOL
    yield section, "continuation of nothing, more to come", more("x", fin=False), PROTOCOL
    yield section, "continuation of nothing, empty", more(), PROTOCOL
    after = (text("a"), echo("a"), more("x"))
    yield section, "continuation of a whole message", *after, PROTOCOL
    yield section, "continuation of the last fragment", first, more("two"), whole, more(), PROTOCOL
    for name, wrong in (
        ("text", text("x")),
        ("binary", binary(b"x")),
        ("text, more to come", text("x", fin=False)),
        ("empty binary", binary(b"")),
    ):
        yield section, f"{name} inside a message", first, wrong, PROTOCOL
    yield section, "ping, then text inside", first, ping(b"p"), answer, text("x"), PROTOCOL
    yield section, "reserved bit in the second", first, more("two", rsv=RSV3), PROTOCOL
    yield section, "no mask in the second", first, more("two", mask=None), PROTOCOL


def utf8() -> Made:
    """Text that is UTF-8, and text that is not."""
    section = "UTF-8"
    for point in EDGES:
        yield section, f"U+{point:04X}", text(chr(point)), echo(chr(point))
    edges = "".join(map(chr, EDGES))
    yield section, "all edges", text(edges), echo(edges)
    data = GREETING.encode()
    for at in range(len(data) + 1):
        parts = (text(data[:at], fin=False), more(data[at:]))
        yield section, f"cut after {at} bytes", *parts, echo(GREETING)
    pieces = [frame(TEXT if not at else CONTINUATION, data[at : at + 1], fin=False)
              for at in range(len(data))]  # fmt: skip
    yield section, "each byte a fragment", *pieces, more(), echo(GREETING)
    smile = (text(b"\xf0\x9f", fin=False), ping(b"p"), Message(PONG, b"p"), more(b"\x99\x82"))
    yield section, "ping inside a character", *smile, echo("🙂")
    for name, bad in BAD.items():
        yield section, f"{name}", text(bad), BAD_TEXT
        yield (
            section,
            f"{name}, in the second fragment",
            (text("ok", fin=False)),
            more(bad),
            BAD_TEXT,
        )
        yield section, f"{name}, in binary", binary(bad), echo(bad)
    yield section, "wrong, after good text", text(GREETING), echo(GREETING), text(b"\xff"), BAD_TEXT
    yield section, "wrong, more to come", text(b"a\xff", fin=False), BAD_TEXT
    surrogate = (text(b"\xed", fin=False), more(b"\xa0\x80", fin=False))
    yield section, "a surrogate over two fragments", *surrogate, BAD_TEXT
    yield section, "cut off over two fragments", text(b"\xf0", fin=False), more(b"\x9f"), BAD_TEXT
    long = b"x" * 70000
    yield section, "wrong, at the end of a long text", text(long + b"\xc0"), BAD_TEXT
    yield section, "wrong, at its beginning", text(b"\xc0" + long), BAD_TEXT


def closing() -> Made:
    """Close frames, their codes and reasons."""
    section = "closing"
    good = (*range(1000, 1004), *range(1007, 1015), 3000, 3001, 3999, 4000, 4001, 4999)
    for code in good:
        yield section, f"code {code}", close(code), Closed((code, 1000))
        yield section, f"code {code} and a reason", close(code, GREETING), Closed((code, 1000))
    bad = (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 32768, 65535)
    for code in bad:
        yield section, f"code {code}", close(code), PROTOCOL
        yield section, f"code {code} and a reason", close(code, "x"), PROTOCOL
    yield section, "no code", close(None), Closed((1000, 1005))
    yield section, "one byte", frame(CLOSE, b"\x03"), PROTOCOL
    yield section, "the longest reason", close(1000, "x" * 123), Closed((1000,))
    yield section, "a reason too long", close(1000, "x" * 124), PROTOCOL
    yield section, "byte by byte", *bytewise(close(1001, "bye")), Closed((1001, 1000))
    for name, reason in BAD.items():
        yield section, f"reason with {name}", close(1000, reason), Failed((1002, 1007))
    end = Closed((1000,))
    yield section, "after a message", text("a"), echo("a"), close(1000), end
    for name, rest in (
        ("text", text("x")),
        ("ping", ping(b"x")),
        ("another Close", close(1001)),
        ("what is no frame", b"\xff" * 20),
        ("part of a frame", text("x" * 200)[:50]),
    ):
        yield section, f"{name} after it", close(1000) + rest, end
