"""
The resources that handlers inject: a server waits for them, and stops before they go.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from asphalt.core import Context, qualified_name

from kyoukai.server.group import current_group

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ("await_resources",)

logger = logging.getLogger("kyoukai.server")

#: Seconds to wait where nothing says that all components have started. Asphalt's own limit for
#: the whole start is 10.
_TIMEOUT = 5.0


async def await_resources(name: str, wanted: Collection[tuple[type, str]]) -> None:
    """
    Wait until resources are there.

    It also makes the server stop before these resources go. One that never comes is no error: a
    hook may add it to each request's context.

    :param name: the application's name, for the warning
    :param wanted: types and names
    """
    if current_group.get() is None:  # else every component has started
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TIMEOUT):
                for kind, each in wanted:
                    async with Context() as probe:
                        await probe.request_resource(kind, each)
    for kind, each in wanted:
        # In a context of its own: what factories make for it ends with it.
        async with Context() as probe:
            if probe.get_resource(kind, each) is None:
                logger.warning(
                    "%s: no component has added the resource %s %r that handlers inject",
                    name,
                    qualified_name(kind),
                    each,
                )
