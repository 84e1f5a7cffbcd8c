"""`make image` and `make image-push`: what they run for what they are told."""

from __future__ import annotations

import subprocess

import pytest

from tests.live import ROOT


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Say what make would run; nothing is."""
    command = ("make", "--dry-run", "--no-print-directory", "--assume-old=setup", *arguments)
    known = {"PATH": "/usr/bin:/bin", **environment}
    return subprocess.run(command, cwd=ROOT, env=known, capture_output=True, text=True, check=False)


BUILD = "build --file buildah/images/debian/Containerfile"
TWO = "PLATFORMS=linux/amd64,linux/arm64"
DIGEST = f"debian@sha256:{64 * 'a'}"


@pytest.mark.parametrize(
    ("arguments", "commands"),
    [
        (["image"], [f"buildah {BUILD} --tag localhost/tusboat ."]),
        (["image", "ENGINE=podman"], [f"podman {BUILD} --tag localhost/tusboat ."]),
        (["image", "IMAGE=a/b:1"], [f"buildah {BUILD} --tag a/b:1 ."]),
        (
            ["image", f"BASE={DIGEST}", "SNAPSHOT=20261101T000000Z", "IMAGE_ARGS=--quiet"],
            [
                f"buildah {BUILD} --build-arg BASE='{DIGEST}' "
                "--build-arg SNAPSHOT='20261101T000000Z' --tag localhost/tusboat --quiet ."
            ],
        ),
        (
            ["image", "PLATFORMS=linux/arm64"],
            [f"buildah {BUILD} --platform linux/arm64 --tag localhost/tusboat ."],
        ),
        (
            ["image", TWO],
            [
                "! buildah manifest exists localhost/tusboat || "
                "buildah manifest rm localhost/tusboat",
                f"buildah {BUILD} --platform linux/amd64,linux/arm64 "
                "--manifest localhost/tusboat .",
            ],
        ),
        (
            ["image-push", "TO=r.example/a:1"],
            [
                "if buildah manifest exists localhost/tusboat; "
                "then buildah manifest push --all localhost/tusboat docker://r.example/a:1; "
                "else buildah push localhost/tusboat docker://r.example/a:1; fi"
            ],
        ),
        (
            ["image-push", "TO=r.example/a:1", "ENGINE=docker"],
            ["docker tag localhost/tusboat r.example/a:1", "docker push r.example/a:1"],
        ),
    ],
    ids=["one", "podman", "name", "pinned", "other", "two", "push", "push-docker"],
)
def test_make_runs(arguments: list[str], commands: list[str]) -> None:
    done = make(*arguments)
    lines = done.stdout.replace("\\\n", " ").splitlines()
    said = [" ".join(line.split()).removeprefix("BUILDAH_ISOLATION=chroot ") for line in lines]
    assert said == commands, done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["image", TWO, "ENGINE=docker"], "docker keeps no list of images"),
        (["image-push"], "TO= has to say where to"),
    ],
)
def test_make_refuses(arguments: list[str], sentence: str) -> None:
    done = make(*arguments)
    assert done.returncode == 2
    assert sentence in done.stderr


def test_make_takes_no_build_argument_from_the_environment() -> None:
    assert "--build-arg" not in make("image", BASE="else", PIP_INDEX_URL="http://x.invalid").stdout
