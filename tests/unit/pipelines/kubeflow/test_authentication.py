"""Who asks: every kind of credentials against a server that wants it; none of their secrets is ever in a message."""

from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pipelines.kubeflow import authentication
from pipelines.kubeflow.api_errors import ApiRefusal
from pipelines.kubeflow.authentication import Nobody, credentials_of
from pipelines.kubeflow.client import API, KubeflowPipelines
from pipelines.kubeflow.dex_login import DexLogin
from tests.kfp_api.api import KfpApi
from tests.kfp_api.dex import Dex, DexHandler
from tests.kfp_api.server import serving
from tidegate.errors import PipelineError

TOKEN = "s3cr3t-t0ken"
HOST = "http://127.0.0.1"


@pytest.fixture(autouse=True)
def no_mounted_token(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(authentication, "SERVICE_ACCOUNT_TOKEN", tmp_path / "mounted")
    return tmp_path / "mounted"


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return path


def credentials(environment: dict[str, str]):
    return credentials_of(environment, host=HOST, timeout_seconds=5.0)


@pytest.mark.parametrize(
    ("environment", "headers"),
    [
        pytest.param({}, {}, id="none"),
        pytest.param({"KF_PIPELINES_TOKEN": f" {TOKEN}\n"}, {"Authorization": f"Bearer {TOKEN}"}, id="token"),
        pytest.param({"KF_PIPELINES_TOKEN_FILE": "FILE"}, {"Authorization": f"Bearer {TOKEN}"}, id="token-file"),
        pytest.param({"KF_PIPELINES_SA_TOKEN_PATH": "FILE"}, {"Authorization": f"Bearer {TOKEN}"}, id="service-account"),
        pytest.param({"KF_PIPELINES_COOKIE": "session=abc"}, {"Cookie": "session=abc"}, id="cookie"),
        pytest.param(
            {"KF_PIPELINES_TOKEN": "mine", "KF_PIPELINES_SA_TOKEN_PATH": "FILE"},
            {"Authorization": "Bearer mine"},
            id="what-is-given-before-what-is-mounted",
        ),
    ],
)
def test_environment_gives_the_headers(environment, headers, file):
    chosen = credentials({name: str(file) if value == "FILE" else value for name, value in environment.items()})

    assert chosen.headers() == headers
    assert TOKEN not in chosen.described


def test_token_where_kubeflow_mounts_it_is_used_without_any_variable(no_mounted_token):
    no_mounted_token.write_text(TOKEN)

    assert credentials({}).headers() == {"Authorization": f"Bearer {TOKEN}"}


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        pytest.param(
            {"KF_PIPELINES_TOKEN": TOKEN, "KF_PIPELINES_COOKIE": "a=b"},
            "KF_PIPELINES_TOKEN and KF_PIPELINES_COOKIE are set, but one kind",
            id="two-kinds",
        ),
        pytest.param({"KF_PIPELINES_USERNAME": "me"}, "without a password", id="no-password"),
        pytest.param({"KF_PIPELINES_COOKIE": TOKEN}, "expected NAME=VALUE", id="cookie-without-a-name"),
        pytest.param(
            {"KF_PIPELINES_TOKEN": f"{TOKEN}\nX-Other: 1"}, "KF_PIPELINES_TOKEN: holds a character", id="second-header"
        ),
        pytest.param({"KF_PIPELINES_TOKEN": f"{TOKEN}é"}, "holds a character", id="not-ascii"),
        pytest.param(
            {"KF_PIPELINES_TOKEN_FILE": "/nowhere/token"}, "/nowhere/token cannot be read: No such file", id="no-file"
        ),
        pytest.param({"KF_PIPELINES_TOKEN_FILE": "EMPTY"}, "is empty", id="empty-file"),
        pytest.param({"KF_PIPELINES_TOKEN_FILE": "BINARY"}, "cannot be read: not text", id="binary-file"),
        pytest.param(
            {"KF_PIPELINES_SA_TOKEN_PATH": "/nowhere"}, "KF_PIPELINES_SA_TOKEN_PATH: file /nowhere", id="mounted-gone"
        ),
    ],
)
def test_mistake_is_named_by_its_variable_and_never_by_its_value(environment, message, tmp_path):
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    places = {"EMPTY": str(tmp_path / "empty"), "BINARY": str(tmp_path / "binary")}

    with pytest.raises(PipelineError, match=message) as refused:
        credentials({name: places.get(value, value) for name, value in environment.items()}).headers()

    assert TOKEN not in str(refused.value)


def test_renewed_token_file_is_read_anew_and_an_expired_one_is_asked_about_once(file):
    server = KfpApi(tokens={TOKEN})
    with serving(server) as url:
        api = KubeflowPipelines(url, credentials({"KF_PIPELINES_SA_TOKEN_PATH": str(file)}))
        api.get(f"{API}/healthz")
        server.tokens = {"second"}
        file.write_text("second")
        api.get(f"{API}/healthz")
        server.tokens = {"third"}
        with pytest.raises(ApiRefusal, match=r"not authenticated \(the token in .*token sent\)") as refused:
            api.get(f"{API}/healthz")

    assert len(server.requests) == 3
    assert "second" not in str(refused.value)


def test_token_that_the_kubelet_renews_between_reading_and_refusal_is_tried_again(file, monkeypatch):
    server = KfpApi(tokens={"second"})
    chosen = credentials({"KF_PIPELINES_SA_TOKEN_PATH": str(file)})
    renew = chosen.renew
    monkeypatch.setattr(chosen, "renew", lambda: (file.write_text("second"), renew())[1])

    with serving(server) as url:
        KubeflowPipelines(url, chosen).get(f"{API}/healthz")

    assert [headers["Authorization"] for headers in server.seen_headers] == [f"Bearer {TOKEN}", "Bearer second"]


@pytest.mark.parametrize("login_page", [None, "/dex/auth?client_id=kubeflow"])
def test_missing_login_is_told_whether_it_redirects_or_shows_a_page(login_page):
    server = KfpApi(cookie=("session", "abc"), login_page=login_page)
    with serving(server) as url:
        with pytest.raises(ApiRefusal, match=r"login.*no credentials sent|no credentials sent.*login"):
            KubeflowPipelines(url, Nobody()).get(f"{API}/healthz")
        api = KubeflowPipelines(url, credentials({"KF_PIPELINES_COOKIE": "session=abc"}))
        assert api.get(f"{API}/healthz")
        server.cookie = ("session", "other")
        with pytest.raises(ApiRefusal, match=r"the cookie in KF_PIPELINES_COOKIE sent") as refused:
            api.get(f"{API}/healthz")

    assert refused.value.unauthenticated


@contextmanager
def behind_dex(dex: Dex):
    with serving(KfpApi(), type("Behind", (DexHandler,), {"dex": dex})) as url:
        yield url


@pytest.mark.parametrize(
    "dex",
    [
        pytest.param(Dex(), id="choice-of-connectors"),
        pytest.param(Dex(several_connectors=False), id="straight-to-the-form"),
        pytest.param(Dex(sign_in_page=True), id="oauth2-proxy-asks-first"),
        pytest.param(Dex(approval=True), id="grant-access"),
    ],
)
def test_login_through_dex_gives_a_session_that_is_used_and_renewed(dex):
    with behind_dex(dex) as url:
        api = KubeflowPipelines(url, DexLogin(url, dex.username, dex.password, timeout_seconds=5.0))

        assert api.get(f"{API}/healthz")["tag_name"] == "2.17.0"
        assert api.get(f"{API}/healthz")
        assert dex.logins == 1
        dex.sessions.clear()  # expired
        assert api.get(f"{API}/healthz")
        assert dex.logins == 2


@pytest.mark.parametrize(
    ("dex", "message"),
    [
        pytest.param(Dex(password="other"), "Dex refused the login of KF_PIPELINES_USERNAME", id="wrong-password"),
        pytest.param(Dex(form=False), "which is no password form of Dex; log in with a browser", id="no-passwords"),
        pytest.param(Dex(endless=True), "the login redirects without an end", id="endless"),
    ],
)
def test_failed_login_is_one_line_without_the_password(dex, message):
    with behind_dex(dex) as url:
        login = DexLogin(url, "user@example.com", "hunter2", timeout_seconds=5.0)
        with pytest.raises(PipelineError, match=message) as refused:
            KubeflowPipelines(url, login).get(f"{API}/healthz")

    assert "hunter2" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_login_that_is_not_asked_for_is_not_made():
    server = KfpApi()

    class Open(DexHandler):
        dex = Dex()

        def _has_session(self) -> bool:
            return True

    with serving(server, Open) as url:
        KubeflowPipelines(url, DexLogin(url, "me", "hunter2", timeout_seconds=5.0)).get(f"{API}/healthz")

    assert Open.dex.logins == 0


def test_password_is_not_sent_in_the_clear_by_a_host_that_is_asked_over_tls():
    with behind_dex(Dex()) as url:
        login = DexLogin("https://kubeflow.example.com", "me", "hunter2", timeout_seconds=5.0)
        with pytest.raises(PipelineError, match=r"its login form is at http://.*; the password is not sent there"):
            login._refuse_plain_text(urlsplit(f"{url}/dex/auth/local/login"))


def test_password_may_lie_in_a_file(tmp_path):
    (tmp_path / "password").write_text("12341234\n")
    dex = Dex()
    with behind_dex(dex) as url:
        environment = {"KF_PIPELINES_USERNAME": dex.username, "KF_PIPELINES_PASSWORD_FILE": str(tmp_path / "password")}
        chosen = credentials_of(environment, host=url, timeout_seconds=5.0)
        KubeflowPipelines(url, chosen).get(f"{API}/healthz")
        cookie = dex.sessions[0]

    assert chosen.redact(f"12341234 {cookie}") == "*** ***"
