"""How a service is shown: its revisions, whether they are ready, and their share of the traffic."""

from typing import Any

from rich.markup import escape
from rich.table import Table

from tidegate.deployment.target import ServiceStatus


def described(status: ServiceStatus) -> dict[str, Any]:
    """Return a status as one JSON document."""
    revisions = [
        {
            "name": revision.name,
            "role": revision.role,
            "ready": revision.ready,
            "traffic_percent": revision.traffic_percent,
            "reason": revision.reason,
        }
        for revision in status.revisions
    ]
    return {"name": status.name, "url": status.url, "settled": status.settled, "reason": "", "revisions": revisions}


def service_table(service: dict[str, Any]) -> Table:
    """Return a described service as a table."""
    state = "settled" if service["settled"] else service["reason"] or "changing"
    title = escape(f"{service['name']}  {service['url']}  {state}")
    table = Table("revision", "role", "ready", "traffic", "reason", title=title)
    for revision in service["revisions"]:
        ready = "[green]yes[/green]" if revision["ready"] else "[red]no[/red]"
        table.add_row(revision["name"], revision["role"], ready, f"{revision['traffic_percent']} %", escape(revision["reason"]))
    return table
