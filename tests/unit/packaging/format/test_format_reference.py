"""docs/model-packages.md says what the format is: every field, file and bound of it, and no other."""

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from tidegate.packaging.format import golden, manifest, manifest_rules, reference
from tidegate.packaging.format.manifest import SCHEMA_VERSION, Manifest, Task, TensorSpec

TEXT = (Path(__file__).parents[4] / "docs" / "model-packages.md").read_text()
SMALLER = {
    "policy": manifest.InputPolicy,
    "variant": manifest.Variant,
    "runtime": manifest.Runtime,
    "runtime.engine": manifest.Engine,
    "source": manifest.SourceFacts,
    "packing": manifest.PackedInput,
    "verdicts": manifest.Verdict,
    "benchmark": manifest.BenchmarkRow,
    "search": manifest.SearchRow,
    "lineage": manifest.Lineage,
}


def fields(record: type[msgspec.Struct]) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(record)]


def section(start: str, end: str) -> str:
    return TEXT[TEXT.index(start) : TEXT.index(end, TEXT.index(start))]


def first_cells(text: str) -> list[str]:
    """The names in the first cell of each row of a table."""
    return [name for line in text.splitlines() if "|" in line for name in re.findall(r"`([^`]+)`", line.split("|")[1])]


def test_every_field_of_the_manifest_is_told() -> None:
    assert first_cells(section("## The manifest", "The task gives")) == fields(Manifest)


def test_every_field_of_a_tensor_is_told() -> None:
    assert first_cells(section("A tensor, in", "The smaller records")) == fields(TensorSpec)


@pytest.mark.parametrize("name", SMALLER)
def test_every_field_of_a_smaller_record_is_told(name: str) -> None:
    told = re.findall(r"`(\w+)`", section("The smaller records", "## Versions").split(f"| `{name}` |")[1].splitlines()[0])

    assert set(fields(SMALLER[name])) <= set(told)


def test_every_task_is_told() -> None:
    assert first_cells(section("The task gives", "A tensor, in")) == list(get_args(Task))


def test_every_file_is_told() -> None:
    names = [value for name, value in vars(manifest).items() if name.endswith("_NAME")]

    assert sorted(first_cells(section("| file |", "No file is a pickle"))) == sorted(names)


def test_the_bounds_are_the_codes_own() -> None:
    assert f"the format's version: {SCHEMA_VERSION} |" in TEXT
    assert f"more than {golden.MOST_BYTES >> 30} GiB; a reference" in TEXT
    assert f"{reference.MOST_ROWS:,} rows, {reference.MOST_VALUES:,} values or {reference.MOST_BYTES >> 30} GiB" in TEXT
    assert f"`package.json` | {manifest_rules.LARGEST_MANIFEST >> 20} MiB |" in TEXT
    assert f"`package.sig` | {manifest_rules.LARGEST_SIGNATURE >> 20} MiB |" in TEXT
    bounds = section("| part |", "From an object store").splitlines()
    for name, largest in manifest_rules._LARGEST_FILES.items():
        size = f"{largest >> 30} GiB" if largest >= 1 << 30 else f"{largest >> 20} MiB"
        assert [line for line in bounds if f"`{name}`" in line and f"| {size} |" in line], name
    assert f"any other file | {manifest_rules._LARGEST_GRAPH >> 30} GiB," in TEXT
    assert f"| files | {manifest_rules._MOST_FILES} |" in TEXT
