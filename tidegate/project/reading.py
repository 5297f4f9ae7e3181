"""Reads a file into a section; a mistake is one line that names the field, the value and what is allowed."""

import json
import re
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import ValidationError

from tidegate.errors import ProjectError
from tidegate.project import misfit
from tidegate.project.patterns import IN_WORDS
from tidegate.project.types import Section
from tidegate.strict_yaml import read_strict_yaml

_SHOWN_CHARACTERS = 80
_USER_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]*@")
# Fields of several types: pydantic tells of each type, by a name of its own at the end, that the value is not of it.
_SEVERAL_TYPES: dict[tuple[int | str, ...], str] = {
    ("training", "parameters", "*"): "a bool, int, float or text",
    ("serving", "validation", "inputs", "*", "value"): "a bool, int, float or text",
    ("serving", "traces"): "off, parent, or a share over 0 and up to 1",
}
_Kind = TypeVar("_Kind", bound=Section)


def refusal(what: str, path: str | Path, reason: object) -> ProjectError:
    """Return the error that `path`, which is `what` (such as "project file"), cannot be used for `reason`; one line."""
    message = " ".join(f"{what} {path}: {reason}".split())
    return ProjectError("".join(character if character.isprintable() else ascii(character)[1:-1] for character in message))


def read_bytes(what: str, path: str | Path) -> tuple[Path, bytes]:
    """Return the absolute path of a file and what it holds; raises ProjectError if it cannot be read."""
    try:
        file = Path(path).resolve()
        return file, file.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:
        raise refusal(what, path, getattr(error, "strerror", None) or error) from error


def read_fields(what: str, path: str | Path, raw: bytes) -> dict[str, Any]:
    """Return the fields of a YAML file; raises ProjectError if it is none, or holds no fields."""
    try:
        document = read_strict_yaml(raw)
    except ValueError as error:
        raise refusal(what, path, f"not YAML: {error}") from error
    if not isinstance(document, dict):
        raise refusal(what, path, f"expected fields at the top, found {type(document).__name__}")
    return document


def as_section(what: str, path: str | Path, fields: dict[str, Any], kind: type[_Kind]) -> _Kind:
    """Return the section that a file's fields are; raises ProjectError, which tells every mistake at once."""
    try:
        # Through JSON, since pydantic's strictness takes a list for a tuple only there.
        return kind.model_validate_json(json.dumps(fields, default=str), strict=True)
    except ValidationError as error:
        problems = dict.fromkeys(_explain(detail, kind) for detail in error.errors(include_url=False))
        raise refusal(what, path, "; ".join(problems)) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise refusal(what, path, error) from error


def _explain(detail: Any, root: type[Section]) -> str:
    location, kind, message = detail["loc"], detail["type"], detail["msg"]
    if allowed := _SEVERAL_TYPES.get(_shape(location[:-1])):
        location, message = location[:-1], f"must be {allowed}"
    if kind == misfit.KIND:
        return _explain_misfit(location, detail["ctx"])
    field = ".".join(str(part) for part in location) or "(file)"
    if kind == "missing":
        return f"{field}: required, but not given"
    if kind == "extra_forbidden":
        return f"{field}: no such field ({_allowed_fields(location[:-1], root)})"
    if kind in ("model_type", "model_attributes_type"):
        return f"{field}: {_shown(detail['input'])}: expected fields ({_allowed_fields(location, root)})"
    if kind == "value_error":
        refused = message.removeprefix("Value error, ")
        a_value = not _holds_sections(detail["input"])  # a section's validators name the values that do not fit together
        return f"{field}: {_shown(detail['input'])}: {refused}" if a_value else f"{field}: {refused}"
    if kind == "string_type" and isinstance(detail["input"], int | float):
        return f"{field}: {_shown(detail['input'])}: {message[0].lower()}{message[1:]}; put it in quotes"
    if kind == "string_pattern_mismatch":
        return f"{field}: {_shown(detail['input'])}: {IN_WORDS[detail['ctx']['pattern']]}"
    return f"{field}: {_shown(detail['input'])}: {message[0].lower()}{message[1:]}"


def _shape(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Return a location with the names that a user gave replaced by a star."""
    if location[:2] == ("training", "parameters"):
        return (*location[:2], *("*" for _ in location[2:]))
    return (*location[:3], "*", *location[4:]) if location[:3] == ("serving", "validation", "inputs") else location


def _explain_misfit(location: tuple[int | str, ...], found: dict[str, Any]) -> str:
    field = ".".join(str(part) for part in (*location, found["field"]))
    if "value" not in found:
        return f"{field}: required, but not given"
    return f"{field}: {_shown(found['value'])}: {found['reason']}"


def _holds_sections(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(one, dict) for one in value))


def _shown(value: Any) -> str:
    text = _USER_IN_ADDRESS.sub("…@", repr(value))
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def _allowed_fields(location: tuple[int | str, ...], root: type[Section]) -> str:
    within: Any = root
    for part in location:
        within = _annotation_below(within, part)
    fields = getattr(_section_in(within), "model_fields", None)
    return f"allowed: {', '.join(fields)}" if fields else "nothing is allowed there"


def _annotation_below(annotation: Any, part: int | str) -> Any:
    """Return what a field of a section, a place in a list or a key of a mapping is annotated with; None if nothing."""
    if get_origin(annotation) in (tuple, list, dict):
        return get_args(annotation)[get_origin(annotation) is dict]
    field = getattr(_section_in(annotation), "model_fields", {}).get(part)
    return None if field is None else field.annotation


def _section_in(annotation: Any) -> Any:
    """Return the section of an annotation such as `ClusterSection | None`."""
    return next((part for part in get_args(annotation) if hasattr(part, "model_fields")), annotation)
