"""Names the extra that brings a missing optional dependency."""

from collections.abc import Iterator
from contextlib import contextmanager

from tidegate.errors import PackageError


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Say which extra to install if an import inside fails.

    >>> with needing("pytorch"):
    ...     import no_such_module
    Traceback (most recent call last):
    ...
    tidegate.errors.PackageError: no_such_module is not installed; pip install 'tidegate[pytorch]'

    Raises:
        PackageError: A module is missing; the message names it and the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise PackageError(f"{error.name} is not installed; pip install 'tidegate[{extra}]'") from error
