"""Draws a manifest's facts on the terminal."""

from collections.abc import Iterator

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tidegate.packaging.format.manifest import BenchmarkRow, InputPolicy, Manifest, SearchRow, Verdict

_OUTCOMES = {"passed": "[green]passed[/green]", "failed": "[red]failed[/red]", "not-applicable": "not applicable"}


def render_manifest(console: Console, manifest: Manifest) -> None:
    """Print what a package is, where it comes from, its gates, its speed, and the search that it won."""
    facts = Table(show_header=False, box=None)
    for name, value in _facts(manifest):
        facts.add_row(escape(name), escape(value))
    console.print(facts)
    for table in (_gates(manifest.verdicts), _speed(manifest.benchmark), _search(manifest.search)):
        if table.row_count:
            console.print(table)


def variant_of(manifest: Manifest) -> str:
    """Return "candidate/variant"."""
    return f"{manifest.variant.candidate}/{manifest.variant.name}"


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    yield "task", manifest.task
    yield "variant", f"{variant_of(manifest)}, {manifest.variant.precision} precision"
    if source := manifest.source:
        yield "source", f"{source.framework} {source.version}, {source.kind}"
        if source.digest:
            yield "source digest", source.digest
    if manifest.tools:
        yield "made with", ", ".join(f"{name} {version}" for name, version in sorted(manifest.tools.items()))
    if manifest.classes:
        threshold = "" if manifest.threshold is None else f" from probability {manifest.threshold:g}"
        yield "classes", ", ".join(manifest.classes) + threshold
    for spec in manifest.signature.inputs:
        if spec.policy != InputPolicy():
            said = msgspec.to_builtins(spec.policy)  # what is as by default is left out
            yield f"policy of {spec.name}", ", ".join(f"{rule.replace('_', ' ')} {value}" for rule, value in said.items())
    for metric, value in manifest.metrics.items():
        yield metric, f"{value:.6g}"
    if manifest.lineage:
        for field, value in msgspec.to_builtins(manifest.lineage).items():
            yield field.replace("_", " "), str(value)


def _gates(verdicts: tuple[Verdict, ...]) -> Table:
    table = Table("gate", "subject", "measure", "value", "bound", "verdict", title="gates")
    for verdict in verdicts:
        table.add_row(
            verdict.gate,
            escape(verdict.subject),
            escape(verdict.measure),
            _number(verdict.value),
            _number(verdict.bound),
            "[green]passed[/green]" if verdict.passed else "[red]failed[/red]",
        )
    return table


def _speed(benchmark: tuple[BenchmarkRow, ...]) -> Table:
    table = Table("variant", "batch", "callers", "p50 µs", "p95 µs", "p99 µs", "rows/s", title="benchmark")
    for row in benchmark:
        times = (f"{time:.1f}" for time in (row.p50_us, row.p95_us, row.p99_us))
        table.add_row(escape(row.variant), str(row.batch), str(row.concurrency), *times, f"{row.rows_per_second:,.0f}")
    return table


def _search(search: tuple[SearchRow, ...]) -> Table:
    table = Table("variant", "outcome", "why", title="search")
    for row in search:
        table.add_row(escape(row.variant), _OUTCOMES[row.status], escape(row.reason))
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
