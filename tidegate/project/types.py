"""The types that the project file's fields are made of."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tidegate.project.patterns import LINE, NAME


def distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return `names`; raises ValueError if one is given twice."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{', '.join(map(repr, twice))} is given twice; name each once")
    return names


def _known_address(address: str) -> str:
    if "://" in address and not address.startswith(("s3://", "file:///")):
        raise ValueError("is not an address of a store; use a folder, 'file:///absolute/path' or 's3://bucket/prefix'")
    return address


Name = Annotated[str, Field(pattern=NAME, max_length=45)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, le=604_800)]
WholeDays = Annotated[int, Field(ge=1, le=36_500)]
Text = Annotated[str, Field(min_length=1, pattern=LINE)]
Classes = Annotated[tuple[Text, Text], AfterValidator(distinct)]
StoreAddress = Annotated[Text, AfterValidator(_known_address)]
Names = Annotated[tuple[Text, ...], Field(min_length=1), AfterValidator(distinct)]


class Section(BaseModel):
    """A part of the project file: frozen, without unknown fields, without infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
