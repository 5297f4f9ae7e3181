"""docs/serving.md says what the server has: every setting, metric and status of it, and no other.

TIDEGATE_WRITE_DOCS=1 writes the tables anew.
"""

import os
import re
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel

from tidegate.project.project import Project
from tidegate.release.delivery import DECIDED_BY
from tidegate.serving.grpc_v2.status import _CODES
from tidegate.serving.metrics.names import METRICS, STATUSES
from tidegate.serving.settings import Setting, settings

FILE = Path(__file__).parents[3] / "docs" / "serving.md"
HEADS = {
    "settings": ("| option | default | bounds | project file | what it means |", "| --- | --- | --- | --- | --- |"),
    "metrics": ("| metric | kind | labels | what it counts |", "| --- | --- | --- | --- |"),
}


def setting_rows() -> list[str]:
    rows, group = [], ""
    for setting in settings():
        if setting.about.group != group:
            group = setting.about.group
            rows.append(f"| **{group}** | | | | |")
        name = "PACKAGE" if setting.name == "package" else f"`{setting.option}`"
        field = DECIDED_BY.get(setting.name)
        decided = f"`{field}`" if field else ""
        rows.append(f"| {name} | {default_of(setting)} | {bounds_of(setting)} | {decided} | {setting.about.help} |")
    return rows


def default_of(setting: Setting) -> str:
    return "" if setting.default in (None, ()) else f"`{setting.spell(setting.default)}`"


def bounds_of(setting: Setting) -> str:
    if get_origin(setting.kind) is Literal:
        return ", ".join(get_args(setting.kind))
    least, most = setting.about.at_least, setting.about.at_most
    if most is not None:
        return f"{least:g} to {most:,g}" if most < 1e6 else f"{least:g} to {int(most):,}"
    return "" if least is None else f"from {least:g}"


def metric_rows() -> list[str]:
    return [
        f"| `{metric.name}` | {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels)} | {metric.purpose} |"
        for metric in METRICS.values()
    ]


@pytest.mark.parametrize(
    ("table", "rows"), [("settings", setting_rows()), ("metrics", metric_rows())], ids=["settings", "metrics"]
)
def test_a_table_is_what_the_code_says(table: str, rows: list[str]) -> None:
    text = FILE.read_text()
    start, end = f"<!-- {table} -->\n", f"<!-- /{table} -->"
    before, rest = text.split(start)
    found, after = rest.split(end)
    wanted = "\n".join(("", *HEADS[table], *rows, "", ""))
    if os.environ.get("TIDEGATE_WRITE_DOCS"):
        FILE.write_text(before + start + wanted + end + after)
        found = wanted

    assert found.splitlines() == wanted.splitlines(), "TIDEGATE_WRITE_DOCS=1 writes the table anew"


def test_every_status_is_told_with_its_grpc_code() -> None:
    section = FILE.read_text().split("## Refusals")[1].split("##")[0]
    told = {int(status): code for status, code in re.findall(r"^\| (\d+) \| (?:`(\w+)`)? ?\|", section, re.MULTILINE)}

    assert told.keys() >= set(STATUSES) - {200}
    assert {status: code for status, code in told.items() if code} == {
        status: _CODES[status].name for status in told if status in _CODES
    }
    assert all(status == 499 or HTTPStatus(status) for status in told)


def test_every_field_that_decides_a_setting_exists() -> None:
    assert DECIDED_BY.keys() <= {setting.name for setting in settings()}
    for field in DECIDED_BY.values():
        section: Any = Project
        for part in field.split("."):
            assert part in section.model_fields, field
            section = section.model_fields[part].annotation
        assert not (isinstance(section, type) and issubclass(section, BaseModel)), field


def test_every_path_of_the_document_is_told() -> None:
    section = FILE.read_text().split("## Paths")[1].split("\n## ")[0]

    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/NAME", "/v1/models", "/metrics", "/openapi.json"):
        assert f"`GET {path}`" in section
