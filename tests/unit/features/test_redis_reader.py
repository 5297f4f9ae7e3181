"""The reader of the model server against a Redis that misbehaves on cue: a small scripted server, which speaks the protocol."""

import asyncio
import socket
import threading
import time

import pytest

from tidegate.errors import FeatureError
from tidegate.features.online_redis_reader import RedisRowReader
from tidegate.features.redis_address import RedisAddress

HANG_UP = object()
ROW = (1 << 63).to_bytes(8) + (1 << 63).to_bytes(8) + b"row of "


class ScriptedRedis:
    """Answers lookups with one row a key, unless `on_lookup(number)` says otherwise: bytes to send, or HANG_UP."""

    def __init__(self):
        self.on_lookup = lambda _number: None
        self.lookups = 0
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = RedisAddress.parse(f"redis://127.0.0.1:{self._listener.getsockname()[1]}")
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.close()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection, connection.makefile("rb") as stream:
            while header := stream.readline():
                parts = [stream.read(int(stream.readline()[1:]) + 2)[:-2] for _ in range(int(header[1:]))]
                reply = self._reply(parts)
                if reply is HANG_UP:
                    return
                connection.sendall(reply)

    def _reply(self, parts):
        if parts[0] != b"MGET":
            return b"+OK\r\n"
        keys = [part.removeprefix(b"tidegate/row/") for part in parts[1:]]
        if keys == [b""]:  # the probe of a new connection
            return b"*1\r\n$-1\r\n"
        self.lookups += 1
        scripted = self.on_lookup(self.lookups)
        if scripted is not None:
            return scripted
        values = [ROW + key for key in keys]
        return b"*%d\r\n%b" % (len(values), b"".join(b"$%d\r\n%b\r\n" % (len(value), value) for value in values))


@pytest.fixture
def redis():
    server = ScriptedRedis()
    yield server
    server.close()


def run(redis, scenario):
    """Run a scenario on an open reader, and let the loop tidy up after it."""

    async def body():
        reader = RedisRowReader(redis.address)
        try:
            return await scenario(reader)
        finally:
            reader.close()
            await asyncio.sleep(0)

    return asyncio.run(body())


async def look_up(reader, *keys):
    return {key: row for key, (_, row) in (await reader.fetch(keys)).items()}


def test_a_lookup_under_way_when_the_connection_is_lost_is_asked_again(redis):
    redis.on_lookup = lambda number: HANG_UP if number == 1 else None

    assert run(redis, lambda reader: look_up(reader, b"a")) == {b"a": b"row of a"}
    assert redis.lookups == 2


def test_it_is_asked_again_once(redis):
    redis.on_lookup = lambda _number: HANG_UP

    with pytest.raises(FeatureError, match="cannot be reached: it closed the connection"):
        run(redis, lambda reader: look_up(reader, b"a"))

    assert redis.lookups == 2


def test_many_lookups_share_one_connection_and_get_their_own_rows(redis):
    async def scenario(reader):
        return await asyncio.gather(*[look_up(reader, b"%d" % i, b"x%d" % i) for i in range(200)])

    assert run(redis, scenario) == [{b"%d" % i: b"row of %d" % i, b"x%d" % i: b"row of x%d" % i} for i in range(200)]
    assert redis.connections == 2  # the check at the beginning, and the one that stays


def test_a_caller_who_gives_up_leaves_the_others_their_replies(redis):
    async def scenario(reader):
        await look_up(reader, b"first")
        first, second = asyncio.create_task(look_up(reader, b"a")), asyncio.create_task(look_up(reader, b"b"))
        await asyncio.sleep(0)
        first.cancel()
        return await second

    assert run(redis, scenario) == {b"b": b"row of b"}


def test_a_refused_lookup_is_an_error_and_the_connection_stays(redis):
    redis.on_lookup = lambda number: b"-NOPERM no permissions\r\n" if number == 1 else None

    async def scenario(reader):
        with pytest.raises(FeatureError, match="refuses: NOPERM no permissions"):
            await look_up(reader, b"a")
        return await look_up(reader, b"a")

    assert run(redis, scenario) == {b"a": b"row of a"}
    assert redis.connections == 2


def test_an_answer_in_another_protocol_is_an_error(redis):
    redis.on_lookup = lambda _number: b"HTTP/1.1 400 Bad Request\r\n\r\n"

    with pytest.raises(FeatureError, match="it does not speak redis' protocol"):
        run(redis, lambda reader: look_up(reader, b"a"))


def test_a_silent_redis_is_given_up_and_lookups_behind_it_do_not_wait(redis):
    redis.on_lookup = lambda _number: b""

    async def scenario(reader):
        began = time.monotonic()
        lookups = await asyncio.gather(*[look_up(reader, b"a") for _ in range(3)], return_exceptions=True)
        return time.monotonic() - began, lookups

    waited, lookups = run(redis, scenario)

    assert 0.2 < waited < 2
    assert all("no answer within 0.3 s" in str(lookup) for lookup in lookups)


def test_a_loop_that_was_busy_does_not_blame_the_redis(redis):
    async def scenario(reader):
        await look_up(reader, b"first")
        lookup = asyncio.create_task(look_up(reader, b"a"))
        await asyncio.sleep(0)
        time.sleep(1)  # a model that takes its time; the reply is there since long
        return await lookup

    assert run(redis, scenario) == {b"a": b"row of a"}
    assert redis.connections == 2


def test_after_a_failure_lookups_fail_at_once_until_the_redis_is_back(redis):
    async def scenario(reader):
        await look_up(reader, b"first")
        redis.on_lookup = lambda _number: b""
        with pytest.raises(FeatureError, match="no answer within"):
            await look_up(reader, b"a")
        redis.on_lookup = lambda _number: None
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                return await look_up(reader, b"a")
            except FeatureError:
                await asyncio.sleep(0.01)
        return None

    assert run(redis, scenario) == {b"a": b"row of a"}


def test_a_closed_reader_says_so(redis):
    async def scenario(reader):
        await look_up(reader, b"a")
        reader.close()
        with pytest.raises(FeatureError, match="is closed"):
            await look_up(reader, b"a")

    run(redis, scenario)


def test_no_keys_need_no_redis(redis):
    assert run(redis, look_up) == {}
    assert redis.lookups == 0
