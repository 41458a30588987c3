"""
Notes in SQLite, and the Asphalt component that publishes them as a resource.
"""

import logging
import sqlite3
from threading import Lock

from asphalt.core import Component, Context, context_teardown

logger = logging.getLogger("store")


class Store:
    """
    Notes in a database.

    Its methods block, so they belong into threads.

    :param path: the database file; ``:memory:`` keeps the notes in memory
    """

    def __init__(self, path: str) -> None:
        # One connection for all threads, one of them at a time.
        self._connection = sqlite3.connect(path, check_same_thread=False)
        self._lock = Lock()
        with self._connection:
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY, text TEXT NOT NULL)"
            )

    def add(self, text: str) -> int:
        """Keep a note and return its number."""
        with self._lock, self._connection:
            cursor = self._connection.execute("INSERT INTO note (text) VALUES (?)", (text,))
            return cursor.lastrowid

    def get(self, number: int) -> str | None:
        """Return a note, or None."""
        with self._lock:
            cursor = self._connection.execute("SELECT text FROM note WHERE id = ?", (number,))
            row = cursor.fetchone()
        return None if row is None else row[0]

    def all(self) -> list[dict]:
        """Return all notes."""
        with self._lock:
            rows = self._connection.execute("SELECT id, text FROM note ORDER BY id").fetchall()
        return [{"id": number, "text": text} for number, text in rows]

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._connection.close()


class StoreComponent(Component):
    """
    Publishes a :class:`Store` as a resource.

    :param path: the database file
    """

    def __init__(self, path: str = ":memory:") -> None:
        self.path = path

    @context_teardown
    async def start(self, ctx: Context):
        """Open the database; what stands after ``yield`` runs when the program stops."""
        store = Store(self.path)
        ctx.add_resource(store)
        logger.info("the store is open")
        yield
        store.close()
        logger.info("the store is closed")
