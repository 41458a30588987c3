"""
An application as a resource, with the components that it brings along.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from asphalt.core import ContainerComponent

from kyoukai.app import Kyoukai
from kyoukai.exceptions import ConfigurationError

if TYPE_CHECKING:
    from asphalt.core import Context

__all__ = ("publish_app",)


class _Started(asyncio.Event):
    """A resource that says when an application's own components have started."""


async def publish_app(app: Kyoukai, ctx: Context) -> None:
    """
    Publish an application, and start its components, unless another component has.

    :param app: the application
    :param ctx: the root context
    :raises ConfigurationError: if another application has its name
    """
    name = re.sub(r"\W", "_", app.name) or "default"
    published = ctx.get_resource(Kyoukai, name)
    if published is app:
        await ctx.require_resource(_Started, name).wait()
        return
    if published is not None:
        raise ConfigurationError(
            f"two applications are called {app.name!r}; give each a name of its own"
        )
    started = _Started()
    ctx.add_resource(started, name)
    types: list[type] = list(dict.fromkeys((type(app), Kyoukai)))
    ctx.add_resource(app, name, types=types)
    if ctx.get_resource(Kyoukai) is None:
        ctx.add_resource(app, types=types)
    if app.components:
        container = ContainerComponent()
        for alias, (kind, config) in app.components.items():
            container.add_component(alias, kind, **config)
        await container.start(ctx)
    started.set()
