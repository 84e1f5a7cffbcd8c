"""The chart's values and Tusboat's settings: each is said once, and the program takes them."""

from __future__ import annotations

import json
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from buildah.errors import RegistryElsewhere
from buildah.territory import Territory
from server.runtime import registries
from server.setting_types import LegacyDialectRow, RegistryRow
from server.settings import Settings, load
from tests.charts import CHART, CI, EXAMPLES, config, objects
from tests.live import ROOT

GENERATOR = runpy.run_path(str(ROOT / ".ci" / "chart"))
SCHEMA = json.loads((CHART / "values.schema.json").read_text())["properties"]
# Files of a row are ConfigMaps and Secrets in a cluster.
FILES = {"ca_file": "ca", "authfile": "auth"}


def loaded(values: Path, directory: Path) -> Settings:
    path = directory / "tusboat.toml"
    path.write_text(config(objects(values)))
    return load(path)


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def test_every_setting_is_the_charts_or_a_persons() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    theirs = set(schema["properties"]["settings"]["properties"])
    owned = set(GENERATOR["OWNED"])
    assert theirs | owned == set(Settings.model_fields)
    assert not theirs & owned
    rendered = tomllib.loads(config(objects(CHART / "ci" / "everything-values.yaml")))
    by_variable = {"host", "data_dir", "insecure_no_auth"}
    assert owned - by_variable - set(rendered) == set()


def test_a_row_of_a_registry_has_every_field_in_the_values() -> None:
    fields = {FILES.get(name) or camel(name) for name in RegistryRow.model_fields}
    assert set(SCHEMA["registries"]["items"]["properties"]) == fields
    comment = next(text for path, _, text in GENERATOR["rows"]() if path == "registries")
    assert [name for name in fields if name not in comment] == []


def test_a_row_of_a_dialect_has_every_field_in_the_schema() -> None:
    _, row = SCHEMA["settings"]["properties"]["legacy_dialects"]["items"]["anyOf"]
    assert set(row["properties"]) == set(LegacyDialectRow.model_fields)


def test_every_field_of_a_row_reaches_the_program(tmp_path: Path) -> None:
    """Also that each is in everything-values.yaml, away from its default."""
    settings = loaded(CHART / "ci" / "everything-values.yaml", tmp_path)
    for rows in (settings.registries, settings.legacy_dialects):
        usual = {name for row in rows for name in row.model_fields_set}
        silent = set(type(rows[0]).model_fields) - usual
        assert silent <= {"check", "chunk", "status"}
    assert settings.registries[0].trusted_hosts == ("tokens.example:8443",)
    assert [row.name for row in settings.legacy_dialects] == ["flow", "webuploader", "resumable"]
    assert settings.legacy_dialects[1].chunk_size == 5242880


def test_the_harbor_of_the_example_may_send_us_to_its_tokens(tmp_path: Path) -> None:
    settings = loaded(ROOT / "examples" / "kubernetes" / "harbor-values.yaml", tmp_path)
    (row,) = registries(settings)
    territory = Territory(row.host, plain_http=row.plain_http, trusted_hosts=row.trusted_hosts)
    realm = territory.follow("push", "its token server", "https://harbor.example/service/token")
    assert realm.host == "harbor.example"
    with pytest.raises(RegistryElsewhere):
        territory.follow("push", "its token server", "https://elsewhere.example/service/token")


@pytest.mark.parametrize("values", [*CI, *EXAMPLES], ids=lambda path: path.name)
def test_tusboat_takes_the_settings(values: Path, tmp_path: Path) -> None:
    settings = loaded(values, tmp_path)
    given = yaml.safe_load(values.read_text()).get("settings", {})
    for name, value in given.items():
        found = getattr(settings, name)
        shown = list(map(told, found)) if isinstance(found, tuple) else found
        assert shown == ([*map(as_row, value)] if name in GENERATOR["NAMED_ROWS"] else value), name
    assert len(settings.registries) == len(yaml.safe_load(values.read_text()).get("registries", []))


def told(item: Any) -> Any:
    """One item of a list as a person would have written it."""
    if isinstance(item, LegacyDialectRow):
        return item.model_dump(exclude_unset=True)
    return str(item)


def as_row(item: Any) -> Any:
    """What a name stands for; what is null was not said."""
    if isinstance(item, str):
        return {"name": item}
    return {name: value for name, value in item.items() if value is not None}
