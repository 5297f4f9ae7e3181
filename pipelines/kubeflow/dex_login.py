"""Logs in through Dex as a browser does, behind oauth2-proxy or the older OIDC AuthService, and keeps the session's cookies.

The steps follow what Kubeflow documents for clients outside the cluster (kubeflow.org, "Connect the SDK to the API"): open the
page, follow the redirects to Dex, choose the connector with passwords, send its form, approve where Dex asks.
"""

from urllib.parse import SplitResult, urlsplit, urlunsplit

import requests

from tidegate.errors import PipelineError

_SIGN_IN_PATH = "/oauth2/sign_in"
_START_PATH = "/oauth2/start"
_BLOT = "***"


class DexLogin:
    """The session of one user, who logs in when the first request is made and again when the session has expired."""

    def __init__(self, host: str, username: str, password: str, *, timeout_seconds: float) -> None:
        """Log in to `host`; nothing is sent before the first request."""
        self._host = host
        self._username = username
        self._password = password
        self._timeout = (min(timeout_seconds, 10.0), timeout_seconds)
        self._cookies: requests.cookies.RequestsCookieJar | None = None
        self.described = "a login with KF_PIPELINES_USERNAME"

    def headers(self) -> dict[str, str]:
        """Return the session's cookies; see `Credentials.headers`."""
        if self._cookies is None:
            self._log_in()
        request = requests.Request("GET", self._host + "/").prepare()
        cookie = requests.cookies.get_cookie_header(self._cookies, request)
        return {"Cookie": cookie} if cookie else {}

    def renew(self) -> bool:
        """Log in again; see `Credentials.renew`."""
        self._log_in()
        return True

    def redact(self, text: str) -> str:
        """Blot out the password and every cookie; see `Credentials.redact`."""
        for secret in (self._password, *(cookie.value for cookie in self._cookies or ())):
            text = text.replace(secret, _BLOT) if secret else text
        return text

    def _log_in(self) -> None:
        try:
            with requests.Session() as session:
                session.auth = lambda request: request
                self._sign_in(session)
                self._cookies = session.cookies
        except requests.exceptions.TooManyRedirects:
            raise PipelineError(f"{self._host}: the login redirects without an end; is --host the address of the UI?") from None
        except requests.exceptions.SSLError:
            raise PipelineError(
                f"{self._host}: a TLS certificate on the way to the login is not trusted; "
                "set REQUESTS_CA_BUNDLE to the file of the certificate authority that signed it"
            ) from None
        except requests.RequestException as error:
            raise PipelineError(f"{self._host}: the login could not be reached ({type(error).__name__})") from None

    def _sign_in(self, session: requests.Session) -> None:
        page = session.get(self._host + "/", timeout=self._timeout)
        if page.status_code == 403 or urlsplit(page.url).path == _SIGN_IN_PATH:
            start = urlsplit(page.url)._replace(path=_START_PATH, query=f"rd={urlsplit(self._host).path or '/'}")
            page = session.get(urlunsplit(start), timeout=self._timeout)
        if not page.history and page.ok:
            return  # no login is asked for
        form = self._password_form(session, page)
        self._refuse_plain_text(urlsplit(form.url))
        answer = session.post(form.url, data={"login": self._username, "password": self._password}, timeout=self._timeout)
        if urlsplit(answer.url).path.endswith("/approval"):
            answer = session.post(answer.url, data={"approval": "approve"}, timeout=self._timeout)
        if not answer.history or not answer.ok:
            raise PipelineError(
                f"{self._host}: Dex refused the login of KF_PIPELINES_USERNAME; are name and password right, "
                "and may this user log in with a password?"
            )

    def _password_form(self, session: requests.Session, page: requests.Response) -> requests.Response:
        """Go from Dex's choice of connectors to the form of the local one, unless we are there."""
        address = urlsplit(page.url)
        if address.path.endswith("/auth"):
            page = session.get(urlunsplit(address._replace(path=f"{address.path}/local")), timeout=self._timeout)
            address = urlsplit(page.url)
        if not page.ok or not address.path.endswith("/login"):
            raise PipelineError(
                f"{self._host}: leads to {address.scheme}://{address.netloc}{address.path}, which is no password form of Dex; "
                "log in with a browser and set KF_PIPELINES_COOKIE, or use a token"
            )
        return page

    def _refuse_plain_text(self, form: SplitResult) -> None:
        if urlsplit(self._host).scheme == "https" and form.scheme != "https":
            raise PipelineError(
                f"{self._host}: its login form is at {form.scheme}://{form.netloc}; the password is not sent there"
            )
