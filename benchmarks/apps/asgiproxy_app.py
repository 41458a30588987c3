"""asgiproxy, which is aiohttp's client behind an ASGI server; for the server in ``UPSTREAM``."""

import os

from asgiproxy.config import BaseURLProxyConfigMixin, ProxyConfig
from asgiproxy.context import ProxyContext
from asgiproxy.simple_proxy import make_simple_proxy_app


class Config(BaseURLProxyConfigMixin, ProxyConfig):
    upstream_base_url = os.environ["UPSTREAM"]


# As many at once as there are connections: by default, most of them would wait.
app = make_simple_proxy_app(ProxyContext(Config(), max_concurrency=100))
