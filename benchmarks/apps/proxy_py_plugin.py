"""The route of proxy.py's reverse proxy: everything goes to the server in ``UPSTREAM``."""

import os

from proxy.http.server import ReverseProxyBasePlugin

UPSTREAM = os.environ["UPSTREAM"].encode()


class Everything(ReverseProxyBasePlugin):
    def routes(self):
        return [(r".*", [UPSTREAM + b"/"])]
