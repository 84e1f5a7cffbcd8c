"""Settings: one row each, and nothing about them is written twice."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from server.settings import Settings
from server.settings_table import rows, table
from tests.live import COMMAND, ROOT, environment

BEGIN, END = "<!-- settings: begin -->\n", "<!-- settings: end -->"


def tusboat(tmp_path: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(tmp_path, **variables),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_readme_has_the_table() -> None:
    """`tusboat settings --markdown` prints it."""
    readme = (ROOT / "README.md").read_text()
    assert readme.partition(BEGIN)[2].partition(END)[0].strip() == table()


def test_every_row_is_explained() -> None:
    for row in rows():
        assert row.help.endswith("."), row
    assert [row.name for row in rows()] == list(Settings.model_fields)


def test_environment_beats_file_and_command_line_beats_both(tmp_path: Path) -> None:
    config = tmp_path / "tusboat.toml"
    config.write_text('port = 1111\nhost = "localhost"\n[[registries]]\nhost = "r.test:5000"\n')
    shown = tusboat(tmp_path, "settings", "--config", str(config), TUSBOAT_PORT="2222")
    assert shown.returncode == 0, shown
    assert "2222" in shown.stdout
    assert "1111" not in shown.stdout
    assert "localhost" in shown.stdout
    assert "r.test:5000" in shown.stdout


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("prot = 1", "prot"),
        ("port = 99999", "port"),
        ('storage_driver = "zfs"', "storage_driver"),
        ("[[registries]]\nhostname = 1", "registries.0.hostname"),
        ("port = ", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, text: str, complaint: str) -> None:
    config = tmp_path / "tusboat.toml"
    config.write_text(text)
    refused = tusboat(tmp_path, "settings", "--config", str(config))
    assert refused.returncode == 2
    assert complaint in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_misspelt_variable_is_refused(tmp_path: Path) -> None:
    refused = tusboat(tmp_path, "settings", TUSBOAT_PROT="1")
    assert refused.returncode == 2
    assert "TUSBOAT_PROT" in refused.stderr


def test_a_wrong_variable_is_refused(tmp_path: Path) -> None:
    refused = tusboat(tmp_path, "settings", TUSBOAT_REGISTRIES="not json")
    assert refused.returncode == 2
    assert "registries" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"TUSBOAT_DATA_DIR": "/dev/null/x"}, "data_dir /dev/null/x"),
        ({"TUSBOAT_REDIS_URL": "http://user:secret@host"}, "redis_url"),
        ({"TUSBOAT_REGISTRIES": '[{"host": "https://r.test/"}]'}, "registry 'https://r.test/'"),
        (
            {"TUSBOAT_REGISTRIES": '[{"host": "r.test", "trusted_hosts": ["s.test/x"]}]'},
            "registry 's.test/x'",
        ),
        ({"TUSBOAT_HOST": "203.0.113.7", "TUSBOAT_INSECURE_NO_AUTH": "true"}, "203.0.113.7"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_line(
    tmp_path: Path, variables: dict[str, str], complaint: str
) -> None:
    variables = {"TUSBOAT_DATA_DIR": str(tmp_path / "data"), "TUSBOAT_PORT": "0", **variables}
    refused = tusboat(tmp_path, "serve", **variables)
    assert refused.returncode == 2, refused
    assert complaint in refused.stderr
    assert "secret" not in refused.stderr
    assert "Traceback" not in refused.stderr
