"""Applications that do this and that at random; a model says what must come of it."""

from __future__ import annotations

import asyncio
import random
import sys
from typing import Any

import pytest
from talks import lines_of
from wsgi_apps import Body, both, hosted


class Odd(Exception):
    """An error of the application's own."""


class Plan:
    """What an application does with one request, and what must come of it."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.method = rng.choice(["GET", "GET", "GET", "POST", "POST", "HEAD"])
        self.upload = [rng.randbytes(rng.choice([1, 100, 30000])) for _ in range(rng.randrange(4))]
        self.read = rng.choice([0, 1, 50, 10**6])
        self.kind = rng.choice(["list", "tuple", "iterator", "iterator", "lazy", "write"])
        sizes = [0, 0, 1, 10, 3000, 20000, 70000]
        self.chunks: list[Any] = [
            bytes([65 + index]) * rng.choice(sizes) for index in range(rng.randrange(5))
        ]
        total = sum(map(len, self.chunks))
        self.length = rng.choice([None, None, total, total, total + 1, max(0, total - 1)])
        self.status = rng.choice([200, 200, 200, 404, 204, 304])
        places = len(self.chunks)
        self.raises: Any = rng.choice([None] * 6 + ["call", "close", *range(places)])
        self.restarts = rng.choice([None] * 6 + list(range(places)))
        if places and not rng.randrange(8):
            self.chunks[rng.randrange(places)] = rng.choice(["text", None, 5])
        self.body = Body(self._chunks())
        self.start: Any = None

    def __call__(self, start_response: Any, read: Any) -> Any:
        self.start = start_response
        if self.read:
            read(self.read)
        if self.kind != "lazy":
            write = self._start()
        if self.raises == "call":
            raise Odd
        if self.kind == "list":
            return list(self.chunks)
        if self.kind == "tuple":
            return tuple(self.chunks)
        if self.kind == "write" and self.chunks:
            write(self.chunks[0])
        return self.body

    def _start(self) -> Any:
        headers = [("X-Seed", "1")]
        if self.length is not None:
            headers.append(("Content-Length", str(self.length)))
        return self.start(f"{self.status} Status", headers)

    def _chunks(self) -> Any:
        for index, chunk in enumerate(self.chunks):
            if index == 0 and self.kind == "write":
                continue
            if index == 0 and self.kind == "lazy":
                self._start()
            if self.raises == index:
                raise Odd
            if self.restarts == index:
                try:
                    raise Odd
                except Odd:
                    self.start("409 Conflict", [], sys.exc_info())
            yield chunk
        if self.kind == "lazy" and not self.chunks:
            self._start()

    # -- The model ---------------------------------------------------------------------------------

    def outcome(self) -> tuple[set[Any], int, int]:
        """Return what the client may see, how much is logged, and how often ``close`` is called."""
        sent, total, status, length = False, 0, self.status, self.length
        closings = 0

        def failed() -> tuple[set[Any], int, int]:
            if not sent:
                return {500}, 1, closings
            if total == length:  # the client may have seen all before the rest
                return {(status, self._body(total)), "cut"}, 1, closings
            return {"cut"}, 1, closings

        if self.raises == "call":
            return failed()
        bodyless = self.method == "HEAD" or status in (204, 304)
        if self.kind in ("list", "tuple"):
            if any(type(each) is not bytes for each in self.chunks):
                return failed()
            size = sum(map(len, self.chunks))
            if not bodyless and length not in (None, size):
                return failed()
            return {(status, b"" if bodyless else self._body(size))}, 0, 0
        places = list(range(len(self.chunks)))
        if self.kind == "write" and places:
            places.pop(0)
            chunk = self.chunks[0]
            if type(chunk) is not bytes:
                return failed()
            if chunk and not bodyless:
                if length is not None and len(chunk) > length:
                    return failed()
                sent, total = True, len(chunk)
        closings = 1
        if bodyless and self.kind != "lazy":
            places = []
        for index in places:
            if self.raises == index:
                return failed()
            if self.restarts == index:
                if sent:
                    return failed()
                status, length = 409, None
                bodyless = self.method == "HEAD"
            chunk = self.chunks[index]
            if type(chunk) is not bytes:
                return failed()
            if bodyless:
                break
            if chunk:
                if length is not None and total + len(chunk) > length:
                    return failed()
                sent, total = True, total + len(chunk)
        if not bodyless and length is not None and total < length:
            return failed()
        logged = int(self.raises == "close")
        return {(status, b"" if bodyless else self._body(total))}, logged, closings

    def _body(self, size: int) -> bytes:
        return b"".join(each for each in self.chunks if type(each) is bytes)[:size]


async def seen(site: Any, number: int, plan: Plan) -> Any:
    """Send the request of a plan, and return what comes back."""
    options: dict[str, Any] = {}
    if plan.method == "POST":
        options["chunks"] = plan.upload
    try:
        response = await site.ask(plan.method, f"/{number}", **options)
    except ConnectionError:
        return "cut"
    return 500 if response.status == 500 else (response.status, response.body)


@both
@pytest.mark.parametrize("seed", range(5))
async def test_applications_at_random(wire: str, seed: int, caplog: Any) -> None:
    plans = [Plan(seed * 1000 + number) for number in range(60)]
    closers = {number for number, plan in enumerate(plans) if plan.raises == "close"}

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        number = int(environ["PATH_INFO"][1:])
        result = plans[number](start_response, environ["wsgi.input"].read)
        return Closing(result) if number in closers and isinstance(result, Body) else result

    async with hosted(app, wire, wsgi_threads=3) as site:
        found = await asyncio.gather(*[seen(site, *each) for each in enumerate(plans)])
    logged = lines_of(caplog)
    for number, plan in enumerate(plans):
        answers, lines, closings = plan.outcome()
        assert found[number] in answers, (number, vars(plan))
        mine = [line for line in logged if line.startswith(f"{plan.method} /{number}: ")]
        assert len(mine) == lines, (number, vars(plan), mine)
        assert plan.body.closings == closings, (number, vars(plan))


class Closing:
    """An iterable whose ``close`` raises."""

    def __init__(self, body: Body) -> None:
        self.body = body

    def __iter__(self) -> Any:
        return iter(self.body)

    def close(self) -> None:
        self.body.close()
        raise Odd
