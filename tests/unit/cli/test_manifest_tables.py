import io
from pathlib import Path

from rich.console import Console

from tidegate.cli.manifest_tables import render_manifest
from tidegate.packaging.format.package import read_manifest

GOLDEN = Path(__file__).parents[1] / "packaging" / "format" / "golden"


def rendered(package: str) -> str:
    console = Console(file=io.StringIO(), width=200)
    render_manifest(console, read_manifest(GOLDEN / package))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_policies_are_told_where_there_are_some() -> None:
    lines = {line.split("  ")[0].strip(): line for line in rendered("schema-3-policies").splitlines()}

    assert "unknown category impute, missing impute, imputed UA" in lines["policy of carrier"]
    assert "out of range clamp" in lines["policy of temp"]
    assert "policy of wind" not in lines
    assert "policy of" not in rendered("schema-2-tabular")
