"""Which images of an archive are meant, and where each of them goes. Pure.

Knows: the names that writers give to images, and what a sender can say about them.
Must not know: how an archive is read, which registries are allowed, how an image gets there.

Source: OCI image specification 1.1, `org.opencontainers.image.ref.name` (a tag, or a whole name);
docker's RepoTags (always name:tag).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from buildah.catalog import shown
from buildah.contents import KEPT_ELSEWHERE, Image
from buildah.errors import ArchiveCorrupt, ArchiveIncomplete, ArchiveNoImage, ArchiveNotChosen
from buildah.reference import DEFAULT_TAG, ImageReference

_ELSEWHERE = (
    "What an archive says is kept elsewhere is not fetched: save the image with all its layers."
)
_SHOWN_IMAGES = 10
_SHORT_ID_CHARS = 12
_LONGEST_NAME_CHARS = 1000
_DOCKER_HOSTS = ("docker.io", "index.docker.io")


@dataclass(frozen=True)
class Order:
    """What the sender says: where to (`image`), which one (`ref`), and whether a part will do.

    `default_repository` (`host/path`) is where images go under their own names without `image`.
    """

    image: ImageReference | None = None
    default_repository: str = ""
    ref: str | None = None
    allow_partial: bool = False


@dataclass(frozen=True)
class Choice:
    """One image of an archive, by its position in the list, and every tag it will get."""

    position: int
    image: Image
    destinations: tuple[ImageReference, ...]


@dataclass(frozen=True)
class OwnName:
    """What an image is called where it was saved; `path` is None where only a tag is said."""

    host: str | None
    path: str | None
    tag: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `[host/][path/name:]tag`, or `[host/]path/name`, whose tag is `latest`.

        `docker.io/library/name` is the same as `name`: podman and docker mean one image by them.
        """
        text = text.partition("@")[0]
        first, slash, rest = text.partition("/")
        host = None
        if slash and (set(".:") & set(first) or first == "localhost"):
            host, text = first, rest
        directory, slash, last = text.rpartition("/")
        name, colon, tag = last.partition(":")
        if not colon:
            if host is None and not slash:
                return cls(None, None, last)
            tag = DEFAULT_TAG
        path = f"{directory}{slash}{name}"
        if host in _DOCKER_HOSTS:
            host, path = None, path.removeprefix("library/")
        return cls(None if host == "localhost" else host, path, tag)


def choose(images: Sequence[Image], order: Order) -> tuple[Choice, ...]:
    """The images that are meant, in the archive's order, each with its destinations.

    One image goes to `image`. Several go into `image`'s repository, each under its own tags (one
    without any under the first digits of its id). Without `image`, each goes below
    `default_repository` with the whole path of its own name: `a/x` and `b/x` stay two.

    Raises:
        ArchiveNoImage: there is none.
        ArchiveNotChosen: `ref` fits none or several, a name is missing, or two would be one.
        ArchiveIncomplete: a platform is not whole, and a part will not do.
        ArchiveCorrupt: nothing of it is whole.
        InvalidReference: its own name is none that a registry takes.
    """
    if not images:
        raise ArchiveNoImage("Reading the archive: its list of images is empty.")
    chosen = meant(images, order.ref)
    choices = []
    for position, image in chosen:
        check_whole(image, allow_partial=order.allow_partial)
        destinations = tuple(_destinations(image, order, alone=len(chosen) == 1))
        choices.append(Choice(position, image, destinations))
    _check_apart(choices)
    return tuple(choices)


def meant(images: Sequence[Image], ref: str | None) -> list[tuple[int, Image]]:
    """All of them, or the one that `ref` names, with their positions.

    Raises:
        ArchiveNotChosen: `ref` fits none or several.
    """
    numbered = list(enumerate(images))
    return numbered if ref is None else [_referred(numbered, ref)]


def check_whole(image: Image, *, allow_partial: bool) -> None:
    """Refuse an image that cannot be pushed as it was saved.

    Raises:
        ArchiveIncomplete: some of its platforms are whole, and a part will not do.
        ArchiveCorrupt: none is.
    """
    absent = [one for one in image.platforms if one.missing]
    if not absent:
        return
    if len(absent) == len(image.platforms):
        missing = [name for one in absent for name in one.missing]
        raise ArchiveCorrupt(
            f"Reading the archive: {len(missing)} of the blobs of {_called(image)} are missing, "
            f"{shown(missing[0])} first.",
            hint=_ELSEWHERE if missing[0].endswith(KEPT_ELSEWHERE) else None,
        )
    if not allow_partial:
        names = ", ".join(shown(one.platform or "unknown") for one in absent)
        raise ArchiveIncomplete(
            f"Reading the archive: {_called(image)} is not whole for {len(absent)} of its "
            f"{len(image.platforms)} platforms: {names}."
        )


def _referred(images: Sequence[tuple[int, Image]], ref: str) -> tuple[int, Image]:
    # Nothing is called so; and it is compared with every name there is.
    asked = None if len(ref) > _LONGEST_NAME_CHARS else OwnName.parse(ref)
    found = [row for row in images if asked and _fits(*row, ref, asked)]
    if len(found) == 1:
        position, image = found[0]
        tags = tuple(tag for tag in image.tags if asked and _same(tag, ref, asked))
        # Who asks for one name gets that one, who asks for a position gets them all.
        return position, Image(tags or image.tags, image.digest, image.platforms)
    names = ", ".join(f"@{position} {_called(image)}" for position, image in images[:_SHOWN_IMAGES])
    more = ", ..." if len(images) > _SHOWN_IMAGES else ""
    fits = f"fits {len(found)} images" if found else "fits no image"
    raise ArchiveNotChosen(
        f"Choosing an image of the archive: {shown(ref)!r} {fits} of {names}{more}.",
        hint="Say one of these names, the image's id (sha256:...), or its position (@0).",
    )


def _fits(position: int, image: Image, ref: str, asked: OwnName) -> bool:
    ids = [image.digest, *(one.image_id for one in image.platforms)]
    return ref == f"@{position}" or ref in ids or any(_same(tag, ref, asked) for tag in image.tags)


def _same(tag: str, ref: str, asked: OwnName) -> bool:
    """Whether an image's own name is what was asked for; the host, or the tag, may be left out."""
    if tag == ref:
        return True
    own = OwnName.parse(tag)
    if asked.path is None:
        return ref in (own.tag if own.path is None else None, own.path)
    return (own.path, own.tag) == (asked.path, asked.tag) and asked.host in (None, own.host)


def _destinations(image: Image, order: Order, *, alone: bool) -> Iterator[ImageReference]:
    if order.image is not None and alone:
        yield order.image
        return
    names = [OwnName.parse(tag) for tag in image.tags]
    if order.image is not None:
        tags = [name.tag for name in names] or [_short_id(image)]
        for tag in dict.fromkeys(tags):
            yield ImageReference.parse(f"{order.image.name}:{tag}")
        return
    paths = [(name.path, name.tag) for name in names]
    if not paths or any(path is None for path, _ in paths):
        raise ArchiveNotChosen(
            f"Choosing where {_called(image)} goes: it has no name of its own.",
            hint="Say where to with `image` (`--image`).",
        )
    for path, tag in dict.fromkeys(paths):
        yield ImageReference.parse(f"{order.default_repository}/{path}:{tag}")


def _check_apart(choices: Sequence[Choice]) -> None:
    """Two images under one tag would be one image, and the other one lost."""
    taken: dict[ImageReference, Choice] = {}
    for choice in choices:
        for destination in choice.destinations:
            other = taken.setdefault(destination, choice)
            if other is not choice:
                raise ArchiveNotChosen(
                    f"Choosing where the images go: {_called(other.image)} and "
                    f"{_called(choice.image)} would both be {destination}.",
                    hint="Send them one by one, each chosen with `ref` (`--ref`).",
                )


def _short_id(image: Image) -> str:
    return (image.known_as or "").partition(":")[2][:_SHORT_ID_CHARS]


def _called(image: Image) -> str:
    if image.tags:
        return shown(image.tags[0])
    return f"the image {_short_id(image)}"
