from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildah.errors import InvalidReference
from buildah.reference import ImageReference

GOOD = [
    ("harbor.example.com/team/llm:v1", "harbor.example.com", "team/llm", "v1"),
    ("harbor.example.com/llm", "harbor.example.com", "llm", "latest"),
    ("localhost/a", "localhost", "a", "latest"),
    ("localhost:5000/a/b/c:1.0_x-y", "localhost:5000", "a/b/c", "1.0_x-y"),
    ("harbor:5000/a:1", "harbor:5000", "a", "1"),
    ("docker:5000/a:1", "docker:5000", "a", "1"),
    ("127.0.0.1:15555/a/b:2", "127.0.0.1:15555", "a/b", "2"),
    ("[::1]:5000/a:1", "[::1]:5000", "a", "1"),
    ("[2001:db8::1]/a", "[2001:db8::1]", "a", "latest"),
    ("HARBOR.Example.com/a:Tag", "harbor.example.com", "a", "Tag"),
    ("xn--bcher-kva.example/a", "xn--bcher-kva.example", "a", "latest"),
    ("r.example/a.b/c_d/e__f/g---h:1", "r.example", "a.b/c_d/e__f/g---h", "1"),
    ("r.example/a:" + "t" * 128, "r.example", "a", "t" * 128),
    ("r.example/" + "a" * 245, "r.example", "a" * 245, "latest"),
]

BAD = [
    ("", "empty"),
    ("llm", "registry's host"),
    ("llm:v1", "registry's host"),
    ("team/llm:v1", "registry's host"),
    ("library/llm", "registry's host"),
    ("r.example", "names no repository"),
    ("r.example/", "names no repository"),
    ("r.example/:1", "names no repository"),
    ("/r.example/a", "registry's host"),
    ("dir:/tmp/x", "transport"),
    ("docker://r.example/a:1", "transport"),
    ("oci-archive:/tmp/x.tar:r.example/a", "transport"),
    ("docker-archive:x", "transport"),
    ("containers-storage:[overlay@/x]r.example/a", "transport"),
    ("https://r.example/a:1", "transport"),
    ("r.example/a@sha256:" + "0" * 64, "digest"),
    ("r.example/a:1@sha256:" + "0" * 64, "digest"),
    ("user:pass@r.example/a", "digest (or a user)"),
    ("user@r.example/a", "digest (or a user)"),
    ("-r.example/a", "begins with a dash"),
    ("--authfile=r.example/a", "begins with a dash"),
    ("r.example/-a", "each part of the repository"),
    ("r.example/a-", "each part of the repository"),
    ("r.example/a//b", "each part of the repository"),
    ("r.example/a/", "each part of the repository"),
    ("r.example/../etc", "each part of the repository"),
    ("r.example/a___b", "each part of the repository"),
    ("r.example/a..b", "each part of the repository"),
    ("r.example/Team/a", "upper-case"),
    ("r.example/a b:1", "spaces"),
    ("r.example/a:1\n", "control characters"),
    ("r.example/a:1\x00", "control characters"),
    ("\tr.example/a:1", "control characters"),
    ("bücher.example/a", "xn--"),
    ("r\N{FULLWIDTH FULL STOP}example/a", "ASCII"),
    ("r.example./a", "not a host name"),
    (".r.example/a", "not a host name"),
    ("r..example/a", "not a host name"),
    ("r_x.example/a", "not a host name"),
    ("-r.example:1/a", "begins with a dash"),
    ("r-.example/a", "not a host name"),
    ("r.example:/a", "port"),
    ("r.example:0/a", "port"),
    ("r.example:65536/a", "port"),
    ("r.example:123456/a", "port"),
    ("r.example:80:80/a", "port"),
    ("[::1/a", "IPv6"),
    ("[::1]x/a", "IPv6"),
    ("[::1]:/a", "port"),
    ("[fe80::1%eth0]/a", "IPv6"),
    ("[r.example]/a", "IPv6"),
    ("r.example/a:", "tag"),
    ("r.example/a:.x", "tag"),
    ("r.example/a:-x", "tag"),
    ("r.example/a:b:c", "tag"),
    ("r.example/a:b/c", "tag"),
    ("r.example/a:" + "t" * 129, "tag"),
    ("r.example/" + "a" * 246, "longer than 255"),
]


@pytest.mark.parametrize(("text", "host", "repository", "tag"), GOOD)
def test_a_destination_is_taken_apart(text: str, host: str, repository: str, tag: str) -> None:
    reference = ImageReference.parse(text)
    assert reference == ImageReference(host, repository, tag)
    assert ImageReference.parse(str(reference)) == reference


@pytest.mark.parametrize(("text", "reason"), BAD)
def test_a_refusal_says_why_and_shows_how(text: str, reason: str) -> None:
    with pytest.raises(InvalidReference) as refused:
        ImageReference.parse(text)
    assert reason in refused.value.message
    assert "harbor.example.com/team/name:tag" in refused.value.hint
    assert refused.value.code == "invalid_reference"
    assert not refused.value.retryable


def test_a_refusal_is_one_short_printable_line() -> None:
    with pytest.raises(InvalidReference) as refused:
        ImageReference.parse("\x1b[2Jr.example/" + "a" * 100_000)
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 300


PIECES = st.sampled_from(
    ["r.example", "localhost", ":5000", "[::1]", "/", "//", "a", "-", ".", "..", ":", "@", "A", "_"]
)


@given(st.text() | st.lists(PIECES).map("".join) | st.text(alphabet=string.printable))
def test_parse_raises_only_invalid_reference_and_what_it_gives_is_stable(text: str) -> None:
    try:
        reference = ImageReference.parse(text)
    except InvalidReference:
        return
    assert ImageReference.parse(str(reference)) == reference
    assert not str(reference).startswith("-")
    assert "@" not in str(reference)
    assert str(reference).isascii()
    assert str(reference).isprintable()


LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
HOST = st.lists(LABEL, min_size=2, max_size=4).map(".".join)
PORT = st.integers(1, 65535).map(lambda port: f":{port}") | st.just("")
PART = st.from_regex(r"[a-z0-9]+((\.|_|__|-{1,3})[a-z0-9]+){0,2}", fullmatch=True)
TAG = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", fullmatch=True)


@given(HOST, PORT, st.lists(PART, min_size=1, max_size=3), TAG)
def test_whatever_follows_the_grammar_is_taken(
    host: str, port: str, parts: list[str], tag: str
) -> None:
    path = "/".join(parts)
    if len(host) + len(port) + 1 + len(path) > 255:
        return
    assert ImageReference.parse(f"{host}{port}/{path}:{tag}") == ImageReference(
        host + port, path, tag
    )
