"""Digest fields of one request: what its content must hash to, and which digests it asks for.

Knows: RFC 9530's fields and how its algorithms are called here.
Must not know: who computes a digest, uploads.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from typing import Final

from starlette.requests import Request

from server.errors import BadRequest
from server.proof import Checksum, Proof
from server.protocols import headers as h
from server.wire import TRAILERS

# The strongest first: one right digest is proof enough.
_CONTENT_ALGORITHMS: Final = {"sha-512": "sha512", "sha-256": "sha256", "md5": "md5"}
_REPR_ALGORITHMS: Final = {"sha-256": "sha256", "md5": "md5"}
_PREFERENCE = re.compile(r"([a-z*][a-z0-9_.*-]*)=([0-9]|10)")


def content_proof(request: Request) -> Proof | None:
    """What the request's bytes must hash to, by Content-Digest as header or announced trailer.

    Algorithms that are not known here are passed over, as the specification asks.

    Raises:
        BadRequest: not a dictionary of byte sequences, or a digest of the wrong size.

    Spec: RFC 9530, sections 2 and 6.3.
    """

    def trailer() -> Checksum:
        fields = (request.scope.get("extensions") or {}).get(TRAILERS, [])
        name = h.CONTENT_DIGEST.lower().encode()
        found = _content_digest(value.decode("latin-1") for field, value in fields if field == name)
        if found is None:
            raise BadRequest(
                f"trailer {h.CONTENT_DIGEST}: none came in {', '.join(_CONTENT_ALGORITHMS)}",
                "send the announced one",
            )
        return found

    checksum = _content_digest(request.headers.getlist(h.CONTENT_DIGEST))
    if checksum is not None:
        return Proof(checksum, trailer)
    return Proof(None, trailer) if h.announces(request.headers, h.CONTENT_DIGEST) else None


def _content_digest(values: Iterable[str]) -> Checksum | None:
    members = h.digest_members(values, h.CONTENT_DIGEST)
    for member, algorithm in _CONTENT_ALGORITHMS.items():
        if member not in members:
            continue
        try:
            decoded = base64.b64decode(members[member], validate=True)
        except binascii.Error:
            decoded = b""
        if len(decoded) != h.CHECKSUM_BYTES[algorithm]:
            raise BadRequest(
                f"header {h.CONTENT_DIGEST}: {members[member]!r} is not a {member} digest",
                f"send Base64 of {h.CHECKSUM_BYTES[algorithm]} bytes",
            )
        return Checksum(algorithm, decoded)
    return None


def wanted_digest(request: Request, known: Mapping[str, str]) -> str | None:
    """Repr-Digest as Want-Repr-Digest asks for it; None where it does not, or we do not know.

    `known` holds lower-case hex by `md5` and `sha256`. A field that cannot be read asks nothing.

    Spec: RFC 9530, section 4.
    """
    wanted: dict[str, int] = {}
    for part in ",".join(request.headers.getlist(h.WANT_REPR_DIGEST)).split(","):
        match = _PREFERENCE.fullmatch(part.strip())
        if match:
            wanted[match[1]] = int(match[2])
    for member in sorted(wanted, key=lambda member: -wanted[member]):
        value = known.get(_REPR_ALGORITHMS.get(member, ""))
        if value and wanted[member]:
            return f"{member}=:{base64.b64encode(bytes.fromhex(value)).decode()}:"
    return None
