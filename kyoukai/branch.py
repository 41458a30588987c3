"""
``Branch``: what surrounds the routes of a part of the tree: error handlers, hooks, middlewares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from werkzeug.exceptions import HTTPException

from kyoukai.handlers import ErrorTable, Hook, HookTable
from kyoukai.middleware import Bound
from kyoukai.route import Route
from kyoukai.tree import TreeNode

if TYPE_CHECKING:
    from kyoukai.blueprint import Blueprint

__all__ = ("Branch",)

F = TypeVar("F", bound=Callable[..., Any])


class Branch(TreeNode):
    """What a blueprint has beside its routes; parameters as for a blueprint."""

    def __init__(
        self,
        name: str,
        parent: Self | None = None,
        prefix: str = "",
        *,
        host_matching: bool = False,
        host: str | None = None,
    ) -> None:
        self._hooks = HookTable()
        self._errors = ErrorTable()
        #: The middlewares of this blueprint itself.
        self.middlewares: tuple[Bound, ...] = ()
        #: On the blueprint at the top: whether any in the tree has middlewares.
        self.uses_middleware = False
        self._below_root: tuple[Bound, ...] | None = None
        super().__init__(name, parent, prefix, host_matching=host_matching, host=host)

    def invalidate(self) -> None:
        """Something changed: what was made of the tree here, above and below is void."""
        for branch in (self, *self.ancestors, *self.traverse_tree()):
            branch._forget()

    def _forget(self) -> None:
        self._below_root = None

    @property
    def root(self) -> Self:
        """The blueprint at the top of the tree."""
        return self if self.parent is None else self.parent.root

    def add_child(self, blueprint: Self) -> Self:
        """Add a blueprint below this one; see :meth:`TreeNode.add_child`."""
        added = super().add_child(blueprint)
        if added.uses_middleware:
            self.root.uses_middleware = True
        return added

    def wrap_route(self, function: Callable[..., Any], **options: Any) -> Route:
        """Make a route of a function, without adding it; ``options`` are :class:`Route`'s."""
        return Route(function, **options)

    # -- Errors --------------------------------------------------------------------------------

    def errorhandler(
        self,
        code: int | type[BaseException],
        endcode: int | None = None,
        step: int | None = None,
    ) -> Callable[[F], F]:
        """Decorator for a function that answers errors; see :meth:`add_errorhandler`."""

        def decorate(callback: F) -> F:
            self.add_errorhandler(callback, code, endcode, step)
            return callback

        return decorate

    def add_errorhandler(
        self,
        callback: Callable[..., Any],
        startcode: int | type[BaseException],
        endcode: int | None = None,
        step: int | None = None,
    ) -> Route:
        """
        Add a function that answers errors. No hooks run for it.

        :param callback: called with context and exception, and with the socket (None for a
            request) if it has a third parameter ``ws``; returns what a handler may return
        :param startcode: a status, or a class of exceptions
        :param endcode: the end of a range of statuses, itself not in it
        :param step: the distance between two statuses of the range
        :raises RouteError: if these are no statuses and no class of exceptions
        """
        route = callback
        if not isinstance(route, Route):
            route = self.wrap_route(callback, should_invoke_hooks=False, do_argument_checking=False)
        self._errors.add(route, startcode, endcode, step)
        if route.bp is None:
            route.bp = cast("Blueprint", self)  # which every branch is
        return route

    def get_errorhandler(self, exc: BaseException | int) -> Route | None:
        """
        Return the handler for an exception or a status, or None.

        In each blueprint, from this one upwards: first the handler of the exception's class or
        its nearest base; then that of an ``HTTPException``'s status; then that of
        ``HTTPException``, ``Exception`` or ``BaseException``.

        An exception that is no ``HTTPException`` is worth a 500, so a handler of that status
        stands in the way of a general one further on: the answer is None then, and the
        ``InternalServerError`` that is made of the exception finds it.
        """
        for blueprint in (self, *self.ancestors):
            errors = blueprint._errors
            if isinstance(exc, int):
                found = errors.codes.get(exc)
            else:
                found = errors.particular(exc)
                if found is None and isinstance(exc, HTTPException):
                    found = errors.codes.get(exc.code or 0)
                elif found is None and errors.handles_failures:
                    return None
                found = found or errors.general(exc)
            if found is not None:
                return found
        return None

    def expects(self, exc: BaseException) -> bool:
        """
        Whether an error handler, here or above, is for the exception's class or a base of it.

        Those of ``HTTPException``, ``Exception`` and ``BaseException`` do not count.
        """
        return any(
            blueprint._errors.particular(exc) is not None for blueprint in (self, *self.ancestors)
        )

    # -- Hooks ---------------------------------------------------------------------------------

    def add_hook(self, type_: str, hook: F) -> F:
        """Add a hook for all routes here and below; see :meth:`Route.add_hook`."""
        self._hooks.add(type_, hook)
        self.invalidate()
        return hook

    def before_request(self, func: F) -> F:
        """Decorator for a hook that runs before handlers."""
        return self.add_hook("pre", func)

    def after_request(self, func: F) -> F:
        """Decorator for a hook that runs after handlers."""
        return self.add_hook("post", func)

    def get_hooks(self, type_: str) -> list[Hook]:
        """Return the hooks of one type, the parents' first."""
        inherited = [] if self.parent is None else self.parent.get_hooks(type_)
        return inherited + self._hooks.get(type_)

    # -- Middlewares ---------------------------------------------------------------------------

    def add_middleware(self, middleware: Any) -> Any:
        """
        Add a middleware for the routes here and below, inside those that are there already.

        :param middleware: a :class:`~kyoukai.middleware.Middleware`, or any object with one of
            its methods
        :return: the middleware
        :raises RouteError: if it is none, or one of its methods takes other arguments
        """
        self.middlewares = (*self.middlewares, Bound(middleware))
        self.root.uses_middleware = True
        self.invalidate()
        return middleware

    @property
    def middlewares_below_root(self) -> tuple[Bound, ...]:
        """The middlewares of the blueprints from below the root to this one, in order."""
        found = self._below_root
        if found is None:
            inherited = () if self.parent is None else self.parent.middlewares_below_root
            found = self._below_root = (
                () if self.parent is None else (*inherited, *self.middlewares)
            )
        return found
