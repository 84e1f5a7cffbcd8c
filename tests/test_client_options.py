"""Where an option's value comes from, who is told what, and the manual of it all."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.live import COMMAND, ROOT, LiveServer, environment, free_port, run_tusboat
from tests.uploading import assert_kept, document, upload_id_of, write_archive

pytest_plugins = ("tests.client_fixtures",)

BEGIN, END = "<!-- manual: begin -->\n", "<!-- manual: end -->"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "small.tar", 1000)


def write_config(home: Path, text: str, mode: int = 0o600) -> Path:
    path = home / ".config" / "tusboat" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_typed_beats_environment_beats_file_beats_default(
    server: LiveServer, small: Path, home: Path
) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    write_config(home, f'server = "{server.url}"\ngive_up_after = 0.2\n')
    from_file = run_tusboat(home, "upload", str(small))
    assert_kept(from_file, server.url, small)
    from_environment = run_tusboat(home, "upload", str(small), env={"TUSBOAT_SERVER": nobody})
    assert from_environment.code == 1
    assert nobody in from_environment.stderr
    assert "gave up after 1 s" in from_environment.stderr, "the rest is the file's all the same"
    typed = run_tusboat(
        home, "upload", str(small), "--server", server.url, env={"TUSBOAT_SERVER": nobody}
    )
    assert_kept(typed, server.url, small)


def test_what_else_a_file_may_say(server: LiveServer, small: Path, home: Path) -> None:
    text = (
        f'server = "{server.url}"\nmd5 = false\nchunk_size = "1MiB"\nquiet = true\nparallel = 2\n'
    )
    config = write_config(home, text)
    kept = run_tusboat(home, "upload", str(small), "--no-wait")
    assert (kept.code, kept.stderr) == (0, ""), kept
    assert document(server.url, kept.stdout.strip())["filename"] == small.name
    other = home / "other.toml"
    config.rename(other)
    for arguments, env in (
        (("--client-config", str(other)), {}),
        ((), {"TUSBOAT_CLIENT_CONFIG": str(other)}),
        ((), {"XDG_CONFIG_HOME": str(home / "xdg")}),
    ):
        if "XDG_CONFIG_HOME" in env:
            (home / "xdg" / "tusboat").mkdir(parents=True)
            other.rename(home / "xdg" / "tusboat" / "config.toml")
        ran = run_tusboat(home, "upload", str(small), "--no-wait", *arguments, env=env)
        assert (ran.code, ran.stderr) == (0, ""), ran


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("server = ", "not valid TOML"),
        ('server = "tusboat.example"', "server: 'tusboat.example' is not an address"),
        ('sevrer = "http://127.0.0.1:1"', "no option is called sevrer"),
        ('image = "host.example/a:1"', "no option is called image"),
        ('chunk_size = "many"', "chunk_size"),
        ("parallel = 0", "parallel"),
        ('parallel = "two"', "parallel"),
        ("[server]\nurl = 1", "server is not a plain value"),
    ],
)
def test_a_wrong_file_is_refused_by_name(text: str, words: str, home: Path) -> None:
    config = write_config(home, text)
    (home / "a.tar").write_bytes(b"x")
    ran = run_tusboat(home, "upload", "a.tar", env={"COLUMNS": "1000"})
    assert (ran.code, ran.stdout) == (2, ""), ran
    assert str(config) in ran.stderr
    assert words in ran.stderr
    assert "Traceback" not in ran.stderr
    assert run_tusboat(home, "upload", "--help").code == 0, "help is there all the same"


def test_a_file_that_was_asked_for_has_to_be_there(home: Path) -> None:
    ran = run_tusboat(home, "status", "--client-config", "none.toml", env={"COLUMNS": "1000"})
    assert (ran.code, ran.stdout) == (2, "")
    assert "none.toml: there is no such file" in ran.stderr


def test_a_token_that_others_can_read_is_said_and_none_is_shown(
    server: LiveServer, home: Path
) -> None:
    text = f'server = "{server.url}"\ntoken = "s3cret"\n'
    for mode, warned in ((0o600, False), (0o640, True), (0o604, True), (0o400, False)):
        path = write_config(home, text, mode)
        ran = run_tusboat(home, "status", "--limit", "1")
        assert ran.code == 0, ran
        assert (f"chmod 600 {path}" in ran.stderr) == warned, mode
        assert "s3cret" not in ran.stdout + ran.stderr
        path.unlink()
    write_config(home, f'server = "{server.url}"\n', 0o644)
    assert "chmod" not in run_tusboat(home, "status", "--limit", "1").stderr
    write_config(home, text, 0o600)
    helped = run_tusboat(home, "upload", "--help")
    assert "s3cret" not in helped.stdout


def test_quiet_is_the_result_and_errors(server: LiveServer, small: Path, home: Path) -> None:
    ran = run_tusboat(home, "upload", str(small), "--server", server.url, "-q")
    assert (ran.code, ran.stdout, ran.stderr) == (0, "", "")
    failed = run_tusboat(home, "status", "0" * 32, "--server", server.url)
    assert (failed.code, failed.stdout) == (1, "")
    quiet = run_tusboat(home, "retry", "0" * 32, "--server", server.url, "-q")
    assert quiet.stderr == failed.stderr.replace("status", "retry")
    both = run_tusboat(home, "upload", str(small), "-q", "--json")
    assert (both.code, both.stdout) == (2, "")


def test_a_name_for_a_file(server: LiveServer, small: Path, home: Path) -> None:
    arguments = ("--server", server.url, "--name", "llm v1.tar")
    ran = run_tusboat(home, "upload", str(small), *arguments)
    assert ran.code == 0, ran
    assert document(server.url, upload_id_of(ran))["filename"] == "llm v1.tar"


def test_the_readme_has_the_manual(home: Path) -> None:
    """`tusboat manual` prints it."""
    printed = run_tusboat(home, "manual")
    readme = (ROOT / "server" / "client" / "README.md").read_text()
    assert readme.partition(BEGIN)[2].partition(END)[0].strip() == printed.stdout.strip()


def test_every_command_and_option_is_explained(home: Path) -> None:
    manual = run_tusboat(home, "manual").stdout
    rows = [line for line in manual.splitlines() if line.startswith("| `")]
    assert len(rows) > 40
    assert [row for row in rows if not row.split(" | ")[1].rstrip(" |").endswith(".")] == []


@pytest.fixture
def shell(tmp_path: Path) -> Path:
    """A directory for PATH with `tusboat` in it, as an installation has it."""
    program = tmp_path / "bin" / "tusboat"
    program.parent.mkdir()
    python, _, code = COMMAND
    program.write_text(f"#!{python}\nimport sys\nsys.argv[0] = 'tusboat'\n{code}\n")
    program.chmod(0o755)
    return program.parent


def in_bash(home: Path, shell: Path, script: str) -> str:
    environ = environment(home)
    environ["PATH"] = f"{shell}:{environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env=environ,
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done
    return done.stdout


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("tusboat up", {"upload"}),
        ("tusboat re", {"retry"}),
        ("tusboat upload --im", {"--image"}),
        ("tusboat upload --no-w", {"--no-wait"}),
    ],
)
def test_bash_completes(typed: str, completed: set[str], home: Path, shell: Path) -> None:
    words = " ".join(f"'{word}'" for word in typed.split())
    last = len(typed.split()) - 1
    script = (
        'eval "$(tusboat --show-completion)"\n'
        f"COMP_WORDS=({words}); COMP_CWORD={last}\n_tusboat_completion tusboat\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    assert set(in_bash(home, shell, script).split()) == completed


def test_bash_completion_is_installed_for_the_next_shell(home: Path, shell: Path) -> None:
    # With a command behind it, bash stays there and is found, whoever runs the tests.
    in_bash(home, shell, "tusboat --install-completion; exit $?")
    shown = in_bash(home, shell, 'source "$HOME/.bashrc"; complete -p tusboat')
    assert "_tusboat_completion" in shown


def test_other_commands_do_not_pay_for_sending(home: Path) -> None:
    words = "import sys, server.cli; print('tusclient' in sys.modules, 'aiohttp' in sys.modules)"
    done = subprocess.run(
        [COMMAND[0], "-c", words], env=environment(home), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]


def test_json_lines_hold_together(server: LiveServer, small: Path, home: Path) -> None:
    """In parts an upload has its id at the end; standard input has its length at the end."""
    large = write_archive(small.parent / "large.tar", 3 * 2**20)
    arguments = ("--server", server.url, "--json", "--parallel", "2")
    ran = run_tusboat(home, "upload", str(large), *arguments)
    assert (ran.code, ran.stderr) == (0, ""), ran
    events = [json.loads(line) for line in ran.stdout.splitlines()]
    [created] = [event for event in events if event["event"] == "created"]
    assert created["offset"] == created["length"] == 3 * 2**20
    assert events[-1]["upload"]["id"] == created["id"]
    assert {event["id"] for event in events if event["event"] == "upload"} <= {None, created["id"]}
