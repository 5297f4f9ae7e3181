"""Why a local run failed: kfp.local only says which task, so the error is read from the run's log."""

import re

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_FAILED = re.compile(r" - ERROR - Task '(?P<task>[^']+)' finished with status FAILURE")
_TRACEBACK = re.compile(r"^(?P<indent>\s*)Traceback \(most recent call last\):$")
_EXCEPTION = re.compile(r"(?:\w+\.)*(?P<kind>\w+)(?:: (?P<message>.*))?$")
# Built-in errors whose message says little without their name.
_BARE = frozenset({"KeyError", "AssertionError", "IndexError", "AttributeError", "TypeError", "ValueError", "RuntimeError"})


def failure_cause(log: str) -> str:
    """Say in one line which task failed and with which error, from a run's log."""
    lines = _ANSI.sub("", log).splitlines()
    for number, line in enumerate(lines):
        if match := _FAILED.search(line):
            return f"{match['task']}: {last_exception(lines[:number]) or 'ended without an error'}"
    spoken = [line.strip() for line in lines if line.strip()]
    return spoken[-1] if spoken else "the run ended without a word"


def last_exception(lines: list[str]) -> str:
    """Return the error of the last traceback among lines of a log, on one line; empty if there is no traceback."""
    begin = max((number for number, line in enumerate(lines) if _TRACEBACK.match(line)), default=None)
    if begin is None:
        return ""
    indent = len(lines[begin]) - len(lines[begin].lstrip())
    for line in lines[begin + 1 :]:
        if len(line) > indent and not line[indent].isspace():
            match = _EXCEPTION.match(line[indent:])
            if match is None:
                return line.strip()
            kind, message = match["kind"], match["message"] or ""
            return message if kind.endswith("Error") and kind not in _BARE and message else f"{kind}: {message}".rstrip(": ")
    return ""
