"""``ServerConfig``: conversion, ranges, and errors that name the setting."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest

from kyoukai.config import ServerConfig, check_keys, nearest_name
from kyoukai.exceptions import ConfigurationError


def test_the_defaults_are_those_of_the_documentation() -> None:
    config = ServerConfig()
    assert (config.max_head_size, config.max_target_size, config.max_headers) == (32768, 8192, 100)
    assert (config.max_body_size, config.body_spool_size) == (16777216, 1048576)
    assert (config.max_chunk_overhead, config.max_pipelined) == (16384, 16)
    assert (config.max_requests_per_connection, config.max_connections) == (0, None)
    assert (config.header_timeout, config.keep_alive_timeout) == (10, 15)
    assert (config.min_body_rate, config.min_body_grace) == (240, 5)
    assert (config.send_stall_timeout, config.graceful_timeout) == (60, 30)
    assert (config.linger_timeout, config.tls_handshake_timeout) == (2, 10)
    assert config.ciphers == "ECDHE+AESGCM:ECDHE+CHACHA20"
    assert config.trusted_proxies == ()
    assert config.upgrade_tokens == ("websocket",)
    assert (config.ws_max_message_size, config.ws_max_fragments) == (1048576, 1024)
    assert (config.ws_deflate, config.ws_origins) == (False, ())
    assert (config.ws_ping_interval, config.ws_ping_timeout) == (20, 20)
    assert (config.ws_close_timeout, config.ws_write_limit) == (10, 65536)


def test_every_setting_has_its_documentation() -> None:
    """Each field is followed by a string that says what it is."""
    source = inspect.getsource(ServerConfig)
    for name in ServerConfig.field_names():
        declaration = source.index(f"\n    {name}: ")
        rest = source[declaration:].split("\n\n", 1)[0]
        assert '"""' in rest, name


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ServerConfig().backlog = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value", "converted"),
    [
        ("bind", "a:1", ("a:1",)),
        ("bind", ["a:1", "b:2"], ("a:1", "b:2")),
        ("unix_mode", "0660", 0o660),
        ("unix_mode", 0o600, 0o600),
        ("header_timeout", 3, 3.0),
        ("max_connections", None, None),
        ("server_header", None, None),
        ("trusted_proxies", ["10.0.0.0/8", "::1", "unix", "*"], ("10.0.0.0/8", "::1", "unix", "*")),
        ("root_path", "/a/b", "/a/b"),
        ("upgrade_tokens", [], ()),
        ("upgrade_tokens", ["websocket", "tcp", "irc/6.9"], ("websocket", "tcp", "irc/6.9")),
        ("graceful_timeout", 0, 0.0),
    ],
)
def test_values_are_converted(name: str, value: Any, converted: Any) -> None:
    found = getattr(ServerConfig.from_mapping({name: value}), name)
    assert found == converted
    assert type(found) is type(converted)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_body_size", "1", "max_body_size must be of type int, not '1'"),
        ("max_body_size", True, "max_body_size must be of type int"),
        ("max_body_size", -1, "max_body_size must be at least 0, not -1"),
        ("max_body_size", 1.5, "max_body_size must be of type int"),
        ("max_body_size", None, "max_body_size must not be empty"),
        ("max_connections", 0, "max_connections must be at least 1"),
        ("max_head_size", 10, "max_head_size must be at least 256"),
        ("header_timeout", 0, "header_timeout must be greater than 0"),
        ("header_timeout", float("nan"), "header_timeout must be at least 0"),
        ("header_timeout", "10", "header_timeout must be of type float"),
        ("access_log", "yes", "access_log must be of type bool"),
        ("bind", 8000, "bind must be a list of strings"),
        ("bind", ["a:1", 2], "bind must be a list of strings"),
        ("unix_mode", "rw", "unix_mode must be octal, not 'rw'"),
        ("trusted_proxies", "10.0.0.256", "trusted_proxies: '10.0.0.256' is no address"),
        ("ws_origins", "example.com", "ws_origins: 'example.com' is no origin such as 'https://"),
        ("ws_origins", "https://example.com/app", "is no origin such as"),
        ("upgrade_tokens", ["websocket", "h2c"], "upgrade_tokens: 'h2c' is HTTP/2 itself"),
        ("upgrade_tokens", "h2", "upgrade_tokens: 'h2' is HTTP/2 itself"),
        ("upgrade_tokens", "WebSocket", "upgrade_tokens: 'WebSocket' is no protocol such as"),
        ("upgrade_tokens", "a, b", "upgrade_tokens: 'a, b' is no protocol"),
        ("upgrade_tokens", "", "upgrade_tokens: '' is no protocol"),
        ("upgrade_tokens", "a/b/c", "upgrade_tokens: 'a/b/c' is no protocol"),
        ("ws_max_message_size", 0, "ws_max_message_size must be at least 1, not 0"),
        ("h2_stream_window", 2**31, "h2_stream_window must be at most 2147483647"),
        ("write_buffer_size", 2**31, "write_buffer_size must be at most 2147483647"),
        ("ws_write_limit", 2**31, "ws_write_limit must be at most 2147483647"),
        ("forwarded_headers", "both", "forwarded_headers must be x-forwarded or forwarded, not"),
        ("ws_close_timeout", 0, "ws_close_timeout must be greater than 0"),
        ("root_path", "a", "root_path must start with '/'"),
        ("root_path", "/a/", "root_path must start with '/'"),
        ("server_header", "a\r\nb", "server_header must be printable ASCII"),
    ],
)
def test_values_that_cannot_work_are_named(name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ServerConfig.from_mapping({name: value})


def test_unknown_settings() -> None:
    with pytest.raises(ConfigurationError, match="unknown setting 'max_bodysize'; did you mean"):
        ServerConfig.from_mapping({"max_bodysize": 1})
    with pytest.raises(ConfigurationError, match="unknown key 'xyzzy'; known: a, b"):
        check_keys(["a", "xyzzy"], ("b", "a"), "key")
    check_keys(["a"], ("b", "a"), "key")
    assert nearest_name("prot", ["port", "ip"]) == "port"
    assert nearest_name("xyzzy", ["port", "ip"]) is None


def test_a_copy_with_changes_is_checked() -> None:
    config = ServerConfig(max_headers=5).replace(backlog=7)
    assert (config.max_headers, config.backlog) == (5, 7)
    with pytest.raises(ConfigurationError, match="backlog must be at least 1"):
        config.replace(backlog=0)
