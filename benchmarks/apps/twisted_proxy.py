"""Twisted's reverse proxy: ``twisted_proxy.py PORT UPSTREAM``."""

import sys
from urllib.parse import urlsplit

from twisted.internet import reactor
from twisted.web import proxy, server

port, upstream = int(sys.argv[1]), urlsplit(sys.argv[2])
proxy.ProxyClientFactory.noisy = False
resource = proxy.ReverseProxyResource(upstream.hostname, upstream.port, b"")
reactor.listenTCP(port, server.Site(resource), interface="127.0.0.1")
reactor.run()
