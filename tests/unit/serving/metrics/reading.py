"""Reads Prometheus text as Prometheus' own parser does."""

from prometheus_client.parser import text_string_to_metric_families

COMMON = ("model", "version", "revision")


def samples(text: bytes, name: str) -> dict[str, float]:
    """Return a metric's samples by what follows its name, without the common labels; each sample must be there once."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            if sample.name.removesuffix("_total") == name.removesuffix("_total") or (
                family.type == "histogram" and family.name == name
            ):
                own = ",".join(f'{label}="{value}"' for label, value in sample.labels.items() if label not in COMMON)
                series = sample.name.removeprefix(name) + (f"{{{own}}}" if own else "")
                assert series not in found, f"{name}{series} is there twice"
                found[series] = sample.value
    return found
