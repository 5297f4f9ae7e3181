"""The page of a rollout: the traffic that the canary was given, what the judge saw at each look, and why it ended as it did."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from tidegate.reporting.formats import count, duration, milliseconds, plural
from tidegate.reporting.page import (
    Badge,
    Block,
    Cell,
    Column,
    Details,
    Figure,
    Notice,
    Page,
    Section,
    Status,
    Table,
    Tile,
    render_page,
)
from tidegate.reporting.timelines import TrafficLook, canary_traffic

_STATE: Mapping[str, Status] = {"promoted": "pass", "rolled_back": "fail"}
_VERDICT: Mapping[str, Status] = {"continue": "none", "advance": "pass", "rollback": "fail"}


def render_rollout(rollout: Mapping[str, Any]) -> str:
    """Return the page of a rollout record's JSON."""
    state = str(rollout["state"])
    stable = rollout["stable"]
    return render_page(
        Page(
            title=f"{rollout['service']}: version {rollout['version']} {state.replace('_', ' ')}",
            subtitle=f"{rollout['outcome'] or 'not finished'}. Started because: {rollout['reason']}.",
            badge=Badge(_STATE.get(state, "warn"), state.replace("_", " ")),
            tiles=_tiles(rollout),
            sections=(
                Section("Traffic and looks", _looks(rollout), f"Beside {stable['name']}." if stable else ""),
                Section("States", (_transitions(rollout["transitions"]),)),
            ),
        )
    )


def _tiles(rollout: Mapping[str, Any]) -> tuple[Tile, ...]:
    looks: Sequence[Mapping[str, Any]] = rollout["looks"]
    tiles = [Tile("Looks", count(rollout["looks_taken"]), "of the judge")]
    if looks:
        evidence = looks[-1]["evidence"]
        tiles += [
            Tile(name, f"{_rate(evidence['errors'][side])} / {_p95(evidence['latency'][side])}", "errors / p95, last step")
            for name, side in (("Canary", "canary"), ("Stable", "stable"))
        ]
    return tuple(tiles)


def _looks(rollout: Mapping[str, Any]) -> tuple[Block, ...]:
    looks: Sequence[Mapping[str, Any]] = rollout["looks"]
    if not looks:
        if rollout["stable"] is None:
            return (Notice("The first version: there was none to compare it with, so it took all of the traffic at once."),)
        return (Notice("The judge did not look.", "warn"),)
    began = _moment(rollout["transitions"][0]["at"])
    traffic = [
        TrafficLook(
            (_moment(look["at"]) - began).total_seconds(),
            look["percent"],
            _in_milliseconds(look["evidence"]["latency"]["canary"]),
            _in_milliseconds(look["evidence"]["latency"]["stable"]),
            _VERDICT[look["verdict"]],
            look["reason"],
        )
        for look in looks
    ]
    decisive = [look for look in looks if look["verdict"] != "continue"] or [looks[-1]]
    blocks: list[Block] = [Figure(canary_traffic(traffic, width=1000)), _table(decisive, began)]
    if len(decisive) < len(looks):
        blocks.append(Details(f"All of {plural(len(looks), 'look')} kept", (_table(looks, began),)))
    return tuple(blocks)


def _table(looks: Sequence[Mapping[str, Any]], began: datetime) -> Table:
    columns = (
        Column("At", numeric=True), Column("Canary gets", numeric=True), Column("Canary", numeric=True),
        Column("Stable", numeric=True), Column("p95 canary", numeric=True), Column("p95 stable", numeric=True),
        Column("Verdict"), Column("Why"),
    )  # fmt: skip
    return Table(columns, [_row(look, began) for look in looks], "Requests and errors are those of the look's step.")


def _row(look: Mapping[str, Any], began: datetime) -> tuple[Cell, ...]:
    evidence = look["evidence"]
    return (
        duration((_moment(look["at"]) - began).total_seconds()),
        f"{look['percent']} %",
        f"{count(evidence['canary_requests'])}, {plural(evidence['canary_errors'], 'error')}",
        f"{count(evidence['stable_requests'])}, {plural(evidence['stable_errors'], 'error')}",
        _p95(evidence["latency"]["canary"]),
        _p95(evidence["latency"]["stable"]),
        Badge(_VERDICT[look["verdict"]], {"rollback": "roll back"}.get(look["verdict"], look["verdict"])),
        look["reason"],
    )


def _transitions(transitions: Sequence[Mapping[str, Any]]) -> Table:
    began = _moment(transitions[0]["at"])
    rows = [
        (
            duration((_moment(each["at"]) - began).total_seconds()),
            str(each["state"]).replace("_", " "),
            f"{each['percent']} %",
            each["reason"],
        )
        for each in transitions
    ]
    return Table((Column("At", numeric=True), Column("State"), Column("Canary gets", numeric=True), Column("Why")), rows)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _in_milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def _p95(seconds: float | None) -> str:
    return milliseconds(_in_milliseconds(seconds))


def _rate(share: float | None) -> str:
    return "no traffic" if share is None else f"{share * 100:.2f} %"
