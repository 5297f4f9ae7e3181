"""Kubernetes quantities, such as `512Mi` and `1G`, as numbers."""

import re
from decimal import Decimal

_QUANTITY = re.compile(r"(?P<number>[0-9]+(\.[0-9]+)?)(?P<unit>m|k|M|G|T|Ki|Mi|Gi|Ti)?")
_BYTES = {
    "m": Decimal("0.001"),
    "": Decimal(1),
    "k": Decimal(1000),
    "M": Decimal(1000) ** 2,
    "G": Decimal(1000) ** 3,
    "T": Decimal(1000) ** 4,
    "Ki": Decimal(1024),
    "Mi": Decimal(1024) ** 2,
    "Gi": Decimal(1024) ** 3,
    "Ti": Decimal(1024) ** 4,
}


def mebibytes(quantity: str) -> float:
    """Return `quantity`, an amount of memory, in MiB; raises ValueError if it is not one that the project file allows."""
    match = _QUANTITY.fullmatch(quantity)
    if match is None:
        raise ValueError(f"{quantity!r} is not a quantity, such as '512Mi'")
    return float(Decimal(match["number"]) * _BYTES[match["unit"] or ""] / _BYTES["Mi"])
