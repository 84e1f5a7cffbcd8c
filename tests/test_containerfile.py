from __future__ import annotations

import pytest

from buildah.containerfile import BaseImage, base_images

CASES: dict[str, tuple[str, list[str]]] = {
    "one": ("FROM h.io/a:1\n", ["h.io/a:1"]),
    "scratch": ("FROM scratch\nCOPY x /\n", []),
    "lower case and spaces": ("  from   h.io/a:1   as  b \n", ["h.io/a:1"]),
    "a stage is no image": ("FROM h.io/a AS b\nFROM b\nCOPY --from=b / /\n", ["h.io/a"]),
    "stages have no case": ("FROM h.io/a AS B\nCOPY --from=b / /\nFROM B\n", ["h.io/a"]),
    "a stage by its number": ("FROM h.io/a\nFROM scratch\nCOPY --from=0 / /\n", ["h.io/a"]),
    "a later stage is none yet": ("FROM scratch\nCOPY --from=1 / /\n", ["1"]),
    "each once": ("FROM h.io/a\nFROM h.io/a\n", ["h.io/a"]),
    "copy": ("FROM scratch\nCOPY --chown=1:1 --from=h.io/b /x /y\n", ["h.io/b"]),
    "mount": ("FROM scratch\nRUN --mount=type=bind,from=h.io/c,target=/m ls\n", ["h.io/c"]),
    "mounts": (
        "FROM scratch\nRUN --mount=type=tmpfs,target=/t --mount=from=h.io/c,target=/m ls\n",
        ["h.io/c"],
    ),
    "argument": ("ARG tag=1\nFROM h.io/a:$tag\n", ["h.io/a:1"]),
    "argument in braces": ('ARG r="h.io" tag=2\nFROM ${r}/a:${tag}\n', ["h.io/a:2"]),
    "argument of arguments": ("ARG a=h.io\nARG b=$a/x\nFROM $b\n", ["h.io/x"]),
    "argument with a default": ("FROM h.io/a:${t:-3}${u-4}\n", ["h.io/a:34"]),
    "argument with another": ("ARG t=1\nFROM h.io/a:${t:+5}\n", ["h.io/a:5"]),
    "argument of a stage": ("FROM scratch\nARG t=1\nFROM h.io/a:$t\n", ["h.io/a:"]),
    "the target": ("FROM h.io/a:$TARGETARCH\n", ["h.io/a:arm64"]),
    "the target's variant": ("FROM h.io/a:$TARGETOS$TARGETVARIANT\n", ["h.io/a:linuxv8"]),
    "continued": ("FROM \\\n# remark\n\n  h.io/a \\\n AS b\n", ["h.io/a"]),
    "continued otherwise": ("# escape=`\nFROM `\n h.io/a\n", ["h.io/a"]),
    "remark": ("# FROM h.io/a\nFROM scratch\n", []),
    "here document": ("FROM scratch\nCOPY <<E /x\nFROM a.io/a\nE\nFROM h.io/b\n", ["h.io/b"]),
    "here document without end": ("FROM scratch\nRUN <<END\nFROM h.io/a\n", []),
    "windows": ("FROM h.io/a\r\nCOPY --from=h.io/b / /\r\n", ["h.io/a", "h.io/b"]),
    "nothing": ("", []),
    "from nothing": ("FROM\nFROM --platform=linux/amd64\n", []),
    "nothing after the escape": ("FROM h.io/a\nRUN x \\", ["h.io/a"]),
    "bytes": ("\0\ufffd FROM\n\x1b[0m\n", []),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_images_that_a_containerfile_wants(case: str) -> None:
    text, names = CASES[case]
    assert [image.name for image in base_images(text, "linux/arm64/v8", "linux/amd64")] == names


def test_a_stage_may_want_another_platform() -> None:
    text = (
        "FROM --platform=linux/s390x h.io/a\nFROM --platform=$TARGETPLATFORM h.io/b\n"
        "FROM --platform=$BUILDPLATFORM h.io/c\nFROM h.io/d\n"
    )
    assert base_images(text, "linux/arm64", "linux/amd64") == (
        BaseImage("h.io/a", "linux/s390x"),
        BaseImage("h.io/b", "linux/arm64"),
        BaseImage("h.io/c", "linux/amd64"),
        BaseImage("h.io/d"),
    )


def test_a_long_one_costs_little() -> None:
    text = "FROM scratch\n" + "RUN ${" * 200_000
    assert base_images(text, "linux/amd64", "linux/amd64") == ()
    assert base_images("FROM h.io/a\n" * 1_000_000, "linux/amd64", "linux/amd64") == (
        BaseImage("h.io/a"),
    )
