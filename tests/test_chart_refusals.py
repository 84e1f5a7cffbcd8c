"""What the chart refuses: each combination that cannot work, with what to do instead, and typos."""

from __future__ import annotations

import re

import pytest

from server.settings import Settings
from tests.charts import CHART, objects, template

SHARED = "persistence.accessModes={ReadWriteMany}"
BUNDLED = "redis.mode=bundled"
POLICY = "networkPolicy.enabled=true"
REFUSALS = [
    (["web.replicas=2"], "set worker.split=true"),
    (["worker.split=true", BUNDLED], "persistence.accessModes={ReadWriteMany}"),
    (["worker.split=true", SHARED], "redis.mode=bundled"),
    (["redis.mode=external"], "redis.external.existingSecret"),
    (
        ["redis.mode=external", "redis.external.existingSecret=a", "redis.external.url=redis://b"],
        "not both",
    ),
    (["redis.mode=external", "redis.external.url=redis://:secret@redis"], "put the URL into a"),
    (
        ["redis.mode=external", "redis.external.url=rediss://redis:6380/0?ssl=1&password=secret"],
        "put the URL into a",
    ),
    (["redis.external.existingSecret=a"], "set redis.mode=external"),
    ([BUNDLED, "redis.external.url=redis://redis"], "set redis.mode=external"),
    (["redis.bundled.existingSecret=a"], "set redis.mode=bundled"),
    (["scratch.type=hostPath", "scratch.hostPath=/a"], "scratch.type=emptyDir or ephemeral"),
    (
        [
            "worker.mode=vfs",
            "worker.vfsForSmallImages=true",
            "scratch.type=hostPath",
            "scratch.hostPath=/a",
        ],
        "scratch.type=emptyDir or ephemeral",
    ),
    (["worker.mode=userns", "persistence.storageClass=efs-sc"], "worker.mode=restricted"),
    (["worker.mode=userns", "persistence.storageClass=nfs-client"], "worker.mode=restricted"),
    (["worker.mode=userns", "persistence.nfs=true"], "worker.mode=restricted"),
    (["worker.mode=userns", "doctor.enabled=false"], "doctor.enabled=true"),
    (["worker.mode=rootful", "persistence.nfs=true", "scratch.type=uploads"], "emptyDir"),
    (
        ["worker.mode=rootful", "scratch.type=ephemeral", "scratch.storageClass=fast-nfs"],
        "scratch.type=emptyDir",
    ),
    (["worker.mode=vfs"], "worker.vfsForSmallImages=true"),
    (["settings.builds=true"], "use worker.mode=rootful"),
    (["settings.builds=true", "worker.mode=userns"], "use worker.mode=rootful"),
    (["worker.deviceNodes=true"], "worker.mode=rootful only"),
    (["persistence.storageClass=csi-s3"], "object storage"),
    (["scratch.type=ephemeral", "scratch.storageClass=minio"], "object storage"),
    (["scratch.type=ephemeral", "scratch.storageClass=gcsfuse-standard"], "object storage"),
    (["scratch.type=hostPath"], "scratch.hostPath"),
    (["scratch.type=claim"], "scratch.existingClaim"),
    (
        [
            "scratch.type=claim",
            "scratch.existingClaim=a",
            "worker.split=true",
            BUNDLED,
            SHARED,
        ],
        "scratch.type=ephemeral",
    ),
    (["ingress.enabled=true"], "ingress.hosts"),
    (["httpRoute.enabled=true"], "httpRoute.parentRefs"),
    (["registries[0].host=a.test", "registries[1].host=a.test"], "a.test is there twice"),
    (
        [
            "tokens.existingSecret=a",
            "tokens.callers[0].name=b",
            f"tokens.callers[0].sha256={'0' * 64}",
        ],
        "not in both",
    ),
    (["tokens.key=token"], "leave it at tokens.toml"),
    (["metrics.port=8080"], "such as 9090"),
    (["metrics.rules.enabled=true"], "metrics.serviceMonitor.enabled=true"),
    (["podLabels.zone=a", "commonLabels.zone=b"], "say it once"),
    ([r"podAnnotations.checksum/config=a"], "leave it out"),
    ([r"persistence.annotations.helm\.sh/resource-policy=keep"], "persistence.keep"),
    (["extraEnv[0].name=TUSBOAT_PORT", "extraEnv[0].value=81"], "use `settings`"),
    (["extraEnv[0].name=REDIS_PASSWORD", "extraEnv[0].value=a"], "use `settings`"),
    ([POLICY, "registries[0].host=a.test"], "networkPolicy.registries"),
    (
        [POLICY, "redis.mode=external", "redis.external.existingSecret=a"],
        "networkPolicy.redis",
    ),
    ([POLICY, "metrics.serviceMonitor.enabled=true"], "networkPolicy.metricsFrom"),
]
POD_LABELS = ("commonLabels", "podLabels")
MONITOR_LABELS = ("metrics.serviceMonitor.labels", "metrics.rules.labels")
LABELLED = [
    *(
        (f"{value}.{label}=a", label.replace("\\", ""))
        for value in (*POD_LABELS, *MONITOR_LABELS)
        for label in (r"app\.kubernetes\.io/name", r"helm\.sh/chart")
    ),
    *((f"{value}.metrics=a", "metrics") for value in POD_LABELS),
]
TYPOS = [
    ("worker.mod=vfs", "mod"),
    ("worker.mode=rootless", "worker.mode"),
    ("settings.prot=1", "prot"),
    ("settings.port=81", "port"),
    ("settings.insecure_no_auth=true", "insecure_no_auth"),
    ("settings.compression=xz", "compression"),
    ("settings.sweep_minutes=soon", "sweep_minutes"),
    ("settings.legacy_dialects={flo}", "legacy_dialects"),
    ("registries[0].hostname=a.test", "hostname"),
    ("registries[0].host=https://a.test", "registries.0.host"),
    ("persistence.accessModes={ReadOnlyMany}", "accessModes"),
    ("persistence.size=large", "persistence.size"),
    ("redis.external.url=http://redis", "redis.external.url"),
    ("tokens.callers[0].name=a", "sha256"),
    ("replicas=2", "replicas"),
    ("web.replicas=0", "web.replicas"),
    ("ingress.preset=caddy", "ingress.preset"),
    ("fullnameOverride=Uploads", "fullnameOverride"),
    ("fullnameOverride=up.loads", "fullnameOverride"),
    ("fullnameOverride=1st", "fullnameOverride"),
    (f"fullnameOverride={'a' * 47}", "fullnameOverride"),
    ("nameOverride=-uploads", "nameOverride"),
    ("networkPolicy.redisPort=70000", "redisPort"),
]


@pytest.mark.parametrize(("assignments", "hint"), REFUSALS, ids=lambda one: str(one)[:50])
def test_what_cannot_work_is_refused_with_what_to_do(assignments: list[str], hint: str) -> None:
    done = template(settings=tuple(assignments))
    assert done.returncode != 0
    assert hint in done.stderr
    assert done.stdout == ""
    # A sentence of ours, not one of the template engine's.
    assert "nil pointer" not in done.stderr
    assert "secret@" not in done.stderr


def test_every_refusal_is_tested() -> None:
    files = (CHART / "templates").glob("_guards*.tpl")
    texts = [text for path in files for text in re.findall(r"fail (.+) -}}", path.read_text())]
    said = "\n".join(
        template(settings=tuple(given)).stderr for given, _ in [*REFUSALS, ([LABELLED[0][0]], "")]
    )
    below = ("has no user namespaces", "would be the name of all objects")
    silent = [text for text in texts if longest_words(text) not in said]
    assert len(texts) > 30
    assert [text for text in silent if not any(words in text for words in below)] == []


def longest_words(text: str) -> str:
    """Of a sentence in a template, the longest piece that is said as it is written."""
    (sentence,) = re.findall(r'"((?:[^"\\]|\\.)*)"', text)[:1]
    return max(re.split(r"%\w", sentence), key=len)


@pytest.mark.parametrize(("assignment", "label"), LABELLED, ids=str)
def test_a_label_of_the_chart_is_not_given_twice(assignment: str, label: str) -> None:
    done = template(settings=(assignment,))
    assert done.returncode != 0
    assert f"{label} is a label of the chart" in done.stderr


def test_another_label_of_that_kind_is_taken() -> None:
    label = "app.kubernetes.io/part-of"
    escaped = label.replace(".", "\\.")
    for found in objects(settings=(f"commonLabels.{escaped}=registry",)):
        assert found["metadata"]["labels"][label] == "registry"
    objects(settings=("metrics.serviceMonitor.labels.metrics=scraped",))


@pytest.mark.parametrize("release", ["1st", "0"])
def test_a_release_whose_name_no_service_can_have_is_refused(release: str) -> None:
    done = template(release=release)
    assert done.returncode != 0
    assert "set fullnameOverride" in done.stderr


def test_an_old_kubernetes_has_no_user_namespaces() -> None:
    done = template(settings=("worker.mode=userns",), version="1.29")
    assert done.returncode != 0
    assert "use 1.30 or later" in done.stderr
    done = template(version="1.26")
    assert done.returncode != 0
    assert "incompatible with Kubernetes" in done.stderr


OBJECT_STORAGE = [
    "csi-s3",
    "s3fs",
    "minio",
    "gcsfuse-standard",
    "azureblob-fuse-premium",
    "azureblob-nfs-premium",
    "blobfuse",
    "csi-obs",
    "obsfs",
    "alicloud-oss",
    "object-storage",
    "objectstorage",
    "juicefs-sc",
    "cosfs",
    "csi-cos",
    "my-bucket",
    "rclone",
]
BLOCK_OR_FILE = [
    "directpv-min-io",
    "minio-local",
    "local-path",
    "cephfs",
    "longhorn",
    "gp3",
    "premium-rwx",
    "azurefile-csi",
    "cost-saver",
    "boss-disk",
    "obsidian-ssd",
    "ebs-sc",
    "managed-csi",
    "openebs-hostpath",
    "nfs-client",
    "efs-sc",
    "alicloud-disk-essd",
]


@pytest.mark.parametrize("name", OBJECT_STORAGE)
@pytest.mark.parametrize("value", ["persistence", "scratch", "redis.bundled"])
def test_a_class_that_looks_like_object_storage_is_refused(value: str, name: str) -> None:
    done = template(settings=(f"{value}.storageClass={name}",))
    assert done.returncode != 0
    assert f"{value}.storageClass" in done.stderr
    assert "object storage" in done.stderr


@pytest.mark.parametrize("name", BLOCK_OR_FILE)
def test_a_class_of_block_or_file_storage_is_taken(name: str) -> None:
    """Also what local disks of MinIO are called."""
    values = ("persistence", "scratch", "redis.bundled")
    objects(settings=tuple(f"{value}.storageClass={name}" for value in values))


@pytest.mark.parametrize("setting", sorted(set(Settings.model_fields)))
def test_no_setting_is_set_past_the_values(setting: str) -> None:
    name = f"TUSBOAT_{setting.upper()}"
    done = template(settings=(f"extraEnv[0].name={name}", "extraEnv[0].value=1"))
    assert done.returncode != 0
    assert f"extraEnv: {name}" in done.stderr


@pytest.mark.parametrize(("assignment", "name"), TYPOS, ids=str)
def test_a_typo_is_refused_by_name(assignment: str, name: str) -> None:
    done = template(settings=(assignment,))
    assert done.returncode != 0
    assert name in done.stderr
    assert "schema" in done.stderr
