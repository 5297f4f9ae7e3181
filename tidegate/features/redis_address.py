"""Where a Redis is, and as whom to log in: an address without credentials, and two environment variables."""

import os
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

from tidegate.errors import FeatureError

PASSWORD_VARIABLE = "TIDEGATE_ONLINE_STORE_PASSWORD"  # noqa: S105 - a name, not a password
USER_VARIABLE = "TIDEGATE_ONLINE_STORE_USER"

_SCHEMES = ("redis", "rediss")
_DEFAULT_PORT = 6379
_FORM = "use redis://HOST:PORT/DB, or rediss:// for TLS"


def is_redis_address(address: str) -> bool:
    """Tell whether an online store's address is meant for a Redis."""
    return address.partition("://")[0] in _SCHEMES


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A Redis, and as whom to log in.

    Attributes:
        uri: `redis://host:port/db` or `rediss://host:port/db`.
        host: Name or IP address.
        port: TCP port.
        database: Number of the logical database.
        tls: Whether to speak TLS; certificates are checked against the system's authorities, or those of `SSL_CERT_FILE`.
        user: Name of the ACL user; None is Redis' default user.
        password: What to log in with, or None; never shown.
    """

    uri: str
    host: str
    port: int
    database: int
    tls: bool
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, address: str) -> Self:
        """Read an address; user and password come from TIDEGATE_ONLINE_STORE_USER and TIDEGATE_ONLINE_STORE_PASSWORD.

        Raises:
            FeatureError: The address is malformed or holds credentials; what it holds is then not repeated.
        """
        if "@" in address:
            raise FeatureError(f"online store: its address holds credentials; put the password into {PASSWORD_VARIABLE}")
        try:
            parts = urlsplit(address)
            host, port = parts.hostname, parts.port or _DEFAULT_PORT
            database = int(parts.path.removeprefix("/") or 0)
        except ValueError as error:
            raise FeatureError(f"online store {address!r}: not an address of a Redis ({error}); {_FORM}") from None
        if parts.scheme not in _SCHEMES or not host or parts.query or parts.fragment or database < 0:
            raise FeatureError(f"online store {address!r}: not an address of a Redis; {_FORM}")
        return cls(
            uri=f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}/{database}",
            host=host,
            port=port,
            database=database,
            tls=parts.scheme == "rediss",
            user=os.environ.get(USER_VARIABLE) or None,
            password=os.environ.get(PASSWORD_VARIABLE) or None,
        )
