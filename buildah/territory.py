"""Where a registry may send us: to itself, to other configured registries, to hosts it may name.

Knows: addresses, as a registry names them in a challenge, a Location or a redirect.
Must not know: how an address is asked, what a token is.

A client follows such an address with the password in its hands, or reaches a place that only this
machine can reach. So it is held to the same list as the destinations are.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Collection
from dataclasses import dataclass

from buildah.errors import RegistryElsewhere
from buildah.redaction import scrub

_OWN_PORTS = {"https": ":443", "http": ":80"}
# The one registry that is somewhere else than its name says, as the programs know too.
_DOCKER_HUB = "docker.io"
_DOCKER_HUB_HOSTS = ("registry-1.docker.io", "auth.docker.io")
_SHOWN_CHARS = 120


@dataclass(frozen=True)
class Address:
    """One place: `https` or `http`, host with its port unless it is the scheme's own, the rest."""

    scheme: str
    host: str
    path: str

    @property
    def secure(self) -> bool:
        """Whether nobody on the way can read what is said there."""
        return self.scheme == "https"

    def __str__(self) -> str:
        """As it is written."""
        return f"{self.scheme}://{self.host}{self.path}"


class Territory:
    """What is allowed to one registry."""

    def __init__(self, host: str, *, plain_http: bool, trusted_hosts: Collection[str]) -> None:
        """`host`, and each of `trusted_hosts`, has its port if it is not the scheme's own."""
        hosts = _DOCKER_HUB_HOSTS if host.lower() == _DOCKER_HUB else (host,)
        self._home = Address("http" if plain_http else "https", hosts[0].lower(), "/")
        self._hosts = {one.lower() for one in (*hosts, *trusted_hosts)}

    def follow(self, operation: str, what: str, named: str, base: Address | None = None) -> Address:
        """The place that was named as `what`, seen from `base` (None: the registry itself).

        Raises:
            RegistryElsewhere: nobody allowed us to go there.
        """

        def refusal(why: str) -> RegistryElsewhere:
            # Without its query, in which a secret may be.
            shown = scrub(named.partition("?")[0])[:_SHOWN_CHARS]
            return RegistryElsewhere(
                f"{operation}: the registry names {shown or 'nothing'} as {what}, {why}."
            )

        try:
            parts = urllib.parse.urlsplit(urllib.parse.urljoin(str(base or self._home), named))
            well_formed = parts.port != 0 and "@" not in parts.netloc
        except ValueError:
            well_formed = False
        # Whoever reads such a character otherwise than we do goes elsewhere.
        odd = not named or not named.isascii() or not named.isprintable() or set(" \\") & set(named)
        if odd or not well_formed or parts.scheme not in _OWN_PORTS or not parts.netloc:
            raise refusal("and that is no address")
        host = _shortened(parts.scheme, parts.netloc)
        if host not in {_shortened(parts.scheme, one) for one in self._hosts}:
            raise refusal(f"and {host} is not one of the hosts it may send us to")
        if self._home.secure and parts.scheme != "https":
            raise refusal("where everybody on the way could read the password")
        path = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        return Address(parts.scheme, host, path)


def _shortened(scheme: str, host: str) -> str:
    return host.lower().removesuffix(_OWN_PORTS[scheme])
