"""The cases of permessage-deflate (RFC 7692)."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator

from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.headers import build_extension
from ws_case import Case, Deflated, Failed, Item, Offer
from ws_cases import (
    BAD_TEXT,
    GREETING,
    MAX_FRAGMENTS,
    MAX_SIZE,
    POLICY,
    PROTOCOL,
    TOO_BIG,
    bytewise,
    echo,
)
from ws_frames import (
    BINARY,
    PONG,
    RSV1,
    RSV2,
    RSV3,
    TEXT,
    Message,
    binary,
    close,
    more,
    ping,
    pong,
    text,
)

SECTION = "deflate"

#: 2,000 bytes that hold nothing twice, and 30 KB: what is repeated after so long needs a window.
NOISE = random.Random(7692).randbytes(2000)
FAR = random.Random(6455).randbytes(30000)

WRONG_DATA = Failed((1002, 1007))


def offered(*choices: ClientPerMessageDeflateFactory, optional: bool = False) -> Offer:
    """Return an offer of these, the first one preferred."""
    header = build_extension(
        [(choice.name, list(choice.get_request_params())) for choice in choices]
    )
    return Offer(header, choices, optional)


def deflate(**parameters: object) -> ClientPerMessageDeflateFactory:
    """Return an offer's parameters."""
    parameters.setdefault("client_max_window_bits", None)
    return ClientPerMessageDeflateFactory(**parameters)  # type: ignore[arg-type]


PLAIN = offered(deflate())


def compressed(data: bytes, level: int = 6, finish: int = zlib.Z_SYNC_FLUSH) -> bytes:
    """Compress a message without context (RFC 7692 section 7.2.1)."""
    compressor = zlib.compressobj(level, wbits=-15)
    return (compressor.compress(data) + compressor.flush(finish)).removesuffix(b"\0\0\xff\xff")


def cases() -> list[Case]:
    """Return them all."""
    made = [*offers(), *messages(), *wrong()]
    return [Case(SECTION, name, tuple(script), offer) for name, offer, *script in made]


Made = Iterator[tuple[object, ...]]


def offers() -> Made:
    """What is agreed on, and that both sides keep to it."""
    accepted: dict[str, Offer] = {"plain": PLAIN}
    accepted["client_max_window_bits"] = offered(deflate(client_max_window_bits=True))
    for bits in range(9, 16):
        accepted[f"client_max_window_bits={bits}"] = offered(deflate(client_max_window_bits=bits))
        accepted[f"server_max_window_bits={bits}"] = offered(deflate(server_max_window_bits=bits))
    small = deflate(server_max_window_bits=8)
    accepted["server_max_window_bits=8"] = offered(small, optional=True)
    one_way = deflate(server_no_context_takeover=True)
    accepted["server_no_context_takeover"] = offered(one_way)
    other_way = deflate(client_no_context_takeover=True)
    accepted["client_no_context_takeover"] = offered(other_way)
    takeover = {"server_no_context_takeover": True, "client_no_context_takeover": True}
    accepted["no takeover both ways"] = offered(deflate(**takeover))
    everything = deflate(**takeover, server_max_window_bits=10, client_max_window_bits=11)
    accepted["all parameters"] = offered(everything)
    accepted["several, the first preferred"] = offered(everything, deflate())
    header = f"x-unknown; a=1, permessage-deflate; what=1, {PLAIN.header}"
    accepted["what is unknown, then plain"] = Offer(header, PLAIN.choices)
    repeated = NOISE + b"x" * 300 + NOISE
    for name, offer in accepted.items():
        yield f"offer: {name}", offer, *_both(b"hello"), *_both(repeated), *_both(repeated)

    parameters = [f"{side}_max_window_bits={value}" for side in ("client", "server")
                  for value in ("7", "16", "0", "-9", "x", "10.0", "010")]  # fmt: skip
    parameters += [f"{side}_no_context_takeover=1" for side in ("client", "server")]
    parameters += [f"{side}_no_context_takeover; {side}_no_context_takeover"
                   for side in ("client", "server")]  # fmt: skip
    parameters += ["server_max_window_bits", "unknown", "unknown=1"]
    parameters += ["server_max_window_bits=10; server_max_window_bits=10"]
    hello = (text(GREETING), echo(GREETING))
    for given in parameters:
        yield f"declined: {given}", Offer(f"permessage-deflate; {given}"), *hello
    yield "declined: another extension", Offer("x-webkit-deflate-frame, bbf-usp-protocol"), *hello


def messages() -> Made:
    """Messages, compressed in every way there is."""
    yield "text", PLAIN, Deflated(TEXT, (GREETING.encode(),)), echo(GREETING)
    for size in (0, 1, 125, 126, 65535, 65536, MAX_SIZE):
        data = (NOISE * (size // 2000 + 1))[:size]
        yield f"{size} bytes", PLAIN, *_both(data)
    yield "the same again and again", PLAIN, *(_both(NOISE) * 5)
    yield "a window of 32 KiB", PLAIN, *_both(FAR), *_both(FAR)
    yield "uncompressed ones too", PLAIN, *_both(NOISE), binary(NOISE), echo(NOISE), *_both(NOISE)
    three = Deflated(BINARY, (NOISE, b"", NOISE))
    yield "fragments", PLAIN, three, echo(NOISE * 2), three, echo(NOISE * 2)
    data = compressed(GREETING.encode())
    for at in (0, 1, len(data) // 2, len(data)):
        parts = (text(data[:at], rsv=RSV1, fin=False), more(data[at:]))
        yield f"fragments cut after {at} bytes", PLAIN, *parts, echo(GREETING)
    yield "byte by byte", PLAIN, *bytewise(text(data, rsv=RSV1)), echo(GREETING)
    between = (text(data[:5], rsv=RSV1, fin=False), ping(b"p"), Message(PONG, b"p"), more(data[5:]))
    yield "ping between", PLAIN, *between, echo(GREETING)
    many = text(data[:1], rsv=RSV1, fin=False) + more(fin=False) * MAX_FRAGMENTS
    yield "too many fragments", PLAIN, many, POLICY

    # RFC 7692 section 7.2.3: the kinds of blocks, all of which an endpoint must take.
    one_block = bytes.fromhex("f248cdc9c90700")
    yield "a block with fixed codes", PLAIN, text(one_block, rsv=RSV1), echo("Hello")
    stored = bytes.fromhex("000500faff48656c6c6f00")
    yield "a block that is stored", PLAIN, text(stored, rsv=RSV1), echo("Hello")
    last = bytes.fromhex("f348cdc9c9070000")
    yield (
        "a block that says it is the last",
        PLAIN,
        *(item for _ in range(2) for item in (text(last, rsv=RSV1), echo("Hello"))),
    )
    two_blocks = bytes.fromhex("f248050000 00ffffcac9c90700".replace(" ", ""))
    yield "two blocks", PLAIN, text(two_blocks, rsv=RSV1), echo("Hello")
    yield "an empty message", PLAIN, text(b"\x00", rsv=RSV1), echo("")
    takeover = (text(one_block, rsv=RSV1), echo("Hello"))
    yield (
        "what an earlier message said",
        PLAIN,
        *takeover,
        (text(bytes.fromhex("f200110000"), rsv=RSV1)),
        echo("Hello"),
    )


def wrong() -> Made:
    """Bombs, data that is no deflate, reserved bits."""
    too_big = Failed((TOO_BIG,))
    limit = compressed(bytes(MAX_SIZE))
    yield "a bomb that is just not", PLAIN, binary(limit, rsv=RSV1), echo(bytes(MAX_SIZE))
    yield "a byte too many", PLAIN, binary(compressed(bytes(MAX_SIZE + 1)), rsv=RSV1), too_big
    bomb = compressed(bytes(64 << 20), 9)
    yield "a bomb", PLAIN, binary(bomb, rsv=RSV1), too_big
    at = len(bomb) // 2
    parts = (binary(bomb[:at], rsv=RSV1, fin=False), more(bomb[at:]))
    yield "a bomb in fragments", PLAIN, *parts, too_big
    compressor = zlib.compressobj(wbits=-15)
    full = compressor.compress(bytes(MAX_SIZE)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    rest = compressor.compress(bytes(64 << 20)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    after = (binary(full, rsv=RSV1, fin=False), more(rest[:-4]))
    yield "a bomb after a fragment of all that may be", PLAIN, *after, too_big
    nearly = binary(bytes(MAX_SIZE - 1), fin=False)
    yield "an uncompressed one too long", PLAIN, nearly, more(b"xx"), too_big

    for name, data in (
        ("a block of a kind that is none", b"\x07"),
        ("noise", b"\xff" * 50),
        ("a stored block with a wrong length", bytes.fromhex("0005000000")),
        ("a distance beyond the beginning", bytes.fromhex("f200110000")),
    ):
        yield f"no deflate: {name}", PLAIN, binary(data, rsv=RSV1), WRONG_DATA
    bad = text(compressed(b"abc\xff"), rsv=RSV1)
    yield "no UTF-8", PLAIN, bad, BAD_TEXT
    yield "no UTF-8, in a fragment", PLAIN, text(compressed(b"\xff"), rsv=RSV1, fin=False), BAD_TEXT

    data = compressed(b"hello")
    for name, sent in (
        ("ping", ping(b"x", rsv=RSV1)),
        ("pong", pong(b"x", rsv=RSV1)),
        ("Close", close(1000, rsv=RSV1)),
        ("a second fragment", text(data, rsv=RSV1, fin=False) + more(b"\0", rsv=RSV1)),
        ("a fragment of what is uncompressed", text("x", fin=False) + more(data, rsv=RSV1)),
    ):
        yield f"RSV1 on {name}", PLAIN, sent, PROTOCOL
    for rsv in (RSV2, RSV3, RSV1 | RSV2):
        yield f"reserved bits {rsv >> 4:03b}", PLAIN, text(data, rsv=rsv), PROTOCOL


def _both(data: bytes) -> tuple[Item, ...]:
    """Send a message compressed, and have it back."""
    return Deflated(BINARY, (data,)), echo(data)
