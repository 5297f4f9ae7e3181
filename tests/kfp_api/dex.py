"""Dex behind an oauth2-proxy, as a browser without a session meets them, in front of a `KfpApi`.

The steps are those of oauth2-proxy v7 (`/oauth2/sign_in`, `/oauth2/start`, `/oauth2/callback`) and dex v2.4x
(`/dex/auth`, `/dex/auth/local`, `/dex/auth/local/login`, `/dex/approval`), server/handlers.go.
"""

import secrets
from dataclasses import dataclass, field
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

from tests.kfp_api.server import Handler

SESSION = "oauth2_proxy_kubeflow"


@dataclass
class Dex:
    """Who may log in, what the login looks like, and how many did."""

    username: str = "user@example.com"
    password: str = "12341234"
    sign_in_page: bool = False
    several_connectors: bool = True
    approval: bool = False
    form: bool = True
    endless: bool = False
    logins: int = 0
    sessions: list[str] = field(default_factory=list)


class DexHandler(Handler):
    """Asks for a login, and lets the API answer whoever has a session."""

    dex: ClassVar[Dex]

    def do_GET(self) -> None:  # noqa: N802 - http.server's name
        path = urlsplit(self.path).path
        if self._has_session():
            if path == "/":
                self._send(200, "<html>Kubeflow</html>", content_type="text/html")
            else:
                super().do_GET()
        elif path == "/oauth2/start" or (path.startswith("/dex") is False and not self.dex.sign_in_page):
            self._redirect("/" if self.dex.endless else "/dex/auth?client_id=kubeflow&state=abc")
        elif path == "/dex/auth" and self.dex.several_connectors:
            self._send(200, "<html>Log in with Email or LDAP</html>", content_type="text/html")
        elif path in ("/dex/auth", "/dex/auth/local"):
            self._redirect("/dex/auth/local/login?back=&state=xyz")
        elif path == "/dex/approval":
            self._send(200, "<html>Grant Access</html>", content_type="text/html")
        elif path == "/dex/auth/local/login" and self.dex.form:
            self._send(200, "<html><form></form></html>", content_type="text/html")
        elif path == "/dex/auth/local/login":
            self._send(404, "no such connector")
        else:
            self._send(403, "<html>Sign in with OpenID Connect</html>", content_type="text/html")

    def do_POST(self) -> None:  # noqa: N802 - http.server's name
        address = urlsplit(self.path)
        if not address.path.startswith("/dex"):
            super().do_POST()
            return
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        if address.path == "/dex/approval":
            self._give_session()
        elif (form.get("login"), form.get("password")) != ([self.dex.username], [self.dex.password]):
            self._send(401, "<html>Invalid Email Address and password.</html>", content_type="text/html")
        elif self.dex.approval:
            self._redirect("/dex/approval?req=1")
        else:
            self._give_session()

    def _give_session(self) -> None:
        self.dex.logins += 1
        session = secrets.token_hex(8)
        self.dex.sessions.append(session)
        self._redirect("/", cookie=f"{SESSION}={session}; Path=/; HttpOnly")

    def _has_session(self) -> bool:
        sent = self.headers.get("Cookie", "")
        return any(f"{SESSION}={session}" in sent for session in self.dex.sessions)

    def _redirect(self, target: str, cookie: str = "") -> None:
        self._send(303, "", headers={"Location": target} | ({"Set-Cookie": cookie} if cookie else {}))
