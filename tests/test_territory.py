"""Where a registry may send us: rows of what it names, and where that leads."""

from __future__ import annotations

import pytest

from buildah.errors import RegistryElsewhere
from buildah.territory import Territory

SECURE = Territory(
    "r.example", plain_http=False, trusted_hosts=("Token.example", "s3.example:9000")
)
HUB_NAME = "docker.io"
HUB = Territory(HUB_NAME, plain_http=False, trusted_hosts=())
PLAIN = Territory("r.example:5000", plain_http=True, trusted_hosts=("token.example",))


@pytest.mark.parametrize(
    ("territory", "named", "where"),
    [
        (SECURE, "/v2/a?x=1", "https://r.example/v2/a?x=1"),
        (SECURE, "https://r.example/token", "https://r.example/token"),
        (SECURE, "https://R.example:443/token", "https://r.example/token"),
        (SECURE, "//r.example/token", "https://r.example/token"),
        (SECURE, "https://token.example?service=a", "https://token.example/?service=a"),
        (SECURE, "https://token.example:443/t", "https://token.example/t"),
        (SECURE, "https://s3.example:9000/b", "https://s3.example:9000/b"),
        (HUB, "/v2/", f"https://registry-1.{HUB_NAME}/v2/"),
        (HUB, f"https://auth.{HUB_NAME}/token", f"https://auth.{HUB_NAME}/token"),
        (PLAIN, "/v2/a", "http://r.example:5000/v2/a"),
        (PLAIN, "http://r.example:5000/t", "http://r.example:5000/t"),
        (PLAIN, "https://token.example/t", "https://token.example/t"),
        (PLAIN, "http://token.example:80/t", "http://token.example/t"),
    ],
)
def test_what_is_allowed(territory: Territory, named: str, where: str) -> None:
    assert str(territory.follow("Pushing a", "its token server", named)) == where


@pytest.mark.parametrize(
    ("territory", "named"),
    [
        (SECURE, ""),
        (SECURE, "http://r.example/token"),
        (SECURE, "http://token.example/token"),
        (SECURE, "https://r.example:5000/token"),
        (SECURE, "https://r.example.evil.example/token"),
        (SECURE, "https://evil.example/r.example"),
        (SECURE, "https://evil.example#@r.example/"),
        (SECURE, "https://r.example@evil.example/"),
        (SECURE, "https://user:word@r.example/"),
        (SECURE, "https://evil.example\\@r.example/"),
        (SECURE, "https://r.example\n.evil.example/"),
        (SECURE, "https://r.example /"),
        (SECURE, "https://r.example:99999/"),
        (SECURE, "https://[::1/"),
        (SECURE, "https://s3.example/"),
        (SECURE, "https://169.254.169.254/latest"),
        (SECURE, "https://localhost:6379/"),
        (SECURE, "https://\u0280.example/"),
        (SECURE, "//evil.example/token"),
        (SECURE, "ftp://r.example/"),
        (SECURE, "file:///etc/passwd"),
        (SECURE, "javascript:alert(1)"),
        (HUB, f"https://index.{HUB_NAME}/v1/"),
        (PLAIN, "http://r.example/t"),
        (PLAIN, "https://r.example/t"),
        (PLAIN, "http://token.example:8080/t"),
    ],
)
def test_what_is_not(territory: Territory, named: str) -> None:
    with pytest.raises(RegistryElsewhere) as refused:
        territory.follow("Pushing a", "its token server", named)
    assert refused.value.message.startswith("Pushing a: the registry names ")
    assert refused.value.message.isprintable()
    assert "word" not in refused.value.message.replace("password", "")


def test_a_relative_address_is_seen_from_where_it_was_named() -> None:
    token = SECURE.follow("a", "b", "https://token.example/a/b?c")
    assert str(SECURE.follow("a", "b", "d", token)) == "https://token.example/a/d"


def test_a_secret_in_a_query_is_not_shown() -> None:
    with pytest.raises(RegistryElsewhere) as refused:
        SECURE.follow("a", "b", "https://evil.example/x?sig=abcdefgh")
    assert "https://evil.example/x" in refused.value.message
    assert "abcdefgh" not in refused.value.message
