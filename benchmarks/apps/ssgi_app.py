"""Raw SSGI functions."""

HEADERS = [("content-type", "text/plain; charset=utf-8")]


def app(type, server_address, remote_address, method, path, query_string, get_header, res):
    res.send_headers(HEADERS)
    res.send(b"Hello, world!")


async def coroutine_app(
    type, server_address, remote_address, method, path, query_string, get_header, res
):
    res.send_headers(HEADERS)
    await res.send(b"Hello, world!")
