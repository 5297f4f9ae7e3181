"""A server that is abused, and the proof that it took no harm."""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests import small_packages
from tidegate.packaging.format.datatypes import NUMPY_TYPES
from tidegate.serving.metrics.names import REQUESTS

ECHO = "/v2/models/echo/infer"


def echo_document() -> dict[str, Any]:
    """Return a request of one row of every datatype to the package `echo`."""
    values = {"BOOL": [True, False], "BYTES": ["a", "ü"]}
    return {
        "id": "good",
        "inputs": [
            {"name": name.lower(), "datatype": name, "shape": [1, 2], "data": values.get(name, [1, 2])}
            for name in (*small_packages.NUMBER_TYPES, "BYTES")
        ],
    }


def echo_data() -> list[bytes]:
    """Return the data of each tensor of `echo_document` as it is sent in binary."""
    return [
        strings(*(value.encode() for value in tensor["data"]))
        if tensor["datatype"] == "BYTES"
        else np.array(tensor["data"], NUMPY_TYPES[tensor["datatype"]]).tobytes()
        for tensor in echo_document()["inputs"]
    ]


def strings(*values: bytes) -> bytes:
    """Return the data of a BYTES tensor."""
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def open_descriptors(server: Any) -> int:
    return psutil.Process(server.process.pid).num_fds()


def resident_bytes(server: Any) -> int:
    return psutil.Process(server.process.pid).memory_info().rss


def complaints(server: Any) -> list[str]:
    """Return what the server wrote besides what it should: anything that is no event, and every error."""
    lines = server.stderr.splitlines()
    return [line for line in lines if not line.startswith("{") or json.loads(line)["level"] == "error"]


def failed_requests(server: Any) -> int:
    return sum(int(server.metric(REQUESTS, f'status="{status}"')) for status in (500, 503))


@pytest.fixture(scope="module")
def echo(launch_once: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server of the package `echo`, which answers what it was sent; shared by the tests of a module."""
    package: Path = small_packages.every_type(tmp_path_factory.mktemp("packages") / "echo")
    return launch_once(package)


@pytest.fixture
def unharmed(echo: Any, eventually: Callable[..., None]) -> Iterator[None]:
    """Assert after the test that `echo` answers rightly, failed no request, complained of nothing and holds no more files."""
    document = echo_document()
    assert echo.request(ECHO, document)[0] == 200
    assert echo.metric(REQUESTS, 'status="200"') > 0  # a first scrape opens its files for good
    before, said, failures = open_descriptors(echo), len(complaints(echo)), failed_requests(echo)
    yield
    assert echo.process.poll() is None, echo.stderr
    status, answer = echo.request(ECHO, document)
    assert (status, answer["id"]) == (200, "good")
    sent = [tensor["data"] for tensor in document["inputs"]]
    assert [output["data"] for output in answer["outputs"]] == sent
    assert failed_requests(echo) == failures
    assert complaints(echo)[said:] == []
    eventually(lambda: open_descriptors(echo) <= before, "closed connections", 5)
