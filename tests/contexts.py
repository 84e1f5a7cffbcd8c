"""Build contexts as tars, good and hostile; a base image of this machine's programs."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.registries import PLAIN_ENVIRONMENT, RunningRegistry

PROGRAMS = (
    *("bash", "cat", "chmod", "dd", "env", "head", "id", "ln", "ls", "mkdir", "mknod", "mount"),
    *("perl", "ps", "readlink", "rm", "setsid", "sleep", "stat", "tail", "touch", "wc", "yes"),
)
_MACHINE_OFFSET = 18
_AARCH64 = 183


def write_context(
    path: Path, files: Mapping[str, str | bytes | tarfile.TarInfo], *, compression: str = ""
) -> Path:
    """A tar of files (their contents) and other entries; compressed by `gz`, `bz2` or `xz`."""
    mode = f"w:{compression}"
    with tarfile.open(path, mode) as out:  # type: ignore[call-overload]
        for name, value in files.items():
            if isinstance(value, tarfile.TarInfo):
                out.addfile(value)
                continue
            data = value.encode() if isinstance(value, str) else value
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(data), 0o644, 1_600_000_000
            out.addfile(entry, io.BytesIO(data))
    return path


def entry(name: str, kind: bytes, target: str = "", **fields: int) -> tarfile.TarInfo:
    """An entry that is no file: a link, a directory, a device."""
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def write_base_image(path: Path, *, architecture: str = "amd64") -> Path:
    """A docker archive with a shell and a few programs, copied from this machine.

    For another architecture the shell is one that this machine cannot run.
    """
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for directory in ("bin", "tmp", "etc", "usr/bin"):
            made = entry(directory, tarfile.DIRTYPE, mode=0o1777 if directory == "tmp" else 0o755)
            tar.addfile(made)
        for file in _files_of(PROGRAMS):
            name = f"bin/{file.name}" if file.name in PROGRAMS else str(file).lstrip("/")
            data = bytearray(file.read_bytes())
            if architecture != "amd64":
                data[_MACHINE_OFFSET] = _AARCH64
            made = tarfile.TarInfo(name)
            made.size, made.mode = len(data), 0o755
            tar.addfile(made, io.BytesIO(bytes(data)))
        tar.addfile(entry("bin/sh", tarfile.SYMTYPE, "bash"))
    return _image(path, layer.getvalue(), architecture)


def push_base_image(registry: RunningRegistry, archive: Path, name: str) -> str:
    """Put it into a registry; the image's full name."""
    image = f"{registry.host}/{name}"
    arguments = [
        argument.replace("--tls-verify", "--dest-tls-verify")
        .replace("--cert-dir", "--dest-cert-dir")
        .replace("--authfile", "--dest-authfile")
        for argument in registry.skopeo_arguments()
    ]
    subprocess.run(
        [
            *("skopeo", "--insecure-policy", "copy", "--quiet", *arguments),
            *(f"docker-archive:{archive}", f"docker://{image}"),
        ],
        check=True,
        env=PLAIN_ENVIRONMENT | {"HOME": str(registry.directory)},
    )
    return image


def files_of_image(registry: RunningRegistry, image: str, directory: Path) -> dict[str, bytes]:
    """Pull an image back and read the regular files of all its layers."""
    arguments = [
        argument.replace("--tls-verify", "--src-tls-verify")
        .replace("--cert-dir", "--src-cert-dir")
        .replace("--authfile", "--src-authfile")
        for argument in registry.skopeo_arguments()
    ]
    subprocess.run(
        [
            *("skopeo", "--insecure-policy", "copy", "--quiet", *arguments),
            *(f"docker://{image}", f"dir:{directory}"),
        ],
        check=True,
        env=PLAIN_ENVIRONMENT | {"HOME": str(registry.directory)},
    )
    found = {}
    for layer in json.loads((directory / "manifest.json").read_text())["layers"]:
        with tarfile.open(directory / layer["digest"].removeprefix("sha256:")) as tar:
            for one in tar:
                if one.isreg():
                    found[one.name] = tar.extractfile(one).read()  # type: ignore[union-attr]
    return found


@pytest.fixture(scope="session")
def base_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base_image(tmp_path_factory.mktemp("base") / "base.tar")


def sleepers() -> list[int]:
    """Processes of a step, by their ids."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cmdline() == ["sleep", "1000"] and process.uids().real >= 2**30:
                found.append(process.pid)
    return found


def _files_of(programs: Sequence[str]) -> list[Path]:
    """The programs, and every library that they load."""
    found: dict[Path, None] = {}
    for program in programs:
        path = shutil.which(program)
        assert path, program
        found[Path(path)] = None
        words = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
        found |= {Path(word): None for word in words.split() if word.startswith("/")}
    return list(found)


def _image(path: Path, layer: bytes, architecture: str) -> Path:
    digest = hashlib.sha256(layer).hexdigest()
    config = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    )
    manifest = [{"Config": "config.json", "RepoTags": ["base:1"], "Layers": ["layer.tar"]}]
    return write_context(
        path, {"layer.tar": layer, "config.json": config, "manifest.json": json.dumps(manifest)}
    )
