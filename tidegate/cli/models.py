"""`tidegate models`: list, show, sign, verify, promote and roll back registered models."""

from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tidegate.cli import export, signing
from tidegate.cli.manifest_tables import render_manifest, variant_of
from tidegate.cli.options import DEFAULT_STORE, Name, Store, Version
from tidegate.cli.output import Json, show
from tidegate.packaging.format.manifest import Manifest
from tidegate.registry.events import Event
from tidegate.registry.registry import ANY, CHAMPION, ModelRegistry
from tidegate.registry.states import AliasState, VersionInfo
from tidegate.storage import open_store

app = typer.Typer(no_args_is_help=True)
app.command("export")(export.command)
app.command("sign")(signing.sign)
app.command("verify")(signing.verify)

Alias = Annotated[str, typer.Option("--alias", help="The alias to move.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the audit trail.")]


@app.command("list")
def list_models(
    name: Annotated[str | None, typer.Argument(help="A model, to list its versions.")] = None,
    store: Store = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """List the models, or the versions of one model."""
    registry = ModelRegistry(open_store(store))
    if name is None:
        _list_models(registry, as_json=as_json)
    else:
        _list_versions(name, registry.versions(name), as_json=as_json)


@app.command("show")
def show_version(name: Name, version: Version = CHAMPION, store: Store = DEFAULT_STORE, as_json: Json = False) -> None:
    """Show one version: its metrics, gates, benchmark and lineage, and what was done with it."""
    registry = ModelRegistry(open_store(store))
    number = registry.resolve(name, version)
    manifest = registry.manifest(name, number)
    aliases = [alias for alias, at in _positions(registry, name).items() if at == number]
    events = [event for event in registry.events(name) if number in (event.version, event.previous)]
    result = {
        "name": name,
        "version": number,
        "aliases": aliases,
        "uri": registry.uri(name, number),
        "manifest": msgspec.to_builtins(manifest),
        "events": msgspec.to_builtins(events),
    }

    def render(console: Console) -> None:
        marks = f"  ({', '.join(aliases)})" if aliases else ""
        console.print(f"[bold]{name} version {number}[/bold]{marks}")
        render_manifest(console, manifest)
        _render_events(console, events)

    show(result, as_json=as_json, render=render)


@app.command()
def promote(
    name: Name,
    version: Version,
    reason: Reason,
    alias: Alias = CHAMPION,
    expected: Annotated[int | None, typer.Option("--expected", help="Move only if the alias is at this version.")] = None,
    store: Store = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Move an alias to a version. No traffic moves with it: that is what `tidegate rollout` does."""
    registry = ModelRegistry(open_store(store))
    number = registry.resolve(name, version)
    state = registry.move_alias(name, alias, number, reason=reason, expected=ANY if expected is None else expected)
    _show_move(name, alias, state, as_json=as_json)


@app.command()
def rollback(name: Name, reason: Reason, alias: Alias = CHAMPION, store: Store = DEFAULT_STORE, as_json: Json = False) -> None:
    """Move an alias back to the version it was at before. No traffic moves with it."""
    state = ModelRegistry(open_store(store)).rollback(name, reason=reason, alias=alias)
    _show_move(name, alias, state, as_json=as_json)


def _list_models(registry: ModelRegistry, *, as_json: bool) -> None:
    result: list[dict[str, Any]] = [
        {"name": name, "latest": registry.latest(name), "aliases": _positions(registry, name)} for name in registry.models()
    ]

    def render(console: Console) -> None:
        if not result:
            console.print("no models yet")
            return
        table = Table("model", "latest", "aliases")
        for row in result:
            table.add_row(row["name"], str(row["latest"]), ", ".join(f"{alias} {at}" for alias, at in row["aliases"].items()))
        console.print(table)

    show(result, as_json=as_json, render=render)


def _positions(registry: ModelRegistry, name: str) -> dict[str, int]:
    return {alias: state.version for alias, state in registry.aliases(name).items()}


def _list_versions(name: str, versions: list[VersionInfo], *, as_json: bool) -> None:
    def render(console: Console) -> None:
        table = Table("version", "aliases", "registered", "event time", "variant", "metrics", "gates", "reason", title=name)
        for info in reversed(versions):
            table.add_row(
                str(info.version),
                ", ".join(info.aliases),
                f"{info.logged_at:%Y-%m-%d %H:%M}",
                f"{info.event_time:%Y-%m-%d %H:%M}",
                escape(variant_of(info.manifest)),
                ", ".join(f"{escape(metric)} {value:.4g}" for metric, value in info.manifest.metrics.items()),
                _gates(info.manifest),
                escape(info.reason),
            )
        console.print(table)

    show([_version_row(info) for info in versions], as_json=as_json, render=render)


def _version_row(info: VersionInfo) -> dict[str, Any]:
    return {
        "version": info.version,
        "aliases": list(info.aliases),
        "digest": info.digest,
        "registered_at": info.logged_at.isoformat(),
        "event_time": info.event_time.isoformat(),
        "variant": variant_of(info.manifest),
        "metrics": info.manifest.metrics,
        "gates_passed": all(verdict.passed for verdict in info.manifest.verdicts),
        "reason": info.reason,
        "actor": info.actor,
    }


def _show_move(name: str, alias: str, state: AliasState, *, as_json: bool) -> None:
    result = {"name": name, "alias": alias, "version": state.version, "previous": state.previous, "reason": state.reason}
    before = "unset" if state.previous is None else f"version {state.previous}"
    show(
        result,
        as_json=as_json,
        render=lambda console: console.print(f"{alias} of {name} is at [bold]version {state.version}[/bold], before: {before}"),
    )


def _render_events(console: Console, events: list[Event]) -> None:
    table = Table("logged", "event time", "what", "who", "why", title="audit trail")
    for event in events:
        table.add_row(
            f"{event.logged_at:%Y-%m-%d %H:%M:%S}",
            f"{event.event_time:%Y-%m-%d %H:%M:%S}",
            _told(event),
            escape(event.actor),
            escape(event.reason),
        )
    console.print(table)


def _told(event: Event) -> str:
    if event.kind == "registered":
        return f"registered as version {event.version}"
    before = "" if event.previous is None else f" from version {event.previous}"
    return f"{event.alias} moved{before} to version {event.version}"


def _gates(manifest: Manifest) -> str:
    failed = sum(not verdict.passed for verdict in manifest.verdicts)
    passed = len(manifest.verdicts) - failed
    return f"{passed} passed" + (f", [red]{failed} failed[/red]" if failed else "") if manifest.verdicts else "none"
