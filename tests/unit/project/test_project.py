import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidegate.errors import ProjectError
from tidegate.project import Project, load_project, project_schema
from tidegate.project.patterns import IN_WORDS

ROOT = Path(__file__).parents[3]
REQUIRED = {
    "schema_version": [], "name": [], "task": [],
    "features": ["repository", "service", "entity_rows", "id_column", "request_inputs"],
    "label": ["column", "known_at_column"],
    "training": ["function", "window_days", "holdout_days"],
    "gates": ["accuracy"], "gates.accuracy": ["minimum"],
}  # fmt: skip
SECTIONS = [
    "features", "label", "training", "gates", "gates.data", "gates.parity", "gates.accuracy",
    "gates.benchmark", "gates.champion", "gates.prices", "serving", "serving.batching", "serving.validation",
    "serving.log", "rollout", "monitoring", "monitoring.policy",
]  # fmt: skip

_TOLERANCE = {"max_absolute": 0.1, "max_relative": 0.1, "max_flip_rate": 0.1}


@pytest.fixture
def file(tmp_path: Path, project_text: str) -> Path:
    path = tmp_path / "tidegate.yaml"
    path.write_text(project_text)
    return path


@pytest.fixture
def document(project_text: str) -> dict[str, Any]:
    return yaml.safe_load(project_text)


def _set(document: dict[str, Any], field: str, value: object) -> None:
    *sections, last = field.split(".")
    for section in sections:
        document = document.setdefault(section, {})
    document[last] = value


def _refused(file: Path, document: object) -> str:
    file.write_text(yaml.safe_dump(document))
    with pytest.raises(ProjectError) as caught:
        load_project(file)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"project file {file}: ")
    return message.removeprefix(f"project file {file}: ")


def test_a_project_file(file: Path) -> None:
    project = load_project(file)

    assert project.name == "flights-late"
    assert project.label.classes == ("on-time", "late")
    assert project.rollout.steps == (5, 50, 100)
    assert project.serving.log.rotate_rows == 1000
    assert project.gates.parity.full.max_absolute == 1e-4, "what is not given is at its default"
    assert project.digest == f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    assert load_project(file, digest=project.digest).digest == project.digest


def test_paths_are_relative_to_the_file(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    paths = load_project(Path("../tidegate.yaml")).paths

    assert paths.root == tmp_path
    assert paths.workspace == tmp_path / ".tidegate"
    assert paths.repository == tmp_path / "feature_repo"
    assert paths.entity_rows == tmp_path / "data" / "flights.parquet"


@pytest.mark.parametrize(
    ("store", "address"),
    [
        (None, "file://{tmp}/.tidegate/store"),
        ("objects", "file://{tmp}/objects"),
        ("../objects", "file://{parent}/objects"),
        ("/srv/objects", "file:///srv/objects"),
        ("file:///srv/objects", "file:///srv/objects"),
        ("s3://models/team-a", "s3://models/team-a"),
    ],
)
def test_address_of_the_store(file: Path, document: dict[str, Any], tmp_path: Path, store: str | None, address: str) -> None:
    document["store"] = store
    file.write_text(yaml.safe_dump(document))

    assert load_project(file).store_uri == address.format(tmp=tmp_path, parent=tmp_path.parent)


@pytest.mark.parametrize("field", [f"{section}.{name}" if "." not in name and names else section
                                   for section, names in REQUIRED.items() for name in names or [""]])  # fmt: skip
def test_a_missing_field_is_named(file: Path, document: dict[str, Any], field: str) -> None:
    *sections, last = field.split(".")
    section = document
    for part in sections:
        section = section[part]
    del section[last]

    assert _refused(file, document) == f"{field}: required, but not given"


@pytest.mark.parametrize("section", ["", *SECTIONS])
def test_an_extra_field_is_named_with_what_is_allowed(file: Path, document: dict[str, Any], section: str) -> None:
    _set(document, f"{section}.colour".strip("."), "red")

    message = _refused(file, document)

    assert message.startswith(f"{section}.colour: no such field (allowed: ".lstrip("."))
    model: Any = Project
    for part in filter(None, section.split(".")):
        model = model.model_fields[part].annotation
    assert message.endswith(f"allowed: {', '.join(model.model_fields)})")


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("value", [None, 3, "text", [1]], ids=repr)
def test_a_section_of_the_wrong_type_is_named(file: Path, document: dict[str, Any], section: str, value: object) -> None:
    _set(document, section, value)

    assert _refused(file, document).startswith(f"{section}: {value!r}: expected fields (allowed: ")


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("schema_version", 2, "input should be 1"),
        ("schema_version", "1", "input should be 1"),
        ("name", "Flights", "use lower-case letters, digits and '-'; a letter first"),
        ("name", "f" * 46, "at most 45 characters"),
        ("name", 5, "valid string"),
        ("task", "regression", "input should be 'binary-classification'"),
        ("workspace", "", "at least 1 character"),
        ("workspace", "a\0b", "use one line, without control characters"),
        ("store", "gs://bucket", "is not an address of a store; use a folder, 'file:///absolute/path' or 's3://bucket/prefix'"),
        ("features.request_inputs", [], "at least 1 item"),
        ("features.request_inputs", "carrier", "valid array"),
        ("features.request_inputs", ["a", "b", "a"], "'a' is given twice; name each once"),
        ("features.repository", ["a"], "valid string"),
        ("label.classes", ["a", "b", "c"], "at most 2 items"),
        ("label.classes", ["a", "a"], "'a' is given twice; name each once"),
        ("training.function", "train", "use 'module:function', such as 'train:train'"),
        ("training.function", "train:a b", "use 'module:function', such as 'train:train'"),
        ("training.window_days", 0, "greater than or equal to 1"),
        ("training.window_days", 10**30, "less than or equal to 36500"),
        ("training.window_days", 90.5, "valid integer"),
        ("training.window_days", True, "valid integer"),
        ("training.window_days", "90", "valid integer"),
        ("training.parameters", [1], "input should be an object"),
        ("gates.data.label_rate", [0.1, 1.2], "less than or equal to 1"),
        ("gates.data.label_rate", [0.6, 0.05], "[0.6, 0.05]: give the lowest share first, such as [0.05, 0.6]"),
        ("gates.benchmark.batch_sizes", [1, 0], "greater than or equal to 1"),
        ("gates.benchmark.concurrencies", [], "at least 1 item"),
        ("gates.data.max_null_share", -0.1, "greater than or equal to 0"),
        ("gates.accuracy.metric", "f1", "input should be 'roc_auc'"),
        ("gates.accuracy.minimum", 1.01, "less than or equal to 1"),
        ("gates.accuracy.minimum", float("nan"), "finite number"),
        ("gates.accuracy.confidence", 1, "less than 1"),
        ("gates.accuracy.maximum", 0.5, "roc_auc has none; give minimum"),
        ("gates.accuracy", {"metric": "rmse"}, "metric: 'rmse': judges a regression; use roc_auc, accuracy or log_loss"),
        ("gates.accuracy.max_loss", -0.1, "greater than or equal to 0"),
        ("gates.parity.max_absolute", 1e-4, "no such field (allowed: full, half, int8, pruned, outputs)"),
        ("gates.parity.full", {**_TOLERANCE, "max_absolute": -1}, "greater than or equal to 0"),
        ("gates.parity.int8", {**_TOLERANCE, "max_flip_rate": 2}, "less than or equal to 1"),
        ("gates.parity.int8", {"max_absolute": 0.1}, "required, but not given"),
        ("gates.parity.outputs.label", {}, "no such output; a binary classification has: probability"),
        ("gates.parity.outputs.probability.int4", _TOLERANCE, "no such field (allowed: full, half, int8, pruned)"),
        ("gates.parity.outputs.probability", 3, "expected fields (allowed: full, half, int8, pruned)"),
        ("gates.benchmark.rounds", 2, "greater than or equal to 3"),
        ("gates.objective", "speed", "'latency', 'throughput', 'cost' or 'size'"),
        ("gates.variants", ["fp16", "fp16"], "'fp16' is given twice"),
        ("serving.workers", 65, "less than or equal to 64"),
        ("serving.threshold", "half", "valid number"),
        ("serving.log.rotate_seconds", float("inf"), "finite number"),
        ("rollout.steps", [], "at least 1 item"),
        ("rollout.max_latency_ratio", 0.9, "greater than or equal to 1"),
        ("rollout.look_seconds", 1e12, "less than or equal to 604800"),
        ("monitoring.window_days", -1, "greater than 0"),
        ("monitoring.policy.budget", -1, "greater than or equal to 0"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_what_is_allowed(
    file: Path, document: dict[str, Any], field: str, value: object, says: str
) -> None:
    _set(document, field, value)

    message = _refused(file, document)

    assert message.startswith(field)
    assert says in message
    assert re.search(rf"{re.escape(field)}[.0-9a-z_]*: .", message)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("training.holdout_days", 90, "training: .*holdout_days \\(90\\) must be less than window_days \\(90\\)"),
        ("rollout.steps", [5, 50], r"steps \[5, 50\] must rise from at least 1 to exactly 100, such as \[5, 25, 50, 100\]"),
        ("rollout.steps", [50, 5, 100], r"must rise"),
        ("rollout.steps", [0, 100], r"must rise"),
        ("monitoring.policy.drifted_windows", 4, r"drifted_windows \(4\) must not exceed of_windows \(3\)"),
        ("training.parameters.depth", [1], r"^training.parameters.depth: \[1\]: must be a bool, int, float or text$"),
    ],
)  # fmt: skip
def test_fields_that_contradict_each_other(file: Path, document: dict[str, Any], field: str, value: object, says: str) -> None:
    _set(document, field, value)

    assert re.search(says, _refused(file, document))


def test_every_mistake_is_told_at_once(file: Path, document: dict[str, Any]) -> None:
    _set(document, "serving.workers", 0)
    _set(document, "label.colour", "red")
    del document["name"]

    message = _refused(file, document)

    assert [part.split(":")[0] for part in message.split("; ")] == ["name", "label.colour", "serving.workers"]


def test_a_long_value_is_cut(file: Path, document: dict[str, Any]) -> None:
    _set(document, "features.service", list(range(10_000)))

    assert len(_refused(file, document)) < 200


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        pytest.param(b"", "expected fields at the top, found NoneType", id="empty"),
        pytest.param(b"- 1", "expected fields at the top, found list", id="list"),
        pytest.param(b"text", "expected fields at the top, found str", id="text"),
        pytest.param(b"name: [", "not YAML: ", id="open list"),
        pytest.param(b"name: a\nname: b", "not YAML: 'name' is given twice, again in line 2", id="field twice"),
        pytest.param(b"\xff\xfe\x00", "not YAML: ", id="not text"),
        pytest.param(b"{a: " * 3000, "not YAML: it is nested too deeply", id="deep"),
        pytest.param(b'name: "\\ud800"', "invalid JSON", id="half a character"),
    ],
)
def test_malformed_files(file: Path, raw: bytes, says: str) -> None:
    file.write_bytes(raw)

    with pytest.raises(ProjectError) as caught:
        load_project(file)

    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("nowhere.yaml", "No such file or directory"),
        (".", "Is a directory"),
        ("tidegate.yaml/x", "Not a directory"),
        ("a\0b", "null byte"),
        ("loop", "loop"),
    ],
)
def test_unreadable_files(file: Path, tmp_path: Path, path: str, says: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")

    with pytest.raises(ProjectError, match=says):
        load_project(os.path.join(tmp_path, path))  # noqa: PTH118 (a Path cannot hold every one of them)


def test_another_digest_is_refused(file: Path) -> None:
    with pytest.raises(ProjectError, match=r"its digest is sha256:[0-9a-f]{64}, but sha256:00 was asked for"):
        load_project(file, digest="sha256:00")


def test_a_project_is_frozen(file: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_project(file).serving.workers = 3


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
_FIELDS = sorted(
    [*SECTIONS, *REQUIRED]
    + [f"{section}.{name}" for section, names in REQUIRED.items() for name in names]
    + ["store", "workspace", "rollout.steps", "training.parameters", "training.parameters.x", "gates.data.label_rate",
       "gates.data.max_null_share_of", "gates.variants", "serving.workers", "monitoring.columns", "label.classes"]
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.sampled_from(_FIELDS), _VALUES, min_size=1, max_size=2))
def test_whatever_a_field_holds_the_outcome_is_a_project_or_a_project_error(
    file: Path, project_text: str, changes: dict[str, Any]
) -> None:
    document = yaml.safe_load(project_text)
    for field, value in changes.items():
        if all(isinstance(_section(document, field, depth), dict) for depth in range(field.count(".") + 1)):
            _set(document, field, value)
    file.write_text(yaml.safe_dump(document))

    _loads_or_is_refused(file)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.binary(max_size=80) | st.text(alphabet="name:featurs -[]{}\n'\"&*!|>1", max_size=80).map(str.encode))
def test_whatever_a_file_holds_the_outcome_is_a_project_or_a_project_error(file: Path, raw: bytes) -> None:
    file.write_bytes(raw)

    _loads_or_is_refused(file)


def _loads_or_is_refused(file: Path) -> None:
    try:
        message = load_project(file).name
    except ProjectError as error:
        message = str(error)
    assert message.isprintable()


def _section(document: dict[str, Any], field: str, depth: int) -> object:
    section: Any = document
    for part in field.split(".")[:depth]:
        section = section.get(part, {}) if isinstance(section, dict) else None
    return section


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(project_schema())
    assert json.loads(json.dumps(project_schema())) == project_schema()


def test_the_schema_accepts_what_is_accepted(document: dict[str, Any]) -> None:
    jsonschema.validate(document, project_schema())


@pytest.mark.parametrize(
    ("field", "value"),
    [("colour", "red"), ("serving.workers", 0), ("serving.colour", "red"), ("name", "Flights"), ("task", "regression"),
     ("features.request_inputs", []), ("gates.accuracy.minimum", 2), ("gates.accuracy", {}),
     ("gates.accuracy", {"metric": "log_loss"}), ("gates.parity.int8", {"max_absolute": 0.1}), ("training.window_days", "90")],
)  # fmt: skip
def test_the_schema_refuses_what_is_refused(document: dict[str, Any], field: str, value: object) -> None:
    _set(document, field, value)

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, project_schema())


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*/tidegate.yaml")), ids=lambda path: path.parent.name)
def test_the_examples_are_valid(path: Path) -> None:
    load_project(path)
    jsonschema.validate(yaml.safe_load(path.read_text()), project_schema())


def test_every_pattern_is_told_in_words():
    patterns = set(_patterns(project_schema()))

    assert patterns == set(IN_WORDS)


def _patterns(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("pattern"), str):
            yield schema["pattern"]
        yield from schema.get("patternProperties", {})
        for part in schema.values():
            yield from _patterns(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _patterns(part)
