"""What docs/serving.md shows is run as it stands: every command and every script, against a real server."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.serving.conftest import RunningServer

TEXT = (Path(__file__).parents[3] / "docs" / "serving.md").read_text()
COMMANDS = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
SCRIPTS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def server(launch_once: Callable[..., RunningServer], tiny_package: Path) -> RunningServer:
    return launch_once(tiny_package, name="flights-late")


def here(text: str, server: RunningServer) -> str:
    return text.replace("localhost:8080", f"127.0.0.1:{server.http_port}").replace(
        "localhost:8081", f"127.0.0.1:{server.grpc_port}"
    )


def run(arguments: list[str]) -> str:
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    return subprocess.run(arguments, capture_output=True, check=True, text=True, timeout=60, env=environment).stdout


@pytest.mark.parametrize(
    ("command", "says"),
    [
        pytest.param(COMMANDS[0], r'"id":"order-17".*"name":"label".*"data":\["(on-time|late)"\]', id="v2"),
        pytest.param(COMMANDS[1], r'\{"predictions":\[\{"probability":0\.\d+,.*"label":', id="v1"),
    ],
)
def test_a_command(command: str, says: str, server: RunningServer) -> None:
    assert re.search(says, run(["bash", "-c", here(command, server)]))


@pytest.mark.parametrize("script", SCRIPTS, ids=["triton over HTTP", "triton over gRPC", "kserve"])
def test_a_script(script: str, server: RunningServer) -> None:
    assert re.fullmatch(r"\[0\.\d+\]", run([sys.executable, "-c", here(script, server)]).strip())


@pytest.mark.parametrize("path", re.findall(r"`GET (/[^`]+)`", TEXT.split("## Paths")[1].split("\n## ")[0]))
def test_a_documented_path_answers(path: str, server: RunningServer) -> None:
    url = f"http://127.0.0.1:{server.http_port}{path.replace('NAME', 'flights-late')}"

    status = run(["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url])

    assert status == "200"


def test_every_block_of_the_page_was_found() -> None:
    found: list[Any] = re.findall(r"^```(\w+)$", TEXT, re.MULTILINE)

    assert (found.count("sh"), found.count("python"), len(found)) == (len(COMMANDS), len(SCRIPTS), len(COMMANDS) + len(SCRIPTS))
