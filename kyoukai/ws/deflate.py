"""
permessage-deflate (RFC 7692): what ``websockets`` has of it, and blocks that say they are the last.

A message may end with such a block (section 7.2.3.4), and then zlib takes nothing more: the
library would go on with it, and every later message would be empty.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions.permessage_deflate import (
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)

if TYPE_CHECKING:
    from websockets.extensions import Extension
    from websockets.frames import Frame
    from websockets.typing import ExtensionParameter

__all__ = ("DEFLATE", "Deflate")

#: What a sender leaves out at the end of each message, and the library puts back.
_EMPTY_BLOCK = b"\x00\x00\xff\xff"
#: The most last blocks of a frame: each costs a copy of all that follows it.
_LAST_BLOCKS = 32


class Deflate(PerMessageDeflate):
    """
    The extension, as it was agreed on.

    :param agreed: the library's
    """

    def __init__(self, agreed: PerMessageDeflate) -> None:
        # The library would drop its decoder before we can look at it.
        super().__init__(
            False,
            agreed.local_no_context_takeover,
            agreed.remote_max_window_bits,
            agreed.local_max_window_bits,
            agreed.compress_settings,
        )
        self._forgets = agreed.remote_no_context_takeover
        # The end of what was inflated, once the client has used a last block.
        self._window: bytes | None = None

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        """
        Inflate a frame.

        :raises ProtocolError: if it cannot be inflated
        :raises PayloadTooBig: if it is more than ``max_size`` bytes then
        """
        if self._forgets and frame.rsv1:
            self._begin(b"")
            self._window = None
        decoded = super().decode(frame, max_size=max_size)
        decoder = self.decoder
        if decoded is frame:
            return decoded
        if self._window is None and not decoder.eof:
            return decoded
        data = bytes(decoded.data)
        self._remember(data)
        count = 0
        while decoder.eof:
            count += 1
            if count > _LAST_BLOCKS:
                raise ProtocolError("a frame has too many last blocks")
            rest = decoder.unused_data
            decoder = self._begin(self._window or b"")
            if rest and rest != _EMPTY_BLOCK:  # more blocks; what follows the last is that end
                data += self._inflate(rest, None if max_size is None else max_size - len(data))
        return replace(decoded, data=data)

    def _begin(self, window: bytes) -> Any:
        self.decoder = zlib.decompressobj(wbits=-self.remote_max_window_bits, zdict=window)
        return self.decoder

    def _inflate(self, data: bytes, room: int | None) -> bytes:
        """Inflate blocks that follow a last block."""
        try:
            # One byte more than there is room for is enough; a limit of 0 would be none.
            inflated = self.decoder.decompress(data, 0 if room is None else room + 1)
        except zlib.error as error:
            raise ProtocolError("decompression failed") from error
        if room is not None and len(inflated) > room:
            raise PayloadTooBig(None, room)
        self._remember(inflated)
        return inflated

    def _remember(self, inflated: bytes) -> None:
        size = 1 << self.remote_max_window_bits
        self._window = ((self._window or b"") + inflated)[-size:]


class _Factory(ServerPerMessageDeflateFactory):
    """Negotiates as the library does, for our extension."""

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], PerMessageDeflate]:
        """Return the answer's parameters, and the extension."""
        answer, agreed = super().process_request_params(params, accepted_extensions)
        return answer, Deflate(agreed)


#: Windows of 4 KiB both ways and small tables: some 20 KiB for each socket, and not 300.
DEFLATE = _Factory(
    server_max_window_bits=12, client_max_window_bits=12, compress_settings={"memLevel": 5}
)
