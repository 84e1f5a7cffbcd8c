"""The chart: what it renders is valid, nothing is written twice, a pod may what it needs."""

from __future__ import annotations

import json
import re
import runpy
import tomllib
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
    config,
    containers,
    helm,
    objects,
    one,
    pod_spec,
    renderings,
)
from tests.live import ROOT

GENERATOR = runpy.run_path(str(ROOT / ".ci" / "chart"))
SCHEMAS = ROOT / "tests" / "helm" / "schemas"
# Facts, measured in pods: what each mode needs, and not more.
CAPABILITIES = {
    "restricted": set(),
    "userns": {"SYS_ADMIN", "CHOWN", "DAC_OVERRIDE", "FOWNER", "SYS_CHROOT"},
    "rootful": {"SYS_ADMIN", "CHOWN", "DAC_OVERRIDE", "FOWNER", "SETFCAP", "SYS_CHROOT"},
    "vfs": {"CHOWN", "DAC_OVERRIDE", "FOWNER", "SYS_CHROOT"},
}
ENGINES = {
    "restricted": ("skopeo", "vfs"),
    "userns": ("buildah", "overlay"),
    "rootful": ("buildah", "overlay"),
    "vfs": ("buildah", "vfs"),
}


# --- valid ---


@pytest.mark.parametrize("values", [*CI, *EXAMPLES], ids=lambda path: path.name)
def test_helm_lints_it(values: Path) -> None:
    done = helm("lint", "--strict", CHART, "--values", values)
    # lint knows no --kube-version before 3.14, and takes an old one.
    refused = "has no user namespaces" in done.stdout and "userns" in values.name
    assert done.returncode == 0 or refused, done.stdout + done.stderr


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


# --- what a pod may ---


@pytest.mark.parametrize("mode", sorted(CAPABILITIES))
def test_a_mode_has_its_engine_and_exactly_its_privileges(mode: str) -> None:
    found = objects(settings=(f"worker.mode={mode}", "worker.vfsForSmallImages=true"))
    rendered = tomllib.loads(config(found))
    assert (rendered["engine"], rendered["storage_driver"]) == ENGINES[mode]
    deployment = one(found, "Deployment")
    (container,) = pod_spec(deployment)["containers"]
    security = container["securityContext"]
    assert security["capabilities"]["drop"] == ["ALL"]
    assert set(security["capabilities"].get("add", ())) == CAPABILITIES[mode]
    assert security["privileged"] is False
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert (security["runAsUser"] == 1000) == (mode == "restricted")
    assert pod_spec(deployment).get("hostUsers", True) == (mode != "userns")
    # The API server refuses it beside SYS_ADMIN.
    mounts = "SYS_ADMIN" in CAPABILITIES[mode]
    assert security.get("allowPrivilegeEscalation", True) == mounts


@pytest.mark.parametrize("mode", sorted(CAPABILITIES))
def test_a_doctor_looks_for_the_user_namespace_where_there_has_to_be_one(mode: str) -> None:
    assignments = (f"worker.mode={mode}", "worker.vfsForSmallImages=true", "worker.split=true")
    shared = ("persistence.accessModes={ReadWriteMany}", "redis.mode=bundled")
    found = objects(settings=(*assignments, *shared))
    doctors = [each for _, each in containers(found) if each["name"] == "doctor"]
    assert len(doctors) == 2
    for doctor in doctors:
        assert ("--user-namespace" in doctor["command"]) == (mode == "userns")


def test_servers_beside_workers_of_their_own_have_no_capability() -> None:
    found = objects(CHART / "ci" / "split-values.yaml")
    server, worker = (pod_spec(one(found, "Deployment", name)) for name in ("tusboat", "worker"))
    assert "add" not in server["containers"][0]["securityContext"]["capabilities"]
    assert worker["containers"][0]["securityContext"]["capabilities"]["add"]
    users = {each["containers"][0]["securityContext"]["runAsUser"] for each in (server, worker)}
    assert users == {0}
    assert [volume["name"] for volume in worker["volumes"]].count("tokens") == 0
    assert worker["terminationGracePeriodSeconds"] == 1800
    assert tomllib.loads(config(found))["worker_grace_seconds"] == 1770


@pytest.mark.parametrize("values", [*CI, *EXAMPLES], ids=lambda path: path.name)
def test_no_secret_is_in_the_clear_and_no_token_of_the_cluster_is_there(values: Path) -> None:
    found = objects(values)
    secrets = [each["stringData"] for each in found if each["kind"] == "Secret"]
    hidden = {text for data in secrets for name, text in data.items() if "toml" not in name}
    public = json.dumps([each for each in found if each["kind"] != "Secret"])
    assert not [text for text in hidden if text in public]
    for name, container in containers(found):
        for variable in container.get("env", ()):
            if re.search("PASSWORD|TOKEN", variable["name"]):
                assert "secretKeyRef" in variable["valueFrom"], name
    for each in found:
        if each["kind"] in ("Deployment", "StatefulSet", "Pod"):
            assert pod_spec(each)["automountServiceAccountToken"] is False


def test_every_container_has_limits_and_drops_everything() -> None:
    for values in CI:
        for name, container in containers(objects(values)):
            assert container["resources"]["limits"]["memory"], name
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"], name
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            assert container["image"].partition("/")[2], name


def test_older_kubernetes_gets_what_it_knows() -> None:
    rootful = CHART / "ci" / "rootful-values.yaml"
    old, new = (one(objects(rootful, version=v), "Deployment") for v in ("1.27", "1.30"))
    profile = {"container.apparmor.security.beta.kubernetes.io/tusboat": "unconfined"}
    assert profile.items() <= old["spec"]["template"]["metadata"]["annotations"].items()
    for deployment, way in ((old, "exec"), (new, "sleep")):
        (container,) = pod_spec(deployment)["containers"]
        assert list(container["lifecycle"]["preStop"]) == [way]
    (container,) = pod_spec(new)["containers"]
    assert container["securityContext"]["appArmorProfile"] == {"type": "Unconfined"}
    # Device nodes and builds were asked for; nothing else is added.
    added = set(container["securityContext"]["capabilities"]["add"])
    assert added - CAPABILITIES["rootful"] == {"MKNOD", "SETUID", "SETGID"}


def test_one_volume_is_left_before_the_next_pod_takes_it() -> None:
    alone = one(objects(), "Deployment")
    assert alone["spec"]["strategy"] == {"type": "Recreate"}
    several = one(objects(CHART / "ci" / "split-values.yaml"), "Deployment", "rel-tusboat")
    assert several["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


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
