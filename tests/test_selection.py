"""Which images of an archive are meant, and where each of them goes."""

from __future__ import annotations

import pytest

from buildah import errors
from buildah.contents import Image, PlatformImage
from buildah.reference import ImageReference
from buildah.selection import Choice, Order, OwnName, choose

TARGET = ImageReference.parse("harbor.example/team/llm:v1")


def image(
    number: int, *tags: str, platforms: int = 1, missing: int = 0, digest: bool = False
) -> Image:
    parts = tuple(
        PlatformImage(
            f"linux/p{index}",
            f"sha256:{number * 16 + index:064x}",
            missing=("layer",) if index < missing else (),
        )
        for index in range(platforms)
    )
    return Image(tags, f"sha256:{number:064d}" if digest else None, parts)


def places(choices: tuple[Choice, ...]) -> list[tuple[int, list[str]]]:
    return [(one.position, [str(place) for place in one.destinations]) for one in choices]


NAMES = {
    "alpine:3": OwnName(None, "alpine", "3"),
    "docker.io/library/alpine:3": OwnName(None, "alpine", "3"),
    "index.docker.io/library/alpine:3": OwnName(None, "alpine", "3"),
    "docker.io/team/app:3": OwnName(None, "team/app", "3"),
    "team/app:3": OwnName(None, "team/app", "3"),
    "localhost/team/app:3": OwnName(None, "team/app", "3"),
    "localhost:5000/app:3": OwnName("localhost:5000", "app", "3"),
    "quay.io/a/b/c:v1": OwnName("quay.io", "a/b/c", "v1"),
    "quay.io/a/b": OwnName("quay.io", "a/b", "latest"),
    "a/b": OwnName(None, "a/b", "latest"),
    "v1": OwnName(None, None, "v1"),
    "latest": OwnName(None, None, "latest"),
    "a/b:1@sha256:00": OwnName(None, "a/b", "1"),
}


@pytest.mark.parametrize("text", NAMES)
def test_what_an_image_is_called_where_it_was_saved(text: str) -> None:
    assert OwnName.parse(text) == NAMES[text]


def test_one_image_goes_where_it_is_sent_whatever_it_is_called() -> None:
    for tags in ((), ("a/b:1",), ("a/b:1", "a/b:2")):
        assert places(choose([image(1, *tags)], Order(TARGET))) == [(0, [str(TARGET)])]


def test_several_go_under_their_own_tags_in_the_repository_they_are_sent_to() -> None:
    images = [image(1, "a/x:1", "a/x:one"), image(2, "docker.io/b/y:2"), image(0xABC)]
    assert places(choose(images, Order(TARGET))) == [
        (0, ["harbor.example/team/llm:1", "harbor.example/team/llm:one"]),
        (1, ["harbor.example/team/llm:2"]),
        # Without a name of its own, under the first digits of its id.
        (2, [f"harbor.example/team/llm:{0xABC * 16:064x}"[: len("harbor.example/team/llm:") + 12]]),
    ]


def test_without_a_destination_the_whole_path_is_kept() -> None:
    images = [image(1, "quay.io/a/x:1"), image(2, "b/x:1", "b/x:2"), image(3, "alpine")]
    with pytest.raises(errors.ArchiveNotChosen, match="no name of its own"):
        choose(images, Order(default_repository="harbor.example/team"))
    assert places(choose(images[:2], Order(default_repository="harbor.example:8443/team"))) == [
        (0, ["harbor.example:8443/team/a/x:1"]),
        (1, ["harbor.example:8443/team/b/x:1", "harbor.example:8443/team/b/x:2"]),
    ]


def test_an_untagged_image_needs_a_destination() -> None:
    with pytest.raises(errors.ArchiveNotChosen) as refused:
        choose([image(1)], Order(default_repository="harbor.example/team"))
    assert "--image" in refused.value.hint


def test_two_images_under_one_tag_are_refused_before_anything_is_pushed() -> None:
    images = [image(1, "a/x:1"), image(2, "b/x:1")]
    with pytest.raises(errors.ArchiveNotChosen, match=r"a/x:1 and b/x:1 would both be harbor"):
        choose(images, Order(TARGET))
    assert len(choose(images, Order(default_repository="harbor.example/team"))) == 2


def test_a_name_of_its_own_that_no_registry_takes_is_refused() -> None:
    with pytest.raises(errors.InvalidReference):
        choose([image(1, "A/X:1")], Order(default_repository="harbor.example/team"))


SEVERAL = [
    image(1, "docker.io/library/alpine:3", "docker.io/library/alpine:latest"),
    image(2, "quay.io/team/app:1"),
    image(3, "team/app:2"),
    image(4, digest=True),
]
REFS = {
    "alpine:3": 0,
    "alpine:latest": 0,
    "alpine": 0,
    "docker.io/library/alpine:3": 0,
    "quay.io/team/app:1": 1,
    "team/app:1": 1,
    "team/app:2": 2,
    "@2": 2,
    "@3": 3,
    f"sha256:{2 * 16:064x}": 1,
    f"sha256:{4:064d}": 3,
}


@pytest.mark.parametrize("ref", REFS)
def test_one_of_several_is_chosen(ref: str) -> None:
    (choice,) = choose(SEVERAL, Order(TARGET, ref=ref))
    assert (choice.position, choice.destinations) == (REFS[ref], (TARGET,))


@pytest.mark.parametrize(
    "ref", ["nothing:1", "team/app", "@4", "@", "quay.io/library/alpine:3", ""]
)
def test_a_choice_that_fits_none_or_several_names_what_there_is(ref: str) -> None:
    with pytest.raises(errors.ArchiveNotChosen) as refused:
        choose(SEVERAL, Order(TARGET, ref=ref))
    assert "@0 docker.io/library/alpine:3, @1 quay.io/team/app:1" in refused.value.message


def test_who_asks_for_one_name_of_an_image_gets_that_one() -> None:
    order = Order(default_repository="harbor.example/team", ref="alpine:3")
    assert places(choose(SEVERAL, order)) == [(0, ["harbor.example/team/alpine:3"])]
    order = Order(default_repository="harbor.example/team", ref="@0")
    assert places(choose(SEVERAL, order))[0][1] == [
        "harbor.example/team/alpine:3",
        "harbor.example/team/alpine:latest",
    ]


def test_platforms_that_are_not_whole_are_named_and_refused_unless_a_part_will_do() -> None:
    part = image(1, "a:1", platforms=3, missing=2)
    with pytest.raises(errors.ArchiveIncomplete, match=r"2 of its 3 platforms: linux/p0, linux/p1"):
        choose([part], Order(TARGET))
    (choice,) = choose([part], Order(TARGET, allow_partial=True))
    assert [one.platform for one in choice.image.whole_platforms] == ["linux/p2"]


def test_nothing_whole_is_refused_whatever_will_do() -> None:
    for platforms in (1, 2):
        with pytest.raises(errors.ArchiveCorrupt, match="missing"):
            choose(
                [image(1, "a:1", platforms=platforms, missing=platforms)],
                Order(TARGET, allow_partial=True),
            )


def test_what_is_not_chosen_may_be_anything() -> None:
    images = [image(1, "a:1", missing=1), image(2, "b:2")]
    assert choose(images, Order(TARGET, ref="b:2"))[0].position == 1


def test_no_image_at_all() -> None:
    with pytest.raises(errors.ArchiveNoImage):
        choose([], Order(TARGET))


def test_a_strangers_names_are_escaped() -> None:
    with pytest.raises(errors.ArchiveNotChosen) as refused:
        choose([image(1, "a\x1b[2J:1")], Order(TARGET, ref="b\x1b:1"))
    assert refused.value.message.isprintable()
