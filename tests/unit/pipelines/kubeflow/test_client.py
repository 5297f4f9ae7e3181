"""The client of the Kubeflow Pipelines API: each failure is one clear line, nothing hangs, nothing is done twice."""

import json
import socket
import ssl
import subprocess
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.kubeflow.answer import Answer
from pipelines.kubeflow.api_errors import ApiRefusal, LostReply, Unreachable, explain_refusal
from pipelines.kubeflow.authentication import FixedHeader, Nobody
from pipelines.kubeflow.client import API, KubeflowPipelines, checked_host
from tests.kfp_api.api import KfpApi, Outage
from tests.kfp_api.server import Handler, serving
from tidegate.errors import PipelineError

SECRET = "s3cr3t-t0ken"
BEARER = FixedHeader("Authorization", f"Bearer {SECRET}", source="the token in KF_PIPELINES_TOKEN", secret=SECRET)


class Answers(BaseHTTPRequestHandler):
    """Gives the answer that the test wants, whatever is asked."""

    status, content_type, payload, location = 200, "application/json", b"{}", ""

    def do_GET(self):
        self.send_response(self.status)
        self.send_header("Content-Type", self.content_type)
        self.send_header("Content-Length", str(len(self.payload)))
        if self.location:
            self.send_header("Location", self.location)
        self.end_headers()
        self.wfile.write(self.payload)

    def do_POST(self):
        self.do_GET()

    def log_message(self, *_):
        pass


def get_from(credentials=None, **answer):
    with serving(KfpApi(), type("Given", (Answers,), answer)) as url:
        KubeflowPipelines(url, credentials or Nobody(), patience_seconds=0.0).get(f"{API}/runs/1")


DETAIL = b'{"code":5,"message":"Failed: stack\\n\\tgithub.com/kubeflow","details":[{"@type":"x","message":"Run 1 not found"}]}'


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        pytest.param(
            {"status": 404, "payload": DETAIL}, r": Run 1 not found \(HTTP 404\)$", id="words-for-people-not-the-stack"
        ),
        pytest.param(
            {"status": 400, "payload": b'{"error_message":"Failed to create a pipeline","error_details":"stack"}'},
            r": Failed to create a pipeline \(HTTP 400\)$",
            id="upload-server",
        ),
        pytest.param({"status": 400, "payload": b'{"error":"old","code":3}'}, r": old \(HTTP 400\)$", id="older-gateway"),
        pytest.param({"status": 400, "payload": b'{"message":"no details","details":null}'}, r": no details ", id="no-details"),
        pytest.param(
            {"status": 400, "payload": b"RBAC: access denied\n", "content_type": "text/plain"}, "RBAC", id="plain-text"
        ),
        pytest.param({"status": 400, "payload": b'"text"'}, "text", id="json-but-no-object"),
        pytest.param({"status": 400, "payload": b""}, r"Bad Request", id="nothing-said"),
        pytest.param({"status": 400, "payload": b"x" * 5000}, "x…", id="endless"),
        pytest.param(
            {"status": 401, "payload": b'{"message":"no user identity header"}'},
            r"not authenticated \(no credentials sent\): no user identity header; see docs/kubeflow-pipelines.md",
            id="401",
        ),
        pytest.param(
            {"status": 403, "payload": b'{"message":"User x is not"}'}, r"not allowed \(no cred.*User x is not", id="403"
        ),
        pytest.param(
            {"payload": b"<html>", "content_type": "text/html"},
            "answers with a web page where the API was asked",
            id="login-page",
        ),
        pytest.param({"payload": b"pong", "content_type": "text/plain"}, "is not JSON", id="something-else"),
        pytest.param({"payload": b"[]"}, "is not JSON", id="a-list"),
        pytest.param({"status": 302, "location": "/dex/auth?state=abc"}, "asks for a login", id="redirect-to-dex"),
        pytest.param({"status": 302, "location": "/oauth2/start?rd=%2F"}, "asks for a login", id="redirect-to-oauth2-proxy"),
        pytest.param({"status": 302, "location": "https://sso.example.com/realms/kf/x"}, "asks for a login", id="keycloak"),
        pytest.param({"status": 301, "location": "https://127.0.0.1/apis/v2beta1/runs/1"}, "give --host with https", id="tls"),
        pytest.param({"status": 301, "location": "/pipeline/?token=1"}, "redirects to '/pipeline/'; is that", id="elsewhere"),
        pytest.param({"status": 503, "payload": b"upstream connect error"}, r"upstream connect error \(HTTP 503\)", id="503"),
    ],
)
def test_answer_that_is_no_answer_is_one_line(answer, message):
    with pytest.raises(PipelineError, match=message) as refused:
        get_from(**answer)

    assert str(refused.value).startswith("http://127.0.0.1:")
    assert len(str(refused.value)) < 600
    assert str(refused.value).isprintable()


def test_what_the_server_echoes_of_a_token_is_blotted_out():
    with pytest.raises(ApiRefusal) as refused:
        get_from(BEARER, status=401, payload=f'{{"message":"bad token: Bearer {SECRET}"}}'.encode())

    assert "bad token: Bearer ***" in str(refused.value)
    assert refused.value.unauthenticated


def test_no_server_is_one_line_and_is_tried_again_for_a_while(monkeypatch):
    pauses = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        api = KubeflowPipelines(
            f"http://127.0.0.1:{taken.getsockname()[1]}", Nobody(), patience_seconds=8.0, sleep=pauses.append
        )
        with pytest.raises(Unreachable, match=r"cannot be reached \(Connection refused\); is the address right"):
            api.get(f"{API}/healthz")

    assert pauses[:3] == [0.5, 1.0, 2.0]


def test_unknown_host_is_one_line():
    api = KubeflowPipelines("http://kubeflow.invalid", Nobody(), patience_seconds=0.0)

    with pytest.raises(Unreachable, match=r"http://kubeflow.invalid: cannot be reached \(.*\); is the address right"):
        api.get(f"{API}/healthz")


def test_untrusted_certificate_says_how_to_trust_it(tmp_path, program):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = [program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    subprocess.run(
        [*made, "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"api": KfpApi()}))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    url = f"https://127.0.0.1:{server.server_address[1]}"
    try:
        with pytest.raises(Unreachable, match=r"its TLS certificate is not trusted .* set REQUESTS_CA_BUNDLE"):
            KubeflowPipelines(url, Nobody()).get(f"{API}/healthz")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
            assert KubeflowPipelines(url, Nobody()).get(f"{API}/healthz")["tag_name"] == "2.17.0"
    finally:
        server.shutdown()
        server.server_close()


def test_answer_that_never_comes_is_waited_for_no_longer_than_the_timeout(connect):
    api = connect(KfpApi(outages=[Outage("slow", times=9, seconds=20.0)]), timeout_seconds=0.2, patience_seconds=0.0)
    begun = time.monotonic()

    with pytest.raises(Unreachable, match=r"no answer within 0.2 s"):
        api.get(f"{API}/healthz")

    assert time.monotonic() - begun < 5.0


class Drips(Answers):
    """Sends a byte at a time, for ever; `length` of None means chunks."""

    length: int | None = 10**6

    def do_GET(self):
        self.send_response(200)
        if self.length is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(self.length))
        self.end_headers()
        with suppress(OSError):
            while not self.api.stopped.wait(0.02):
                self.wfile.write(b" " if self.length is not None else b"1\r\n \r\n")
                self.wfile.flush()


@pytest.mark.parametrize("length", [10**6, None], ids=["announced", "chunked"])
def test_answer_that_never_ends_is_read_no_longer_than_the_timeout(length):
    drips = type("Given", (Drips,), {"length": length, "protocol_version": "HTTP/1.1"})
    begun = time.monotonic()
    with serving(KfpApi(), drips) as url, pytest.raises(Unreachable, match=r"no answer within 0.3 s"):
        KubeflowPipelines(url, Nobody(), timeout_seconds=0.3, patience_seconds=0.0).get(f"{API}/healthz")

    assert time.monotonic() - begun < 5.0


def test_answer_that_is_cut_off_is_a_broken_connection():
    class CutOff(Answers):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"{")

    with serving(KfpApi(), CutOff) as url, pytest.raises(Unreachable, match=r"the connection broke \(.*\)"):
        KubeflowPipelines(url, Nobody(), patience_seconds=0.0).get(f"{API}/healthz")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["message", "details", "error", "error_message", "@type"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(
    content=st.binary(max_size=60) | JSON.map(lambda document: json.dumps(document).encode()),
    status=st.integers(200, 599),
    kind=st.sampled_from(["application/json", "text/html", "text/plain", ""]),
    location=st.text(max_size=20) | st.sampled_from(["http://[::1", "/dex/auth", "https://x/apis", ""]),
)
def test_whatever_comes_back_is_one_line(content, status, kind, location):
    headers = {"Content-Type": kind, "Location": location}
    answer = Answer(url="http://x/apis", status=status, reason="", headers=headers, content=content)

    line = explain_refusal("http://x", answer, BEARER)

    assert line.isprintable()
    assert line.startswith("http://x: ")
    assert len(line) < 2_000


@pytest.mark.parametrize("kind", ["drop", "lose", 429, 500, 502, 503, 504])
def test_reading_survives_what_passes(connect, kind):
    api = connect(KfpApi(outages=[Outage(kind, times=2)]))

    assert api.get(f"{API}/healthz")["multi_user"] is False


def test_server_says_how_long_to_wait(connect):
    pauses = []
    server = KfpApi(outages=[Outage(429, headers={"Retry-After": "7"})])
    with serving(server) as url:
        KubeflowPipelines(url, Nobody(), sleep=pauses.append).get(f"{API}/healthz")

    assert pauses == [7.0]


@pytest.mark.parametrize("kind", ["drop", "lose", 500, 503])
def test_creating_is_never_repeated_blindly(connect, kind):
    server = KfpApi(outages=[Outage(kind)])
    api = connect(server)

    with pytest.raises(LostReply):
        api.create(f"{API}/experiments", {"display_name": "x"})

    assert len(server.requests) == 1


@pytest.mark.parametrize("kind", ["drop", "lose", 500, None])
def test_ensuring_makes_a_thing_once_whatever_is_lost(connect, kind):
    server = KfpApi(outages=[Outage(kind, when=lambda method, _: method == "POST")] if kind else [])
    api = connect(server)

    def find():
        return next(api.pages(f"{API}/experiments", "experiments"), None)

    made, fresh = api.ensure(find, lambda: api.create(f"{API}/experiments", {"display_name": "x"}))
    again, not_fresh = api.ensure(find, lambda: pytest.fail("made twice"))

    assert made["experiment_id"] == again["experiment_id"]
    assert (fresh, not_fresh, len(server.experiments)) == (True, False, 1)


def test_thing_that_somebody_else_makes_first_is_found(connect):
    server = KfpApi()
    api = connect(server)
    asked = []

    def find():
        asked.append(1)
        return next(api.pages(f"{API}/experiments", "experiments"), None) if len(asked) > 1 else None

    api.create(f"{API}/experiments", {"display_name": "x"})
    found, fresh = api.ensure(find, lambda: api.create(f"{API}/experiments", {"display_name": "x"}))

    assert (found["display_name"], fresh, len(server.experiments)) == ("x", False, 1)


def test_ensuring_gives_up_where_the_server_always_fails(connect):
    api = connect(KfpApi(outages=[Outage(500, times=99, when=lambda method, _: method == "POST")]))

    with pytest.raises(PipelineError, match=r"made to fail \(HTTP 500\)"):
        api.ensure(lambda: None, lambda: api.create(f"{API}/experiments", {"display_name": "x"}))


@pytest.mark.parametrize("count", [0, 1, 4, 5, 11])
def test_every_page_is_read(connect, count):
    api = connect(KfpApi(page_limit=2))
    for number in range(count):
        api.create(f"{API}/experiments", {"display_name": f"e{number}"})

    assert [item["display_name"] for item in api.pages(f"{API}/experiments", "experiments")] == [f"e{n}" for n in range(count)]


def test_pages_that_never_end_are_noticed():
    given = type("Given", (Answers,), {"payload": b'{"runs":[{}],"next_page_token":"same"}'})
    with serving(KfpApi(), given) as url, pytest.raises(PipelineError, match="its pages of runs never end"):
        list(KubeflowPipelines(url, Nobody()).pages(f"{API}/runs", "runs"))


def test_deleting_what_is_gone_is_no_error(connect):
    connect(KfpApi()).delete(f"{API}/recurringruns/none")


def test_token_goes_to_no_other_host_and_netrc_does_not_replace_it(connect, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server, elsewhere = KfpApi(tokens={SECRET}), KfpApi()
    api = connect(server, BEARER)

    api.get(f"{API}/healthz")

    assert server.seen_headers[-1]["Authorization"] == f"Bearer {SECRET}"
    with serving(elsewhere) as other:
        answer = {"status": 302, "location": f"{other}/stolen"}
        with pytest.raises(ApiRefusal):
            get_from(BEARER, **answer)
    assert elsewhere.requests == []


@pytest.mark.parametrize(
    ("host", "message"),
    [
        pytest.param("kubeflow.example.com", "expected the address", id="no-scheme"),
        pytest.param("ftp://kubeflow", "expected the address", id="scheme"),
        pytest.param("https://", "expected the address", id="no-host"),
        pytest.param("http://[::1", "expected the address", id="bracket"),
        pytest.param("http://host:port", "expected the address", id="port"),
        pytest.param("https://kubeflow/?ns=x", "expected the address", id="query"),
        pytest.param("https://kubeflow/#/runs", "expected the address", id="page-of-the-ui"),
        pytest.param("https://me:hunter2@kubeflow", "holds credentials", id="credentials"),
    ],
)
def test_address_that_is_none_is_refused(host, message):
    with pytest.raises(PipelineError, match=message) as refused:
        checked_host(host)

    assert "hunter2" not in str(refused.value)


def test_address_loses_its_slash():
    assert checked_host("https://kubeflow.example.com/pipeline/ ") == "https://kubeflow.example.com/pipeline"
