"""
A reverse proxy of aiohttp's server and client: ``aiohttp_proxy.py PORT UPSTREAM``.

As its documentation has them, with what makes them faster: uvloop, no access log, no cookies, and
a short body in one piece.
"""

import asyncio
import sys

import aiohttp
import uvloop
from aiohttp import web

PORT, UPSTREAM = int(sys.argv[1]), sys.argv[2]
SHORT = 65536
HOP_BY_HOP = (
    *("Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization"),
    *("TE", "Trailer", "Transfer-Encoding", "Upgrade"),
)


def end_to_end(headers):
    kept = headers.copy()
    for name in HOP_BY_HOP:
        kept.popall(name, None)
    return kept


async def main():
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
    ) as session:

        async def proxy(request):
            async with session.request(
                request.method,
                UPSTREAM + request.raw_path,
                headers=end_to_end(request.headers),
                data=request.content if request.can_read_body else None,
                allow_redirects=False,
            ) as answer:
                headers = end_to_end(answer.headers)
                if (answer.content_length or SHORT + 1) <= SHORT:
                    body = await answer.read()
                    return web.Response(status=answer.status, headers=headers, body=body)
                response = web.StreamResponse(status=answer.status, headers=headers)
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
                return response

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", proxy)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", PORT).start()
        await asyncio.Event().wait()


uvloop.run(main())
