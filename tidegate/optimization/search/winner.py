"""Writes what a search found: `selection.json`, and the winning package, which says how it won and why the others lost."""

import shutil
from pathlib import Path

import msgspec

from tidegate.optimization.records import PACKAGE_FOLDER, SELECTION_NAME, Selection, SelectionRow, write_record
from tidegate.packaging.format.manifest import SearchRow
from tidegate.packaging.format.package import copy_package, read_manifest


def write_selection(selection: Selection, package: Path | None, out: Path) -> None:
    """Write `out/selection.json`, and the winner's `package` as `out/package/`; without a winner an earlier one is removed."""
    out.mkdir(parents=True, exist_ok=True)
    if selection.winner is None or package is None:
        shutil.rmtree(out / PACKAGE_FOLDER, ignore_errors=True)
    else:
        _write_winner(selection, selection.row(selection.winner), package, out / PACKAGE_FOLDER)
    write_record(out / SELECTION_NAME, selection)


def _write_winner(selection: Selection, row: SelectionRow, package: Path, to: Path) -> None:
    manifest = read_manifest(package)
    changed = msgspec.structs.replace(
        manifest,
        verdicts=row.verdicts,
        benchmark=selection.benchmark,
        metrics=manifest.metrics | metrics_of(row),
        search=tuple(_search_row(each) for each in selection.rows),
    )
    copy_package(package, to, changed)


def metrics_of(row: SelectionRow) -> dict[str, float]:
    """Return the numbers of a variant by name; what was not measured is absent."""
    speed, footprint = row.speed(), row.footprint
    errors = [parity.max_absolute for parity in row.parity if parity.max_absolute is not None]
    found = {
        **_accuracy(row),
        "parity_max_absolute": max(errors, default=None),
        "p50_us": speed.p50_us if speed else None,
        "p95_us": speed.p95_us if speed else None,
        "p99_us": speed.p99_us if speed else None,
        "rows_per_second": max((entry.rows_per_second for entry in row.benchmark), default=None),
        "model_bytes": footprint.size_bytes if footprint else None,
        "load_seconds": footprint.load_seconds if footprint else None,
        "memory_bytes": footprint.memory_bytes if footprint else None,
        "cost_per_million": footprint.cost_per_million if footprint else None,
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def _accuracy(row: SelectionRow) -> dict[str, float]:
    found = row.accuracy
    if found is None:
        return {}
    return {found.metric: found.value, f"{found.metric}_low": found.low, f"{found.metric}_high": found.high}


def _search_row(row: SelectionRow) -> SearchRow:
    return SearchRow(variant=row.name, status=row.status, reason=row.reason, numbers=metrics_of(row))
