"""
Servers as resources, and the group that they form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kyoukai.exceptions import ConfigurationError
from kyoukai.server.group import ServerGroup
from kyoukai.server.listener import Server

if TYPE_CHECKING:
    from asphalt.core import Context

__all__ = ("group_of", "publish_server")


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
