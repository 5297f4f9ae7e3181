"""What a request can fail with: an HTTP status and one clear message."""

from tidegate.errors import ServingError

_LONGEST = 1000  # characters; what a caller sent may be in it


class RequestError(ServingError):
    """A request that cannot be answered.

    Attributes:
        status: Its HTTP status: 4xx is the caller's fault, 5xx the server's.
        headers: Response headers that belong to it, as whole lines.
    """

    def __init__(self, status: int, message: str, headers: bytes = b"") -> None:
        super().__init__(message if len(message) <= _LONGEST else f"{message[:_LONGEST]}…")
        self.status = status
        self.headers = headers


def bad_request(message: str) -> RequestError:
    """Return a 400 with `message`."""
    return RequestError(400, message)
