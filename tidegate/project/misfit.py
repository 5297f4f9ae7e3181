"""A mistake that a section finds by looking at several of its fields, told as if pydantic had found it in one of them."""

from typing import Any

from pydantic_core import PydanticCustomError

KIND = "misfit"
_MISSING = object()


def misfit(field: str, value: Any = _MISSING, reason: str = "") -> PydanticCustomError:
    """Return what a section's validator raises when one field does not fit the others.

    Args:
        field: Below the section, dotted, such as "accuracy.minimum".
        value: What it holds; without one, the field is missing.
        reason: Why that does not fit, and what does.
    """
    if value is _MISSING:
        return PydanticCustomError(KIND, "{field}: required, but not given", {"field": field})
    return PydanticCustomError(KIND, "{field}: {reason}", {"field": field, "value": value, "reason": reason})
