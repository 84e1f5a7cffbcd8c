"""Logs for machines: every line of a server's life is one JSON object."""

from __future__ import annotations

import json

from tests.conftest import Serve
from tests.raw import OCTETS, TUS, Raw, ask, metadata


def test_every_line_is_an_object_with_time_level_logger_and_event(serve: Serve) -> None:
    server = serve(log_format="json")
    made = {**TUS, "Upload-Length": "4", **metadata(filename="a\nb \u2028.tar")}
    path = ask(server.port, "POST", "/files/", made)["Location"]
    assert ask(server.port, "PATCH", path, {**TUS, **OCTETS, "Upload-Offset": "0"}, b"1234")
    ask(server.port, "GET", "/nowhere")
    with Raw(server.port) as raw:
        raw.send(b"nonsense\r\n\r\n")
        raw.socket.recv(1000)
    server.stop()
    lines = [json.loads(line) for line in server.log_path.read_text().splitlines()]
    assert len(lines) >= 3
    for line in lines:
        assert {"time", "level", "logger", "event"} <= set(line)
    serves = next(line for line in lines if line["event"] == "tusboat serves")
    assert serves["url"] == server.url
    created = next(line for line in lines if line["event"] == "upload created")
    assert (created["upload_id"], created["length"]) == (path.rpartition("/")[2], 4)


def test_every_process_of_a_server_does_so(serve: Serve) -> None:
    server = serve(log_format="json", workers=2)
    server.stop()
    for line in server.log_path.read_text().splitlines():
        json.loads(line)
