"""An online store in a Redis, for pods that share nothing else.

    tidegate/row/<packed key>           event and created time (16 bytes), then the packed row; expires if it may
    tidegate/watermarks/<project>       hash: view to `<event time in microseconds since the epoch>:<definition>`

A request's rows, of all entities and views, are one MGET. Rows are written by a script, so that of two writers of a row the
later event wins; a batch of rows is not a transaction, but watermarks move only when their rows are in. Every key is one of
its own, so a Redis in cluster mode, which answers only for keys of one slot at once, is refused by its own error.
"""

import logging
import re
import struct
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from tidegate.errors import FeatureError
from tidegate.features.online_rows import FoundRow, PackedRow, Watermark
from tidegate.features.packed_row import view_prefix
from tidegate.features.redis_address import PASSWORD_VARIABLE, USER_VARIABLE, RedisAddress
from tidegate.features.redis_connection import Part, RedisConnection, RedisRefusal

_LOG = logging.getLogger(__name__)
T = TypeVar("T")

_ROWS = b"tidegate/row/"
_WATERMARKS = "tidegate/watermarks/"
_TIMES = struct.Struct(">QQ")
_EPOCH = 1 << 63  # times are written with this added, so that those before 1970 sort first

_CONNECT_SECONDS = 2.0
_READ_SECONDS = 0.2  # the model server answers nobody else meanwhile
_WRITE_SECONDS = 15.0
_PATIENCE_SECONDS = 20.0  # of a writer, while the Redis is away
_FIRST_PAUSE_SECONDS = 0.1  # doubles from one attempt to the next
_LONGEST_PAUSE_SECONDS = 1.0
_ROWS_PER_SCRIPT = 200  # some 0.3 ms during which the Redis answers no lookup
_SCRIPTS_PER_CALL = 20
_KEYS_PER_SCAN = 1000

# KEYS are rows' keys; ARGV holds, for each, its value and when it expires (milliseconds since the epoch, or '').
# Lua's numbers hold no 64-bit integer, and its strings compare by the locale: so times are compared by their halves.
_WRITE_ROWS = """
local function is_later(held, value)
  if #held < 16 then return false end
  local a, b = {struct.unpack('>I4I4I4I4', held)}, {struct.unpack('>I4I4I4I4', value)}
  for part = 1, 4 do
    if a[part] ~= b[part] then return a[part] > b[part] end
  end
  return false
end
for i, key in ipairs(KEYS) do
  local value, expires = ARGV[2 * i - 1], ARGV[2 * i]
  if not is_later(redis.call('GETRANGE', key, 0, 15), value) then
    redis.call('SET', key, value)
    if expires ~= '' then redis.call('PEXPIREAT', key, expires) end
  end
end
"""


class RedisRowReader:
    """Reads rows for a model server; it is a RowReader.

    A lookup takes at most 0.2 s, and fails at once while the Redis is away: a connection that was lost is renewed in the
    background, by one thread, however many requests come meanwhile.
    """

    def __init__(self, address: RedisAddress) -> None:
        """Connect; raises FeatureError if the Redis cannot be reached or refuses the login."""
        self._address = address
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._lost = "is closed"
        with _explained(address, "reached"):
            self._connection: RedisConnection | None = self._connect()

    def fetch(self, keys: Collection[bytes]) -> Mapping[bytes | None, FoundRow]:
        """Return the rows that lie under `keys`, as one state of the store; raises FeatureError if it cannot be read."""
        if not keys:
            return {}
        with self._lock:
            if self._connection is None:
                raise FeatureError(f"online store {self._address.uri}: {self._lost}")
            with _explained(self._address, "read"):
                try:
                    return self._fetch(self._connection, keys)
                except (OSError, RedisRefusal) as error:
                    self._reconnect_in_background(error)
                    raise

    def close(self) -> None:
        """Hang up, and stop reconnecting."""
        self._closed.set()
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _fetch(self, connection: RedisConnection, keys: Collection[bytes]) -> dict[bytes | None, FoundRow]:
        try:
            return _read(connection, keys)
        except ConnectionError:  # perhaps only idle for too long: so once more, to the same place
            connection.close()
            self._connection = self._connect(connection.peer, seconds=_READ_SECONDS)
            return _read(self._connection, keys)

    def _connect(self, peer: tuple[Any, ...] | None = None, seconds: float = _CONNECT_SECONDS) -> RedisConnection:
        connection = RedisConnection(self._address, connect_seconds=seconds, call_seconds=_READ_SECONDS, peer=peer)
        _read(connection, [b""])  # whoever may log in may still be forbidden to read
        return connection

    def _reconnect_in_background(self, error: Exception) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._lost = f"cannot be read: {_reason(error)}; connecting again"
        _LOG.warning("online store %s: %s", self._address.uri, self._lost)
        threading.Thread(target=self._reconnect, name="online store", daemon=True).start()

    def _reconnect(self) -> None:
        since = time.monotonic()
        for pause in _pauses():
            if self._closed.wait(pause):
                return
            try:
                connection = self._connect()
            except (OSError, RedisRefusal) as error:
                self._lost = f"cannot be read: {_reason(error)}; connecting again"
            else:
                break
        with self._lock:
            self._connection = connection
        if self._closed.is_set():
            self.close()
        _LOG.warning("online store %s: is back after %.1f s", self._address.uri, time.monotonic() - since)


class RedisRows:
    """Writes rows and watermarks; it is a RowWriter. A lost connection is renewed, and what was under way sent again."""

    def __init__(self, address: RedisAddress) -> None:
        """Connect; raises FeatureError if the Redis cannot be reached within some seconds, or refuses the login."""
        self._address = address
        self._connection: RedisConnection | None = None
        self._pipeline([["PING"]])

    def write(self, rows: Sequence[PackedRow], marks: Sequence[Watermark], *, lifetime_us: int | None = None) -> None:
        """Write rows, each whole, and then the watermarks, all at once; see RowWriter."""
        scripts = [_write_script(part, lifetime_us) for part in _parts(rows, _ROWS_PER_SCRIPT)]
        for part in _parts(scripts, _SCRIPTS_PER_CALL):
            self._pipeline(part)
        of_project: dict[str, list[str]] = {}
        for mark in marks:
            of_project.setdefault(mark.project, []).extend([mark.view, f"{mark.until_us}:{mark.definition}"])
        for project, fields in of_project.items():
            self._pipeline([["HSET", _WATERMARKS + project, *fields]])

    def watermark_us(self, project: str, view: str, definition: str) -> int | None:
        """Return up to which event time a view is materialized from this definition; None if it is not."""
        (found,) = self._pipeline([["HGET", _WATERMARKS + project, view]])
        if found is None:
            return None
        until, _, materialized = found.decode().partition(":")
        return int(until) if materialized == definition else None

    def fetch(self, keys: Collection[bytes]) -> Mapping[bytes | None, FoundRow]:
        """Return the rows that lie under `keys`; raises FeatureError."""
        return self._persistently(lambda connection: _read(connection, keys), "read") if keys else {}

    def delete_view(self, project: str, view: str) -> None:
        """Remove a view's watermark, and then every row of it."""
        self._pipeline([["HDEL", _WATERMARKS + project, view]])
        pattern = _literal(_ROWS + view_prefix(project, view)) + b"*"
        cursor = b"0"
        while True:
            ((cursor, keys),) = self._pipeline([["SCAN", cursor, "MATCH", pattern, "COUNT", _KEYS_PER_SCAN]])
            if keys:
                self._pipeline([["UNLINK", *keys]])
            if cursor == b"0":
                return

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _pipeline(self, commands: Sequence[Sequence[Part]]) -> list[Any]:
        return self._persistently(lambda connection: connection.pipeline(commands), "written")

    def _persistently(self, work: Callable[[RedisConnection], T], done: str) -> T:
        """Do what may be done twice, again while the Redis is away, for some seconds; raises FeatureError."""
        give_up = time.monotonic() + _PATIENCE_SECONDS
        with _explained(self._address, done):
            for pause in _pauses():
                try:
                    if self._connection is None:
                        self._connection = RedisConnection(
                            self._address, connect_seconds=_CONNECT_SECONDS, call_seconds=_WRITE_SECONDS
                        )
                    return work(self._connection)
                except (OSError, RedisRefusal) as error:
                    self.close()
                    if not _may_pass(error) or time.monotonic() > give_up:
                        raise
                    time.sleep(pause)
        raise AssertionError


def _read(connection: RedisConnection, keys: Collection[bytes]) -> dict[bytes | None, FoundRow]:
    values = connection.call("MGET", *[_ROWS + key for key in keys])
    found: dict[bytes | None, FoundRow] = {}
    for key, value in zip(keys, cast(list[bytes | None], values), strict=True):
        if value is not None:
            found[key] = _TIMES.unpack_from(value)[0] - _EPOCH, value[_TIMES.size :]
    return found


def _write_script(rows: Sequence[PackedRow], lifetime_us: int | None) -> list[Part]:
    values: list[Part] = []
    for _, event_us, created_us, row in rows:
        values.append(_TIMES.pack(event_us + _EPOCH, created_us + _EPOCH) + row)
        values.append("" if lifetime_us is None else -(-(event_us + lifetime_us) // 1000))
    return ["EVAL", _WRITE_ROWS, len(rows), *[_ROWS + row[0] for row in rows], *values]


def _parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _literal(text: bytes) -> bytes:
    """Return the pattern that only `text` matches."""
    return re.sub(rb"([*?\[\]\\^-])", rb"\\\1", text)


def _pauses() -> Iterator[float]:
    pause = _FIRST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _may_pass(error: Exception) -> bool:
    return isinstance(error, OSError) or str(error).startswith(("LOADING ", "MASTERDOWN ", "READONLY ", "BUSY "))


@contextmanager
def _explained(address: RedisAddress, done: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RedisRefusal) as error:
        raise FeatureError(f"online store {address.uri}: cannot be {done}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return (error.strerror or str(error) or type(error).__name__).lower()
    code, _, rest = str(error).partition(" ")
    if code in ("NOAUTH", "WRONGPASS") or (code == "ERR" and "AUTH" in rest):
        return f"{rest.rstrip('.')}; set {PASSWORD_VARIABLE}, and {USER_VARIABLE} if it is not the default user's"
    if code == "CROSSSLOT":
        return f"{rest}; use a Redis without cluster mode"
    return str(error)
