"""A server that we talk to: deadlines, the token, and what its answers mean.

Knows: HTTP from the asking side; which answers are final and which are worth another try.
Must not know: files on this machine, what is shown to a person.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final, Self
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from server.client.errors import ClientError, Refused, TryAgain, UploadLost
from server.protocols.headers import (
    AUTHORIZATION,
    CONTENT_TYPE,
    LOCATION,
    RETRY_AFTER,
    TUS_RESUMABLE,
)

CONNECT_SECONDS: Final = 10.0
STALL_SECONDS: Final = 60.0
LONGEST_RETRY_AFTER_SECONDS: Final = 60.0

# Another request holds the upload (409, 423), a checksum did not fit (460), or the moment is bad.
_WORTH_ANOTHER_TRY: Final = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.CONFLICT,
        HTTPStatus.LOCKED,
        HTTPStatus.TOO_EARLY,
        HTTPStatus.TOO_MANY_REQUESTS,
        460,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
_WORDS_WITHOUT_A_PROBLEM: Final = 200


class Connection:
    """One server, asked over connections that are kept open between requests.

    No request waits for ever: 10 s for a connection, 60 s for the next piece of a body to leave or
    of an answer to come.
    """

    def __init__(self, server: str, token: str | None) -> None:
        """Prepare for `server` (http or https URL, a path in it is kept); nothing is sent yet."""
        self.server = server.rstrip("/")
        self.files_url = f"{self.server}/files/"
        self._token = token
        self._session = requests.Session()
        # Set even without a token: else a ~/.netrc row for this host would be sent in its place.
        self._session.auth = _Bearer(token)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _StallingAdapter(max_retries=0))

    def another(self) -> Self:
        """The same server and caller over connections of its own, for another thread."""
        return type(self)(self.server, self._token)

    def close(self) -> None:
        """Close what is open."""
        self._session.close()

    def __enter__(self) -> Self:
        """The connection itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def upload_url(self, upload_id: str) -> str:
        """Where an upload is written.

        Built from the address that we reached, not from the server's: a public address that this
        machine cannot reach, or another host's, never gets our bytes and our token.
        """
        return self.files_url + upload_id

    def ask(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Iterable[bytes] | bytes | None = None,
        query: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send one request; the answer is a 2xx.

        `body` may have a length (`__len__`): it is streamed then, and its own exceptions come out.

        Raises:
            TryAgain: no answer, or one that another try may better.
            UploadLost: 404 or 410.
            Refused: any other answer.
        """
        try:
            response = self._session.request(
                method,
                url,
                headers=dict(headers or {}),
                data=body,
                params=query,
                timeout=(CONNECT_SECONDS, STALL_SECONDS),
                # A redirected PATCH would become a GET, and a token would follow anywhere.
                allow_redirects=False,
            )
        except requests.exceptions.RequestException as error:
            raise self._line_fault(error) from error
        if not HTTPStatus.OK <= response.status_code < HTTPStatus.MULTIPLE_CHOICES:
            raise self._fault(method, response)
        return response

    def document(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        question: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """A JSON object of the API; `path` is below the server's address.

        `question` is sent along as JSON.

        Raises:
            TryAgain, UploadLost, Refused: as `ask`; Refused when it is not a JSON object.
        """
        headers = {} if question is None else {CONTENT_TYPE: "application/json"}
        body = None if question is None else json.dumps(question).encode()
        response = self.ask(method, f"{self.server}{path}", headers=headers, body=body, query=query)
        found = _json_object(response)
        if found is None:
            raise Refused(
                f"{self.server}{path} did not answer with a JSON object",
                "is this the address of a Tusboat server?",
                code="not_a_tusboat_server",
            )
        return found

    def _line_fault(self, error: requests.exceptions.RequestException) -> ClientError:
        causes = list(_causes(error))
        for cause in causes:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return Refused(
                    f"{self.server}: its certificate is not trusted: {cause.verify_message}",
                    "point REQUESTS_CA_BUNDLE to the file of the authority that signed it",
                    code="tls_untrusted",
                )
        if any(isinstance(one, (requests.exceptions.Timeout, TimeoutError)) for one in causes):
            return TryAgain(f"{self.server} does not answer")
        if isinstance(error, ValueError):
            return Refused(f"{self.server}: {error}", "check the address given with --server")
        words = (one.strerror for one in causes if isinstance(one, OSError) and one.errno)
        return TryAgain(f"{self.server}: {next(words, None) or 'the connection was lost'}")

    def _fault(self, method: str, response: requests.Response) -> ClientError:
        status = response.status_code
        problem = _json_object(response) or {}
        code = str(problem.get("code") or f"http_{status}")
        hint = str(problem.get("hint") or "")
        words = problem.get("detail") or problem.get("title") or self._plain_words(response)
        message = f"{self.server}: {words} (HTTP {status})"
        # Nobody else can hold an upload that does not exist yet: a 409 at creation is final.
        final = method == "POST" and status == HTTPStatus.CONFLICT
        if status in _WORTH_ANOTHER_TRY and not final:
            seconds = _retry_after_seconds(response)
            return TryAgain(message, hint, code=code, retry_after_seconds=seconds)
        if status in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}:
            if problem or TUS_RESUMABLE in response.headers:
                return UploadLost(message, hint, code=code)
            if method == "HEAD":
                # Not the server's own words: a proxy in front that has lost its way for a moment.
                return TryAgain(message, self._own_hint(response), code=code)
        return Refused(message, hint or self._own_hint(response), code=code)

    def _plain_words(self, response: requests.Response) -> str:
        if response.is_redirect:
            return f"it sends us on to {response.headers.get(LOCATION)}"
        text = " ".join(response.text[:_WORDS_WITHOUT_A_PROBLEM].split())
        return text if text and "<" not in text else str(response.reason)

    def _own_hint(self, response: requests.Response) -> str:
        if response.is_redirect:
            return "give that address with --server"
        match response.status_code:
            case HTTPStatus.UNAUTHORIZED:
                return "give a token with TUSBOAT_TOKEN or --token"
            case HTTPStatus.NOT_FOUND | HTTPStatus.METHOD_NOT_ALLOWED:
                return "is this the address of a Tusboat server? give it with --server"
            case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                return "a proxy in front may take less at once: try a smaller --chunk-size"
        return ""


class _Bearer(AuthBase):
    """Puts the token on every request."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers[AUTHORIZATION] = f"Bearer {self._token}"
        return request


class _StallingAdapter(HTTPAdapter):
    """Gives a body's pieces `STALL_SECONDS` each to leave.

    urllib3 applies the connect deadline to sending, too; on a slow line with full buffers a piece
    may well need longer than a connection may take to open.
    """

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}


class _PlainConnection(HTTPConnection):
    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is None:
            self.connect()
        self.timeout = STALL_SECONDS
        super().request(*args, **kwargs)


class _TlsConnection(_PlainConnection, HTTPSConnection):
    pass


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


def is_server_address(text: str) -> bool:
    """Whether it is an http or https URL with a host."""
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _json_object(response: requests.Response) -> dict[str, Any] | None:
    try:
        found = response.json()
    except requests.exceptions.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def _retry_after_seconds(response: requests.Response) -> float:
    text = response.headers.get(RETRY_AFTER, "")
    return min(float(text), LONGEST_RETRY_AFTER_SECONDS) if text.isdecimal() else 0


def _causes(error: BaseException) -> Iterable[BaseException]:
    """The exception and what it was made from, over `__cause__`, `reason` and arguments."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop(0)
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
