"""What the serving benchmark makes of its numbers, what it sends, and what it refuses; nothing is timed."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.serving import clients, drive, markdown, models, report, soak, stopwatch
from benchmarks.serving.contestants import KSERVE, MOSEC, TIDEGATE, contestants
from benchmarks.serving.models import Case
from benchmarks.serving.requests import LOADS, Load, Request, json_body, open_inference_request, read_json
from benchmarks.serving.rounds import Measured, Point
from tests.ports import free_port
from tidegate.serving.protocol import codec_json

DOCS = Path(__file__).parents[3] / "docs" / "benchmarks"
ONE_ROW = Point(Load("json", 1), 8)
ROUNDS = 6


def _turns(rate: float, p99: float = 1_000.0) -> list[dict[str, object]]:
    numbers = {"requests_per_second": rate, "p50_us": 1.0, "p95_us": 1.0, "p99_us": p99, "cpu_us": 1.0, "client_cpu": 0.5}
    return [{"client": "wrk", "requests": 1} | numbers for _ in range(ROUNDS)]


def _measured(
    point: Point, mine: float, theirs: float, *, peer: str = KSERVE, p99: float = 1_000.0, call: float = 1e-5
) -> Measured:
    turns = {(point, TIDEGATE): _turns(mine, p99), (point, peer): _turns(theirs)}
    return Measured(turns=turns, limit={point.load.rows: [call] * ROUNDS})


def _asked(measured: Measured) -> dict[str, tuple[int, int]]:
    return {one["what"]: (one["met"], one["of"]) for one in report.asked(list(report.rows("trees", measured)))}


@pytest.fixture(scope="module")
def columns() -> Case:
    rows = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    return Case("trees", Path("nowhere"), "joined", "probability", {"a": rows[:, :1], "b": rows[:, 1:]})


@pytest.mark.parametrize(
    ("measured", "what", "met"),
    [
        pytest.param(_measured(ONE_ROW, 7_000, 1_000), "1 row JSON, requests/s against KServe", 1, id="seven times KServe"),
        pytest.param(_measured(ONE_ROW, 6_999, 1_000), "1 row JSON, requests/s against KServe", 0, id="not quite seven times"),
        pytest.param(
            _measured(Point(Load("json", 64), 1), 4_900, 1_000),
            "64 rows JSON, requests/s against KServe",
            0,
            id="many rows, not five times",
        ),
        pytest.param(
            _measured(Point(Load("grpc", 1), 1), 2_000, 1_000), "1 row gRPC, requests/s against KServe", 1, id="gRPC, twice"
        ),
        pytest.param(_measured(ONE_ROW, 9_000, 1_000, p99=1_001), "p99 against KServe", 0, id="faster, but a longer p99"),
        pytest.param(_measured(ONE_ROW, 999, 1_000, peer=MOSEC), "requests/s against mosec", 0, id="behind mosec"),
        pytest.param(
            _measured(Point(Load("binary", 64), 8), 7_000, 1, call=1e-4),
            "64 rows binary, share of ONNX Runtime's rows/s in process, 8 and 64 in flight",
            1,
            id="70 % of ONNX Runtime's rows",
        ),
        pytest.param(
            _measured(Point(Load("binary", 64), 8), 6_900, 1, call=1e-4),
            "64 rows binary, share of ONNX Runtime's rows/s in process, 8 and 64 in flight",
            0,
            id="69 % of them",
        ),
    ],
)
def test_what_is_asked_is_kept_only_with_the_whole_interval(measured: Measured, what: str, met: int) -> None:
    assert _asked(measured)[what] == (met, 1)


def test_one_round_that_misses_is_within_the_interval_of_six_and_so_is_a_miss() -> None:
    measured = _measured(ONE_ROW, 8_000, 1_000)
    measured.turns[ONE_ROW, TIDEGATE][3]["requests_per_second"] = 5_000
    assert _asked(measured)["1 row JSON, requests/s against KServe"] == (0, 1)


def test_nothing_is_said_of_a_peer_that_is_absent() -> None:
    assert not any("MLServer" in what or "mosec" in what for what in _asked(_measured(ONE_ROW, 8_000, 1_000)))


def test_ratios_are_taken_round_by_round() -> None:
    """A machine that slows down for everyone from round to round changes rates, and no ratio."""
    measured = _measured(ONE_ROW, 0, 0)
    for number in range(ROUNDS):
        measured.turns[ONE_ROW, TIDEGATE][number]["requests_per_second"] = 8_000 / (number + 1)
        measured.turns[ONE_ROW, KSERVE][number]["requests_per_second"] = 1_000 / (number + 1)
    (row,) = report.rows("trees", measured)
    assert row["throughput"][KSERVE] == pytest.approx((8, 8, 8))


@pytest.mark.parametrize("load", LOADS[:3], ids=str)
def test_a_request_over_rest_is_read_by_the_server_as_what_was_meant(columns: Case, load: Load) -> None:
    request = open_inference_request(columns, load)
    length = request.headers.get("inference-header-content-length")
    read, _ = codec_json.decode(request.body, length.encode() if length else None)
    assert [(tensor.name, tensor.datatype, tensor.shape) for tensor in read.tensors] == [
        (name, "FP32", [load.rows, 1]) for name in ("a", "b")
    ]
    for tensor, expected in zip(read.tensors, columns.tensors(load.rows).values(), strict=True):
        data = np.frombuffer(tensor.data, np.float32) if load.kind == "binary" else np.array(tensor.data, np.float32)
        assert np.array_equal(data, expected.ravel())


def test_the_compared_output_is_found_by_its_name() -> None:
    outputs = [{"name": "label", "data": ["x"]}, {"name": "probability", "data": [0.25, 0.5]}]
    assert read_json("probability", json.dumps({"outputs": outputs}).encode()).tolist() == [0.25, 0.5]


def test_a_graph_is_fed_the_columns_joined_in_the_requests_order(columns: Case) -> None:
    assert columns.feeds(2)["joined"].tolist() == [[columns.rows["a"][row, 0], columns.rows["b"][row, 0]] for row in range(2)]


def test_absent_peers_are_told() -> None:
    _, state = contestants(None, None)
    assert state["mlserver"] == "absent: give --mlserver PYTHON, the interpreter of an environment that has it"
    assert state["mosec"].startswith("absent")


@pytest.mark.parametrize(
    ("python", "message"),
    [
        pytest.param(
            "/nowhere/python", "no such interpreter; --mosec names the one of mosec's environment", id="no interpreter"
        ),
        pytest.param(sys.executable, "mosec or onnxruntime is not installed there", id="an environment without it"),
    ],
)
def test_a_peer_that_was_given_must_be_there(python: str, message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        contestants(None, Path(python))


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """The port of a server that answers every request with 503."""
    port = free_port()
    program = f"""
import asyncio
class Refusing(asyncio.Protocol):
    def connection_made(self, transport): self.transport = transport
    def data_received(self, data): self.transport.write(b"HTTP/1.1 503 No\\r\\ncontent-length: 2\\r\\n\\r\\nno")
async def serve():
    server = await asyncio.get_running_loop().create_server(Refusing, "127.0.0.1", {port})
    print("listening", flush=True)
    await server.serve_forever()
asyncio.run(serve())
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"listening\n"
        yield port
        process.kill()


@pytest.mark.parametrize("client", ["wrk", "python"])
def test_a_refused_request_ends_the_benchmark(
    client: str, refusing_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if client == "wrk" and clients.shutil.which("wrk") is None:
        pytest.skip("wrk is not installed (Debian: wrk)")
    monkeypatch.setattr(clients.shutil, "which", lambda _name: client if client == "wrk" else None)
    request = Request("/", b"{}", {"content-type": "application/json"}, lambda body, headers: np.zeros(1))
    with pytest.raises(SystemExit, match="not every request was answered"):
        clients.load(request, refusing_port, connections=1, seconds=1, core=0, folder=tmp_path, answer_bytes=2)


@pytest.mark.parametrize(
    ("growth", "met"),
    [pytest.param(0.0, 1, id="flat"), pytest.param(9.0, 1, id="within the bound"), pytest.param(40.0, 0, id="a leak")],
)
def test_a_leak_shows_through_bursts_of_the_log(growth: float, met: int) -> None:
    samples = [(count, 100 + growth * count / 1e6 + (count // 20_000) % 3) for count in range(0, 1_000_000, 20_000)]
    measured = {"requests": 1_000_000, "mb_per_million": soak.slope(samples)}
    (asked,) = soak.asked(measured)
    assert measured["mb_per_million"][0] == pytest.approx(growth, abs=0.5)
    assert asked["met"] == met


def test_what_memory_did_before_the_server_was_warm_is_not_growth() -> None:
    samples = [(count, min(200.0, 100 + count / 1e3)) for count in range(0, 1_000_000, 10_000)]
    assert soak.slope(samples) == (0, 0, 0)


class _Clock:
    """Ticks once at each look at it."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        self.now += 1
        return self.now


class _Work:
    clock: _Clock

    def outer(self) -> None:
        self.clock.now += 1_000
        self.inner()
        self.inner()

    def inner(self) -> None:
        self.clock.now += 100


def test_a_stage_is_charged_for_its_own_time_only_and_the_code_is_as_it_was_after(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Work.clock = _Clock()
    monkeypatch.setattr(stopwatch, "perf_counter_ns", clock)
    original = _Work.inner
    watch = stopwatch.Stopwatch()
    with watch.timing((_Work, "outer", "whole"), (_Work, "inner", "part")):
        for _ in range(2):
            _Work().outer()
        watch.lap()
    assert _Work.inner is original
    found = watch.medians(2)
    assert found["whole"] == pytest.approx(1.0, abs=0.005)
    assert found["part"] == pytest.approx(0.2, abs=0.005)


def test_every_stage_of_the_profile_is_seen_in_the_servers_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, few in (("_LAPS", 2), ("_TURNS", 2), ("_WARM_TURNS", 2), ("_UNTIMED_SECONDS", 0.01)):
        monkeypatch.setattr(drive, name, few)
    (tmp_path / "log").mkdir()
    case = models.build("trees", tmp_path)
    found = asyncio.run(drive.drive(case.package, json_body(case, 1), 2, str(tmp_path / "log")))
    assert set(found["stages"]) == {stage for _, _, stage in drive.PLACES}
    assert all(cost > 0 for cost in found["stages"].values())
    assert found["cpu_us"] > 0


def test_the_page_holds_the_tables_of_the_results_beside_it() -> None:
    page = (DOCS / "serving.md").read_text()
    assert page == markdown.page_with(json.loads((DOCS / "serving.json").read_text()), page), "run benchmarks.serving.markdown"


def test_results_of_few_rounds_are_called_preliminary() -> None:
    compare = {
        "machine": {"server_core": 0, "client_core": 1, "cores": 2, "python": "3"},
        "versions": {TIDEGATE: "this checkout", MOSEC: "absent: not given"},
        "limit": {"trees": {"1": {"call_us": 10.0, "rows_per_second": 100_000.0}}},
        "results": list(report.rows("trees", _measured(ONE_ROW, 8_000, 1_000))),
        "asked": [],
        "seconds": 1,
    }
    assert "**Preliminary: 1 round on a machine" in markdown.tables({"compare": compare | {"rounds": 1}})
    shown = markdown.tables({"compare": compare | {"rounds": ROUNDS}})
    assert "Preliminary" not in shown
    assert "| 1 row, json | 8 | 8,000 | 8.00 (8.00 to 8.00) |  |  | 1.00 | 1.00 (1.00 to 1.00) | 1.0 | 8% |" in shown
    assert "mosec: absent: not given" in shown


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(SystemExit, match="lacks its marks"):
        markdown.page_with({}, "# A page\n")
