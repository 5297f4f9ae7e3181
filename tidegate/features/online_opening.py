"""Opens an online store from its address: `sqlite:///ABSOLUTE/PATH`, `redis://HOST:PORT/DB`, or `rediss://…` for TLS."""

from tidegate.features.online_file import FileRowReader, FileRows, online_path
from tidegate.features.online_redis import RedisRows
from tidegate.features.online_redis_reader import RedisRowReader
from tidegate.features.online_rows import RowReader, RowWriter
from tidegate.features.redis_address import RedisAddress, is_redis_address


def open_row_reader(address: str) -> RowReader:
    """Open an online store for the model server.

    A file need not be there yet; until it is, every row is missing. A Redis must answer.

    Raises:
        FeatureError: The address is malformed, or what lies there is no online store or cannot be reached.
    """
    if is_redis_address(address):
        return RedisRowReader(RedisAddress.parse(address))
    return FileRowReader(online_path(address))


def open_row_writer(address: str) -> RowWriter:
    """Open an online store for materialization, creating a file that is missing; raises FeatureError."""
    if is_redis_address(address):
        return RedisRows(RedisAddress.parse(address))
    return FileRows(online_path(address))
