import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.errors import PackageError
from tidegate.packaging.format.manifest import Manifest
from tidegate.packaging.format.manifest_versions import decode_any_version
from tidegate.packaging.format.package import decode_manifest

NAMES = st.text(min_size=1, max_size=12)
NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)
DIGEST = st.text("0123456789abcdef", min_size=64, max_size=64)


def optional(always: dict[str, st.SearchStrategy[Any]], /, **more: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(always, optional=more)


def tensors(*names: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Tensors as version 1 described them, with the given names or any."""
    tensor = optional(
        {"name": NAMES, "datatype": st.sampled_from(["BYTES", "INT64", "FP32"]), "shape": st.sampled_from([[-1], [-1, 1]])},
        source=st.sampled_from(["request", "feature"]),
        feature=st.just("view:feature"),
        nullable=st.booleans(),
        minimum=NUMBERS,
        maximum=NUMBERS,
        categories=st.lists(NAMES, max_size=3),
    )
    if names:
        return st.tuples(*(tensor.map(lambda drawn, name=name: {**drawn, "name": name}) for name in names)).map(list)
    return st.lists(tensor, min_size=1, max_size=4, unique_by=lambda drawn: drawn["name"])


VERDICT = optional(
    {
        "gate": st.sampled_from(["data", "parity", "accuracy", "benchmark", "champion"]),
        "subject": NAMES,
        "measure": NAMES,
        "value": NUMBERS | st.none(),
        "bound": NUMBERS | st.none(),
        "passed": st.booleans(),
    },
    note=NAMES,
)
TIMES = ("p50_us", "p95_us", "p99_us", "rows_per_second", "ratio", "ratio_low", "ratio_high")
BENCHMARK = st.fixed_dictionaries({"variant": NAMES, "batch": st.integers(1, 4096), **dict.fromkeys(TIMES, NUMBERS)})
WINDOW = ("window_start", "window_end", "holdout_start")
LINEAGE_FIELDS = ("run_id", "created_at", "event_time", *WINDOW, "data_digest", "code_digest", "project_digest")
LINEAGE = optional(dict.fromkeys(LINEAGE_FIELDS, NAMES), reason=NAMES, tidegate_version=NAMES)
VIEW = st.fixed_dictionaries(
    {
        "name": NAMES,
        "join_keys": st.lists(NAMES, min_size=1, max_size=2),
        "ttl_seconds": st.integers(0, 10**7),
        "features": st.lists(optional({"name": NAMES, "datatype": st.just("FP32")}, default=NUMBERS, required=st.booleans())),
    }
)
ENTRY = st.fixed_dictionaries({"size": st.integers(0, 10**6), "sha256": DIGEST})
SCHEMA_1 = optional(
    {
        "schema_version": st.just(1),
        "name": NAMES,
        "signature": st.fixed_dictionaries({"inputs": tensors(), "outputs": tensors("probability")}),
        "classes": st.lists(NAMES, min_size=2, max_size=2, unique=True),
        "threshold": st.floats(0, 1),
        "variant": optional(
            {"name": st.sampled_from(["baseline", "fp16", "int8-dynamic", "int8-static"]), "candidate": NAMES},
            reduced_precision=st.booleans(),
            parameters=st.dictionaries(NAMES, st.booleans() | st.integers(-9, 9) | NUMBERS | NAMES, max_size=2),
        ),
        "runtime": optional({}, intra_op_threads=st.integers(1, 8), graph_optimization=st.sampled_from(["all", "basic"])),
        "metrics": st.dictionaries(NAMES, NUMBERS, max_size=3),
        "files": st.fixed_dictionaries({"model.onnx": ENTRY, "golden.npz": ENTRY, "reference.parquet": ENTRY}),
    },
    features=st.fixed_dictionaries({"service": NAMES, "project": NAMES, "views": st.lists(VIEW, max_size=2)}),
    verdicts=st.lists(VERDICT, max_size=2),
    benchmark=st.lists(BENCHMARK, max_size=2),
    lineage=LINEAGE,
)


@given(SCHEMA_1)
@settings(max_examples=25, deadline=None)
def test_any_manifest_of_schema_1_is_lifted_and_keeps_what_it_said(document: dict[str, Any]) -> None:
    manifest = decode_manifest(json.dumps(document).encode(), where="here")

    said = json.loads(msgspec.json.encode(manifest))
    reduced = document["variant"].pop("reduced_precision", False)
    half = document["variant"]["name"] == "fp16"
    assert (manifest.schema_version, manifest.task) == (3, "binary-classification")
    assert manifest.variant.precision == (("half" if half else "int8") if reduced else "full")
    for field in ("name", "classes", "threshold", "metrics", "files"):
        assert said[field] == document[field]
    assert [spec["name"] for spec in said["signature"]["inputs"]] == [spec["name"] for spec in document["signature"]["inputs"]]
    assert said["variant"].items() >= {"name": document["variant"]["name"]}.items()
    assert len(said.get("verdicts", [])) == len(document.get("verdicts", []))
    assert len(said.get("benchmark", [])) == len(document.get("benchmark", []))
    assert decode_manifest(msgspec.json.encode(manifest), where="here") == manifest


@pytest.fixture
def schema_1() -> dict[str, Any]:
    return {
        "schema_version": 1,
        "name": "old",
        "signature": {
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1]}],
            "outputs": [{"name": "probability", "datatype": "FP32", "shape": [-1]}],
        },
        "classes": ["no", "yes"],
        "threshold": 0.5,
        "variant": {"name": "baseline", "candidate": "trees"},
        "runtime": {},
        "metrics": {},
        "files": {},
    }


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(lambda d: d.update(task="regression"), "has no field 'task'", id="a later field"),
        pytest.param(lambda d: d.update(packing=[]), "has no field 'packing'", id="another later field"),
        pytest.param(lambda d: d["variant"].update(precision="half"), "has no field 'precision'", id="a variant's later field"),
        pytest.param(lambda d: d["variant"].update(reduced_precision=1), "is not true or false", id="a flag that is none"),
        pytest.param(lambda d: d.pop("variant"), "not a manifest of its schema_version: KeyError('variant')", id="no variant"),
        pytest.param(lambda d: d.update(variant=[]), "variant", id="a variant that is none"),
        pytest.param(lambda d: d["variant"].pop("candidate"), "candidate", id="a variant of nothing"),
        pytest.param(lambda d: d.update(surprise=1), "surprise", id="an unknown field"),
    ],
)
def test_what_schema_1_never_was_is_refused(
    schema_1: dict[str, Any], change: Callable[[dict[str, Any]], object], says: str
) -> None:
    assert isinstance(decode_any_version(json.dumps(schema_1).encode(), where="here"), Manifest)
    change(schema_1)

    with pytest.raises(PackageError) as refused:
        decode_any_version(json.dumps(schema_1).encode(), where="here")
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(lambda spec: spec.update(policy={}), "has no field 'policy'", id="a policy"),
        pytest.param(lambda spec: spec.update(datatype="BF16"), "has no datatype 'BF16'", id="a later datatype"),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_what_schema_2_never_was_is_refused(
    schema_1: dict[str, Any], version: int, side: str, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    document = schema_1 if version == 1 else {**schema_1, "schema_version": 2, "task": "binary-classification"}
    assert isinstance(decode_any_version(json.dumps(document).encode(), where="here"), Manifest)
    change(document["signature"][side][0])

    with pytest.raises(PackageError) as refused:
        decode_any_version(json.dumps(document).encode(), where="here")
    assert says in str(refused.value)
