"""Requests drawn from OpenAPI documents, the server's own and the protocol's, must be answered as those documents say."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import yaml
from hypothesis import HealthCheck, given, settings
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests import small_packages
from tests.integration.serving.http_exchange import ask
from tidegate.registry.registry import ModelRegistry
from tidegate.storage.directory import DirectoryStore

PROTOCOL = Path(__file__).parents[4] / "shared/specs/open-inference-protocol/open_inference_rest.yaml"
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
EXAMPLES = 12
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")

Packages = dict[str, Callable[[Path], Path]]


@pytest.fixture(scope="module")
def servers(
    launch_once: Callable[..., Any], tiny_package: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Any]:
    """Start, once, the server of a package by its name."""
    packages: Packages = {
        "iris": small_packages.multiclass,
        "echo": small_packages.every_type,
        "fares": small_packages.regression,
    }
    running: dict[str, Any] = {}

    def server_of(name: str) -> Any:
        if name not in running:
            package = tiny_package if name == "tiny" else packages[name](tmp_path_factory.mktemp(name) / "package")
            running[name] = launch_once(package, version="7", grpc_port=0, max_rows=20)
        return running[name]

    return server_of


def operations_of(document: dict[str, Any]) -> Iterator[Any]:
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        yield found.ok()


def statuses_of(operation: Any, base: str, mode: GenerationMode) -> Counter[int]:
    """Send requests drawn from an operation's description, hold every answer against it, and count the statuses."""
    seen: Counter[int] = Counter()

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    def check(case: Any) -> None:
        response = case.call(base_url=base, timeout=10)
        seen[response.status_code] += 1
        case.validate_response(response, checks=CHECKS)

    check()
    return seen


@pytest.mark.parametrize("name", ["iris", "echo", "fares", "tiny"])
def test_the_server_does_as_its_own_document_says(servers: Callable[[str], Any], name: str) -> None:
    server = servers(name)
    base = f"http://127.0.0.1:{server.http_port}"
    _, document = server.request("/openapi.json")
    OpenAPIV31SpecValidator(document).validate()
    for operation in operations_of(document):
        if operation.method == "post" and "/versions/" in operation.path:
            continue  # described as the path without a version is
        drawn = statuses_of(operation, base, GenerationMode.POSITIVE)
        if operation.method == "get":
            assert set(drawn) == {200}
            continue
        assert drawn.keys() <= {200, 400}
        wrong = statuses_of(operation, base, GenerationMode.NEGATIVE)
        assert wrong.keys() <= {400, 415}, "what breaks the document is not answered"


@pytest.mark.parametrize("name", ["iris", "tiny", "fares", "echo"])
def test_the_documents_examples_are_answered(servers: Callable[[str], Any], name: str) -> None:
    server = servers(name)
    _, document = server.request("/openapi.json")
    asked = [operation["post"] | {"path": path} for path, operation in document["paths"].items() if "post" in operation]
    assert len(asked) == 3
    for operation in asked:
        example = operation["requestBody"]["content"]["application/json"]["example"]
        status, answer = server.request(operation["path"], example)
        assert status == 200, answer


def test_the_repository_does_as_the_document_says(launch: Callable[..., Any], tmp_path: Path) -> None:
    registry = ModelRegistry(DirectoryStore(tmp_path / "store"), actor="test")
    for number in (1, 2):
        registry.register(small_packages.adder(tmp_path / str(number), float(number)), reason="a version")
    registry.move_alias("adder", "champion", 1, reason="first", expected=None)
    server = launch(tmp_path / "1", repository=tmp_path / "store", online_store=None, grpc_port=0)
    base = f"http://127.0.0.1:{server.http_port}"
    _, document = server.request("/openapi.json")
    asked = [operation for operation in operations_of(document) if operation.path.startswith("/v2/repository/")]
    assert len(asked) == 3
    for operation in asked:
        assert 200 in statuses_of(operation, base, GenerationMode.POSITIVE)
        assert 400 in statuses_of(operation, base, GenerationMode.NEGATIVE)
    assert server.request("/openapi.json")[0] == 503, "the last of them has unloaded the model"


def test_methods_that_the_document_lacks_are_not_allowed(servers: Callable[[str], Any]) -> None:
    server = servers("iris")
    _, document = server.request("/openapi.json")
    for (path, operations), method in product(document["paths"].items(), METHODS):
        if method.lower() in operations:
            continue
        response = ask(server.http_port, method, path)
        assert response.status == 405, (method, path)
        allowed = {word.strip().lower() for word in response.headers["allow"].split(",")}
        assert allowed - {"head"} == set(operations)


def test_the_document_follows_the_limits(launch: Callable[..., Any]) -> None:
    server = launch(max_rows=3, grpc_port=0)
    _, document = server.request("/openapi.json")
    assert "At most 3 rows" in document["paths"]["/v2/models/tiny/infer"]["post"]["description"]


def protocol_of(name: str, version: str) -> dict[str, Any]:
    """The protocol's own document, its paths rewritten to one model."""
    document: dict[str, Any] = yaml.safe_load(PROTOCOL.read_text())
    paths = {}
    for path, operations in document["paths"].items():
        operations.pop("parameters", None)
        paths[path.replace("${MODEL_NAME}", name).replace("${MODEL_VERSION}", version)] = operations
    return document | {"paths": paths}


@pytest.mark.skipif(not PROTOCOL.exists(), reason="the protocol's OpenAPI document is not here")
@pytest.mark.parametrize("name", ["iris", "tiny"])
def test_the_server_does_as_the_protocols_document_says(servers: Callable[[str], Any], name: str) -> None:
    server = servers(name)
    document = protocol_of(name, "7")
    assert len(document["paths"]) == 6
    for operation in operations_of(document):
        drawn = statuses_of(operation, f"http://127.0.0.1:{server.http_port}", GenerationMode.POSITIVE)
        assert drawn.keys() <= ({200} if operation.method == "get" else {200, 400})
        if operation.method == "post":
            assert statuses_of(operation, f"http://127.0.0.1:{server.http_port}", GenerationMode.NEGATIVE).keys() <= {400}
