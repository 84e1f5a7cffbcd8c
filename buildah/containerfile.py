"""Which images a Containerfile wants. Pure.

Knows: the instructions that name images (FROM, COPY --from, RUN --mount=from=), and what a name may
be put together from (ARG before the first FROM).
Must not know: registries, which images are allowed, how anything is built.

A build has no way to a registry: what is overlooked here cannot be used, it is not used by mistake.
Source: Containerfile(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

SCRATCH = "scratch"

_LINES = 10_000
_DIRECTIVE = re.compile(r"#\s*escape\s*=\s*(\S)\s*", re.IGNORECASE)
_HEREDOC = re.compile(r"<<-?(['\"]?)([A-Za-z_][A-Za-z0-9_]*)\1")
_VARIABLE = re.compile(
    r"\$(?:(?P<plain>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)(?:(?P<mark>:?[-+])(?P<word>[^}]*))?\})"
)
_FROM_FLAG = re.compile(r"--from=(\S+)")
_MOUNT_FLAG = re.compile(r"--mount=(\S+)")


@dataclass(frozen=True)
class BaseImage:
    """An image as the Containerfile names it; `platform` is None where it says none."""

    name: str
    platform: str | None = None


def base_images(text: str, platform: str, builder: str) -> tuple[BaseImage, ...]:
    """The images that a build for `platform` (`os/architecture[/variant]`) starts from, each once.

    `builder` is the platform of the machine that builds. Stages and `scratch` are not among them.
    """
    reading = _Reading(
        _platform_arguments("TARGET", platform) | _platform_arguments("BUILD", builder)
    )
    for word, rest in _instructions(text):
        reading.take(word, rest)
    return tuple(dict.fromkeys(reading.images))


def _platform_arguments(prefix: str, platform: str) -> dict[str, str]:
    """The arguments that every build has."""
    system, _, rest = platform.partition("/")
    architecture, _, variant = rest.partition("/")
    parts = {"PLATFORM": platform, "OS": system, "ARCH": architecture, "VARIANT": variant}
    return {f"{prefix}{name}": value for name, value in parts.items()}


@dataclass
class _Reading:
    arguments: dict[str, str]
    stages: set[str] = field(default_factory=set)
    images: list[BaseImage] = field(default_factory=list)
    count: int = 0

    def take(self, word: str, rest: str) -> None:
        if word == "ARG" and not self.count:
            for argument in rest.split():
                name, equals, value = argument.partition("=")
                if equals:
                    self.arguments[name] = self._filled(value.strip("\"'"))
        elif word == "FROM":
            self._from(rest)
        elif word in ("COPY", "ADD"):
            for name in _FROM_FLAG.findall(rest):
                self._use(name)
        elif word == "RUN":
            for mount in _MOUNT_FLAG.findall(rest):
                for option in mount.split(","):
                    key, _, name = option.partition("=")
                    if key == "from":
                        self._use(name)

    def _from(self, rest: str) -> None:
        words = rest.split()
        platform = None
        while words and words[0].startswith("--"):
            flag, _, value = words.pop(0).partition("=")
            if flag == "--platform":
                platform = self._filled(value) or None
        if not words:
            return
        self._use(words[0], platform)
        self.stages.add(str(self.count))
        self.count += 1
        if len(words) > 2 and words[1].upper() == "AS":  # noqa: PLR2004 - NAME AS STAGE
            self.stages.add(words[2].lower())

    def _use(self, name: str, platform: str | None = None) -> None:
        name = self._filled(name.strip("\"'"))
        if name.lower() not in self.stages | {SCRATCH}:
            self.images.append(BaseImage(name, platform))

    def _filled(self, text: str) -> str:
        return _VARIABLE.sub(lambda found: _value(found, self.arguments), text)


def _value(found: re.Match[str], arguments: Mapping[str, str]) -> str:
    value = arguments.get(found["plain"] or found["braced"], "")
    if found["mark"]:
        if found["mark"].endswith("-"):
            return value or found["word"]
        return found["word"] if value else ""
    return value


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    """Each instruction's word, in capitals, and the rest of it, its continued lines joined."""
    lines = iter(text.splitlines()[:_LINES])
    escape, first, joined = "\\", True, ""
    for line in lines:
        stripped = line.strip()
        if first and (directive := _DIRECTIVE.fullmatch(stripped)):
            escape = directive[1]
            continue
        first = first and stripped.startswith("#")
        if not stripped or stripped.startswith("#"):
            continue
        if stripped.endswith(escape):
            joined += stripped[: -len(escape)] + " "
            continue
        instruction, joined = joined + stripped, ""
        word, _, rest = instruction.partition(" ")
        yield word.upper(), rest.strip()
        if word.upper() in ("RUN", "COPY", "ADD"):
            for _quote, end in _HEREDOC.findall(rest):
                for inner in lines:
                    if inner.strip() == end:
                        break
    if joined:
        word, _, rest = joined.partition(" ")
        yield word.upper(), rest.strip()
