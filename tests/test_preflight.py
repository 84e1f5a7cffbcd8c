"""What a registry says before a push, and where it may send us; every line is a real one."""

from __future__ import annotations

import socket
from pathlib import Path

import anyio
import pytest

from buildah import errors
from buildah.bases import Base, pull
from buildah.errors import BuildahError, RegistryElsewhere
from buildah.export import Wanted, export
from buildah.preflight import confine, preflight
from buildah.reference import ImageReference
from buildah.registry import Registries, Registry, resolve
from buildah.workspace import Workspace
from tests.failures import SickRegistry, check_words
from tests.harbor import (
    BEGIN,
    MAY_NOT_PUSH,
    PROJECT_MISSING,
    PROJECT_MISSING_401,
    READ_ONLY,
    Harbor,
    Saying,
)
from tests.pushing import JOB
from tests.registries import (
    PASSWORD,
    RunningRegistry,
    free_port,
    needs_containers,
    plain_registry,
    secure_registry,
    write_authfile,
)
from tests.token_server import TokenServer, serving_with_tokens

__all__ = ["plain_registry", "secure_registry"]

pytestmark = [needs_containers, pytest.mark.anyio]


def reference(row: Registry) -> ImageReference:
    return ImageReference.parse(f"{row.host}/team/app:v1")


async def refusal(row: Registry) -> BuildahError:
    with pytest.raises(BuildahError) as refused:
        await preflight(reference(row), row)
    check_words(refused.value, f"Asking whether one may push to {reference(row).name}: ")
    assert PASSWORD not in refused.value.message
    return refused.value


def begun_uploads(server: RunningRegistry) -> list[Path]:
    """Those that could be gone on with. (distribution 2.8 leaves an empty state file of others.)"""
    return list(server.storage.glob("**/_uploads/*/data"))


@pytest.mark.parametrize("fixture", ["plain_registry", "secure_registry"])
async def test_a_push_that_would_be_let_in_leaves_nothing(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    server: RunningRegistry = request.getfixturevalue(fixture)
    row = server.registry()
    await preflight(reference(row), row)
    assert begun_uploads(server) == []


async def test_without_tls_verification_it_is_still_tls(secure_registry: RunningRegistry) -> None:
    row = secure_registry.registry(ca_file=None, tls_verify=False)
    await preflight(reference(row), row)


async def test_what_is_wrong_is_said_by_its_class(
    secure_registry: RunningRegistry, plain_registry: RunningRegistry, tmp_path: Path
) -> None:
    secure = secure_registry.registry
    wrong = write_authfile(tmp_path / "wrong.json", secure_registry.host, password="wrong-one")
    no_certificate = tmp_path / "nonsense.crt"
    no_certificate.write_text("this is none")
    for row, kind, retryable in (
        (secure(authfile=wrong), errors.RegistryUnauthorized, False),
        (secure(authfile=None), errors.RegistryUnauthorized, False),
        (secure(ca_file=None), errors.RegistryUntrusted, False),
        (secure(ca_file=tmp_path / "none"), errors.RegistryUntrusted, False),
        (secure(ca_file=no_certificate), errors.RegistryUntrusted, False),
        (secure(plain_http=True), errors.RegistryUntrusted, False),
        (plain_registry.registry(plain_http=False), errors.RegistryUntrusted, False),
        (Registry("no-such-host.invalid"), errors.RegistryUnknownHost, False),
        (Registry(f"127.0.0.1:{free_port()}"), errors.RegistryUnreachable, True),
    ):
        error = await refusal(row)
        assert (type(error), error.retryable) == (kind, retryable), error.message


async def test_a_registry_that_is_silent_is_not_waited_for_longer_than_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        row = Registry(f"127.0.0.1:{silent.getsockname()[1]}", plain_http=True)
        with anyio.fail_after(20), pytest.raises(errors.RegistryUnreachable, match="within 1 s"):
            await preflight(reference(row), row, seconds=1)


async def test_who_speaks_no_http_is_no_registry() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        row = Registry(f"127.0.0.1:{listener.getsockname()[1]}", plain_http=True)

        def chat() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(1024)
                client.sendall(b"220 mail.test ESMTP\r\n")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, chat)
            assert type(await refusal(row)) is errors.RegistryUntrusted


HARBOR: dict[str, tuple[Saying, type[BuildahError], bool]] = {
    "project missing": (PROJECT_MISSING, errors.RegistryProjectMissing, False),
    "project missing, 401": (PROJECT_MISSING_401, errors.RegistryProjectMissing, False),
    "may not push": (MAY_NOT_PUSH, errors.RegistryForbidden, False),
    "read only": (READ_ONLY, errors.RegistryReadOnly, True),
    "read only, distribution": (
        Saying("POST", BEGIN, 405, '{"errors":[{"code":"UNSUPPORTED"}]}'),
        errors.RegistryReadOnly,
        True,
    ),
    "denied": (Saying("POST", BEGIN, 403, "nope"), errors.RegistryForbidden, False),
    "a proxy's limit": (Saying("POST", BEGIN, 413), errors.RegistryForbidden, False),
    "full": (Saying("POST", BEGIN, 507), errors.RegistryFull, False),
    "too busy": (Saying("POST", BEGIN, 429), errors.RegistryError, True),
    "sick": (Saying("POST", BEGIN, 503, "<html>\x1b[2J</html>"), errors.RegistryError, True),
    "nonsense": (Saying("POST", BEGIN, 202), errors.RegistryError, True),
    "no registry": (Saying("GET", "^/v2/$", 404, "<html>"), errors.RegistryForbidden, False),
    "starting": (Saying("GET", "^/v2/$", 503), errors.RegistryError, True),
    "in circles": (
        Saying("POST", BEGIN, 307, headers={"Location": "/v2/team/app/blobs/uploads/"}),
        errors.RegistryError,
        True,
    ),
}


@pytest.mark.parametrize("case", HARBOR)
async def test_what_harbor_answers_is_understood(
    case: str, plain_registry: RunningRegistry, tmp_path: Path
) -> None:
    saying, kind, retryable = HARBOR[case]
    with Harbor(plain_registry.port, saying) as front:
        authfile = write_authfile(tmp_path / "auth.json", front.host)
        error = await refusal(Registry(front.host, plain_http=True, authfile=authfile))
    assert (type(error), error.retryable) == (kind, retryable), error.message


async def test_an_answer_that_repeats_the_password_is_not_repeated(
    plain_registry: RunningRegistry, tmp_path: Path
) -> None:
    with Harbor(plain_registry.port, Saying("POST", BEGIN, 403, f"no {PASSWORD}!")) as front:
        authfile = write_authfile(tmp_path / "auth.json", front.host)
        assert (
            "no ***!"
            in (await refusal(Registry(front.host, plain_http=True, authfile=authfile))).message
        )


async def test_tokens(tmp_path: Path) -> None:
    with (
        TokenServer() as tokens,
        serving_with_tokens(tmp_path / "registry", tokens) as server,
    ):
        row = server.registry(trusted_hosts=(tokens.host,))
        await preflight(reference(row), row)
        assert tokens.asked[-1]["scope"] == ["repository:team/app:pull,push"]
        assert tokens.logins == [f"ci:{PASSWORD}"]
        tokens.may = {"pull"}
        assert type(await refusal(row)) is errors.RegistryForbidden
        wrong = write_authfile(tmp_path / "wrong.json", server.host, password="wrong-one")
        anonymous = server.registry(trusted_hosts=(tokens.host,), authfile=None)
        for other in (
            server.registry(trusted_hosts=(tokens.host,), authfile=wrong),
            anonymous,
        ):
            assert type(await refusal(other)) is errors.RegistryUnauthorized
        assert await resolve(reference(row), row) is None


async def test_a_token_server_elsewhere_gets_no_password(tmp_path: Path) -> None:
    with (
        TokenServer() as tokens,
        serving_with_tokens(tmp_path / "registry", tokens) as server,
    ):
        row = server.registry()
        for ask in (
            preflight(reference(row), row),
            confine("Pushing it", "team/app", row),
            resolve(reference(row), row),
        ):
            with pytest.raises(RegistryElsewhere) as refused:
                await ask
            assert not refused.value.retryable
            assert tokens.realm in refused.value.message
            assert "trusted_hosts" in refused.value.hint
        assert tokens.asked == []
        # Another configured registry is no stranger.
        known = Registries([row, Registry(tokens.host, plain_http=True)]).find(reference(row))
        await preflight(reference(row), known)


async def test_an_export_is_not_sent_elsewhere_either(tmp_path: Path) -> None:
    with (
        TokenServer() as tokens,
        serving_with_tokens(tmp_path / "registry", tokens) as server,
    ):
        row = server.registry()
        with pytest.raises(RegistryElsewhere):
            await export(
                reference(row),
                row,
                tmp_path / "image.tar",
                Wanted(),
                progress=lambda *_: None,
                log=lambda _: None,
            )
        assert tokens.asked == []


async def test_a_base_image_is_not_asked_for_elsewhere_either(tmp_path: Path) -> None:
    with (
        TokenServer() as tokens,
        serving_with_tokens(tmp_path / "registry", tokens) as server,
        Workspace.open(tmp_path / "jobs", JOB, storage_driver="vfs") as workspace,
    ):
        base = Base(f"{server.host}/team/base:1", "team/base", server.registry(), "linux/amd64")
        with pytest.raises(RegistryElsewhere):
            await pull(base, workspace, log=lambda _: None)
        assert tokens.asked == []


async def test_a_token_server_that_redirects_elsewhere(
    plain_registry: RunningRegistry, tmp_path: Path
) -> None:
    with (
        TokenServer() as tokens,
        serving_with_tokens(tmp_path / "registry", tokens) as server,
    ):
        tokens.redirect = f"http://{plain_registry.host}/token"
        row = server.registry(trusted_hosts=(tokens.host,))
        assert type(await refusal(row)) is RegistryElsewhere
        assert "GET /token" not in plain_registry.log


async def test_an_upload_that_would_go_elsewhere(plain_registry: RunningRegistry) -> None:
    with SickRegistry(202, "", at="PATCH") as other:
        away = {"Location": f"http://{other.host}/v2/team/app/blobs/uploads/1?_state=x"}
        for status in (202, 307):
            with Harbor(plain_registry.port, Saying("POST", BEGIN, status, "", away)) as front:
                row = Registry(front.host, plain_http=True)
                assert type(await refusal(row)) is RegistryElsewhere
                with pytest.raises(RegistryElsewhere) as refused:
                    await confine("Pushing it", "team/app", row)
                assert "_state" not in refused.value.message
                assert other.seen == []


async def test_a_manifest_that_is_elsewhere(plain_registry: RunningRegistry) -> None:
    away = {"Location": "http://169.254.169.254/latest/meta-data"}
    with Harbor(plain_registry.port, Saying("GET", "/manifests/", 307, "", away)) as front:
        row = Registry(front.host, plain_http=True)
        with pytest.raises(RegistryElsewhere, match=r"169\.254\.169\.254"):
            await resolve(reference(row), row)


async def test_credentials_do_not_follow_a_redirect_to_another_host(
    plain_registry: RunningRegistry, tmp_path: Path
) -> None:
    with Harbor(plain_registry.port) as storage:
        away = {"Location": f"http://{storage.host}/v2/team/app/manifests/v1"}
        challenge = Saying("GET", "^/v2/$", 401, "", {"WWW-Authenticate": 'Basic realm="x"'})
        saying = Saying("GET", "/manifests/", 307, "", away)
        with Harbor(plain_registry.port, challenge, saying) as front:
            row = Registry(
                front.host,
                plain_http=True,
                authfile=write_authfile(tmp_path / "auth.json", front.host),
                trusted_hosts=(storage.host,),
            )
            assert await resolve(reference(row), row) is None
            assert front.authorizations[-1].startswith("Basic ")
        assert storage.authorizations == [""]


async def test_what_confine_finds_wrong_otherwise_is_left_to_the_program(
    plain_registry: RunningRegistry,
) -> None:
    with Harbor(plain_registry.port, READ_ONLY) as front:
        row = Registry(front.host, plain_http=True)
        await confine("Pushing it", "team/app", row)
    with pytest.raises(errors.RegistryUnreachable, match="Pushing it: "):
        await confine("Pushing it", "team/app", row)


async def test_a_robot_account_has_a_dollar_in_its_name(tmp_path: Path) -> None:
    robot = "robot$team+ci"
    with (
        TokenServer(user=robot) as tokens,
        serving_with_tokens(tmp_path / "registry", tokens, user=robot) as server,
    ):
        row = server.registry(trusted_hosts=(tokens.host,))
        await preflight(reference(row), row)
        assert tokens.asked[-1]["account"] == [robot]
        assert tokens.logins == [f"{robot}:{PASSWORD}"]
