"""The probes of the serving runtimes, sent to a real model server that was started with the runtime's own options."""

import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

RUNTIMES = Path(__file__).parents[3] / "kserve/runtimes"


@pytest.mark.parametrize("name", ["tidegate-onnx", "tidegate-onnx-gpu"])
def test_a_ready_server_answers_every_probe_and_the_scrape(name: str, launch: Any) -> None:
    spec = yaml.safe_load((RUNTIMES / f"{name}.yaml").read_text())["spec"]
    [container] = spec["containers"]
    options = dict(option.removeprefix("--").partition("=")[::2] for option in container["args"] if option.startswith("--"))
    own = {option.replace("-", "_"): value for option, value in options.items() if not option.endswith("-port")}

    server = launch(**own)

    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server.request(container[probe]["httpGet"]["path"])[0] == 200
    path = spec["annotations"]["prometheus.kserve.io/path"]
    with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}{path}", timeout=10) as answer:
        assert b"tidegate_" in answer.read()
    assert own["host"] == "0.0.0.0"
