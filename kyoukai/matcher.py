"""
``RouteMap``: Werkzeug's map with a quick way to the rules that most requests match.

Werkzeug walks a tree of states, segment by segment: static transitions first, then dynamic ones
by weight, depth first, with a regular expression for each dynamic one. The quick walk goes the
same way in the same order over a compiled copy of that tree. It tests plain ``int`` and string
converters without a regular expression, and it only ever reports a match: a miss, a redirect, a
405 or anything out of the ordinary is left to Werkzeug, so that the two cannot differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from werkzeug.routing import BaseConverter, IntegerConverter, Map, Rule
from werkzeug.routing.matcher import State
from werkzeug.routing.rules import RulePart

__all__ = ("ANY_HOST", "AnyHostConverter", "AnyHostRule", "Leaf", "RouteMap")

#: Name of the variable that stands for the whole host in rules that match any.
ANY_HOST: Final = "__host"

_INT_PART = r"(?P<__werkzeug_0>\d+)\Z"
_TEXT_PARTS = (r"(?P<__werkzeug_0>[^/]{1,})\Z", r"(?P<__werkzeug_0>[^/]+)\Z")

# How a dynamic segment is tested.
_INT, _TEXT, _PATTERN, _REST = range(4)


class AnyHostConverter(BaseConverter):
    """Matches every host, after all that are more particular."""

    regex = "[^/]*"
    part_isolating = True
    weight = 1000


class AnyHostRule(Rule):
    """A rule for any host in a map with host matching, which has no notion of one."""

    def __init__(self, string: str, **options: Any) -> None:
        super().__init__(string, **{**options, "host": f"<any_host:{ANY_HOST}>"})

    def compile(self) -> None:
        """Compile the rule; nobody has to know of the host's variable."""
        super().compile()
        self.arguments.discard(ANY_HOST)

    def build(self, values: Any, append_unknown: bool = True) -> Any:
        """Build a URL; no domain in it means the one that the request came to."""
        built = super().build({**values, ANY_HOST: ""}, append_unknown)
        return None if built is None else (None, built[1])


class Leaf:
    """
    Where the quick walk ends: a rule that matches.

    :param rule: the rule
    :param payload: what the map's owner wants to know of it
    """

    __slots__ = ("names", "payload", "rule", "single")

    def __init__(self, rule: Rule, payload: Any) -> None:
        self.rule = rule
        self.payload = payload
        #: For each value of the path its name and what converts it, if anything does.
        self.names: tuple[tuple[str, Callable[[str], Any] | None], ...] = tuple(
            (str(name), _conversion(converter)) for name, converter in rule._converters.items()
        )
        one = len(self.names) == 1 and self.names[0][0] != ANY_HOST
        self.single = self.names[0] if one else None

    def params(self, values: list[str]) -> dict[str, Any]:
        """
        Return the arguments for a match.

        :raises ValueError: if Werkzeug must decide
        """
        if self.single is not None:
            name, convert = self.single
            return {name: values[0] if convert is None else convert(values[0])}
        return {
            name: value if convert is None else convert(value)
            for (name, convert), value in zip(self.names, values, strict=False)
            if name != ANY_HOST
        }


def _conversion(converter: BaseConverter) -> Callable[[str], Any] | None:
    if type(converter).to_python is BaseConverter.to_python:
        return None
    if (
        type(converter) is IntegerConverter
        and not converter.fixed_digits
        and converter.min is None
        and converter.max is None
    ):
        return int
    return converter.to_python


class _Node:
    """A state of Werkzeug's tree, compiled."""

    __slots__ = ("dynamic", "fallback", "leaves", "lenient", "simple", "slash", "static")

    def __init__(self, state: State, leaf_of: Callable[[Rule], Leaf | None]) -> None:
        self.static = {part: _Node(next_, leaf_of) for part, next_ in state.static.items()}
        self.lenient = any(not rule.strict_slashes for rule in state.rules)
        #: For each dynamic way on: how to test it, where it leads, whether nothing comes after it.
        lasts = len(state.dynamic) - 1 if not self.lenient else None
        self.dynamic = tuple(
            (*_test_of(part), _Node(next_, leaf_of), number == lasts)
            for number, (part, next_) in enumerate(state.dynamic)
        )
        #: The first rule for each method, and the one for methods that no rule names.
        self.leaves: dict[str, Leaf] = {}
        self.fallback: Leaf | None = None
        rules = [rule for rule in state.rules if not rule.websocket]
        for rule in rules:
            leaf = leaf_of(rule) or WERKZEUG
            if rule.methods is None:
                self.fallback = leaf
                break
            for method in rule.methods:
                self.leaves.setdefault(method, leaf)
        #: Whether a rule may want a slash at the end, or do without one.
        self.slash = "" in state.static and bool(state.static[""].rules)
        #: Whether all ways on are static.
        self.simple = not self.dynamic and not self.lenient


class _WerkzeugLeaf(Leaf):
    """Stands for a match, or a doubt, that Werkzeug must settle."""

    __slots__ = ()

    def __init__(self) -> None:
        pass


WERKZEUG: Final = _WerkzeugLeaf()


def _test_of(part: RulePart) -> tuple[int, Any, tuple[str, ...]]:
    """Return how a dynamic part is tested: the kind, a pattern's ``match``, and its groups."""
    if not part.final and part.content == _INT_PART:
        return _INT, None, ()
    if not part.final and part.content in _TEXT_PARTS:
        return _TEXT, None, ()
    # A part that ends with a slash of its own leads to a state without rules, so to Werkzeug.
    pattern = re.compile(part.content)
    groups = [name for name in pattern.groupindex if name.startswith("__werkzeug_")]
    groups.sort(key=lambda name: int(name[11:]))
    return (_REST if part.final else _PATTERN), pattern.match, tuple(groups)


def walk(node: _Node, parts: list[str], index: int, method: str, values: list[str]) -> Leaf | None:
    """
    Return the leaf that a path leads to; None if it leads nowhere from here.

    :param values: takes the values of variables; worthless unless a leaf is found
    """
    length = len(parts)
    while index < length:
        part = parts[index]
        index += 1
        child = node.static.get(part)
        if node.simple:
            if child is None:
                return None
            node = child
            continue
        before = len(values)
        if child is not None:
            leaf = walk(child, parts, index, method, values)
            if leaf is not None:
                return leaf
            del values[before:]
        for kind, match, groups, next_, last in node.dynamic:
            following = index
            if kind == _INT:
                if not part.isdecimal():  # what \d says too: not only 0 to 9
                    continue
                values.append(part)
            elif kind == _TEXT:
                if not part:
                    continue
                values.append(part)
            else:
                target = part
                if kind == _REST:
                    target, following = "/".join(parts[index - 1 :]), length
                matched = match(target)
                if matched is None:
                    continue
                values += [matched[group] for group in groups]
            if last:  # there is no need to come back here
                node, index = next_, following
                break
            leaf = walk(next_, parts, following, method, values)
            if leaf is not None:
                return leaf
            del values[before:]
        else:
            return WERKZEUG if node.lenient and part == "" and index == length else None
    leaf = node.leaves.get(method, node.fallback)
    if leaf is None and node.slash:
        return WERKZEUG
    return leaf


class RouteMap(Map):
    """
    A map that knows quick ways to its rules.

    :param payload_of: called with each rule when the map is compiled; what it returns goes into
        the rule's leaf, and None leaves the rule to Werkzeug
    :param options: as for Werkzeug's map
    """

    def __init__(self, payload_of: Callable[[Rule], Any | None], **options: Any) -> None:
        self._payload_of = payload_of
        self._start: _Node | None = None
        #: Paths without variables: payloads by path and method. Empty with host matching.
        self.exact: dict[str, dict[str, Any]] = {}
        super().__init__(**options)

    def add(self, rulefactory: Any) -> None:
        """Add rules; the map is compiled anew before the next match."""
        super().add(rulefactory)
        self._start = None
        self.exact.clear()

    def update(self) -> None:
        """Sort and compile the rules, if there are new ones."""
        if self._remap or self._start is None:
            super().update()
            self._compile()

    def find(self, host: str, path: str, method: str) -> tuple[Leaf, list[str]] | None:
        """
        Walk the quick way.

        :param host: the host in lower case; looked at with host matching only
        :param path: the path, decoded
        :param method: the method
        :return: a leaf with the values for its variables; None if Werkzeug must decide
        """
        node = self._start
        if node is None or path[:1] != "/" or path[1:2] == "/":
            return None
        values: list[str] = []
        if self.host_matching:
            leaf = walk(node, [host, *path.split("/")], 0, method, values)
        else:
            leaf = walk(node, path.split("/"), 1, method, values)
        return None if leaf is None or leaf is WERKZEUG else (leaf, values)

    def _compile(self) -> None:
        root = self._matcher._root
        self.exact.clear()
        if self.host_matching:
            self._start = _Node(root, self._leaf_of)
            return
        # The same start for every path: no subdomain, then the empty part before the first slash.
        for part in ("", ""):
            root = root.static.get(part, State())
        self._start = _Node(root, self._leaf_of)
        self._add_exact(self._start, "")

    def _add_exact(self, node: _Node, prefix: str) -> None:
        # Static transitions come first in every state, so nothing dynamic can win over these.
        payloads = {
            method: leaf.payload for method, leaf in node.leaves.items() if leaf is not WERKZEUG
        }
        if payloads and not prefix.startswith("//"):
            self.exact[prefix] = payloads
        for part, child in node.static.items():
            self._add_exact(child, f"{prefix}/{part}")

    def _leaf_of(self, rule: Rule) -> Leaf | None:
        if rule.defaults or rule.alias or rule.redirect_to is not None:
            return None
        if any(other.defaults for other in self._rules_by_endpoint[rule.endpoint]):
            return None  # the map may redirect from this rule to that one
        payload = self._payload_of(rule)
        return None if payload is None else Leaf(rule, payload)
