"""`GET /api/destinations`: where a sender may write, and nothing that is none of their business."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.conftest import Serve
from tests.raw import ask


def test_what_a_caller_is_told(serve: Serve, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    digest = hashlib.sha256(b"anna's").hexdigest()
    tokens.write_text(
        f'[[token]]\nname = "anna"\nsha256 = "{digest}"\nrepositories = ["a.example/llm/*"]\n'
    )
    authfile = tmp_path / "auth.json"
    authfile.write_text("{}")
    rows = [{"host": "A.example", "repositories": ["llm/*"], "authfile": str(authfile)}]
    server = serve(registries=rows, tokens_file=tokens, default_repository="a.example/llm/")
    assert ask(server.port, "GET", "/api/destinations").status == 401
    answer = ask(server.port, "GET", "/api/destinations", {"Authorization": "Bearer anna's"})
    assert answer.problem == {
        "caller": "anna",
        "repositories": ["a.example/llm/*"],
        "registries": [{"host": "a.example", "repositories": ["llm/*"]}],
        "default_repository": "a.example/llm",
    }
    assert b"auth.json" not in answer.body


def test_without_callers_everyone_is_local(serve: Serve) -> None:
    answer = ask(serve().port, "GET", "/api/destinations")
    assert answer.problem == {
        "caller": "local",
        "repositories": ["*"],
        "registries": [],
        "default_repository": "",
    }
