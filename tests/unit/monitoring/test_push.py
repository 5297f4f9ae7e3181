"""The numbers of a drift check on their way to a Pushgateway, which a small server plays; Prometheus's own tool reads them."""

import http.server
import subprocess
import threading
from datetime import UTC, datetime

import msgspec
import pytest

from tidegate.errors import MonitoringError
from tidegate.monitoring import push
from tidegate.monitoring.push import exposition, push_drift_check
from tidegate.monitoring.records import ColumnDrift

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def gateway(monkeypatch):
    monkeypatch.setattr(push, "_PAUSE", 0.01)

    class Handler(http.server.BaseHTTPRequestHandler):
        seen: list = []
        status = 200
        drop = 0  # so many connections are closed without an answer

        def do_PUT(self):
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            self.seen.append((self.path, self.headers["content-type"], body))
            if Handler.drop:
                Handler.drop -= 1
                self.close_connection = True
                return
            self.send_response(self.status)
            self.end_headers()
            self.wfile.write(b"text format\nparsing error" if self.status >= 400 else b"")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    Handler.seen, Handler.url = [], f"http://127.0.0.1:{server.server_address[1]}"
    yield Handler
    server.shutdown()
    server.server_close()


@pytest.fixture
def check(make_check):
    columns = tuple(
        ColumnDrift(column=name, psi=psi, drifted=psi > 0.2, missing_reference=0.0, missing_current=0.0)
        for name, psi in (("hour", 0.31), ('a "quoted\\" one', 0.0))
    )
    return msgspec.structs.replace(make_check(14, drifted=True), columns=columns, data_drifted=True)


def samples(text):
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))


def test_one_group_a_model(gateway, check):
    push_drift_check(gateway.url, "models", check, at=AT)

    ((path, content_type, body),) = gateway.seen
    assert path == f"/metrics/job/tidegate-drift/namespace/models/model/{check.model}"
    assert content_type == "text/plain; version=0.0.4"
    assert body == exposition(check, at=AT)


def test_numbers(check):
    found = samples(exposition(check, at=AT))

    assert found == {
        "tidegate_drift_checked_timestamp_seconds": repr(AT.timestamp()),
        'tidegate_drift_detected{kind="data"}': "1.0",
        'tidegate_drift_detected{kind="prediction"}': str(float(check.prediction.drifted)),
        'tidegate_drift_detected{kind="concept"}': str(float(check.concept.drifted)),
        'tidegate_drift_psi{column="hour"}': "0.31",
        'tidegate_drift_psi{column="a \\"quoted\\\\\\" one"}': "0.0",
    }


def test_window_that_does_not_count_has_not_drifted(check):
    found = samples(exposition(msgspec.structs.replace(check, counted=False), at=AT))

    assert {value for name, value in found.items() if "detected" in name} == {"0.0"}


def test_prometheus_reads_them(program, check):
    done = subprocess.run(
        [program("promtool"), "check", "metrics"],
        input=exposition(check, at=AT),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_lost_connection_is_tried_again(gateway, check):
    gateway.drop = 2

    push_drift_check(gateway.url, "models", check, at=AT)

    assert len(gateway.seen) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"status": 400}, "answers 400: text format parsing error", id="refused"),
        pytest.param({"status": 500}, "answers 500", id="failed"),
        pytest.param({"drop": 99}, "cannot be reached: Remote end closed", id="closed"),
    ],
)
def test_failure_is_one_clear_line(gateway, check, monkeypatch, change, message):
    for name, value in change.items():
        monkeypatch.setattr(gateway, name, value)

    with pytest.raises(MonitoringError, match=message) as raised:
        push_drift_check(gateway.url, "models", check, at=AT)
    assert str(raised.value).startswith(f"the Pushgateway at {gateway.url} ")
    assert "\n" not in str(raised.value)


def test_unreachable(check, monkeypatch):
    monkeypatch.setattr(push, "_PAUSE", 0.01)

    with pytest.raises(MonitoringError, match=r"the Pushgateway at http://127\.0\.0\.1:1 cannot be reached: .*refused"):
        push_drift_check("http://127.0.0.1:1", "models", check, at=AT)
