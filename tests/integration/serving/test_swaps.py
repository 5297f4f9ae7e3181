"""Another version takes over under load: no request fails, each is answered by one version, nothing leaks or is lost."""

import http.client
import itertools
import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pyarrow.parquet as pq
import pytest

from tests.small_packages import adder, slow
from tidegate.packaging.format.golden import Golden, read_golden
from tidegate.packaging.format.package import copy_package, read_manifest, write_package
from tidegate.registry.registry import ModelRegistry
from tidegate.serving.grpc_v2.messages import methods_of
from tidegate.serving.metrics.names import REQUESTS, WORKERS_READY
from tidegate.storage.directory import DirectoryStore

ADDED = {"1": 1000.0, "2": 2000.0}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry of three versions of `adder`; the third takes another input. Version 1 is the champion."""
    folder = tmp_path_factory.mktemp("shop")
    registry = ModelRegistry(DirectoryStore(folder / "store"), actor="test")
    for number, added in ADDED.items():
        assert registry.register(adder(folder / number, added), reason="a version") == int(number)
    registry.register(adder(folder / "3", 3000.0, input_name="y"), reason="another signature")
    registry.move_alias("adder", "champion", 1, reason="first", expected=None)
    registry.move_alias("adder", "challenger", 2, reason="second", expected=None)
    return folder


@pytest.fixture
def serve(launch: Callable[..., Any], shop: Path) -> Callable[..., Any]:
    """Serve version 1 of the shop."""

    def start(**options: Any) -> Any:
        return launch(shop / "1", repository=shop / "store", online_store=None, **options)

    return start


def load(server: Any, **parameters: Any) -> tuple[int, Any]:
    return server.request("/v2/repository/models/adder/load", {"parameters": parameters})


def infer(server: Any, value: float = 1.0, name: str = "x") -> tuple[int, Any]:
    tensor = {"name": name, "datatype": "FP32", "shape": [1], "data": [value]}
    return server.request("/v2/models/adder/infer", {"inputs": [tensor]})


def answered_by(server: Any) -> str:
    status, answer = infer(server)
    assert status == 200, answer
    assert answer["outputs"][0]["data"] == [1.0 + ADDED[answer["model_version"]]]
    version: str = answer["model_version"]
    return version


class Watcher:
    """A thread that asks all the time whether the server is ready and what it serves, and keeps the answers that are wrong."""

    def __init__(self, server: Any) -> None:
        self.wrong: list[Any] = []
        self.seen: set[str] = set()
        self._server = server
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            ready, metadata = self._server.request("/v2/health/ready"), self._server.request("/v2/models/adder")
            if ready != (200, {"ready": True}) or metadata[1].get("versions") not in (["1"], ["2"]):
                self.wrong.append((ready, metadata))
            else:
                self.seen.add(metadata[1]["versions"][0])


class Callers:
    """Threads that call over a connection each, and count which version answered, and whatever else happened."""

    def __init__(self, port: int, count: int = 3, *, forgive: bool = False) -> None:
        self.versions: Counter[str] = Counter()
        self.failures: list[str] = []
        self.ids: list[tuple[str, str]] = []
        self._port, self._forgive = port, forgive
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(f"c{index}",)) for index in range(count)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _call(self, name: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        for number in itertools.count():
            if self._done.is_set():
                return
            value = float(number % 500)
            body = {"id": f"{name}-{number}", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [value]}]}
            try:
                connection.request("POST", "/v2/models/adder/infer", json.dumps(body), {"content-type": "application/json"})
                response = connection.getresponse()
                answer = json.loads(response.read())
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if not self._forgive:
                    self.failures.append(repr(error))
                    return
                continue
            if response.status != 200 or answer["outputs"][0]["data"] != [value + ADDED[answer["model_version"]]]:
                self.failures.append(f"{response.status} {answer}")
                return
            self.versions[answer["model_version"]] += 1
            self.ids.append((f"{answer['id']}/0", answer["model_version"]))


@pytest.fixture
def callers() -> Iterator[Callable[..., Callers]]:
    started: list[Callers] = []

    def start(*arguments: Any, **options: Any) -> Callers:
        started.append(Callers(*arguments, **options))
        return started[-1]

    yield start
    for each in started:
        each.stop()


def worker_processes(server: Any) -> list[psutil.Process]:
    parent = psutil.Process(server.process.pid)
    return parent.children() or [parent]


def logged(server: Any) -> list[tuple[str, str]]:
    tables = [pq.ParquetFile(file).read(["prediction_id", "version"]) for file in server.store.rglob("*.parquet")]
    return [(row["prediction_id"], row["version"]) for table in tables for row in table.to_pylist()]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_hundred_swaps_under_load(serve: Callable[..., Any], callers: Callable[..., Callers], workers: int) -> None:
    swaps = 100 if workers == 1 else 30
    server = serve(workers=workers)
    load_of = callers(server.http_port)
    watcher = Watcher(server)
    for version in itertools.islice(itertools.cycle("21"), swaps // 5):
        assert load(server, version=version)[0] == 200
    before = {process.pid: process.memory_info().rss for process in worker_processes(server)}
    for version in itertools.islice(itertools.cycle("21"), swaps - swaps // 5):
        status, answer = load(server, version=version)
        assert (status, answer) == (200, {"name": "adder", "load": True, "version": version})
        assert answered_by(server) == version
    grown = {pid: psutil.Process(pid).memory_info().rss - rss for pid, rss in before.items()}
    load_of.stop()
    watcher.stop()
    assert (watcher.wrong, watcher.seen) == ([], {"1", "2"})
    assert load_of.failures == []
    assert min(load_of.versions["1"], load_of.versions["2"]) > 10, load_of.versions
    assert max(grown.values()) < 15_000_000, grown
    counted = {version: server.metric(REQUESTS, f'version="{version}"') for version in "12"}
    assert sum(counted.values()) == len(load_of.ids) + swaps - swaps // 5
    assert counted["1"] >= load_of.versions["1"]
    assert server.stop() == 0
    rows = logged(server)
    assert len(rows) == len({prediction for prediction, _ in rows}) == sum(counted.values())
    assert set(load_of.ids) <= set(rows)


def test_a_caller_learns_what_was_loaded_and_what_there_is(serve: Callable[..., Any]) -> None:
    server = serve()
    assert server.request("/v2")[1]["extensions"][-1] == "model_repository"
    assert server.request("/v2/repository/index", {}) == (
        200,
        [
            {"name": "adder", "version": "1", "state": "READY", "reason": ""},
            {"name": "adder", "version": "2", "state": "UNAVAILABLE", "reason": "is not loaded"},
            {"name": "adder", "version": "3", "state": "UNAVAILABLE", "reason": "is not loaded"},
        ],
    )
    assert load(server, alias="challenger")[1]["version"] == "2"
    assert server.request("/v2/repository/index", {"ready": True})[1][0]["version"] == "2"
    assert server.request("/v2/models/adder")[1]["versions"] == ["2"]
    assert server.request("/v2/models/adder/versions/2/ready")[0] == 200
    assert server.request("/v2/models/adder/versions/1/ready")[0] == 404
    assert load(server)[1]["version"] == "1"
    assert answered_by(server) == "1"


def test_a_request_that_has_begun_is_answered_by_the_version_it_was_given_to(
    launch: Callable[..., Any], tmp_path: Path
) -> None:
    registry = ModelRegistry(DirectoryStore(tmp_path / "store"), actor="test")
    for rounds in (5, 6):
        registry.register(slow(tmp_path / str(rounds), rounds=rounds), reason="a version")
    server = launch(tmp_path / "5", repository=tmp_path / "store", online_store=None)
    answered: list[tuple[float, Any]] = []

    def ask(rounds: int) -> None:
        tensor = {"name": "rounds", "datatype": "INT64", "shape": [1], "data": [rounds]}
        answer = server.request("/v2/models/slow/infer", {"inputs": [tensor]})
        answered.append((time.monotonic(), answer))

    begun = threading.Thread(target=ask, args=(600,))
    begun.start()
    time.sleep(0.1)
    assert server.request("/v2/repository/models/slow/load", {"parameters": {"version": 2}})[0] == 200
    swapped = time.monotonic()
    ask(1)
    begun.join()
    (_, quick), (late, long) = answered
    assert (quick[0], quick[1]["model_version"]) == (200, "2")
    assert (long[0], long[1]["model_version"], long[1]["outputs"][0]["data"]) == (200, "1", [600.0])
    assert late > swapped
    assert server.stop() == 0
    assert sorted(version for _, version in logged(server)) == ["1", "2"]


def test_tritons_client_loads_and_lists(serve: Callable[..., Any]) -> None:
    from tritonclient.http import InferenceServerClient
    from tritonclient.utils import InferenceServerException

    server = serve(version="0")  # not yet a version of the registry, so that the champion is another one
    with InferenceServerClient(f"127.0.0.1:{server.http_port}") as client:
        client.load_model("adder")
        assert [(entry["version"], entry["state"]) for entry in client.get_model_repository_index()] == [
            ("1", "READY"),
            ("2", "UNAVAILABLE"),
            ("3", "UNAVAILABLE"),
        ]
        client.unload_model("adder")
        assert not client.is_model_ready("adder")
        with pytest.raises(InferenceServerException, match="parameter 'config' is not known"):
            client.load_model("adder", config="{}")
        with pytest.raises(InferenceServerException, match="unknown model 'other'"):
            client.load_model("other")


def test_grpc_loads_unloads_and_lists(serve: Callable[..., Any]) -> None:
    import grpc

    server = serve()
    methods = methods_of("inference.GRPCInferenceService")

    def call(name: str, **fields: Any) -> Any:
        request, response = methods[name]
        path = f"/inference.GRPCInferenceService/{name}"
        stub = channel.unary_unary(path, request.SerializeToString, response.FromString)
        return stub(request(**fields), timeout=20)

    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        assert call("RepositoryModelLoad", model_name="adder", parameters={"version": {"int64_param": 2}}).is_loaded
        assert answered_by(server) == "2"
        (serving,) = call("RepositoryIndex", ready=True).models
        assert (serving.name, serving.version, serving.state) == ("adder", "2", "READY")
        assert call("RepositoryModelUnload", model_name="adder").is_unloaded
        assert not call("ServerReady").ready
        for parameters, code in (
            ({"alias": {"string_param": "best"}}, grpc.StatusCode.NOT_FOUND),
            ({"version": {"string_param": "two"}}, grpc.StatusCode.INVALID_ARGUMENT),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                call("RepositoryModelLoad", model_name="adder", parameters=parameters)
            assert refused.value.code() == code


def test_another_version_may_take_other_inputs(serve: Callable[..., Any]) -> None:
    server = serve()
    assert load(server, version=3)[0] == 200
    assert infer(server)[0] == 400
    status, answer = infer(server, 5.0, "y")
    assert (status, answer["outputs"][0]["data"]) == (200, [3005.0])
    assert server.request("/v2/models/adder")[1]["inputs"][0]["name"] == "y"
    assert load(server, version=1)[0] == 200
    assert answered_by(server) == "1"


def test_versions_share_the_online_store(
    launch: Callable[..., Any], v2_body: Callable[..., dict[str, Any]], tiny_package: Path, tmp_path: Path
) -> None:
    manifest = read_manifest(tiny_package)
    copy_package(tiny_package, tmp_path / "renewed", msgspec.structs.replace(manifest, metrics={"auc": 0.9}))
    registry = ModelRegistry(DirectoryStore(tmp_path / "store"), actor="test")
    for package in (tiny_package, tmp_path / "renewed"):
        registry.register(package, reason="a version")
    server = launch(repository=tmp_path / "store")
    for version in ("1", "2", "1", "2"):
        status, answer = server.request("/v2/repository/models/tiny/load", {"parameters": {"version": version}})
        assert (status, answer.get("version")) == (200, version)
        status, answer = server.request("/v2/models/tiny/infer", v2_body())
        assert (status, answer.get("model_version")) == (200, version), answer
    assert server.stop() == 0
    assert sorted(version for _, version in logged(server)) == ["1", "1", "2", "2"]


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        pytest.param("models/adder/load", {"parameters": {"version": 9}}, 404, "no version 9", id="no such version"),
        pytest.param("models/adder/load", {"parameters": {"alias": "best"}}, 404, "no alias 'best'", id="no such alias"),
        pytest.param("models/other/load", {}, 404, "unknown model 'other'", id="no such model"),
        pytest.param("models/adder/load", {"parameters": []}, 400, "request body", id="a malformed request"),
        pytest.param("models/adder/load", b"[[[", 400, "request body", id="no JSON"),
        pytest.param("models/adder/load", {"parameters": {"config": "{}"}}, 400, "'config' is not known", id="a foreign word"),
        pytest.param("models/adder/reload", {}, 404, "unknown path", id="no such path"),
    ],
)
def test_a_refused_load_changes_nothing(launch_shop: Any, path: str, body: Any, status: int, says: str) -> None:
    found, answer = launch_shop.request(f"/v2/repository/{path}", body)
    assert (found, says in answer["error"]) == (status, True), answer
    assert answered_by(launch_shop) == "1"


@pytest.fixture(scope="module")
def launch_shop(launch_once: Callable[..., Any], shop: Path) -> Any:
    return launch_once(shop / "1", repository=shop / "store", online_store=None)


def test_loading_is_off_unless_a_repository_is_named(launch: Callable[..., Any], shop: Path) -> None:
    server = launch(shop / "1", online_store=None)
    for path in ("index", "models/adder/load", "models/adder/unload"):
        status, answer = server.request(f"/v2/repository/{path}", {})
        assert (status, "--repository" in answer["error"]) == (404, True)
    assert "model_repository" not in server.request("/v2")[1]["extensions"]


def test_an_unloaded_model_is_not_ready_until_it_is_loaded(serve: Callable[..., Any]) -> None:
    server = serve()
    assert server.request("/v2/repository/models/adder/unload", {})[0] == 200
    assert server.request("/v2/health/ready")[0] == 503
    assert server.request("/v2/health/live")[0] == 200
    status, answer = infer(server)
    assert (status, "models/adder/load" in answer["error"]) == (503, True)
    assert load(server, version=2)[0] == 200
    assert server.request("/v2/health/ready")[0] == 200
    assert answered_by(server) == "2"


def damaged(shop: Path, to: Path, number: int) -> Path:
    """A copy of the shop in which a version's graph was overwritten."""
    store = Path(shutil.copytree(shop / "store", to))
    graph = store / f"models/adder/versions/{number}/model.onnx"
    graph.write_bytes(b"x" * graph.stat().st_size)
    return store


@pytest.mark.parametrize("workers", [1, 2])
def test_a_damaged_version_is_refused_and_the_old_one_goes_on(
    launch: Callable[..., Any], callers: Callable[..., Callers], shop: Path, tmp_path: Path, workers: int
) -> None:
    store = damaged(shop, tmp_path / "damaged", 2)
    server = launch(shop / "1", repository=store, online_store=None, workers=workers)
    load_of = callers(server.http_port, 2)
    for _ in range(3):
        status, answer = load(server, version=2)
        assert (status, "model.onnx has sha256" in answer["error"]) == (409, True), answer
    load_of.stop()
    assert (load_of.failures, set(load_of.versions)) == ([], {"1"})
    assert server.request("/v2/health/ready")[0] == 200


@pytest.mark.parametrize("workers", [1, 2])
def test_a_version_that_does_not_do_here_what_it_did_is_refused(
    launch: Callable[..., Any], shop: Path, tmp_path: Path, workers: int
) -> None:
    package, store = shop / "2", Path(shutil.copytree(shop / "store", tmp_path / "store"))
    golden = read_golden(package / "golden.npz")
    wrong = Golden(golden.inputs, {"sum": golden.outputs["sum"] + 100})
    files = {"model": package / "model.onnx", "reference": package / "reference.parquet"}
    write_package(tmp_path / "wrong", read_manifest(package), golden=wrong, **files)
    number = ModelRegistry(DirectoryStore(store), actor="test").register(tmp_path / "wrong", reason="made elsewhere")
    server = launch(shop / "1", repository=store, online_store=None, workers=workers)
    status, answer = load(server, version=number)
    assert (status, "golden sample differs by 100 " in answer["error"]) == (409, True), answer
    assert answered_by(server) == "1"
    assert load(server, version=2)[0] == 200
    assert answered_by(server) == "2"


def test_a_version_whose_signature_is_missing_is_refused(
    launch: Callable[..., Any], shop: Path, signed_shop: tuple[Path, Path, Path]
) -> None:
    package, store, key = signed_shop
    server = launch(package, repository=store, online_store=None, verify_key=key)
    status, answer = load(server, version=2)
    assert (status, "is not signed" in answer["error"]) == (409, True), answer
    assert answered_by(server) == "1"
    refused = launch(shop / "2", wait=False, online_store=None, verify_key=key)
    assert refused.process.wait(timeout=20) == 1
    assert [line for line in refused.stderr.splitlines() if "is not signed" in line] == refused.stderr.splitlines()


@pytest.fixture
def signed_shop(shop: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    """A signed package of version 1, a registry in which only that is signed, and the signer's public key."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    from tidegate.packaging.format.signing import sign_package

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    package = Path(shutil.copytree(shop / "1", tmp_path / "signed"))
    sign_package(package, private)
    registry = ModelRegistry(DirectoryStore(tmp_path / "store"), actor="test")
    registry.register(package, reason="signed")
    registry.register(shop / "2", reason="not signed")
    return package, tmp_path / "store", public


@pytest.mark.parametrize("workers", [1, 2])
def test_stopping_while_a_version_is_loaded_ends_cleanly(
    serve: Callable[..., Any], callers: Callable[..., Callers], workers: int
) -> None:
    server = serve(workers=workers)
    load_of = callers(server.http_port, forgive=True)
    statuses: list[int] = []

    def swap_until_gone() -> None:
        for version in itertools.cycle("21"):
            try:
                statuses.append(load(server, version=version)[0])
            except (OSError, http.client.HTTPException):
                return

    swapping = threading.Thread(target=swap_until_gone)
    swapping.start()
    time.sleep(1)
    assert server.stop() == 0
    swapping.join()
    load_of.stop()
    assert statuses.count(200) >= 1
    assert set(statuses) <= {200, 503}
    assert load_of.failures == []
    assert set(load_of.ids) <= set(logged(server))
    assert "Traceback" not in server.stderr


def test_killing_workers_while_versions_are_loaded_leaves_all_of_them_on_one(
    serve: Callable[..., Any], callers: Callable[..., Callers], eventually: Callable[..., None]
) -> None:
    server = serve(workers=2)
    eventually(lambda: server.metric(WORKERS_READY) == 2, "two ready workers")
    load_of = callers(server.http_port, forgive=True)
    for round_number, version in enumerate("212121"):
        swapping = threading.Thread(target=lambda version=version: forgiving_load(server, version))  # type: ignore[misc]
        swapping.start()
        time.sleep(0.02 * round_number)
        os.kill(worker_processes(server)[round_number % 2].pid, signal.SIGKILL)
        swapping.join(timeout=60)
        assert not swapping.is_alive()
        eventually(lambda: server.metric(WORKERS_READY) == 2, "two ready workers")
    assert forgiving_load(server, "2") == 200
    load_of.stop()
    assert load_of.failures == []
    assert {answered_by(server) for _ in range(20)} == {"2"}
    assert server.stop() == 0


def forgiving_load(server: Any, version: str) -> int:
    """Load a version, as often as a killed worker takes the answer with it; return the status."""
    while True:
        try:
            return load(server, version=version)[0]
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)
