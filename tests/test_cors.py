"""Pages of other origins: only the configured ones, with every header of the protocols."""

from __future__ import annotations

from tests.conftest import Serve
from tests.raw import TUS, ask

CONSOLE = "https://console.example"


def preflight(port: int, origin: str, *headers: str) -> tuple[int, str | None, set[str]]:
    answer = ask(
        port,
        "OPTIONS",
        "/files/",
        {
            "Origin": origin,
            "Access-Control-Request-Method": "PATCH",
            "Access-Control-Request-Headers": ",".join(headers),
        },
    )
    allowed = answer.headers.get("access-control-allow-headers", "")
    names = {name.strip().lower() for name in allowed.split(",")}
    return answer.status, answer.headers.get("access-control-allow-origin"), names


def test_a_configured_origin_may_do_everything(serve: Serve) -> None:
    server = serve(cors_origins=[CONSOLE])
    wanted = ("authorization", "tus-resumable", "upload-offset", "upload-checksum", "repr-digest")
    status, origin, names = preflight(server.port, CONSOLE, *wanted)
    assert (status, origin) == (200, CONSOLE)
    assert set(wanted) <= names
    created = ask(server.port, "POST", "/files/", {**TUS, "Upload-Length": "1", "Origin": CONSOLE})
    assert created["Access-Control-Allow-Origin"] == CONSOLE
    exposed = {name.strip().lower() for name in created["Access-Control-Expose-Headers"].split(",")}
    assert {"location", "upload-offset", "tus-resumable", "upload-expires"} <= exposed
    # An error, too, can be read by the page.
    refused = ask(server.port, "HEAD", "/files/" + "0" * 32, {**TUS, "Origin": CONSOLE})
    assert (refused.status, refused["Access-Control-Allow-Origin"]) == (404, CONSOLE)
    assert "access-control-allow-credentials" not in refused.headers


def test_any_other_origin_may_do_nothing(serve: Serve) -> None:
    server = serve(cors_origins=[CONSOLE])
    status, origin, _ = preflight(server.port, "https://evil.example", "tus-resumable")
    assert (status, origin) == (400, None)
    for configured in (server, serve(data_dir=server.data_dir / "other")):
        headers = {**TUS, "Upload-Length": "1", "Origin": "https://evil.example"}
        created = ask(configured.port, "POST", "/files/", headers)
        assert "access-control-allow-origin" not in created.headers
