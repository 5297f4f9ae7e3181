"""Cron expressions as Kubeflow Pipelines reads them: six fields, seconds first.

Kubeflow parses with robfig/cron v1.2.0 (kubeflow/pipelines go.mod), which takes an ordinary five-field expression without a
word and reads its first field as *seconds*: `0 6 * * *` then means six minutes past every hour. So five fields get their
second here, and what cannot be parsed there is refused here, by field.
"""

from dataclasses import dataclass

from tidegate.errors import PipelineError

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_DESCRIPTORS = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    first: int
    last: int
    names: tuple[str, ...] = ()

    def check(self, text: str, expression: str) -> None:
        for part in text.split(","):
            self._check_range(part, expression)

    def _check_range(self, part: str, expression: str) -> None:
        limits, slash, step = part.partition("/")
        if slash and not (_is_number(step) and int(step) > 0):
            raise self._refusal(expression, part, "its step must be a number above 0")
        if limits in ("*", "?"):
            return
        first, dash, last = limits.partition("-")
        numbers = [self._number(first, part, expression)]
        if dash:
            numbers.append(self._number(last, part, expression))
        if any(not self.first <= number <= self.last for number in numbers):
            raise self._refusal(expression, part, f"must lie in {self.first} to {self.last}")
        if numbers[0] > numbers[-1]:
            raise self._refusal(expression, part, "its range ends before it begins")

    def _number(self, text: str, part: str, expression: str) -> int:
        if text.lower() in self.names:
            return self.first + self.names.index(text.lower())
        if not _is_number(text):
            raise self._refusal(expression, part, f"must be a number of {self.first} to {self.last}, *, a range or a list")
        return int(text)

    def _refusal(self, expression: str, part: str, reason: str) -> PipelineError:
        return PipelineError(f"cron {expression!r}: {self.name} {part!r}: {reason}")


_FIELDS = (
    _Field("second", 0, 59),
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 6, _DAYS),
)


def six_fields(expression: str) -> str:
    """Return a cron expression as Kubeflow Pipelines reads it.

    Args:
        expression: Five fields (minute first), six (second first), or one of `@hourly`, `@daily`, `@weekly`, `@monthly`,
            `@yearly`.

    Raises:
        PipelineError: It is none of these, or a field is out of its range; the message names the field.
    """
    text = " ".join(expression.split())
    if text.startswith("@"):
        if text not in _DESCRIPTORS:
            raise PipelineError(f"cron {expression!r}: must be one of {', '.join(_DESCRIPTORS)}, or five or six fields")
        return _DESCRIPTORS[text]
    fields = text.split(" ")
    if len(fields) == len(_FIELDS) - 1:
        fields.insert(0, "0")
    if len(fields) != len(_FIELDS):
        raise PipelineError(
            f"cron {expression!r}: has {len(text.split())} fields; give five (minute hour day month weekday), "
            "or six with the second in front"
        )
    for field, given in zip(_FIELDS, fields, strict=True):
        field.check(given, text)
    return " ".join(fields)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
