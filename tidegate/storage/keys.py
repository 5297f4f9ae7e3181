"""Which keys every object store accepts: one rule for all stores, so that a tree moves from one to another unchanged."""

from tidegate.errors import StorageError

RESERVED = ".store"  # where a directory store stages writes and keeps locks
_MAX_KEY_BYTES = 1024  # of S3
_MAX_PART_BYTES = 255  # of file systems


def check_key(key: str) -> None:
    """Raise StorageError unless `key` is relative, `/`-separated, and without empty, `.`, `..` or reserved parts."""
    problem = _problem_of(key)
    if problem:
        raise StorageError(f"store: key {key!r} {problem}; use relative parts joined by '/', such as 'models/a/1'")


def is_key(key: str) -> bool:
    """Tell whether `check_key` accepts `key`."""
    return _problem_of(key) is None


def check_prefix(prefix: str) -> None:
    """Raise StorageError unless some key can start with `prefix`; the empty prefix is every key's."""
    if prefix and _problem_of(prefix.removesuffix("/")):
        raise StorageError(f"store: no key can start with {prefix!r}; use relative parts joined by '/', such as 'models/'")


def _problem_of(key: str) -> str | None:
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "holds an empty, '.' or '..' part"
    if parts[0] == RESERVED:
        return f"lies in {RESERVED!r}, which is reserved"
    if "\\" in key or any(ord(character) < 32 or ord(character) == 127 for character in key):
        return "holds a backslash or a control character"
    try:
        lengths = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if max(lengths) > _MAX_PART_BYTES or sum(lengths) + len(parts) - 1 > _MAX_KEY_BYTES:
        return f"is too long (parts up to {_MAX_PART_BYTES} bytes, keys up to {_MAX_KEY_BYTES})"
    return None
