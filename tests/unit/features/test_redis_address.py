"""Addresses of a Redis: what is accepted, and that credentials are neither accepted in them nor ever shown."""

import pytest

from tidegate.errors import FeatureError
from tidegate.features.online_opening import open_row_reader
from tidegate.features.redis_address import PASSWORD_VARIABLE, USER_VARIABLE, RedisAddress


@pytest.mark.parametrize(
    ("address", "host", "port", "database", "tls"),
    [
        pytest.param("redis://redis.features", "redis.features", 6379, 0, False, id="name-only"),
        pytest.param("redis://redis.features:6380/2", "redis.features", 6380, 2, False, id="all"),
        pytest.param("redis://redis:1/", "redis", 1, 0, False, id="slash"),
        pytest.param("rediss://redis", "redis", 6379, 0, True, id="tls"),
        pytest.param("redis://[::1]:7000/1", "::1", 7000, 1, False, id="ipv6"),
    ],
)
def test_an_address(address, host, port, database, tls):
    parsed = RedisAddress.parse(address)

    assert (parsed.host, parsed.port, parsed.database, parsed.tls) == (host, port, database, tls)
    assert RedisAddress.parse(parsed.uri) == parsed


@pytest.mark.parametrize(
    "address",
    [
        pytest.param("redis://", id="no-host"),
        pytest.param("redis://:6379", id="port-only"),
        pytest.param("redis://redis:port", id="port-is-text"),
        pytest.param("redis://redis:99999", id="port-too-large"),
        pytest.param("redis://redis/features", id="database-is-text"),
        pytest.param("redis://redis/-1", id="negative-database"),
        pytest.param("redis://redis/0?ssl=true", id="query"),
        pytest.param("redis://redis/0#a", id="fragment"),
        pytest.param("redis://[::1", id="bracket"),
    ],
)
def test_a_malformed_address_is_one_clear_line(address):
    with pytest.raises(FeatureError, match=r"not an address of a Redis.*; use redis://HOST:PORT/DB, or rediss:// for TLS$"):
        open_row_reader(address)


def test_credentials_in_an_address_are_refused_and_not_repeated():
    with pytest.raises(FeatureError, match=PASSWORD_VARIABLE) as caught:
        RedisAddress.parse("redis://:sesame@redis:6379/0")

    assert "sesame" not in str(caught.value)


def test_credentials_come_from_the_environment_and_are_not_shown(monkeypatch):
    monkeypatch.setenv(PASSWORD_VARIABLE, "sesame")
    monkeypatch.setenv(USER_VARIABLE, "ann")

    address = RedisAddress.parse("redis://redis")

    assert (address.user, address.password) == ("ann", "sesame")
    assert "sesame" not in repr(address)
