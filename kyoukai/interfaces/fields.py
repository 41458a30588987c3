"""
``Fields``: the headers of an answer, checked once and remembered by the applications' interfaces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from kyoukai.rules import Header

__all__ = ("LENGTH_DIGITS", "Fields")

#: Digits that a Content-Length may have.
LENGTH_DIGITS = 18


class Fields(NamedTuple):
    """
    Headers that an application wants to send.

    :param headers: the headers
    :param bare: the same without Content-Length
    :param length: what the Content-Length says; None without one
    """

    headers: tuple[Header, ...]
    bare: tuple[Header, ...]
    length: int | None
