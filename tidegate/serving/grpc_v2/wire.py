"""Protobuf's wire format (https://protobuf.dev/programming-guides/encoding), as far as the hot path needs it by hand."""

LENGTH_DELIMITED = 2


class NotCanonical(Exception):
    """A message that is not as its own serializer would write it; it may be right all the same."""


def field(number: int, payload: bytes) -> bytes:
    """Return a length-delimited field: text, bytes, or a message; `number` is at most 15."""
    return bytes((number << 3 | LENGTH_DELIMITED,)) + varint(len(payload)) + payload


def varint(value: int) -> bytes:
    """Return a number from 0 to 2**64 - 1 in groups of 7 bits, the lowest first."""
    if value < 0x80:
        return bytes((value,))
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def read_length(message: bytes, position: int) -> tuple[int, int]:
    """Return the length that begins at `position`, and where it ends.

    Raises:
        NotCanonical: It is longer than 4 bytes, so that it could not be the length of anything in a message that was taken.
        IndexError: The message ends in it.
    """
    length = shift = 0
    for _ in range(4):
        byte = message[position]
        position += 1
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            return length, position
        shift += 7
    raise NotCanonical
