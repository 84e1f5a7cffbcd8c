"""Builds an image from a stranger's context, and sends it to a registry.

Knows: `buildah build`, one run for each platform; the limits of a build.
Must not know: how a context came here, who wants the image, how a build is shut in.

Base images are pulled before, by us; the build itself has no credentials, may pull nothing from
anywhere, and runs in a sandbox. See `sandbox.py` for why.
"""

from __future__ import annotations

import logging
import os
import re
import resource
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
from anyio import from_thread

from buildah.bases import Base, BaseImages, pull
from buildah.build_failure import build_failure
from buildah.built import BuiltImage
from buildah.command import run
from buildah.containerfile import base_images
from buildah.context import Context
from buildah.environment import NOTHING, tool_environment
from buildah.errors import (
    BaseImageRefused,
    BuildTimedOut,
    BuildTooBig,
    ToolFailed,
)
from buildah.growth import bounded, used_bytes
from buildah.platforms import this_platform
from buildah.push import StoredImage
from buildah.pushed import Log
from buildah.removal import remove_tree
from buildah.sandbox import BuildIds, build_ids, entering, refuse_unsafe, sandboxed
from buildah.sizes import GIB
from buildah.transcript import Transcript
from buildah.workspace import Workspace

logger = logging.getLogger(__name__)

Note = Callable[[str], None]

_OPERATION = "Building the image"
_DIRECTORY = "build"
_MEASURE_SECONDS = 1.0
_FREE_INODES = 0.02

_IMAGE_ID = re.compile(r"sha256:([0-9a-f]{64})")
_STEP = re.compile(r"STEP \d+/\d+: .*")
# Without CAP_SYS_CHROOT no step leaves its directory.
_CONFINEMENT = ("--isolation=chroot", "--cap-drop=CAP_SYS_CHROOT", "--http-proxy=false")
# What a step may have at most. A fork bomb ends at its limit.
_LIMITS = (
    ("nproc", resource.RLIMIT_NPROC, 4096),
    ("nofile", resource.RLIMIT_NOFILE, 65536),
    ("core", resource.RLIMIT_CORE, 0),
)


@dataclass(frozen=True)
class BuildOptions:
    """What a build may use.

    `platforms` are `os/architecture[/variant]`, none means this machine's; `network` lets the
    steps use the machine's network; `jobs` is how many stages run at once; `size_bytes` bounds what
    the workspace may hold.
    """

    bases: BaseImages
    platforms: tuple[str, ...] = ()
    network: bool = False
    jobs: int = 1
    timeout_seconds: float = 3600.0
    size_bytes: int = 20 * GIB


async def build(
    context: Context, workspace: Workspace, options: BuildOptions, *, note: Note, log: Log
) -> BuiltImage:
    """Build for each platform. Only when that succeeds is the context removed.

    `note` gets the step that runs, `log` what the steps say, both on the event loop.

    Raises:
        BuildError: it did not become an image; the subclass says why.
        RegistryError: a base image's registry cannot be asked; the subclass says why.
        StorageFull: there is no room in the workspace.
        ToolError: a program is missing, or failed in a way that is not known here.
    """
    directory = workspace.directory / _DIRECTORY
    building = _Build(context, workspace, options, note, log)
    try:
        with anyio.move_on_after(options.timeout_seconds):
            image = await building.within_size()
            await anyio.to_thread.run_sync(remove_tree, context.directory)
            return image
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(remove_tree, directory)
    raise BuildTimedOut(f"{_OPERATION}: it took more than {options.timeout_seconds:g} s.")


class _Build:
    """One build. Used once."""

    def __init__(
        self, context: Context, workspace: Workspace, options: BuildOptions, note: Note, log: Log
    ) -> None:
        self._context = context
        self._workspace = workspace
        self._options = options
        self._note = note
        self._log = log
        self._directory = workspace.directory / _DIRECTORY
        self._list_name = f"localhost/build-{secrets.token_hex(8)}"
        self._entering = entering()

    async def within_size(self) -> BuiltImage:
        """Build, and stop as soon as it takes too much disk."""
        images = await bounded(
            self._for_each_platform, self._check_size, every_seconds=_MEASURE_SECONDS
        )
        return BuiltImage(tuple(images), self._list_name)

    async def _for_each_platform(self) -> list[StoredImage]:
        text = await anyio.to_thread.run_sync(lambda: self._context.text)
        platforms = self._options.platforms or (this_platform(),)
        bases = {one: self._bases(text, one) for one in platforms}
        ids = await build_ids(self._entering, self._workspace.env)
        await self._remove_containers()
        images = []
        for one in platforms:
            for base in bases[one]:
                self._note(f"pulling {base.source}")
                await pull(base, self._workspace, log=self._log)
            images.append(StoredImage(await self._build(one, ids), one))
        return images

    async def _remove_containers(self) -> None:
        """A build that failed leaves the container of its step, and so what made the disk full."""
        await run(
            ["buildah", *self._workspace.storage_arguments, "rm", "--all"],
            env=self._workspace.env,
            on_line=self._log,
        )

    def _bases(self, text: str, platform: str) -> list[Base]:
        named = base_images(text, platform, this_platform())
        found = [self._options.bases.find(one, platform) for one in named]
        for base in found:
            if any(base.source == one.source and base != one for one in found):
                raise BaseImageRefused(
                    f"{_OPERATION}: it starts from {base.source} for two platforms at once.",
                    hint="Name one of the two by its digest, or build for each platform alone.",
                )
        return found

    async def _build(self, platform: str, ids: BuildIds) -> str:
        """One run of buildah; the image's id."""
        log, mount_point, image_id = (self._directory / name for name in ("log", "root", "id"))
        env = await anyio.to_thread.run_sync(self._prepare)
        several = len(self._options.platforms) > 1
        argv = [
            *("buildah", *self._workspace.storage_arguments, "build"),
            *(*_CONFINEMENT, *_limits()),
            *(*ids.arguments, "--pull=never", "--retry=0", f"--jobs={self._options.jobs}"),
            *("--no-cache", f"--platform={platform}", f"--iidfile={image_id}"),
            *((f"--manifest={self._list_name}",) if several else ()),
            f"--file={self._context.directory / self._context.build_file}",
            str(self._context.directory),
        ]
        transcript = Transcript(log, lambda line: from_thread.run_sync(self._said, line))
        completed = await run(
            [
                *self._entering,
                *sandboxed(
                    argv,
                    mount_point=mount_point,
                    log=log,
                    directories=[
                        *(self._workspace.root, self._workspace.runroot),
                        *(self._directory, self._context.directory),
                    ],
                    network=self._options.network,
                ),
            ],
            env=env,
            on_line=self._log,
            watch=lambda _pgid: transcript.read(),
        )
        await anyio.to_thread.run_sync(transcript.end)
        if completed.returncode:
            await refuse_unsafe(completed, log)
            raise build_failure(_OPERATION, completed, transcript.tail)
        found = _IMAGE_ID.fullmatch(await anyio.to_thread.run_sync(image_id.read_text))
        if found is None:
            raise ToolFailed(f"{_OPERATION}: buildah named no image.")
        return found[1]

    def _prepare(self) -> dict[str, str]:
        """Fresh directories for one run. Mapped users pass through those of them with 0711."""
        remove_tree(self._directory)
        home, tmp = self._directory / "home", self._directory / "tmp"
        for directory in (self._workspace.root, self._workspace.runroot):
            directory.mkdir(mode=0o700, exist_ok=True)
        for directory in (self._directory, tmp):
            directory.mkdir()
            directory.chmod(0o711)
        for directory in (home, self._directory / "root"):
            directory.mkdir(mode=0o700)
        storage = "CONTAINERS_STORAGE_CONF"
        shutil.copyfile(self._workspace.env[storage], home / "storage.conf")
        return {**tool_environment(home, tmp, NOTHING), storage: str(home / "storage.conf")}

    def _said(self, line: str) -> None:
        self._log(line)
        if step := _STEP.search(line):
            self._note(step[0])

    async def _check_size(self) -> None:
        limit_bytes, directory = self._options.size_bytes, self._workspace.directory
        taken_bytes = await used_bytes(directory, self._workspace.env)
        if taken_bytes > limit_bytes:
            raise BuildTooBig(
                f"{_OPERATION}: it takes {taken_bytes} bytes of disk, at most {limit_bytes} are "
                "allowed."
            )
        if await anyio.to_thread.run_sync(_inodes_run_out, directory):
            raise BuildTooBig(f"{_OPERATION}: it makes more files than there may be.")


def _limits() -> Iterator[str]:
    """The options for what a step may have: never more than we have, which would be refused."""
    for name, number, wanted in _LIMITS:
        _, hard = resource.getrlimit(number)
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        yield f"--ulimit={name}={most}:{most}"


def _inodes_run_out(directory: Path) -> bool:
    """Whether the file system counts its files, and has hardly any left to give."""
    facts = os.statvfs(directory)
    return facts.f_favail < facts.f_files * _FREE_INODES
