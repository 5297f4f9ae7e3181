"""What the server says of an error that nobody foresaw: everything to its own log, nothing of it to the caller."""

from typing import Any

from tidegate.errors import in_one_line
from tidegate.serving.events import emit
from tidegate.serving.protocol.errors import RequestError


def internal_error(error: Exception, **fields: Any) -> RequestError:
    """Write the error and `fields` as one line of the log, and return the refusal (500) of the request that met it."""
    emit("internal error", level="error", **fields, error=f"{type(error).__name__}: {in_one_line(error)}")
    return RequestError(500, "internal error; see the server's log")
