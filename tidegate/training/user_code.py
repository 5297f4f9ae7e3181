"""Imports the user's code from the project's folder, and tells where in it something went wrong."""

import importlib
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tidegate.errors import TrainingError


@contextmanager
def importable(root: Path) -> Iterator[None]:
    """Put the project's folder first on the import path for a while.

    Modules of the same name that came from elsewhere are set aside meanwhile, so that two projects which both have a
    `train.py` can be worked on by one process.
    """
    root = root.resolve()
    local = {path.stem for path in root.glob("*.py")} | {path.parent.name for path in root.glob("*/__init__.py")}
    set_aside = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in local}
    for name in set_aside:
        del sys.modules[name]
    sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(root))
        for name in [name for name in sys.modules if name.partition(".")[0] in local]:
            del sys.modules[name]
        sys.modules.update(set_aside)


def load_function(reference: str, root: Path) -> Callable[[Any], Any]:
    """Return the function that `module:function` names; call it inside `importable(root)`.

    Raises:
        TrainingError: There is no such module or function, or the module raised while it was imported.
    """
    module_name, _, function_name = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise TrainingError(
                f"training.function {reference!r}: no module {module_name!r} in {root}; modules there: {_modules(root)}"
            ) from error
        raise TrainingError(f"training.function {reference!r}: {describe(error, root)}") from error
    except Exception as error:
        raise TrainingError(f"training.function {reference!r}: importing it failed: {describe(error, root)}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        found = "nothing of that name" if function is None else type(function).__name__
        raise TrainingError(f"training.function {reference!r}: {module_name} holds {found}; a function is needed")
    return function  # type: ignore[no-any-return]


def describe(error: BaseException, root: Path) -> str:
    """Return one line: the error, and the file and line of the project's own code that it came from."""
    message = traceback.format_exception_only(error)[-1].strip()
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(root)] or list(frames)
    if isinstance(error, SyntaxError) and error.filename:
        return f"{message} ({error.filename}:{error.lineno})"
    return f"{message} ({own[-1].filename}:{own[-1].lineno})" if own else message


def _modules(root: Path) -> str:
    return ", ".join(sorted(path.stem for path in root.glob("*.py"))) or "none"
