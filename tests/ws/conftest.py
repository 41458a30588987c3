"""What clients do is no fault of the server's, here as in the tests of the backends."""

from __future__ import annotations

from backends.conftest import no_errors_logged

__all__ = ("no_errors_logged",)
