"""
h2's connection, as a server needs it that judges heads itself and answers most streams at once.

h2 keeps the connection's state, its settings and windows, and every stream that it has been told
of. It is not told of streams whose request is a head alone and whose answer fits into the windows,
which is most of them: these are opened and closed by two short methods here. When anything else
happens to such a stream, h2 adopts it.

This file relies on h2's and hpack's private names more than a guest should, so their versions are
held to those that it was written for (``setup.cfg``).
"""

from __future__ import annotations

import re
import struct
from itertools import islice
from typing import TYPE_CHECKING, Any

from h2.config import H2Configuration
from h2.connection import ConnectionInputs, ConnectionState, H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated
from h2.exceptions import (
    FlowControlError,
    InvalidSettingsValueError,
    NoSuchStreamError,
    ProtocolError,
    StreamClosedError,
    StreamIDTooLowError,
)
from h2.settings import SettingCodes, Settings
from h2.stream import H2Stream, StreamClosedBy, StreamInputs, StreamState
from h2.windows import WindowManager
from hpack import Encoder
from hyperframe.exceptions import InvalidDataError, InvalidFrameError, InvalidPaddingError
from hyperframe.frame import Frame, RstStreamFrame

from kyoukai.backends.http2.fields import SIZE_UPDATE, FieldDecoder
from kyoukai.backends.http2.guard import ConnectionFault
from kyoukai.backends.http2.wire import (
    CONTINUATION,
    DEFAULT_WINDOW,
    END_HEADERS,
    GOAWAY,
    HEADERS,
    LARGEST_WINDOW,
    MAX_FRAME_SIZE,
    RST_STREAM,
    WINDOW_UPDATE,
    frame_head,
)

if TYPE_CHECKING:
    from h2.events import Event
    from hyperframe.frame import DataFrame, GoAwayFrame, SettingsFrame

    from kyoukai.config import ServerConfig

__all__ = ("ServerConnection",)

#: Streams remembered after their end, so that late frames are told from wrong ones.
_CLOSED_STREAMS = 1000

_NO_RFC7540_PRIORITIES = 9  # RFC 9218 section 2.1
_KNOWN_SETTINGS = frozenset(SettingCodes) - {SettingCodes.HEADER_TABLE_SIZE}

_CONFIG = H2Configuration(
    client_side=False,
    header_encoding=None,
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
    validate_inbound_headers=False,
    normalize_inbound_headers=False,
)

_SETTINGS_HEADER = re.compile(rb"[A-Za-z0-9_-]*")

_MAY_RECEIVE = (StreamState.OPEN, StreamState.HALF_CLOSED_LOCAL)

#: Blocks are encoded without any table, so that no connection needs an encoder of its own.
_NO_ENCODER = Encoder()


class _Values(list[int | None]):
    """The values that a setting has had: a deque, as h2 has it, takes ten times the memory."""

    def popleft(self) -> int | None:
        """Take the oldest one."""
        return self.pop(0)


class _Settings(Settings):
    """Settings in little memory: each connection has two sets of them."""

    def __init__(self, client: bool, initial_values: dict[SettingCodes, int] | None = None) -> None:
        super().__init__(client, initial_values)
        values: Any = self._settings
        for key in values:
            values[key] = _Values(values[key])

    def __setitem__(self, key: SettingCodes | int, value: int) -> None:
        values: Any = self._settings
        if key not in values:
            values[key] = _Values((None,))
        super().__setitem__(key, value)


class _Window(WindowManager):
    """A window that may be below zero, for new settings can make it so (RFC 9113 6.9.2)."""

    def window_consumed(self, size: int) -> None:
        if size:
            super().window_consumed(size)


class _Stream(H2Stream):
    """A stream whose Content-Length is left to us: for h2, a wrong one ends the connection."""

    def __init__(self, stream_id: int, inbound: int, outbound: int) -> None:
        super().__init__(stream_id, _CONFIG, inbound, outbound)
        self.max_outbound_frame_size = MAX_FRAME_SIZE
        self._inbound_window_manager = _Window(inbound)

    def _initialize_content_length(self, headers: Any) -> None:
        pass

    def _track_content_length(self, length: int, end_stream: bool) -> None:
        pass


class ServerConnection(H2Connection):
    """
    The state of a connection.

    :param config: the server's settings
    """

    def __init__(self, config: ServerConfig) -> None:
        super().__init__(_CONFIG)
        # In force at once, not only when the client has acknowledged them.
        self.local_settings = _Settings(
            False,
            {
                SettingCodes.MAX_CONCURRENT_STREAMS: config.h2_max_concurrent_streams,
                SettingCodes.INITIAL_WINDOW_SIZE: config.h2_stream_window,
                SettingCodes.MAX_HEADER_LIST_SIZE: config.max_head_size,
                SettingCodes.ENABLE_CONNECT_PROTOCOL: int(bool(config.upgrade_tokens)),
                _NO_RFC7540_PRIORITIES: 1,  # type: ignore[dict-item]
            },
        )
        self.remote_settings = _Settings(True)
        self.encoder = _NO_ENCODER
        self.decoder: FieldDecoder = FieldDecoder(2 * config.max_head_size)
        self._closed_streams: dict[int, StreamClosedBy | None] = {}
        #: The bytes that the client lets a new stream send.
        self.peer_window = DEFAULT_WINDOW
        self._window = config.h2_connection_window
        #: Resets of ours that the client's frames provoked.
        self.provoked_resets = 0
        #: Whether the client has acknowledged our settings.
        self.settings_acknowledged = False
        #: What the next header block must begin with.
        self.block_prefix = b""

    def greet(self, upgraded: bytes | None = None) -> bool:
        """
        Write our half of the connection preface.

        :param upgraded: the client's settings, if stream 1 has come with an upgrade
        :return: False if these are not valid
        """
        if upgraded is None:
            self.initiate_connection()
        else:
            # Base64 without its padding (RFC 7540 section 3.2.1).
            if not _SETTINGS_HEADER.fullmatch(upgraded):
                return False
            try:
                self.initiate_upgrade_connection(upgraded + b"=" * (-len(upgraded) % 4))
            except (ValueError, ProtocolError, InvalidFrameError, InvalidDataError):
                return False
        if self._window > DEFAULT_WINDOW:
            self.increment_flow_control_window(self._window - DEFAULT_WINDOW)
        return True

    # -- Frames in -----------------------------------------------------------------------------

    def receive_frame(self, frame: bytes) -> list[Event]:
        """
        Take one whole frame.

        (h2's own splitter would lose the requests that came before a wrong frame in one read.)

        :raises ConnectionFault: if it ends the connection
        """
        try:
            parsed, _ = Frame.parse_frame_header(memoryview(frame)[:9])
            parsed.parse_body(memoryview(frame)[9:])
            return self._receive_frame(parsed)
        except (InvalidDataError, InvalidPaddingError) as error:
            raise ConnectionFault(ErrorCodes.PROTOCOL_ERROR, _sentence(error)) from None
        except InvalidFrameError as error:
            raise ConnectionFault(ErrorCodes.FRAME_SIZE_ERROR, _sentence(error)) from None
        except ProtocolError as error:
            raise ConnectionFault(error.error_code, _sentence(error)) from None

    def receive_part(self, stream_id: int, size: int, ends: int) -> bool:
        """
        Count DATA without padding, as ``receive_frame`` does, and note if the stream ends with it.

        :param size: bytes of it
        :param ends: not 0 if it is the last of its stream
        :return: False if it is not quite in order, so that h2 must take it
        """
        stream = self.streams.get(stream_id)
        if stream is None or stream.state_machine.state not in _MAY_RECEIVE:
            return False
        ours, its = self._inbound_flow_control_window_manager, stream._inbound_window_manager
        if size > ours.current_window_size or size > its.current_window_size:
            return False
        ours.current_window_size -= size
        its.current_window_size -= size
        if ends:
            stream.state_machine.process_input(StreamInputs.RECV_END_STREAM)
        return True

    def receive_window(self, stream_id: int, increment: int) -> bool:
        """
        Open a window that we may send in, as ``receive_frame`` does.

        :param stream_id: the stream, 0 for the connection
        :param increment: by how many bytes
        :return: False if it is not quite in order, so that h2 must take it
        """
        if not stream_id:
            window = self.outbound_flow_control_window + increment
            if not increment or window > LARGEST_WINDOW:
                return False
            self.outbound_flow_control_window = window
            return True
        stream = self.streams.get(stream_id)
        if stream is None or not increment:
            return False
        window = stream.outbound_flow_control_window + increment
        if window > LARGEST_WINDOW or stream.state_machine.state is StreamState.CLOSED:
            return False
        stream.outbound_flow_control_window = window
        return True

    def acknowledge(self, stream_id: int, size: int) -> None:
        """Let the client send as many bytes more, on the stream and on the connection."""
        self.refund(size)
        increment = self.streams[stream_id]._inbound_window_manager.process_bytes(size)
        if increment:
            self._open_window(stream_id, increment)

    @property
    def open_inbound_streams(self) -> int:
        """0: the limit is ours to keep, and walking all streams for each new one costs."""
        return 0

    def _begin_new_stream(self, stream_id: int, allowed_ids: Any) -> H2Stream:
        if stream_id <= self.highest_inbound_stream_id:
            raise StreamIDTooLowError(stream_id, self.highest_inbound_stream_id)
        if not stream_id % 2:
            raise ProtocolError("a client's streams have odd numbers")
        self.highest_inbound_stream_id = stream_id
        return self._make_stream(stream_id)

    def _make_stream(self, stream_id: int) -> H2Stream:
        window = self.local_settings.initial_window_size
        if not self.settings_acknowledged:
            window = max(window, DEFAULT_WINDOW)  # all that the client may know of
        stream = self.streams[stream_id] = _Stream(stream_id, window, self.peer_window)
        return stream

    def _receive_settings_frame(self, frame: SettingsFrame) -> tuple[list[Frame], list[Event]]:
        if "ACK" in frame.flags:
            if not self.settings_acknowledged:
                self._windows_known()
            self.settings_acknowledged = True
        elif SettingCodes.HEADER_TABLE_SIZE in frame.settings:
            # This side never uses a table, and says so once it may have shrunk (RFC 7541 4.2).
            self.block_prefix = SIZE_UPDATE
        # h2 would keep every unknown one for ever.
        for key in tuple(frame.settings):
            if key not in _KNOWN_SETTINGS:
                del frame.settings[key]
        answer = super()._receive_settings_frame(frame)
        self.peer_window = self.remote_settings.initial_window_size
        return answer

    def _windows_known(self) -> None:
        """The client knows our windows: if they are small, what it has is less from now on."""
        initial = self.local_settings.initial_window_size
        if initial < DEFAULT_WINDOW:
            for stream in self.streams.values():
                manager = stream._inbound_window_manager
                manager.current_window_size -= DEFAULT_WINDOW - initial
                manager.max_window_size = initial

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        # For h2 the connection ends with it; but streams that are open go on (RFC 9113 6.8).
        event = ConnectionTerminated()
        event.last_stream_id = frame.last_stream_id
        event.additional_data = frame.additional_data
        return [], [event]

    def _handle_data_on_closed_stream(
        self, events: list[Event], exc: Any, frame: DataFrame
    ) -> tuple[list[Frame], list[Event]]:
        if self.was_reset(frame.stream_id):  # on its way then: not worth another reset
            self.refund(frame.flow_controlled_length)
            return [], events + exc._events
        return super()._handle_data_on_closed_stream(events, exc, frame)

    def _prepare_for_sending(self, frames: list[Frame]) -> None:
        for frame in frames:
            if type(frame) is RstStreamFrame:
                self.provoked_resets += 1
        super()._prepare_for_sending(frames)

    def was_reset(self, stream_id: int) -> bool:
        """Whether we reset the stream: what is on its way to it is dropped (RFC 9113 5.1)."""
        if stream_id in self.streams:
            return False
        return self._closed_streams.get(stream_id) is StreamClosedBy.SEND_RST_STREAM

    # -- Streams that h2 need not know of ------------------------------------------------------

    def open(self, stream_id: int) -> list[Event]:
        """Open a stream whose request goes on after its head."""
        self.open_lightly(stream_id)
        return self._make_stream(stream_id).state_machine.process_input(StreamInputs.RECV_HEADERS)

    def open_lightly(self, stream_id: int) -> None:
        """Note that a stream was opened by a request without a body."""
        self.highest_inbound_stream_id = stream_id
        if self.state_machine.state is ConnectionState.IDLE:
            self.state_machine.process_input(ConnectionInputs.RECV_HEADERS)

    def adopt(self, stream_id: int) -> None:
        """Begin to keep the state of a stream that was opened lightly."""
        machine = self._make_stream(stream_id).state_machine
        machine.process_input(StreamInputs.RECV_HEADERS)
        machine.process_input(StreamInputs.RECV_END_STREAM)

    def has_ended(self, stream_id: int) -> bool:
        """Whether the client has ended its half of a stream that is open."""
        return self.streams[stream_id].state_machine.state is StreamState.HALF_CLOSED_REMOTE

    def forget(self, stream_id: int, closed_by: StreamClosedBy) -> None:
        """Note that a stream is closed."""
        self.streams.pop(stream_id, None)
        closed = self._closed_streams
        closed[stream_id] = closed_by
        if len(closed) > _CLOSED_STREAMS:
            self._closed_streams = dict(islice(closed.items(), _CLOSED_STREAMS // 2, None))

    # -- Frames out ----------------------------------------------------------------------------

    def send_block(
        self, stream_id: int, block: bytes, end_stream: bool = False, interim: bool = False
    ) -> None:
        """
        Send a header block, in as many frames as it takes.

        :param block: the fields, encoded without any table
        :param end_stream: whether nothing follows
        :param interim: whether it is a response that another one follows
        """
        machine = self.streams[stream_id].state_machine
        machine.process_input(
            StreamInputs.SEND_INFORMATIONAL_HEADERS if interim else StreamInputs.SEND_HEADERS
        )
        if end_stream:
            machine.process_input(StreamInputs.SEND_END_STREAM)
        if self.block_prefix:
            block = self.block_prefix + block
            self.block_prefix = b""
        kind, flags = HEADERS, int(end_stream)
        for start in range(0, len(block), MAX_FRAME_SIZE) or (0,):
            piece = block[start : start + MAX_FRAME_SIZE]
            if start + MAX_FRAME_SIZE >= len(block):
                flags |= END_HEADERS
            self._data_to_send += frame_head(len(piece), kind, flags, stream_id) + piece
            kind, flags = CONTINUATION, 0

    def stream_window(self, stream_id: int) -> int:
        """Return how many bytes of DATA the stream's own window lets it send."""
        stream = self.streams.get(stream_id)
        return self.peer_window if stream is None else stream.outbound_flow_control_window

    def window(self, stream_id: int) -> int:
        """Return how many bytes of DATA the stream may send now."""
        return min(
            self.streams[stream_id].outbound_flow_control_window, self.outbound_flow_control_window
        )

    def count_data(self, stream_id: int, size: int, end_stream: bool = False) -> None:
        """Note that DATA was sent."""
        stream = self.streams[stream_id]
        stream.outbound_flow_control_window -= size
        self.outbound_flow_control_window -= size
        if end_stream:
            stream.state_machine.process_input(StreamInputs.SEND_END_STREAM)

    def reset(self, stream_id: int, code: int) -> None:
        """Send RST_STREAM."""
        self._data_to_send += frame_head(4, RST_STREAM, 0, stream_id) + struct.pack(">L", code)

    def go_away(self, last_stream_id: int, code: int, text: str = "") -> None:
        """Send GOAWAY. (h2's own way would end every stream in progress.)"""
        payload = struct.pack(">LL", last_stream_id, code) + text.encode()
        self._data_to_send += frame_head(len(payload), GOAWAY, 0, 0) + payload

    def refund(self, size: int) -> None:
        """Give bytes back to the connection's window that no stream's application will take."""
        increment = self._inbound_flow_control_window_manager.process_bytes(size)
        if increment:
            self._open_window(0, increment)

    def _open_window(self, stream_id: int, increment: int) -> None:
        self._data_to_send += frame_head(4, WINDOW_UPDATE, 0, stream_id) + struct.pack(
            ">L", increment
        )


#: What h2 and hyperframe mean by their errors. (Some of these say no more than a number.)
_SENTENCES: dict[type[Exception], str] = {
    FlowControlError: "a window was exceeded, or opened too far",
    InvalidDataError: "a frame makes no sense",
    InvalidFrameError: "a frame has a wrong length",
    InvalidPaddingError: "the padding of a frame is longer than the frame",
    InvalidSettingsValueError: "a setting has an impossible value",
    NoSuchStreamError: "a frame came for a stream that is not open",
    StreamClosedError: "a frame came for a stream that is closed",
    StreamIDTooLowError: "a stream was opened with a lower number than one before it",
}


def _sentence(error: Exception) -> str:
    for kind in type(error).__mro__:
        if kind in _SENTENCES:
            return _SENTENCES[kind]
    return str(error)[:200].encode("ascii", "replace").decode() or type(error).__name__
