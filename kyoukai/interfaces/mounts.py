"""
``MountedInterface``: several applications behind one server, told apart by the prefix of the path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kyoukai.interfaces.native import NativeInterface
from kyoukai.interfaces.proxy import ProxyInterface
from kyoukai.wsgi import application_path

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from asphalt.core import Context

    from kyoukai.mount import Mount
    from kyoukai.stream import Interface, RequestHead, StreamState

__all__ = ("MountedInterface", "kind_of", "natives_of", "shut_down", "start_up")


class MountedInterface:
    """
    Passes each stream on to the application that its path belongs to.

    The longest prefix wins, on whole segments of the decoded path. A rule of the native
    application wins over a prefix that is no longer than the rule's static part. What belongs to
    no prefix goes to the application that the others are mounted on.

    :param base: the interface of that application
    :param mounted: the mounts, with the interface of each, in their order
    """

    #: Begins with a stream, perhaps without a task; only where there is a proxy to gain by that.
    start_at_once: (
        Callable[[StreamState, Callable[[StreamState, Interface], None]], bool] | None
    ) = None

    def __init__(self, base: Interface, mounted: Sequence[tuple[Mount, Interface]]) -> None:
        self.base = base
        self.mounted = tuple(mounted)
        self._claims = base.app.root.static_part if isinstance(base, NativeInterface) else None
        self._by_prefix = {mount.prefix: (mount, interface) for mount, interface in mounted}
        self._depth = max(mount.prefix.count("/") for mount, _ in mounted)
        self._started: list[Any] = []
        # A proxy's requests pass the middlewares of the application that it is mounted on.
        pipeline = base.pipeline if isinstance(base, NativeInterface) else None
        for mount, interface in mounted:
            if isinstance(interface, ProxyInterface):
                interface.belong_to(pipeline, mount.prefix)
                self.start_at_once = self._start_at_once

    @property
    def name(self) -> str:
        """What the start-up line calls it: the kind of each application."""
        base, *mounted = self.kinds("")
        return f"{base.rpartition(': ')[2]}; {', '.join(mounted)}"

    def kinds(self, prefix: str) -> Iterator[str]:
        """
        Return a text for each application: where it is, and its kind.

        :param prefix: the prefix of all of them
        """
        yield f"{prefix or '/'}: {kind_of(self.base)}"
        for mount, each in self.mounted:
            place = prefix + mount.prefix
            if isinstance(each, MountedInterface):
                yield from each.kinds(place)
            else:
                yield f"{place or '/'}: {kind_of(each)}"

    def __call__(self, stream: StreamState) -> Awaitable[None]:
        """Answer a stream."""
        return self._choose(stream)(stream)

    def _start_at_once(
        self, stream: StreamState, in_task: Callable[[StreamState, Interface], None]
    ) -> bool:
        """Begin with a stream; a proxy may need no task for it."""
        interface = self._choose(stream)
        if not (isinstance(interface, ProxyInterface) and interface.start_at_once(stream, in_task)):
            in_task(stream, interface)
        return True

    def _choose(self, stream: StreamState) -> Interface:
        """Return what answers a stream, whose head it finds as that expects it."""
        head = stream.head
        found = self._find(head)
        if found is None:
            return self.base
        mount, interface = found
        if not isinstance(interface, ProxyInterface):  # which passes the whole path on
            _enter(head, mount)
        return interface

    def _find(self, head: RequestHead) -> tuple[Mount, Interface] | None:
        """Return the mount that a path belongs to; None if it is the base's."""
        path = application_path(head) if head.root_path else head.path
        if path[:1] != "/":
            return None  # OPTIONS *
        parts = path.split("/", self._depth + 1)
        for length in range(min(len(parts), self._depth + 1), 0, -1):
            prefix = "/".join(parts[:length])
            found = self._by_prefix.get(prefix)
            if found is not None:
                return None if self._is_native(path, head, prefix) else found
        return None

    def _is_native(self, path: str, head: RequestHead, prefix: str) -> bool:
        if self._claims is None:
            return False
        static = self._claims(path, head.authority, head.scheme)
        return static is not None and len(static) >= len(prefix)

    # -- Starting and stopping -----------------------------------------------------------------

    async def startup(self, context: Context) -> None:
        """
        Get the applications ready, in their order.

        :param context: the root context
        """
        for each in (self.base, *(interface for _, interface in self.mounted)):
            self._started.append(each)
            await start_up(each, context)

    async def shutdown(self) -> None:
        """End those that have been started, the last one first."""
        failures: list[Exception] = []
        while self._started:
            try:
                await shut_down(self._started.pop())
            except Exception as error:  # the others have their end to come to as well
                failures.append(error)
        if len(failures) == 1:
            raise failures[0]
        if failures:
            raise ExceptionGroup("several applications failed at their end", failures)


async def start_up(interface: Any, context: Context) -> None:
    """
    Get an interface's application ready, if the interface has a say in that.

    :param interface: the interface
    :param context: the root context
    """
    startup = getattr(interface, "startup", None)
    if startup is not None:
        await startup(context)


async def shut_down(interface: Any) -> None:
    """
    End an interface's application.

    :param interface: the interface
    """
    shutdown = getattr(interface, "shutdown", None)
    if shutdown is not None:
        await shutdown()


def kind_of(interface: Any) -> str:
    """Return what the start-up line calls an interface."""
    return str(getattr(interface, "name", type(interface).__name__))


def natives_of(interface: Any) -> Iterator[NativeInterface]:
    """Return the native ones among an interface and those that it passes streams on to."""
    if isinstance(interface, NativeInterface):
        yield interface
    elif isinstance(interface, MountedInterface):
        yield from natives_of(interface.base)
        for _, each in interface.mounted:
            yield from natives_of(each)
    else:  # one that passes streams on to others
        for each in getattr(interface, "interfaces", ()):
            yield from natives_of(each)


def _enter(head: RequestHead, mount: Mount) -> None:
    """Let a head say that what comes after the mount's prefix is the application's path."""
    outer = head.root_path
    if outer and application_path(head) == head.path:  # a proxy has taken it off
        head.path = outer + head.path
        head.raw_path = quote(outer).encode() + head.raw_path
    inner = outer + mount.prefix
    if mount.root_path is None:
        head.root_path = inner
        return
    head.root_path = mount.root_path
    head.path = mount.root_path + head.path[len(inner) :] or "/"
    head.raw_path = quote(mount.root_path).encode() + head.below(inner) or b"/"
