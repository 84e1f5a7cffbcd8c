"""The chart: what it renders is valid, nothing is written twice, a pod may what it needs."""

from __future__ import annotations

import json
import re
import runpy
import shutil
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
    assert beta_profiles(old) == {"doctor": "unconfined", "tusboat": "unconfined"}
    assert beta_profiles(new) == {}
    for deployment, way in ((old, "exec"), (new, "sleep")):
        (container,) = pod_spec(deployment)["containers"]
        assert list(container["lifecycle"]["preStop"]) == [way]
    for container in (*pod_spec(new)["initContainers"], *pod_spec(new)["containers"]):
        assert container["securityContext"]["appArmorProfile"] == {"type": "Unconfined"}
    # Device nodes and builds were asked for; nothing else is added.
    added = set(container["securityContext"]["capabilities"]["add"])
    assert added - CAPABILITIES["rootful"] == {"MKNOD", "SETUID", "SETGID"}


def beta_profiles(deployment: Object) -> dict[str, str]:
    """AppArmor's profiles by container, as annotations."""
    prefix = "container.apparmor.security.beta.kubernetes.io/"
    annotations = deployment["spec"]["template"]["metadata"]["annotations"].items()
    return {
        name.removeprefix(prefix): value for name, value in annotations if name.startswith(prefix)
    }


@pytest.mark.parametrize("version", ["1.27", "1.33"])
def test_only_pods_that_mount_are_unconfined(version: str) -> None:
    split = CHART / "ci" / "split-values.yaml"
    for profile, of_servers in (("Unconfined", False), ("RuntimeDefault", True)):
        found = objects(split, settings=(f"worker.appArmor={profile}",), version=version)
        for name, expected in (("rel-tusboat", of_servers), ("worker", True)):
            deployment = one(found, "Deployment", name)
            (container,) = pod_spec(deployment)["containers"]
            has_field = "appArmorProfile" in container["securityContext"]
            assert (has_field or bool(beta_profiles(deployment))) == expected, name


def server_annotations(*assignments: str) -> Object:
    deployment = one(objects(settings=assignments), "Deployment")
    annotations: Object = deployment["spec"]["template"]["metadata"]["annotations"]
    return annotations


def test_a_caller_who_was_taken_away_is_gone_when_the_servers_are_new() -> None:
    callers = [
        f"tokens.callers[{index}].{field}"
        for index, name in enumerate(("anna", "boris"))
        for field in (f"name={name}", f"sha256={str(index) * 64}")
    ]
    both, again, one_left = map(
        lambda given: server_annotations(*given), (callers, callers, callers[:2])
    )
    assert both == again
    assert both["checksum/tokens"] != one_left["checksum/tokens"]
    # A random token is another one in each rendering without a cluster.
    assert "checksum/tokens" not in server_annotations()
    assert "checksum/tokens" not in server_annotations("tokens.existingSecret=mine")


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
