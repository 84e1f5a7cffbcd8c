"""A token server of distribution's kind on loopback, and the registry that believes it.

Knows: challenges, scopes, signed tokens (ES256, with the certificate in `x5c`), their lifetimes.
Must not know: what a test wants to prove.

Source: distribution's token authentication; RFC 7515, RFC 7519.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import secrets
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import NameOID

from tests.registries import PASSWORD, USER, RunningRegistry, prepare, write_authfile

ISSUER = "tokens.test"
SERVICE = "registry.test"
# distribution 2.8 takes a token for so long after its end.
LEEWAY_SECONDS = 60


class TokenServer:
    """Gives tokens for what a user may do, and counts.

    A token is valid for `lifetime_seconds` at the registry; the answer says `said_seconds`, since
    `said_age_seconds`, so that a client may know it or not. `may` is what is granted.
    """

    def __init__(self, *, user: str = USER, password: str = PASSWORD) -> None:
        server = self
        self.lifetime_seconds = 300.0
        self.said_seconds = 300
        self.said_age_seconds = 0.0
        self.may = {"pull", "push"}
        self.asked: list[dict[str, list[str]]] = []
        self.logins: list[str] = []
        self.redirect: str | None = None
        self._given_at = 0.0
        self._user = user
        self._password = password
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = _self_signed(self._key)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

            def do_GET(self) -> None:
                status, document = server.answer(self.path, self.headers.get("Authorization"))
                body = json.dumps(document).encode()
                self.send_response(status)
                if server.redirect:
                    self.send_header("Location", server.redirect)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def host(self) -> str:
        """`127.0.0.1:port`."""
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def realm(self) -> str:
        """Where tokens are asked for."""
        return f"http://{self.host}/token"

    @property
    def certificate(self) -> bytes:
        """What a registry verifies tokens with, PEM."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def __enter__(self) -> TokenServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def wait_until_expired(self) -> None:
        """Return when every token that was given until now is over."""
        until = self._given_at + self.lifetime_seconds
        while time.time() <= until + 1:
            time.sleep(0.05)

    def answer(self, path: str, authorization: str | None) -> tuple[int, dict[str, Any]]:
        """Status and document for one request."""
        query = parse_qs(urlsplit(path).query)
        self.asked.append(query)
        if self.redirect:
            return 307, {}
        if authorization is not None:
            login = base64.b64decode(authorization.partition(" ")[2]).decode()
            self.logins.append(login)
            if login != f"{self._user}:{self._password}":
                denial = {"code": "UNAUTHORIZED", "message": "authentication required"}
                return 401, {"errors": [denial]}
        scopes = query.get("scope", []) if authorization else []
        access = [self._granted(scope) for scope in scopes]
        said_at = time.time() - self.said_age_seconds
        issued_at = datetime.datetime.fromtimestamp(said_at, datetime.UTC)
        return 200, {
            "token": self._token(access),
            "expires_in": self.said_seconds,
            "issued_at": issued_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def _granted(self, scope: str) -> dict[str, Any]:
        kind, name, actions = scope.split(":")
        return {"type": kind, "name": name, "actions": sorted(self.may & set(actions.split(",")))}

    def _token(self, access: list[dict[str, Any]]) -> str:
        self._given_at = time.time()
        der = self._certificate.public_bytes(serialization.Encoding.DER)
        header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(der).decode()]}
        now = int(self._given_at)
        claims = {
            "iss": ISSUER,
            "sub": self._user,
            "aud": SERVICE,
            "exp": now + int(self.lifetime_seconds) - LEEWAY_SECONDS,
            "nbf": now - 10 * LEEWAY_SECONDS,
            "iat": now,
            "jti": secrets.token_hex(8),
            "access": access,
        }
        signed = f"{_encoded(header)}.{_encoded(claims)}"
        r, s = utils.decode_dss_signature(
            self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256()))
        )
        return f"{signed}.{_base64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


@contextlib.contextmanager
def serving_with_tokens(
    directory: Path, tokens: TokenServer, **authfile: str
) -> Iterator[RunningRegistry]:
    """A running plain registry that believes this token server; `authfile`: user, password."""
    registry = prepare(directory)
    bundle = directory / "tokens.pem"
    bundle.write_bytes(tokens.certificate)
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config["auth"] = {
        "token": {
            "realm": tokens.realm,
            "service": SERVICE,
            "issuer": ISSUER,
            "rootcertbundle": str(bundle),
        }
    }
    path.write_text(json.dumps(config))
    registry.authfile = write_authfile(directory / "auth.json", registry.host, **authfile)
    registry.start()
    try:
        yield registry
    finally:
        registry.stop()


def _self_signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER)])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )


def _encoded(document: dict[str, Any]) -> str:
    return _base64url(json.dumps(document, separators=(",", ":")).encode())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
