"""An online store in a Redis, for pods that share nothing else.

    tidegate/row/<packed key>           event and created time (16 bytes), then the packed row; expires if it may
    tidegate/watermarks/<project>       hash: view to `<event time in microseconds since the epoch>:<definition>`

A request's rows, of all entities and views, are one MGET. Rows are written by a script, so that of two writers of a row the
later event wins; a batch of rows is not a transaction, but watermarks move only when their rows are in. Every key is one of
its own, so a Redis in cluster mode, which answers only for keys of one slot at once, is refused by its own error.
"""

import re
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from tidegate.errors import FeatureError
from tidegate.features.online_rows import FoundRow, PackedRow, Watermark
from tidegate.features.packed_row import view_prefix
from tidegate.features.redis_address import PASSWORD_VARIABLE, USER_VARIABLE, RedisAddress
from tidegate.features.redis_connection import RedisConnection
from tidegate.features.redis_protocol import Part, RedisRefusal, Reply

T = TypeVar("T")

_ROWS = b"tidegate/row/"
_WATERMARKS = "tidegate/watermarks/"
_TIMES = struct.Struct(">QQ")
_EPOCH = 1 << 63  # times are written with this added, so that those before 1970 sort first

CONNECT_SECONDS = 2.0
_CALL_SECONDS = 15.0
_PATIENCE_SECONDS = 20.0  # while the Redis is away
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

    def read(self, keys: Sequence[bytes]) -> Mapping[bytes, FoundRow]:
        """Return the rows that lie under `keys`; raises FeatureError."""
        return rows_in(keys, self._pipeline([lookup_command(keys)])[0]) if keys else {}

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

    def _pipeline(self, commands: Sequence[Sequence[Part]]) -> list[Reply]:
        """Carry out what may be carried out twice, again while the Redis is away, for some seconds; raises FeatureError."""
        give_up = time.monotonic() + _PATIENCE_SECONDS
        for pause in pauses():
            try:
                if self._connection is None:
                    self._connection = RedisConnection(
                        self._address, connect_seconds=CONNECT_SECONDS, call_seconds=_CALL_SECONDS
                    )
                return self._connection.pipeline(commands)
            except (OSError, RedisRefusal) as error:
                self.close()
                if not _may_pass(error) or time.monotonic() > give_up:
                    raise FeatureError(f"online store {self._address.uri}: {reason_of(error)}") from error
                time.sleep(pause)
        raise AssertionError


def lookup_command(keys: Sequence[bytes]) -> list[Part]:
    """Return the command that reads the rows under `keys`."""
    return ["MGET", *[_ROWS + key for key in keys]]


def rows_in(keys: Sequence[bytes], reply: Reply) -> dict[bytes, FoundRow]:
    """Return the rows in the reply to `lookup_command(keys)`."""
    return {
        key: (_TIMES.unpack_from(value)[0] - _EPOCH, value[_TIMES.size :])
        for key, value in zip(keys, reply, strict=True)
        if value is not None
    }


def pauses() -> Iterator[float]:
    """Yield how many seconds to wait after each failed attempt to reach a Redis."""
    pause = _FIRST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def reason_of(error: Exception) -> str:
    """Say in one line why a Redis could not be reached or refused a command, and what to do about it."""
    if isinstance(error, OSError):
        return f"cannot be reached: {(error.strerror or str(error) or 'timed out').lower()}"
    code, _, rest = str(error).partition(" ")
    if code in ("NOAUTH", "WRONGPASS") or (code == "ERR" and "AUTH" in rest):
        return f"refuses the login: {rest.rstrip('.')}; set {PASSWORD_VARIABLE}, and {USER_VARIABLE} if it is another user's"
    if code == "CROSSSLOT":
        return f"{rest}; use a Redis without cluster mode"
    return f"refuses: {error}"


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


def _may_pass(error: Exception) -> bool:
    return isinstance(error, OSError) or str(error).startswith(("LOADING ", "MASTERDOWN ", "READONLY ", "BUSY "))
