"""The chart: what it renders is valid, names meet each other, nothing is written twice."""

from __future__ import annotations

import json
import re
import runpy
import shutil
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from hooks import metrics
from tests.charts import (
    CHART,
    CI,
    EXAMPLES,
    NEWEST,
    Object,
    Rendered,
    helm,
    objects,
    one,
    renderings,
)
from tests.live import ROOT

GENERATOR = runpy.run_path(str(ROOT / ".ci" / "chart"))
SCHEMAS = ROOT / "tests" / "helm" / "schemas"
# Adds the objects that some values leave out.
TELLING = ("metrics.serviceMonitor.enabled=true", "networkPolicy.metricsFrom[0].podSelector.a=b")


# --- valid ---


def minded(values: Path, *assignments: str) -> list[str]:
    """What helm's lint has against the chart; a template that fails is but a remark to it."""
    sets = [word for one in assignments for word in ("--set", one)]
    done = helm("lint", "--strict", CHART, "--values", values, *sets)
    remarks = re.findall(r"\[INFO\] Fail: (.+)", done.stdout + done.stderr)
    return remarks if done.returncode == 0 else [*remarks, done.stdout + done.stderr]


@pytest.mark.parametrize("values", [*CI, *EXAMPLES], ids=lambda path: path.name)
def test_helm_lints_it(values: Path) -> None:
    # Before 3.14, lint takes Kubernetes for 1.25, where it goes on after this refusal.
    too_old = "and Kubernetes v1.25.0 has no user namespaces"
    assert [
        one for one in minded(values) if "userns" not in values.name or too_old not in one
    ] == []


def test_what_the_chart_refuses_is_no_remark_of_lint() -> None:
    (remark, *_) = minded(CHART / "ci" / "default-values.yaml", "web.replicas=2")
    assert "set worker.split=true" in remark


@pytest.mark.parametrize("rendered", renderings(), ids=str)
def test_kubernetes_takes_every_object(rendered: Rendered) -> None:
    found = rendered.objects()
    assert found
    names = [(each["kind"], each["metadata"]["name"]) for each in found]
    assert len(names) == len(set(names))
    for each in found:
        schema = SCHEMAS / f"{each['kind']}.json"
        if schema.exists():
            jsonschema.validate(each, json.loads(schema.read_text()))
        else:
            kubernetes_validate.validate(each, rendered.version, strict=True)


def test_the_newest_schemas_are_used() -> None:
    assert kubernetes_validate.latest_version() == f"{NEWEST}.0"


def test_a_schema_of_ours_refuses_what_the_chart_does_not_write() -> None:
    route = one(objects(CHART / "ci" / "httproute-values.yaml"), "HTTPRoute")
    schema = json.loads((SCHEMAS / "HTTPRoute.json").read_text())
    jsonschema.validate(route, schema)
    route["spec"]["rules"][0]["timeout"] = "0s"
    with pytest.raises(jsonschema.ValidationError, match="timeout"):
        jsonschema.validate(route, schema)


# --- names ---


@pytest.mark.parametrize(
    ("release", "override"),
    [("r" * 53, ""), (f"{'r' * 45}-a", ""), ("my.release", ""), ("rel", "f" * 46)],
)
def test_every_name_is_one_that_a_cluster_takes(release: str, override: str) -> None:
    found = objects(
        CHART / "ci" / "split-values.yaml",
        settings=(f"fullnameOverride={override}", *TELLING),
        release=release,
    )
    for each in found:
        name, kind = each["metadata"]["name"], each["kind"]
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
        # A controller gives its pods a label of its name, a hyphen and ten characters.
        assert len(name) <= (52 if kind == "StatefulSet" else 63), kind
        for value in each["metadata"]["labels"].values():
            assert re.fullmatch(r"[A-Za-z0-9]([-.\w]*[A-Za-z0-9])?", value)
            assert len(value) <= 63


def notes(directory: Path, *assignments: str) -> str:
    """What helm prints at the end: as an object, since only an installation prints it."""
    chart = directory / "tusboat"
    shutil.copytree(CHART, chart)
    printed = '{{ include (print $.Template.BasePath "/NOTES.txt") . | toJson }}'
    (chart / "templates" / "notes.yaml").write_text(f"kind: Notes\ntext: {printed}\n")
    found = objects(settings=assignments, chart=chart)
    return next(str(each["text"]) for each in found if each["kind"] == "Notes")


@pytest.mark.parametrize(
    ("assignments", "said", "not_said"),
    [
        ([], ["get secret rel-tusboat-tokens", "set tokens.existingSecret."], ["rollout restart"]),
        (["tokens.existingSecret=a"], ["rollout restart deployment/rel"], ["random", "get secret"]),
        (
            ["redis.mode=bundled"],
            ["set tokens.existingSecret and redis.bundled.existingSecret."],
            [],
        ),
    ],
    ids=str,
)
def test_the_notes_say_what_comes_next(
    assignments: list[str], said: list[str], not_said: list[str], tmp_path: Path
) -> None:
    text = notes(tmp_path, *assignments)
    assert [words for words in said if words not in text] == []
    assert [words for words in not_said if words in text] == []


# --- told once ---


def test_readme_and_schema_are_up_to_date() -> None:
    """`make chart` writes them."""
    assert (CHART / "README.md").read_text() == GENERATOR["readme"]()
    assert (CHART / "values.schema.json").read_text() == GENERATOR["schema"]()


def test_every_value_is_explained_and_known_to_the_schema() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    explained = {path for path, _, _ in GENERATOR["rows"]()}

    def walk(node: Object, described: Object, path: str) -> None:
        known = described["properties"]
        assert set(node) | {"global"} == set(known) | {"global"}, path
        for name, value in node.items():
            described_too = known[name].get("properties") and name not in ("settings", "resources")
            if isinstance(value, dict) and described_too:
                walk(value, known[name], f"{path}{name}.")
            else:
                assert f"{path}{name}" in explained, f"{path}{name}"

    walk(values, schema, "")


def test_rules_ask_for_metrics_that_there_are() -> None:
    rule = one(objects(CHART / "ci" / "everything-values.yaml"), "PrometheusRule")
    asked = set(re.findall(r"tusboat_\w+", json.dumps(rule["spec"])))
    read_when_asked = {"tusboat_free_bytes", "tusboat_queue_oldest_seconds", "tusboat_redis_up"}
    told = set(re.findall(r"tusboat_\w+", metrics.exposition()))
    assert len(asked) >= 6
    assert asked <= told | read_when_asked
    page = (ROOT / "server" / "metrics.py").read_text()
    assert all(f'"{name.removeprefix("tusboat_")}"' in page for name in read_when_asked)


# --- objects that need each other ---


@pytest.mark.parametrize("preset", ["nginx", "traefik", "haproxy", "apisix"])
def test_a_preset_says_what_lets_20_gb_through(preset: str) -> None:
    found = objects(CHART / "ci" / f"ingress-{preset}-values.yaml")
    annotations = one(found, "Ingress")["metadata"].get("annotations", {})
    words = json.dumps(annotations)
    expected = {
        "nginx": ['proxy-body-size": "0"', 'request-buffering": "off"', 'read-timeout": "3600"'],
        "traefik": [],
        "haproxy": ["timeout-server"],
        "apisix": ["plugin-config-name", 'upstream-read-timeout": "3600s"'],
    }[preset]
    assert [word for word in expected if word not in words] == []
    if preset == "apisix":
        plugins = one(found, "ApisixPluginConfig")["spec"]["plugins"]
        assert {each["name"]: each["config"] for each in plugins} == {
            "client-control": {"max_body_size": 0},
            "proxy-control": {"request_buffering": False},
        }


def test_an_annotation_of_a_person_wins_over_the_preset() -> None:
    name = "nginx.ingress.kubernetes.io/proxy-body-size"
    escaped = name.replace(".", "\\.")
    found = objects(
        CHART / "ci" / "ingress-nginx-values.yaml",
        settings=(f"ingress.annotations.{escaped}=64g",),
    )
    assert one(found, "Ingress")["metadata"]["annotations"][name] == "64g"


def test_names_meet_each_other() -> None:
    """Selectors find pods, claims and Secrets that are mounted are made, ports have names."""
    for values in CI:
        found = objects(values)
        made = {(each["kind"], each["metadata"]["name"]) for each in found}
        pods = [
            each["spec"]["template"]
            for each in found
            if each["kind"] in ("Deployment", "StatefulSet")
        ]
        for service in (each for each in found if each["kind"] == "Service"):
            wanted = service["spec"]["selector"].items()
            matched = [pod for pod in pods if wanted <= pod["metadata"]["labels"].items()]
            assert matched, service["metadata"]["name"]
            for port in service["spec"]["ports"]:
                names = {
                    each["name"]
                    for pod in matched
                    for container in pod["spec"]["containers"]
                    for each in container["ports"]
                }
                assert port["targetPort"] in names
        given = yaml.safe_load(values.read_text())
        theirs = set(re.findall(r"[\w-]+", json.dumps(given)))
        for pod in pods:
            for volume in pod["spec"]["volumes"]:
                if "secret" in volume:
                    name = volume["secret"]["secretName"]
                    assert ("Secret", name) in made or name in theirs
                if "persistentVolumeClaim" in volume:
                    name = volume["persistentVolumeClaim"]["claimName"]
                    assert ("PersistentVolumeClaim", name) in made or name in theirs
            mounted = {
                mount["name"]
                for each in pod["spec"]["containers"]
                for mount in each["volumeMounts"]
            }
            templates = {"data"}
            assert mounted <= {volume["name"] for volume in pod["spec"]["volumes"]} | templates
