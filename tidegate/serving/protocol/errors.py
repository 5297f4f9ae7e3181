"""What a request can fail with: an HTTP status and one clear message."""

from tidegate.errors import ServingError


class RequestError(ServingError):
    """A request that cannot be answered; `status` is its HTTP status: 4xx is the caller's fault, 503 the server's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def bad_request(message: str) -> RequestError:
    """Return a 400 with `message`."""
    return RequestError(400, message)
