"""What a package says of unusual values, a server does: of one row and many, in JSON and binary; the log has what was sent."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.integration.serving.conftest import RunningServer
from tests.integration.serving.row import TINY_ROW
from tidegate.packaging.format.manifest import InputPolicy, Signature
from tidegate.packaging.format.package import copy_package, read_manifest

POLICIES = {
    "carrier": InputPolicy(unknown_category="impute", missing="impute", imputed="AA"),
    "origin": InputPolicy(unknown_category="reject"),
    "distance": InputPolicy(out_of_range="clamp", missing="impute", imputed=1000.0),
    "hour": InputPolicy(out_of_range="reject"),
}


@pytest.fixture(scope="module")
def package(tiny_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    manifest = read_manifest(tiny_package)
    ruled = tuple(
        msgspec.structs.replace(spec, policy=POLICIES.get(spec.name, InputPolicy())) for spec in manifest.signature.inputs
    )
    signature = Signature(inputs=ruled, outputs=manifest.signature.outputs)
    out = tmp_path_factory.mktemp("ruled") / "package"
    copy_package(tiny_package, out, msgspec.structs.replace(manifest, signature=signature))
    return out


@pytest.fixture(scope="module")
def server(package: Path, launch_once: Callable[..., RunningServer]) -> RunningServer:
    return launch_once(package, name="ruled")


@pytest.fixture(scope="module")
def longest(package: Path) -> float:
    (distance,) = (spec for spec in read_manifest(package).signature.inputs if spec.name == "distance")
    assert distance.maximum is not None
    return distance.maximum


def ask(server: RunningServer, changed: dict[str, Any], *, form: str, request_id: str = "") -> tuple[int, Any]:
    """Ask for a usual row, or a usual row and the changed one, and return the changed one's probability or the error."""
    row = TINY_ROW | changed
    rows = [row] if form == "row" else [TINY_ROW, row]
    inputs: list[dict[str, Any]] = []
    blobs = []
    for name in row:
        values = [given[name] for given in rows]
        text = isinstance(TINY_ROW[name], str)
        tensor = {"name": name, "datatype": "BYTES" if text else "FP32", "shape": [len(rows)]}
        if form == "binary" and not text:
            blobs.append(np.array(values, np.float32).tobytes())  # None becomes NaN
            inputs.append(tensor | {"parameters": {"binary_data_size": len(blobs[-1])}})
        else:
            inputs.append(tensor | {"data": values})
    document = json.dumps({"inputs": inputs} | ({"id": request_id} if request_id else {})).encode()
    headers = {"Inference_Header_Content_Length": str(len(document))} if blobs else {}
    status, answer = server.request("/v2/models/ruled/infer", document + b"".join(blobs), **headers)
    return status, answer["outputs"][0]["data"][-1] if status == 200 else answer["error"]


FORMS = pytest.mark.parametrize("form", ["row", "rows", "binary"])


@FORMS
@pytest.mark.parametrize(
    ("sent", "taken_as"),
    [
        pytest.param({"carrier": "ZZ"}, {"carrier": "AA"}, id="an unknown category is imputed"),
        pytest.param({"carrier": None}, {"carrier": "AA"}, id="a missing category is imputed"),
        pytest.param({"distance": None}, {"distance": 1000.0}, id="a missing number is imputed"),
        pytest.param({"distance": 1e6}, {"distance": "longest"}, id="a number beyond is clamped"),
        pytest.param({"carrier": "ZZ", "distance": 1e6}, {"carrier": "AA", "distance": "longest"}, id="two at once"),
    ],
)
def test_an_unusual_value_is_taken_as_the_policy_says(
    server: RunningServer, longest: float, form: str, sent: dict[str, Any], taken_as: dict[str, Any]
) -> None:
    usual = {name: longest if value == "longest" else value for name, value in taken_as.items()}

    found = ask(server, sent, form=form)

    assert found[0] == 200
    assert found[1] == pytest.approx(ask(server, usual, form=form)[1], abs=1e-6)


@FORMS
@pytest.mark.parametrize(
    ("sent", "says"),
    [
        pytest.param({"origin": "XXX"}, ("tensor 'origin'", "'XXX'"), id="an unknown category"),
        pytest.param({"hour": 99.5}, ("tensor 'hour'", "99.5", "outside the trained range"), id="a number beyond"),
        pytest.param({"hour": None}, ("tensor 'hour'", "must be given"), id="a missing number"),
    ],
)
def test_an_unusual_value_is_refused_where_the_policy_says(
    server: RunningServer, form: str, sent: dict[str, Any], says: tuple[str, ...]
) -> None:
    status, error = ask(server, sent, form=form)

    assert status == 400
    assert all(part in error for part in (*says, f"row {0 if form == 'row' else 1}")), error


def test_what_is_replaced_is_counted_and_logged_as_it_was_sent(server: RunningServer, eventually: Callable[..., None]) -> None:
    before = server.metric("tidegate_unusual_values_total", 'input="distance"')

    for form in ("row", "rows", "binary"):
        assert ask(server, {"carrier": "ZZ", "distance": 123456.0}, form=form, request_id=f"sent-{form}")[0] == 200

    assert server.metric("tidegate_unusual_values_total", 'input="distance"') == before + 3

    def logged() -> dict[str, tuple[str, float]]:
        rows = [row for file in server.store.rglob("*.parquet") for row in pq.ParquetFile(file).read().to_pylist()]
        last = {"sent-row": 0, "sent-rows": 1, "sent-binary": 1}
        return {
            row["request_id"]: (row["input_carrier"], row["input_distance"])
            for row in rows
            if row["row"] == last.get(row["request_id"])
        }

    eventually(lambda: len(logged()) == 3, "three logged requests")
    assert set(logged().values()) == {("ZZ", 123456.0)}
