"""One case: what is sent, what must come back, and how that is found out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from websockets.exceptions import NegotiationError
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
)
from websockets.frames import Frame, Opcode
from websockets.headers import parse_extension
from ws_frames import CLOSE, FrameReader, Message, WrongFrame, close, frame
from ws_wires import Lost, Way, Wire


@dataclass(frozen=True)
class Closed:
    """
    The server must answer our Close frame, and end.

    :param codes: those that it may answer with; 1005 is none
    """

    codes: tuple[int, ...]


@dataclass(frozen=True)
class Failed:
    """
    The server must give up: send a Close frame of its own, and end.

    :param codes: those that it may give
    """

    codes: tuple[int, ...]


@dataclass(frozen=True)
class Deflated:
    """
    A message to send, compressed as it was agreed.

    :param pieces: its fragments, each compressed and flushed
    """

    opcode: int
    pieces: tuple[bytes, ...]


Item = bytes | Message | Deflated | Closed | Failed


@dataclass(frozen=True)
class Offer:
    """
    An offer of permessage-deflate.

    :param header: the Sec-WebSocket-Extensions
    :param choices: what each of the offers in it means; none if all must be declined
    :param optional: whether the server may decline
    """

    header: str
    choices: tuple[ClientPerMessageDeflateFactory, ...] = ()
    optional: bool = False

    def agree(self, wire: Wire) -> PerMessageDeflate | None:
        """
        Return what the server has made of it.

        :raises Lost: if that breaks RFC 7692
        """
        answers = [value for name, value in wire.fields if name == "sec-websocket-extensions"]
        accepted = parse_extension(", ".join(answers)) if answers else []
        if not accepted:
            if self.choices and not self.optional:
                raise Lost("the offer of permessage-deflate was declined")
            return None
        if len(accepted) > 1 or accepted[0][0] != "permessage-deflate" or not self.choices:
            raise Lost(f"the server accepts what was not offered: {', '.join(answers)}")
        for choice in self.choices:
            try:
                return choice.process_response_params(accepted[0][1], [])
            except NegotiationError:
                pass
        raise Lost(f"the answer does not go with the offer: {', '.join(answers)}")


@dataclass(frozen=True)
class Case:
    """
    A conversation.

    :param script: in its order, what is sent (bytes, each in a write of its own) and what must
        come; if it does not say how it ends, an orderly close is added
    :param offer: what is offered in the handshake
    """

    section: str
    name: str
    script: tuple[Item, ...]
    offer: Offer | None = None

    def run(self, way: Way) -> str | None:
        """Hold the conversation; return what was wrong, None if nothing."""
        script = self.script
        if not isinstance(script[-1], Closed | Failed):
            script = (*script, close(1000), Closed((1000,)))
        try:
            wire = way.open(self.offer.header if self.offer is not None else None)
        except Lost as lost:
            return str(lost)
        try:
            deflate = self.offer.agree(wire) if self.offer is not None else None
            _Conversation(wire, deflate).follow(script)
        except (Lost, WrongFrame) as wrong:
            return str(wrong)
        finally:
            wire.close()
        return None


class _Conversation:
    """The way through a script."""

    def __init__(self, wire: Wire, deflate: PerMessageDeflate | None) -> None:
        self._wire = wire
        self._deflate = deflate
        self._reader = FrameReader(deflate)
        self._incoming = self._messages()

    def follow(self, script: tuple[Item, ...]) -> None:
        for item in script:
            if isinstance(item, bytes):
                self._wire.send(item)
            elif isinstance(item, Deflated):
                self._wire.send(b"".join(self._compressed(item)))
            elif isinstance(item, Message):
                self._expect(item)
            else:
                self._end(item)

    def _messages(self) -> Iterator[Message]:
        while data := self._wire.receive():
            yield from self._reader.feed(data)

    def _expect(self, wanted: Message) -> None:
        came = next(self._incoming, None)
        if came != wanted:
            raise Lost(f"{came or 'the end'} came, not {wanted}")

    def _end(self, wanted: Closed | Failed) -> None:
        codes = " or ".join(map(str, wanted.codes))
        came = next(self._incoming, None)
        if came is None or came.opcode != CLOSE:
            raise Lost(f"{came or 'the end'} came, not Close {codes}")
        code = int.from_bytes(came.payload[:2], "big") if came.payload else 1005
        if len(came.payload) == 1 or code not in wanted.codes:
            raise Lost(f"{came} came, not Close {codes}")
        came.payload[2:].decode()
        if isinstance(wanted, Failed):
            self._wire.send(close(None if code == 1005 else code))
        following = next(self._incoming, None)
        if following is not None:
            raise Lost(f"{following} came after the Close frame")
        if not self._reader.is_between:
            raise Lost("a part of a frame came after the Close frame")
        if self._wire.was_cut and isinstance(wanted, Closed):
            raise Lost("the connection was reset and not closed")

    def _compressed(self, message: Deflated) -> Iterator[bytes]:
        last = len(message.pieces) - 1
        for number, piece in enumerate(message.pieces):
            opcode = Opcode.CONT if number else Opcode(message.opcode)
            made = Frame(opcode, piece, number == last)
            if self._deflate is not None:  # else the server has declined, as it may
                made = self._deflate.encode(made)
            yield frame(made.opcode, bytes(made.data), fin=made.fin, rsv=0x40 * made.rsv1)
