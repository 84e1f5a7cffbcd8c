"""What an archive is, before anything is loaded: what it holds, and what would be refused.

Knows: in which form to read an archive that has several, which writer lays it out so.
Must not know: how lists and entries are read; programs; who asks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from buildah.catalog import Catalog, Report, catalog, shown
from buildah.compression import compression
from buildah.contents import Contents, Format, Image, Refusal, Writer
from buildah.errors import ArchiveError, ArchiveInvalid, ArchiveNoImage
from buildah.layouts import docker_images, oci_images
from buildah.selection import check_whole

# In this order, as buildah looks for them.
BUILD_FILES = ("Containerfile", "Dockerfile")
# In this order: podman adds links like docker's own names.
_DOCKER_NAMES = (
    (re.compile(r"sha256:[0-9a-f]{64}"), Writer.CRANE),
    (re.compile(r"[0-9a-f]{64}\.tar"), Writer.CONTAINERS),
    (re.compile(r"[0-9a-f]{64}/layer\.tar"), Writer.DOCKER_UP_TO_24),
)
_NOTHING = "Reading the archive: there is no image in it (neither manifest.json nor index.json)."


def inspect(path: Path, report: Report = lambda _: None) -> Contents:
    """Tell what an archive holds. Blocking; memory does not grow with it.

    A plain archive is read by seeks, 20 GB in milliseconds; one that is compressed as a whole has
    to be read once, and `report` gets the share that is done. Layers' bytes are not verified,
    manifests and configs are.

    Raises:
        ArchiveError: nothing in it can be told; the subclass says why.
    """
    kind = compression(path)
    with catalog(path, kind, report) as table:
        form = _format(table)
        images = _images(table, form)
        writer = _writer(table, form)
    refusals = tuple(_refusals(form, images))
    notes = tuple(_notes(form, images))
    return Contents(path.stat().st_size, kind, form, writer, images, refusals, notes)


def _format(table: Catalog) -> Format:
    docker, oci = "manifest.json" in table.entries, "index.json" in table.entries
    if docker and oci:
        return Format.BOTH
    if docker:
        return Format.DOCKER
    if oci:
        return Format.OCI
    if any(table.find(name) for name in BUILD_FILES):
        return Format.BUILD_CONTEXT
    if not table.entries:
        raise ArchiveInvalid("Reading the archive: it is empty.")
    raise ArchiveNoImage(_NOTHING)


def _images(table: Catalog, form: Format) -> tuple[Image, ...]:
    if form is Format.BUILD_CONTEXT:
        return ()
    if form is Format.DOCKER:
        return docker_images(table)
    if form is Format.OCI:
        return oci_images(table)
    images = docker_images(table)
    try:
        several = oci_images(table)
    except ArchiveError:
        # Loading reads manifest.json alone: what is wrong beside it does no harm.
        return images
    # docker 25.0.0 wrote the layers of the OCI manifest in random order; manifest.json tells one
    # platform only.
    return several if any(len(one.platforms) > 1 for one in several) else images


def _writer(table: Catalog, form: Format) -> Writer:
    if form is Format.BOTH:
        if next(iter(table.entries)) == "oci-layout":
            return Writer.REGCTL
        return Writer.DOCKER_FROM_25 if "repositories" in table.entries else Writer.CONTAINERD
    if form is Format.DOCKER:
        for pattern, writer in _DOCKER_NAMES:
            if any(pattern.fullmatch(name) for name in table.entries):
                return writer
    return Writer.UNKNOWN


def _refusals(form: Format, images: tuple[Image, ...]) -> Iterator[Refusal]:
    """What loading would say, and what is missing."""
    if not images and form is not Format.BUILD_CONTEXT:
        yield _refusal(ArchiveNoImage("Reading the archive: its list of images is empty."))
    for image in images:
        try:
            check_whole(image, allow_partial=False)
        except ArchiveError as error:
            yield _refusal(error)


def _refusal(error: ArchiveError) -> Refusal:
    return Refusal(error.code, error.message, error.hint)


def _notes(form: Format, images: tuple[Image, ...]) -> Iterator[str]:
    if form is Format.BUILD_CONTEXT:
        yield "a build context: built where the server's setting `builds` allows it, else refused"
    if len(images) > 1:
        yield "several images: each goes under its own tag, unless `ref` chooses one"
    for image in images:
        if len(image.platforms) > 1:
            names = ", ".join(shown(one.platform or "unknown") for one in image.whole_platforms)
            yield f"several platforms: {names or 'none'} would be pushed, under one tag"
