"""
``TreeNode``: what a blueprint gets from its place in the tree: prefix and host.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Self

from kyoukai.exceptions import RouteError

__all__ = ("TreeNode",)


class TreeNode(ABC):
    """A place in the tree of blueprints; parameters as for a blueprint."""

    def __init__(
        self,
        name: str,
        parent: Self | None = None,
        prefix: str = "",
        *,
        host_matching: bool = False,
        host: str | None = None,
    ) -> None:
        self.name = name
        self._parent: Self | None = None
        self._children: list[Self] = []
        self._host = host
        self._host_matching = host_matching
        self.prefix = prefix
        if parent is not None:
            parent.add_child(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self.computed_prefix or '/'}>"

    @abstractmethod
    def invalidate(self) -> None:
        """Something changed: what was made of the tree is void."""

    @property
    def parent(self) -> Self | None:
        """The parent."""
        return self._parent

    @property
    def ancestors(self) -> Iterator[Self]:
        """The parent, its parent, and so on."""
        above = self._parent
        while above is not None:
            yield above
            above = above._parent

    @property
    def children(self) -> tuple[Self, ...]:
        """The blueprints directly below."""
        return tuple(self._children)

    @property
    def prefix(self) -> str:
        """What the paths begin with, without the parent's prefix."""
        return self._prefix

    @prefix.setter
    def prefix(self, value: str) -> None:
        if value and not value.startswith("/"):
            raise RouteError(f"the prefix of {self.name!r} must begin with '/', not be {value!r}")
        self._prefix = value
        self.invalidate()

    @property
    def computed_prefix(self) -> str:
        """What the paths begin with, the parents' prefixes included."""
        own = self._prefix.rstrip("/")
        return own if self._parent is None else self._parent.computed_prefix + own

    @property
    def host(self) -> str | None:
        """The host that the routes answer to; None for any."""
        if self._host is None and self._parent is not None:
            return self._parent.host
        return self._host

    @property
    def host_matching(self) -> bool:
        """Whether this blueprint asks for hosts to be told apart."""
        return self._host_matching or self._host is not None

    def traverse_tree(self) -> Iterator[Self]:
        """Iterate over all blueprints below this one, children before their parents."""
        for child in self._children:
            yield from child.traverse_tree()
            yield child

    def add_child(self, blueprint: Self) -> Self:
        """
        Add a blueprint below this one.

        :raises RouteError: if it has another parent, or is this one or above it
        """
        if blueprint is self or blueprint in self.ancestors:
            raise RouteError(f"blueprint {blueprint.name!r} cannot be below itself")
        if blueprint._parent is not None and blueprint._parent is not self:
            raise RouteError(
                f"blueprint {blueprint.name!r} is already a child of {blueprint._parent.name!r}"
            )
        if blueprint not in self._children:
            self._children.append(blueprint)
            blueprint._parent = self
            blueprint.invalidate()
        return blueprint
