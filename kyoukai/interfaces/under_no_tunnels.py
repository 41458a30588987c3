"""
``NoTunnels``: what a wire below another server answers about tunnels, and about who is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kyoukai.exceptions import StreamStateError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kyoukai.rules import Header
    from kyoukai.stream import StreamState

__all__ = ("NoTunnels",)


class NoTunnels:
    """A wire below another server, which upgrades no request: no stream is upgradable."""

    peer_forwards = True
    has_raw_tunnels = False

    def peer(self, stream: StreamState) -> tuple[str, int] | None:
        """Return whom the server takes for the client."""
        return stream.head.client

    def accept_upgrade(self, stream: StreamState, headers: Sequence[Header]) -> None:
        """Not here."""
        raise StreamStateError("the server upgrades no request")

    def tunnel_write(self, stream: StreamState, data: bytes) -> None:
        """Not here."""

    def tunnel_waiting(self, stream: StreamState) -> int:
        """Nothing waits."""
        return 0

    def tunnel_full(self, stream: StreamState) -> bool:
        """Nothing waits."""
        return False

    def tunnel_end(self, stream: StreamState, complete: bool) -> None:
        """Not here."""
