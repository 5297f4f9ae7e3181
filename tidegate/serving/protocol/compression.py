"""Bodies and messages that a caller compressed: `gzip` and `deflate`, unpacked up to a limit.

Both HTTP (RFC 9110, 8.4.1) and gRPC mean zlib's format (RFC 1950) by `deflate`.
"""

import zlib

from tidegate.serving.protocol.errors import RequestError, bad_request

_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


def decompressed(body: bytes, encoding: str, limit: int) -> bytes:
    """Return a body as it was before its caller compressed it; `identity` means that nobody did.

    Raises:
        RequestError: It would be more than `limit` bytes (413), it is not compressed like that (400), or the encoding is
            none that is known (415).
    """
    encoding = encoding.strip().lower()
    if encoding == "identity":
        return body
    if encoding not in _WINDOW_BITS:
        raise RequestError(415, f"encoding {encoding[:40]!r} is not supported; use gzip, deflate or identity")
    unpacker = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        unpacked = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise bad_request(f"the body is not compressed with {encoding}: {error}") from error
    if len(unpacked) > limit:
        raise RequestError(413, f"the body is more than {limit} bytes when unpacked; split the request")
    if not unpacker.eof:
        raise bad_request(f"the body ends before its {encoding} data does")
    if unpacker.unused_data:
        raise bad_request(f"the body holds {len(unpacker.unused_data)} bytes after its {encoding} data")
    return unpacked
