"""Brings an image of a registry into a file: the way for machines without a network.

Knows: `skopeo copy`, from a registry into a directory and from there into a docker-archive.
Must not know: who asks, how progress is shown.

Everything is pulled first and packed afterwards, so that what goes wrong on the way and what goes
wrong on this disk are told apart. No container storage and no privileges are needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import anyio
import anyio.to_thread

from buildah.access import Access
from buildah.command import Completed, run
from buildah.delivery import Delivery, delivering, free_bytes, no_room, worded
from buildah.diagnosis import PULLING, explain
from buildah.environment import tool_environment
from buildah.errors import (
    BuildahError,
    ImageNotFound,
    RegistryUnreachable,
    StorageFull,
    ToolFailed,
)
from buildah.manifests import Descriptor, Manifest, Platform, digest_of, parse
from buildah.packing import pack, unpack_zstd
from buildah.preflight import confine
from buildah.progress import FileActivity, Meter, bytes_in
from buildah.pushed import Log, Progress
from buildah.reference import ImageReference
from buildah.registry import RESOLVE_SECONDS, Registry

_BLOB_FILES = re.compile(r"[0-9a-f]{64}")
# Names in our own directory: a colon in a path of the caller's would end it for skopeo.
_PULLED, _ARCHIVE, _TMP, _HOME = "pulled", "archive", "tmp", "home"


class ArchiveFormat(StrEnum):
    """What can be written."""

    DOCKER = "docker-archive"
    OCI = "oci-archive"


@dataclass(frozen=True)
class Wanted:
    """What of an image, and how: one platform (None: this machine's) or all of them.

    Only an OCI archive can hold more than one platform.
    """

    format: ArchiveFormat = ArchiveFormat.DOCKER
    platform: Platform | None = None
    every_platform: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class ExportedImage:
    """What was written: the digest that the registry has for it, and its size as a file.

    `platforms` is empty where that was of no interest; `others` are platforms that were left out.
    """

    digest: str
    platforms: tuple[str, ...]
    others: tuple[str, ...]
    size_bytes: int


async def export(
    reference: ImageReference,
    registry: Registry,
    target: Path,
    wanted: Wanted,
    *,
    progress: Progress,
    log: Log,
) -> ExportedImage:
    """Write an image of a registry to a file, which is whole or not there.

    `progress` counts bytes of the image's blobs as the registry has them: by half when one is
    pulled, and wholly when it is packed. The archive names the image by its reference.

    Raises:
        ExportError: there is no such image or platform, or no file can be made there.
        RegistryError: the registry did not give it; the subclass says why.
        ArchiveError: a layer is not what it says (only where it has to be unpacked here).
        StorageFull: there is no room on the file's disk.
        ToolError: skopeo is missing, or failed in a way that is not known here.
    """
    await confine(f"Asking for {reference}", reference.repository, registry, pushing=False)
    context = delivering(target, overwrite=wanted.overwrite)
    delivery = await anyio.to_thread.run_sync(context.__enter__)
    try:
        async with registry.access(delivery.directory) as access:
            skopeo = _Skopeo(reference, delivery, access, log)
            await anyio.to_thread.run_sync(skopeo.prepare)
            return await _export(skopeo, wanted, progress)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(context.__exit__, None, None, None)


async def _export(skopeo: _Skopeo, wanted: Wanted, progress: Progress) -> ExportedImage:
    chosen = await _choose(skopeo, wanted)
    delivery = skopeo.delivery
    await anyio.to_thread.run_sync(_require_room, delivery, wanted.format, chosen)
    meter = Meter(progress, chosen.size_bytes)
    await skopeo.pull(chosen, meter)
    archive = delivery.directory / _ARCHIVE
    if wanted.format is ArchiveFormat.OCI:
        await anyio.to_thread.run_sync(_pack_oci, skopeo, chosen.size_bytes, meter)
    else:
        await anyio.to_thread.run_sync(_unpack_zstd, skopeo, meter)
        await skopeo.pack(meter)
    # What was asked for is done: from here on a cancellation would only tell a lie about it.
    with anyio.CancelScope(shield=True):
        size_bytes = await anyio.to_thread.run_sync(lambda: archive.stat().st_size)
        await anyio.to_thread.run_sync(delivery.finish, archive)
    meter.finish()
    return ExportedImage(chosen.digest, chosen.platforms, chosen.others, size_bytes)


@dataclass(frozen=True)
class _Chosen:
    """What is pulled, by its digest: a tag may be moved meanwhile."""

    digest: str
    blobs: dict[str, Descriptor]
    every_platform: bool = False
    platforms: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        return sum(blob.size_bytes for blob in self.blobs.values())


class _Skopeo:
    """What skopeo is asked for one image, in the directory of a delivery."""

    def __init__(
        self, reference: ImageReference, delivery: Delivery, access: Access, log: Log
    ) -> None:
        self.reference = reference
        self.delivery = delivery
        self._access = access
        self._log = log
        self._env: Mapping[str, str] = {}

    def prepare(self) -> None:
        """Make what it finds there. Blocking."""
        home, tmp = self.delivery.directory / _HOME, self.delivery.directory / _TMP
        with worded(self.delivery.target):
            home.mkdir()
            tmp.mkdir()
            self._env = tool_environment(home, tmp)

    async def ask(self, address: str, *options: str) -> bytes:
        """A manifest, or with `--config` a config, as the registry keeps it.

        Raises:
            ImageNotFound: it has none of that name.
            RegistryError: it cannot be asked; the subclass says why.
        """
        operation = f"Asking for {address}"
        arguments = ["inspect", "--raw", *options, *self._access.arguments]
        with anyio.move_on_after(RESOLVE_SECONDS):
            completed = await self._run([*arguments, "--", f"docker://{address}"])
            if completed.returncode:
                raise explain(operation, completed, PULLING)
            return completed.stdout
        raise RegistryUnreachable(f"{operation}: no answer within {RESOLVE_SECONDS:g} s.")

    async def pull(self, chosen: _Chosen, meter: Meter) -> None:
        """Bring everything into a directory, as it is."""
        pulled = self.delivery.directory / _PULLED

        def watch(_: int) -> None:
            if chosen.size_bytes:
                meter.report(bytes_in(pulled) / chosen.size_bytes / 2)

        every = ["--all"] if chosen.every_platform else []
        source = f"docker://{self.reference.name}@{chosen.digest}"
        completed = await self._run(
            ["copy", *every, *self._access.as_source, source, f"dir:{_PULLED}"], watch
        )
        if completed.returncode:
            raise self._failure(f"Pulling {self.reference}", completed)

    async def pack(self, meter: Meter) -> None:
        """Make a docker-archive of what was pulled; its layers are unpacked on the way."""
        pulled = self.delivery.directory / _PULLED
        total_bytes = await anyio.to_thread.run_sync(bytes_in, pulled)
        activity = FileActivity(pulled, _BLOB_FILES)

        def watch(pgid: int) -> None:
            activity.scan(pgid)
            meter.report(0.5 + activity.read_bytes / max(total_bytes, 1) / 2)

        target = f"docker-archive:{_ARCHIVE}:{self.reference}"
        completed = await self._run(["copy", f"dir:{_PULLED}", target], watch)
        if completed.returncode:
            raise self._failure(f"Packing {self.reference}", completed)

    async def _run(
        self, arguments: Sequence[str], watch: Callable[[int], None] | None = None
    ) -> Completed:
        directory = self.delivery.directory
        return await run(
            # TMPDIR means nothing to it.
            ["skopeo", "--tmpdir", str(directory / _TMP), *arguments],
            env=self._env,
            cwd=directory,
            on_line=self._log,
            watch=watch,
            secrets=self._access.secrets,
        )

    def _failure(self, operation: str, completed: Completed) -> BuildahError:
        error = explain(operation, completed, PULLING)
        if isinstance(error, ToolFailed) and error.hint == ToolFailed.advice:
            return ToolFailed(error.message, hint="These are skopeo's own words.")
        return no_room(self.delivery.target) if isinstance(error, StorageFull) else error


async def _choose(skopeo: _Skopeo, wanted: Wanted) -> _Chosen:
    reference = skopeo.reference
    data = await skopeo.ask(str(reference))
    top = parse(data)
    if isinstance(top, Manifest):
        # Before it is pulled, not after.
        config = await skopeo.ask(str(reference), "--config") if wanted.platform else b""
        return _the_only_one(top, Platform.of_config(config), wanted.platform)
    names = tuple(map(str, top.platforms))
    if wanted.every_platform:
        blobs: dict[str, Descriptor] = {}
        for row in top.rows:
            blobs |= await _blobs(skopeo, row)
        return _Chosen(digest_of(data), blobs, True, names)
    row = top.choose(wanted.platform or Platform.of_this_machine())
    others = tuple(name for name in names if name != str(row.platform))
    blobs = await _blobs(skopeo, row)
    return _Chosen(row.digest, blobs, False, (str(row.platform),), others)


def _the_only_one(
    manifest: Manifest, platform: Platform | None, wanted: Platform | None
) -> _Chosen:
    if wanted and platform and not platform.serves(wanted):
        raise ImageNotFound(
            f"Choosing a platform: the image is not there for {wanted}, it is for {platform} only.",
            hint="Leave --platform out.",
        )
    names = (str(platform),) if platform else ()
    return _Chosen(digest_of(manifest.data), manifest.blobs, False, names)


async def _blobs(skopeo: _Skopeo, row: Descriptor) -> dict[str, Descriptor]:
    manifest = parse(await skopeo.ask(f"{skopeo.reference.name}@{row.digest}"))
    return manifest.blobs if isinstance(manifest, Manifest) else {}


def _require_room(delivery: Delivery, form: ArchiveFormat, chosen: _Chosen) -> None:
    """Refuse what cannot fit: the blobs, and beside them the archive, or the largest of them."""
    sizes = [blob.size_bytes for blob in chosen.blobs.values()]
    beside = max(sizes, default=0) if form is ArchiveFormat.OCI else sum(sizes)
    needed, free = sum(sizes) + beside, free_bytes(delivery.directory)
    if free < needed:
        why = f"at least {needed} bytes are needed, and {free} bytes are free"
        raise no_room(delivery.target, why)


def _unpack_zstd(skopeo: _Skopeo, meter: Meter) -> None:
    with worded(skopeo.delivery.target):
        unpack_zstd(
            skopeo.delivery.directory / _PULLED, lambda share: meter.report(0.5 + share / 4)
        )


def _pack_oci(skopeo: _Skopeo, total_bytes: int, meter: Meter) -> None:
    directory = skopeo.delivery.directory

    def report(done_bytes: int) -> None:
        meter.report(0.5 + done_bytes / max(total_bytes, 1) / 2)

    with worded(skopeo.delivery.target):
        pack(directory / _PULLED, directory / _ARCHIVE, str(skopeo.reference), report)
