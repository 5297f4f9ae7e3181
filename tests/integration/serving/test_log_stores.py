"""The inference log on disks and object stores that are full, dead, hang, and come back, of servers that are really running."""

import ctypes
import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.config import Config

from tests.ports import free_port
from tests.s3_server import start_s3
from tidegate.serving.metrics.names import LOG_DROPPED_ROWS, LOG_FAILURES, LOG_ROWS, LOG_SAMPLED_OUT_ROWS, REJECTED

INFER = "/v2/models/tiny/infer"
BUCKET = "logs"
SECRET = "a key that must stay one"

Launch = Callable[..., Any]
Body = Callable[..., dict[str, Any]]
Eventually = Callable[..., None]


def rows_in(folder: Path) -> list[dict[str, Any]]:
    """Return what all files below a folder hold; each must be whole."""
    return [row for file in sorted(folder.rglob("*.parquet")) for row in pq.ParquetFile(file).read().to_pylist()]


def ids_in(folder: Path) -> list[str]:
    return sorted(row["request_id"] for row in rows_in(folder))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"size=1m") != 0:
        pytest.skip(f"a small file system cannot be mounted here: {os.strerror(ctypes.get_errno())}")
    yield folder
    libc.umount2(os.fsencode(folder), 2)  # MNT_DETACH


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(b"x" * 4096)
            except OSError:
                return filler


@dataclass
class S3:
    """A server that speaks S3 and can be stopped, killed and started again."""

    port: int
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def settings(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "test-key",
            "AWS_SECRET_ACCESS_KEY": "test-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    @property
    def client(self) -> Any:
        return boto3.session.Session().client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id="test-key",
            aws_secret_access_key="test-secret",
            region_name="us-east-1",
            config=Config(connect_timeout=5, read_timeout=10),
        )

    def start(self) -> None:
        self.process = start_s3(self.port)
        self.client.create_bucket(Bucket=BUCKET)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def rows(self) -> list[dict[str, Any]]:
        client = self.client
        keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=BUCKET).get("Contents", ())]
        bodies = [client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys]
        tables = [pq.ParquetFile(io.BytesIO(body)).read() for body in bodies]
        return pa.concat_tables(tables).to_pylist() if tables else []


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    server = S3(free_port())
    server.start()
    yield server
    server.kill()


def on_s3(s3: S3, **options: Any) -> dict[str, Any]:
    """Return options of a server whose log goes to that store."""
    return {"log_store": f"s3://{BUCKET}", "process": {"env": s3.settings}, "grpc_port": 0} | options


def ask(server: Any, body: dict[str, Any], *, status: int = 200) -> Any:
    found, answer = server.request(INFER, body)
    assert found == status, answer
    return answer


def test_serving_outlives_a_full_disk(launch: Launch, v2_body: Body, eventually: Eventually, small_disk: Path) -> None:
    filler = fill(small_disk)
    server = launch(log_store=small_disk / "store", log_rotate_seconds=0.05, log_queue_rows=20, grpc_port=0)
    for number in range(30):
        ask(server, v2_body(f"full-{number:02d}"))
    eventually(lambda: server.metric(LOG_FAILURES) > 0, "failed write")
    assert server.metric(LOG_DROPPED_ROWS, "queue-full") == 10
    assert rows_in(small_disk) == []

    filler.unlink()
    eventually(lambda: server.metric(LOG_ROWS) == 20, "rows that waited for space")
    ask(server, v2_body("roomy"))
    assert server.stop() == 0
    assert ids_in(small_disk) == [f"full-{number:02d}" for number in range(20)] + ["roomy"]
    assert list((small_disk / "store").rglob("staging/*")) == []


def test_an_audit_refuses_what_a_full_disk_does_not_take(
    launch: Launch, v2_body: Body, eventually: Eventually, small_disk: Path
) -> None:
    server = launch(log_store=small_disk / "store", log_mode="audit", grpc_port=0)
    ask(server, v2_body("before"))
    assert ids_in(small_disk) == ["before"]

    filler = fill(small_disk)
    answer = ask(server, v2_body("full"), status=503)
    assert "audit record" in answer["error"]
    assert "No space left on device" in answer["error"]
    assert "outputs" not in answer
    assert server.metric(REJECTED, "not-logged") == 1

    filler.unlink()
    ask(server, v2_body("after"))
    assert ids_in(small_disk) == ["after", "before"]
    assert server.stop() == 0


def test_no_audited_answer_is_lost_when_the_server_is_killed(launch: Launch, v2_body: Body) -> None:
    server = launch(log_mode="audit", grpc_port=0)
    for number in range(20):
        ask(server, v2_body(f"r{number:02d}", rows=1 + number % 3))
    server.process.kill()
    server.process.wait()
    assert sorted(set(ids_in(server.store))) == [f"r{number:02d}" for number in range(20)]


def test_what_a_killed_server_loses_is_younger_than_a_file(launch: Launch, v2_body: Body, eventually: Eventually) -> None:
    server = launch(log_rotate_seconds=0.3, grpc_port=0)
    for number in range(10):
        ask(server, v2_body(f"old-{number}"))
    eventually(lambda: server.metric(LOG_ROWS) == 10, "written rows")
    ask(server, v2_body("young"))
    server.process.kill()
    server.process.wait()
    assert set(ids_in(server.store)) - {"young"} == {f"old-{number}" for number in range(10)}


def test_a_store_that_hangs_delays_no_request_and_gets_its_rows_when_it_goes_on(
    launch: Launch, v2_body: Body, eventually: Eventually, s3: S3
) -> None:
    server = launch(**on_s3(s3))
    ask(server, v2_body("before"))
    eventually(lambda: server.metric(LOG_ROWS) == 1, "first row")
    s3.send(signal.SIGSTOP)
    for number in range(20):
        begun = time.monotonic()
        ask(server, v2_body(f"r{number:02d}"))
        assert time.monotonic() - begun < 2
    time.sleep(0.5)
    assert server.metric(LOG_ROWS) == 1

    s3.send(signal.SIGCONT)
    eventually(lambda: server.metric(LOG_ROWS) == 21, "rows that waited")
    assert server.stop() == 0
    assert sorted(row["request_id"] for row in s3.rows()) == ["before", *(f"r{number:02d}" for number in range(20))]


def test_a_store_that_hangs_does_not_keep_the_server(launch: Launch, v2_body: Body, s3: S3) -> None:
    server = launch(**on_s3(s3, drain_seconds=1))
    s3.send(signal.SIGSTOP)
    ask(server, v2_body("lost", rows=3))
    begun = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - begun < 6
    [lost] = [event for event in server.events if event["event"] == "inference log lost rows"]
    assert (lost["rows"], lost["reason"]) == (3, "the store did not answer within 1 s")


def test_a_store_that_dies_and_comes_back_gets_every_row_once(
    launch: Launch, v2_body: Body, eventually: Eventually, s3: S3
) -> None:
    server = launch(**on_s3(s3, log_rotate_seconds=0.05))
    s3.kill()
    for number in range(10):
        ask(server, v2_body(f"r{number}"))
    eventually(lambda: server.metric(LOG_FAILURES) > 0, "failed write")
    s3.start()
    eventually(lambda: server.metric(LOG_ROWS) == 10, "rows that waited")
    assert server.stop() == 0
    assert sorted(row["request_id"] for row in s3.rows()) == [f"r{number}" for number in range(10)]
    assert not any(event["event"] == "inference log lost rows" for event in server.events)


def test_an_audit_waits_only_so_long_for_a_store_that_hangs(
    launch: Launch, v2_body: Body, eventually: Eventually, s3: S3
) -> None:
    server = launch(**on_s3(s3, log_mode="audit", request_seconds=1))
    ask(server, v2_body("before"))
    assert [row["request_id"] for row in s3.rows()] == ["before"]

    s3.send(signal.SIGSTOP)
    begun = time.monotonic()
    answer = ask(server, v2_body("hanging"), status=503)
    assert 0.5 < time.monotonic() - begun < 4
    assert "within 1 s" in answer["error"]
    begun = time.monotonic()
    ask(server, v2_body("at once"), status=503)
    assert time.monotonic() - begun < 2
    assert server.request("/v2/health/ready")[0] == 200

    s3.send(signal.SIGCONT)
    eventually(lambda: server.request(INFER, v2_body("after"))[0] == 200, "kept record")
    assert "after" in {row["request_id"] for row in s3.rows()}
    assert server.stop() == 0


def test_a_sample_and_what_it_hides(launch: Launch, v2_body: Body, eventually: Eventually) -> None:
    server = launch(
        log_sample=0.5,
        log_redact="carrier:hash,origin,label",
        process={"env": {"TIDEGATE_LOG_HASH_KEY": SECRET}},
        access_log="all",
        grpc_port=0,
    )
    for number in range(60):
        ask(server, v2_body(f"r{number}"))
    eventually(lambda: server.metric(LOG_ROWS) + server.metric(LOG_SAMPLED_OUT_ROWS) == 60, "counted rows")
    assert server.metric(LOG_DROPPED_ROWS, "queue-full") == 0
    assert server.stop() == 0
    rows = rows_in(server.store)
    assert 10 < len(rows) < 50
    assert {row["sample_share"] for row in rows} == {0.5}
    assert {row["redacted"] for row in rows} == {"carrier:hash,label,origin"}
    assert {(row["input_origin"], row["key_origin"], row["output_label"]) for row in rows} == {(None, None, None)}
    assert {len(row["input_carrier"]) for row in rows} == {64}
    assert {row["key_dest"] for row in rows} == {"SFO"}
    assert SECRET not in server.stderr + json.dumps(rows, default=str)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            {"log_redact": "carier"}, "'carier' is nothing that tiny logs; it logs origin, dest, carrier", id="unknown"
        ),
        pytest.param({"log_redact": "carrier:hash"}, "in TIDEGATE_LOG_HASH_KEY, which is not set", id="no key"),
        pytest.param({"log_mode": "audit", "log_sample": 0.5}, "an audit log keeps every record", id="a sampled audit"),
    ],
)
def test_a_log_that_cannot_be_kept_as_asked_is_one_error(launch: Launch, options: dict[str, Any], message: str) -> None:
    server = launch(wait=False, **options)
    assert server.process.wait(timeout=30) == 1
    [error] = [line for line in server.stderr.splitlines() if line.startswith("error: ")]
    assert message in error
    assert "Traceback" not in server.stderr
