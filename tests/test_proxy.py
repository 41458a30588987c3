"""Settings of a proxy that are refused when it is made: no request could be answered with them."""

from __future__ import annotations

from typing import Any

import pytest

from kyoukai import Proxy
from kyoukai.exceptions import ConfigurationError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"buffer_size": 2**31}, "buffer_size must be at most 2147483647"),
        ({"protocol_receive_buffer": 2**31}, "protocol_receive_buffer must be at most 2147483647"),
        ({"tls_server_name": "name"}, "tls_server_name is for https upstreams, and there is none"),
        (
            {"upstreams": "https://name", "tls_server_name": "."},
            "tls_server_name: '.' is no name of a host",
        ),
        ({"upstreams": "http://a..b"}, "upstreams: 'http://a..b': 'a..b' is no name of a host"),
    ],
)
def test_what_would_fail_for_each_request(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Proxy(**{"upstreams": "http://name", **settings})
    assert str(caught.value) == message
