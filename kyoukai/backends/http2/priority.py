"""
Which stream sends next: extensible priorities (RFC 9218) and the scheduler that heeds them.
"""

from __future__ import annotations

import re
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from kyoukai.backends.http2.state import H2State

__all__ = ("DEFAULT_PRIORITY", "Priority", "Scheduler", "parse_priority")

#: Every how many frames one goes to the stream that has waited longest, whatever its priority.
_FAIR_TURN = 8

_MEMBERS = re.compile(rb'(?:"(?:[^"\\]|\\.)*"|[^",])+')
_KEY = re.compile(rb"[a-z*][a-z0-9_\-.*]*")
_LONGEST = 256
#: Entries of no more use that the heap may hold.
_LEFTOVERS = 64


class Priority(NamedTuple):
    """
    What a client says of one of its requests.

    :param urgency: 0, the most urgent, to 7
    :param incremental: whether parts of the answer are of use by themselves
    """

    urgency: int = 3
    incremental: bool = False


DEFAULT_PRIORITY = Priority()


def parse_priority(value: bytes) -> Priority:
    """
    Parse a priority field value, as in the ``priority`` header and in PRIORITY_UPDATE.

    It is a dictionary of structured fields (RFC 8941). What is unknown, of a wrong type or out of
    range is ignored, as RFC 9218 section 4 asks; of a member that comes twice the last one counts.
    """
    urgency, incremental = DEFAULT_PRIORITY
    value = value.strip(b" \t")
    if len(value) > _LONGEST:
        value = value[:_LONGEST].rpartition(b",")[0]
    for member in _MEMBERS.findall(value):
        key, equals, item = member.partition(b";")[0].strip(b" \t").partition(b"=")
        if not _KEY.fullmatch(key):
            return DEFAULT_PRIORITY
        if key == b"u":
            known = len(item) == 1 and item in b"01234567"
            urgency = int(item) if known else DEFAULT_PRIORITY.urgency
        elif key == b"i" and (not equals or item in (b"?0", b"?1")):
            incremental = item != b"?0"
    return Priority(urgency, incremental)


class Scheduler:
    """
    The streams of a connection that have bytes to send and a window to send them in.

    One frame a turn: to the most urgent, among these to the oldest stream; incremental ones take
    turns. Every eighth frame goes to whoever has waited longest, so that nobody starves. A turn
    costs the logarithm of the number of streams.
    """

    def __init__(self) -> None:
        # Entries whose number is no longer the stream's are leftovers.
        self._heap: list[tuple[int, int, int, int, H2State]] = []
        self._waiting: dict[H2State, int] = {}  # in the order in which they began to wait
        self._rounds = [0] * 8  # by urgency
        self._number = 0
        self._turn = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, stream: object) -> bool:
        return stream in self._waiting

    def add(self, stream: H2State) -> None:
        """Let a stream wait for a turn; one that waits already takes its place anew."""
        self._number += 1
        self._waiting[stream] = self._number
        urgency, incremental = stream.priority
        rounds = 0
        if incremental:  # whoever is new takes part in the round that is on
            rounds = stream.rounds = max(stream.rounds, self._rounds[urgency])
        if len(self._heap) > 2 * len(self._waiting) + _LEFTOVERS:
            self._heap = [entry for entry in self._heap if self._waiting.get(entry[4]) == entry[3]]
            heapify(self._heap)
        heappush(self._heap, (urgency, rounds, stream.stream_id, self._number, stream))

    def discard(self, stream: H2State) -> None:
        """Let a stream wait no longer."""
        self._waiting.pop(stream, None)
        if not self._waiting:
            self._heap.clear()

    def next(self) -> H2State:
        """
        Return the stream whose turn it is; it waits no longer, until it is added again.

        :raises IndexError: if none waits
        """
        self._turn += 1
        if self._turn % _FAIR_TURN == 0 and self._waiting:
            stream = next(iter(self._waiting))
        else:
            while True:
                _, _, _, number, stream = heappop(self._heap)
                if self._waiting.get(stream) == number:
                    break
        del self._waiting[stream]
        urgency, incremental = stream.priority
        if incremental:
            self._rounds[urgency] = max(self._rounds[urgency], stream.rounds)
            stream.rounds += 1
        if not self._waiting:
            self._heap.clear()
        return stream
