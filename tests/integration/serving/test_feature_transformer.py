"""The transformer as KServe starts it, before a real model server that is given every feature and looks up none."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tidegate.features.online_file import open_writer, upsert
from tidegate.features.packed_row import key_order, pack_key, pack_row, view_prefix
from tidegate.packaging.running.inference import PackageModel

MODULE = [sys.executable, "-m", "tidegate.deployment.kserve.feature_transformer"]
ROW = {"carrier": "UA", "origin": "EWR", "dest": "SFO", "distance": 1000.0, "hour": 9.5}


@pytest.fixture
def online_store(tmp_path: Path) -> str:
    """Holds the weather of EWR and the route EWR-SFO, observed a minute ago."""
    path = tmp_path / "online.db"
    observed = time.time_ns() // 1000 - 60_000_000
    rows = {("weather", ("origin",)): {"temp": 25.0}, ("route", ("origin", "dest")): {"delay": 40.0}}
    with closing(open_writer(path)) as connection, connection:
        for (view, keys), values in rows.items():
            key = pack_key(view_prefix("tiny", view), tuple(ROW[name] for name in key_order(keys)))
            upsert(connection, [(key, observed, observed, pack_row(values))])
    return f"sqlite:///{path}"


@pytest.fixture
def transformer(
    launch: Callable[..., Any], online_store: str, tiny_package: Path, tmp_path: Path, a_free_port: int
) -> Iterator[httpx.Client]:
    predictor = launch(name="tiny")
    options = [
        f"--http_port={a_free_port}",
        "--enable_grpc=false",
        "--predictor_protocol=v2",
        "--model_name=tiny",
        f"--predictor_host=127.0.0.1:{predictor.http_port}",
    ]
    environment = os.environ | {"TIDEGATE_PACKAGE": str(tiny_package), "TIDEGATE_ONLINE_STORE": online_store}
    log = tmp_path / "transformer.log"
    with log.open("wb") as output:
        process = subprocess.Popen([*MODULE, *options], env=environment, stdout=output, stderr=output)
    with httpx.Client(base_url=f"http://127.0.0.1:{a_free_port}", timeout=10) as client:
        try:
            wait_until_ready(client, process, log)
            yield client
        finally:
            process.terminate()
            process.wait(timeout=30)


def wait_until_ready(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if client.get("/v2/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    pytest.fail(f"the transformer is not ready: {log.read_text()[-2000:]}")


def test_requests_get_their_features_on_the_way(transformer, tiny_package, v2_body):
    features = {"weather__temp": 25.0, "route__delay": 40.0}
    arrays = {name: np.array([[value]], np.float32) for name, value in (features | {"distance": 1000.0, "hour": 9.5}).items()}
    texts = {name: np.array([[ROW[name]]], object) for name in ("carrier", "origin")}
    expected = float(PackageModel(tiny_package).outputs_of(arrays | texts)["probability"][0])
    unknown_airport = v2_body()
    next(tensor for tensor in unknown_airport["inputs"] if tensor["name"] == "origin")["data"] = ["LGA"]
    incomplete = {"inputs": v2_body()["inputs"][:-1]}

    answer = transformer.post("/v2/models/tiny/infer", json=v2_body("r1"))
    without_features = transformer.post("/v2/models/tiny/infer", json=unknown_airport)
    refused = transformer.post("/v2/models/tiny/infer", json=incomplete)
    other_protocol = transformer.post("/v1/models/tiny:predict", json={"instances": [ROW]})

    assert answer.status_code == 200, answer.text
    outputs = {output["name"]: output["data"] for output in answer.json()["outputs"]}
    assert answer.json()["id"] == "r1"
    assert outputs["probability"] == [pytest.approx(expected, rel=1e-5)]
    assert outputs["label"] == ["late" if expected >= 0.5 else "on-time"]
    assert without_features.status_code == 200, without_features.text
    assert (refused.status_code, "missing" in refused.text) == (400, True)
    assert (other_protocol.status_code, "V2" in other_protocol.text) == (400, True)
