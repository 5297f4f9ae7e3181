"""Calls functions in another process: some client libraries cannot share one with each other."""

import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any


@contextmanager
def other_process() -> Iterator[Callable[..., Any]]:
    """Yield a function that calls a function of a module, with arguments, in one other process, and returns its answer."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        yield lambda function, *arguments: process.submit(_call, function, arguments).result(timeout=60)


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except Exception:
        said = traceback.format_exc()
    raise AssertionError(said)  # not every library's error can be sent to the tests' process
