"""Speaks with a registry as one of its users: a few small questions about one repository.

Knows: basic and token authentication, what a refusal means.
Must not know: why something is asked; the bytes of images (buildah and skopeo move those).

Source: OCI distribution spec 1.1; distribution's token authentication; RFC 7617. As in buildah and
skopeo the challenge is that of `GET /v2/`, so whoever looks at it sees where these would go.
"""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import anyio
import anyio.to_thread

from buildah.diagnosis import REACHING, recognize
from buildah.errors import (
    RegistryError,
    RegistryForbidden,
    RegistryUnauthorized,
    RegistryUnreachable,
    RegistryUntrusted,
)
from buildah.line import Answer, Line
from buildah.redaction import scrub
from buildah.territory import Address

if TYPE_CHECKING:
    from buildah.registry import Registry

_Found = TypeVar("_Found")

_FIELD = re.compile(r'(\w+)="([^"]*)"')
_BYTES = "application/octet-stream"
_FORM = "application/x-www-form-urlencoded"
_REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


class _Challenge(NamedTuple):
    scheme: str
    fields: dict[str, str]


class Conversation:
    """Questions about one repository, all of them within a deadline. Blocking, for one thread."""

    def __init__(
        self,
        operation: str,
        repository: str,
        registry: Registry,
        *,
        seconds: float,
        actions: str = "pull,push",
    ) -> None:
        """Read the authfile, say nothing yet.

        `operation` opens the message of every error; `actions` are what a token is wanted for.

        Raises:
            RegistryUnauthorized: the authfile cannot be read.
        """
        self._operation = operation
        self._repository = repository
        self._actions = actions
        self._line = Line(operation, registry, seconds=seconds)
        credentials = registry.credentials()
        self._login = credentials.login(registry.host.lower(), repository)
        self._secrets = credentials.secrets
        self._challenges: list[_Challenge] | None = None
        self._authorization: str | None = None
        self._token: str | None = None

    def close(self) -> None:
        """End whatever is going on. From any thread."""
        self._line.close()

    def greet(self) -> None:
        """See that a registry is there, and that its token server is where it may be.

        Raises:
            RegistryElsewhere: it names one that nobody allowed.
            RegistryError: there is none that can be spoken to; the subclass says why.
        """
        if self._challenges is not None:
            return
        answer = self._line.ask("GET", self.place("/v2/"), {})
        if answer.status not in (HTTPStatus.OK, HTTPStatus.UNAUTHORIZED):
            raise self._no_registry(answer)
        challenges = [
            _Challenge(value.partition(" ")[0].lower(), dict(_FIELD.findall(value)))
            for value in answer.headers.get_all("WWW-Authenticate", [])
        ]
        for challenge in challenges:
            if challenge.scheme == "bearer":
                self._realm(challenge)
        self._challenges = challenges if answer.status == HTTPStatus.UNAUTHORIZED else []

    def ask(
        self, method: str, target: Address, *, body: bytes | None = None, accept: str = "*/*"
    ) -> Answer:
        """Ask, with the credentials.

        Raises:
            RegistryElsewhere: it leads to where nobody allowed us to go.
            RegistryError: there was no answer, or no token; the subclass says why.
        """
        self.greet()
        self._authorize()
        headers = {"Accept": accept, "Content-Type": _BYTES}
        return self._line.ask(method, target, headers, body, self._authorization)

    def place(self, location: str) -> Address:
        """A path on the registry, or an address that it named as the way to go on.

        Raises:
            RegistryElsewhere: nobody allowed us to go there.
        """
        return self._line.place("the way to go on", location)

    def refusal(self, answer: Answer) -> RegistryError:
        """The error for an answer that says no."""
        shown = self._shown(answer)
        if answer.status == HTTPStatus.UNAUTHORIZED and self._login is None:
            return RegistryUnauthorized(
                f"{self._operation}: the registry wants a user, and there is none for this "
                f"repository in its authfile ({shown})."
            )
        found = self._recognized(answer)
        if type(found) is RegistryUnauthorized and self._token:
            # The password is right, or there would be no token.
            return RegistryForbidden(
                f"{self._operation}: the registry's user may not do that ({shown})."
            )
        return found

    def _recognized(self, answer: Answer) -> RegistryError:
        shown = self._shown(answer)
        found = recognize(self._operation, shown, REACHING)
        if isinstance(found, RegistryError):
            return found
        return RegistryError(f"{self._operation}: the registry answers: {shown}.")

    def _no_registry(self, answer: Answer) -> RegistryError:
        found = self._recognized(answer)
        if found.retryable or isinstance(found, RegistryUntrusted):
            return found
        return RegistryForbidden(
            f"{self._operation}: what answers there is no registry, or one that turns everybody "
            f"away ({self._shown(answer)}).",
            hint="Check `host` and `plain_http` of this registry, and the proxies before it.",
        )

    def _shown(self, answer: Answer) -> str:
        return scrub(answer.words, (*self._secrets, self._token or ""))

    def _authorize(self) -> None:
        """Answer the first challenge that is understood, once."""
        if self._authorization is not None:
            return
        for challenge in self._challenges or ():
            if challenge.scheme == "basic":
                self._authorization = self._login.basic if self._login else None
                return
            if challenge.scheme == "bearer":
                self._token = self._ask_for_token(challenge)
                self._authorization = f"Bearer {self._token}"
                return

    def _realm(self, challenge: _Challenge) -> Address:
        return self._line.place("its token server", challenge.fields.get("realm", ""))

    def _ask_for_token(self, challenge: _Challenge) -> str:
        realm, login = self._realm(challenge), self._login
        fields = {
            "service": challenge.fields.get("service", ""),
            "scope": f"repository:{self._repository}:{self._actions}",
        }
        if login and login.identity_token:
            fields |= {"grant_type": "refresh_token", "client_id": "tusboat"}
            form = urllib.parse.urlencode(fields | {"refresh_token": login.identity_token})
            answer = self._line.ask("POST", realm, {"Content-Type": _FORM}, form.encode())
        else:
            fields |= {"account": login.user} if login else {}
            separator = "&" if "?" in realm.path else "?"
            path = f"{realm.path}{separator}{urllib.parse.urlencode(fields)}"
            basic = login.basic if login else None
            answer = self._line.ask("GET", Address(realm.scheme, realm.host, path), {}, None, basic)
        if answer.status in _REFUSED:
            raise RegistryUnauthorized(
                f"{self._operation}: the registry's token server does not accept the user and the "
                f"password it was given ({self._shown(answer)})."
            )
        if answer.status != HTTPStatus.OK:
            raise self._recognized(answer)
        return self._token_in(answer)

    def _token_in(self, answer: Answer) -> str:
        try:
            document = json.loads(answer.body)
            token = document.get("token") or document["access_token"]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            token = None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise RegistryError(f"{self._operation}: what its token server gave is no token.")
        return token


async def converse(
    operation: str,
    repository: str,
    registry: Registry,
    talk: Callable[[Conversation], _Found],
    *,
    seconds: float,
    actions: str = "pull,push",
) -> _Found:
    """Talk in a thread, which ends when nobody waits for it any more.

    Raises:
        RegistryError: whatever `talk` raises, or it did not end within `seconds`.
    """

    def begin() -> _Found:
        conversation = Conversation(
            operation, repository, registry, seconds=seconds, actions=actions
        )
        begun.append(conversation)
        return talk(conversation)

    begun: list[Conversation] = []
    try:
        with anyio.fail_after(seconds):
            return await anyio.to_thread.run_sync(begin, abandon_on_cancel=True)
    except TimeoutError as error:
        raise RegistryUnreachable(f"{operation}: no answer within {seconds:g} s.") from error
    finally:
        for conversation in begun:
            conversation.close()
