"""
The least that a server can be, with the answer of ``asgi_app:kilobyte_app``.

``constant_server.py PORT``; it takes every blank line for the end of a request, so it is for those
without bodies.
"""

import asyncio
import sys

import uvloop
from asgi_app import KILOBYTE, KILOBYTE_HEADERS

LINES = [*KILOBYTE_HEADERS, (b"server", b"constant"), (b"date", b"Sat, 21 Nov 2026 12:00:00 GMT")]
HEAD = b"HTTP/1.1 200 OK\r\n" + b"".join(b"%b: %b\r\n" % line for line in LINES)
ANSWER = HEAD + b"\r\n" + KILOBYTE
END = b"\r\n\r\n"


class Constant(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.rest = b""

    def data_received(self, data):
        data = self.rest + data
        requests = data.count(END)
        self.transport.write(ANSWER * requests)
        if b"connection: close" in data.lower():
            self.transport.close()
        self.rest = data[data.rfind(END) + len(END) :] if requests else data


async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Constant, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


uvloop.run(main())
