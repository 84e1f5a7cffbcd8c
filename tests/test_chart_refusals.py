"""What the chart refuses: each combination that cannot work, with what to do instead, and typos."""

from __future__ import annotations

import pytest

from tests.charts import CHART, objects, template

SHARED = "persistence.accessModes={ReadWriteMany}"
BUNDLED = "redis.mode=bundled"
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
    written = (CHART / "templates" / "_guards.tpl").read_text().count("fail ")
    assert len(REFUSALS) >= written


def test_an_old_kubernetes_has_no_user_namespaces() -> None:
    done = template(settings=("worker.mode=userns",), version="1.29")
    assert done.returncode != 0
    assert "use 1.30 or later" in done.stderr
    done = template(version="1.26")
    assert done.returncode != 0
    assert "incompatible with Kubernetes" in done.stderr


def test_local_disks_of_minio_are_no_object_storage() -> None:
    objects(settings=("persistence.storageClass=directpv-min-io",))


@pytest.mark.parametrize(("assignment", "name"), TYPOS, ids=str)
def test_a_typo_is_refused_by_name(assignment: str, name: str) -> None:
    done = template(settings=(assignment,))
    assert done.returncode != 0
    assert name in done.stderr
    assert "schema" in done.stderr
