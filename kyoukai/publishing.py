"""
What a component publishes as resources: applications, with the components that they bring along,
and servers.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from asphalt.core import ContainerComponent

from kyoukai.app import Kyoukai
from kyoukai.exceptions import ConfigurationError
from kyoukai.server.group import ServerGroup
from kyoukai.server.listener import Server

if TYPE_CHECKING:
    from asphalt.core import Context

__all__ = ("group_of", "publish_app", "publish_server")


class _Started(asyncio.Event):
    """A resource that says when an application's own components have started."""


def group_of(ctx: Context) -> ServerGroup:
    """
    Return the servers of the program that a context is the root of.

    :param ctx: the root context
    """
    group = ctx.get_resource(ServerGroup)
    if group is None:
        group = ServerGroup()
        ctx.add_resource(group)
    return group


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


def publish_server(server: Server, ctx: Context, name: str | None, prefix: str) -> str:
    """
    Publish a server.

    :param server: the server, bound
    :param ctx: the root context
    :param name: the resource's name; by default the prefix, and the port or ``unix``
    :param prefix: such as ``http``
    :return: its name
    :raises ConfigurationError: if the name is taken
    """
    if name is not None:
        if ctx.get_resource(Server, name) is not None:
            raise ConfigurationError(f"resource_name: {name!r} is taken by another server")
    else:
        name = first = f"{prefix}_{server.port or 'unix'}"
        number = 2
        while ctx.get_resource(Server, name) is not None:  # the same port on another address
            name = f"{first}_{number}"
            number += 1
    ctx.add_resource(server, name)
    return name
