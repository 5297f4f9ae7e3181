"""The serving section: what it refuses, in which words."""

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from tidegate.errors import ProjectError
from tidegate.packaging.format import manifest
from tidegate.project import load_project, serving
from tidegate.project.serving import InputRules, ServingSection


@pytest.fixture
def load(tmp_path: Path, project_text: str) -> Any:
    def load(**section: Any) -> ServingSection:
        file = tmp_path / "tidegate.yaml"
        file.write_text(yaml.safe_dump(yaml.safe_load(project_text) | {"serving": section}))
        return load_project(file).serving

    return load


def rules(name: str, **fields: Any) -> dict[str, Any]:
    return {"validation": {"inputs": {name: fields}}}


def test_everything_at_once(load: Any) -> None:
    found = load(
        validation={"out_of_range": "clamp", "missing": "impute", "inputs": {"carrier": {"value": "UA", "missing": "impute"}}},
        batching={"rows": 1},
        log={"mode": "audit", "redact": ["carrier", "dest:hash"]},
        traces=0.01,
        traces_to="http://collector:4318/",
    )

    assert found.validation.inputs == {"carrier": InputRules(value="UA", missing="impute")}
    assert (found.batching.rows, found.log.redact, found.traces) == (1, ("carrier", "dest:hash"), 0.01)
    assert found.traces_to == "http://collector:4318"


@pytest.mark.parametrize("value", [True, 3, 2.5, "text"])
def test_a_value_keeps_its_type(load: Any, value: object) -> None:
    found = load(**rules("carrier", missing="impute", value=value)).validation.inputs["carrier"].value

    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("words", ["OutOfRange", "UnknownCategory", "Missing"])
def test_the_rules_are_those_that_a_manifest_can_say(words: str) -> None:
    assert get_args(getattr(serving, words)) == get_args(getattr(manifest, words))


@pytest.mark.parametrize(
    ("section", "says"),
    [
        pytest.param({"batching": {"rows": 0}}, "batching.rows: 0: input should be greater than or equal to 1", id="rows"),
        pytest.param({"batching": {"delay_ms": -1}}, "batching.delay_ms: -1: input should be greater", id="delay"),
        pytest.param({"batching": {"size": 1}}, "batching.size: no such field (allowed: rows, delay_ms,", id="no field"),
        pytest.param({"request_seconds": 0}, "request_seconds: 0: input should be greater than or equal to 0.001", id="time"),
        pytest.param({"log": {"sample": 0}}, "log.sample: 0: input should be greater", id="a log of nothing"),
        pytest.param(
            {"log": {"mode": "audit", "sample": 0.5}}, "log.sample: 0.5: an audit log keeps every", id="half an audit"
        ),
        pytest.param({"log": {"mode": "sync"}}, "log.mode: 'sync': input should be 'async' or 'audit'", id="mode"),
        pytest.param({"log": {"redact": ["a,b"]}}, "log.redact: ['a,b']: 'a,b' holds a comma; name one", id="two in one"),
        pytest.param({"log": {"redact": ["a", "a"]}}, "log.redact: ['a', 'a']: 'a' is given twice", id="redacted twice"),
        pytest.param({"access_log": "some"}, "access_log: 'some': input should be 'off', 'errors' or 'all'", id="access"),
        pytest.param({"traces": "some"}, "traces: 'some': must be off, parent, or a share over 0 and up to 1", id="traces"),
        pytest.param({"traces": 1.5}, "traces: 1.5: must be off, parent, or a share over 0 and up to 1", id="a share over 1"),
        pytest.param({"traces_to": "http://c:1"}, "traces_to: 'http://c:1': nothing is sent there; set traces", id="no traces"),
        pytest.param({"traces": "parent", "traces_to": "c:1"}, "traces_to: 'c:1': is not an HTTP address", id="no address"),
        pytest.param(
            {"validation": {"missing": "reject"}},
            "validation.missing: 'reject': input should be 'as-trained' or 'impute'",
            id="missing",
        ),
        pytest.param(rules("sky"), "validation.inputs: 'sky': is none of features.request_inputs (", id="an unknown input"),
        pytest.param(
            rules("carrier", vale=1), "validation.inputs.carrier.vale: no such field (allowed: out_of_range,", id="a typo"
        ),
        pytest.param(
            rules("carrier", value=[1]),
            "validation.inputs.carrier.value: [1]: must be a bool, int, float or text",
            id="a list as the value",
        ),
        pytest.param(rules("carrier", value="UA"), "validation.inputs.carrier.value: 'UA': is never used; set", id="unused"),
    ],
)
def test_a_mistake_is_one_line(load: Any, section: dict[str, Any], says: str) -> None:
    with pytest.raises(ProjectError) as refused:
        load(**section)

    assert f"/tidegate.yaml: serving.{says}" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_one_mistake_in_a_field_of_several_types_is_told_once(load: Any) -> None:
    with pytest.raises(ProjectError) as refused:
        load(traces={})

    assert str(refused.value).count("serving.traces") == 1
