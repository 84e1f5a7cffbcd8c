"""What a pod of the chart may, what it is told at its start, and how it makes room for the next."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from tests.charts import CHART, CI, EXAMPLES, Object, config, containers, objects, one, pod_spec

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
