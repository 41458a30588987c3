"""
``Claims``: which paths the rules of an application match, whatever the method.

A mounted application gets the paths below its prefix, except those that a native rule claims: one
that matches, and whose static part is as long as the prefix, or longer.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter, RequestRedirect, Rule

from kyoukai.matcher import RouteMap

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ("Claims",)

#: Paths whose answers are remembered, and how long they may be: the client chooses them.
_REMEMBERED = 1024
_LONGEST = 256


class Claims:
    """
    The paths of a routing table.

    :param maps: the maps of requests and of sockets
    """

    def __init__(self, maps: Iterable[RouteMap]) -> None:
        first, *others = maps
        self._map = RouteMap(
            _static_part,
            host_matching=first.host_matching,
            converters=first.converters,
            strict_slashes=first.strict_slashes,
            merge_slashes=False,  # what is below a prefix is the mounted application's affair
        )
        for each in (first, *others):
            for rule in each.iter_rules():
                if not rule.build_only:
                    copy = rule.empty()
                    copy.methods = None
                    copy.websocket = False
                    self._map.add(copy)
        self._map.update()
        self._find = self._static_part_of
        if all(_is_constant(each) for each in first.converters.values()):
            self._find = lru_cache(_REMEMBERED)(self._static_part_of)

    def static_part(self, path: str, host: str) -> str | None:
        """
        Return the static part of the rule that matches a path, on whole segments.

        A path that a rule would match with a slash at its end counts as matched.

        :param path: the path, decoded
        :param host: the host as the rules have it
        :return: such as ``/users`` for ``/users/<name>``; None if no rule matches
        """
        if len(path) > _LONGEST:
            return self._static_part_of(path, host)
        return self._find(path, host)

    def _static_part_of(self, path: str, host: str) -> str | None:
        found = self._map.find(host, path, "GET")
        if found is not None:
            leaf, values = found
            try:
                if values:
                    leaf.params(values)  # a converter may find that it does not match after all
                part: str = leaf.payload
                return part
            except ValueError:
                pass
        adapter = self._map.bind(host)
        for each in (path, f"{path}/"):
            try:
                rule, _ = adapter.match(each, "GET", return_rule=True, websocket=False)
                return _static_part(rule)
            except RequestRedirect:
                continue
            except HTTPException:
                return None
        return None


def _static_part(rule: Rule) -> str:
    text, variable, _ = rule.rule.partition("<")
    return text.rpartition("/")[0] if variable else text.rstrip("/")


def _is_constant(converter: type[BaseConverter]) -> bool:
    """Whether a converter of that class always says the same: one of Werkzeug's, or of ours."""
    return converter.__module__.partition(".")[0] in ("kyoukai", "werkzeug")
