"""Who reaches whom: policies, Services, routes, monitors, budgets, and the pods they mean."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.charts import CHART, CI, EXAMPLES, Object, objects, one

EVERYTHING = CHART / "ci" / "everything-values.yaml"
SPLIT = CHART / "ci" / "split-values.yaml"
REPLICAS = next(path for path in EXAMPLES if path.name == "replicas-values.yaml")
HARBOR = next(path for path in EXAMPLES if path.name == "harbor-values.yaml")
POLICY = "networkPolicy.enabled=true"
REGISTRIES = "networkPolicy.registries[0].ipBlock.cidr=192.0.2.0/24"
REDIS = "networkPolicy.redis[0].ipBlock.cidr=192.0.2.9/32"


def pods(found: list[Object]) -> dict[str, Object]:
    """Every pod by its component, each with labels and containers."""
    workloads = [each for each in found if each["kind"] in ("Deployment", "StatefulSet")]
    templates = [each["spec"]["template"] for each in workloads]
    templates += [each for each in found if each["kind"] == "Pod"]
    return {each["metadata"]["labels"]["app.kubernetes.io/component"]: each for each in templates}


def matched(selector: Object, found: list[Object]) -> set[str]:
    """Components of the pods that a selector finds; `{}` finds all."""
    assert set(selector) <= {"matchLabels"}
    wanted = selector.get("matchLabels", {}).items()
    every = pods(found).items()
    return {name for name, pod in every if wanted <= pod["metadata"]["labels"].items()}


def port_numbers(rule: Object, pod: Object) -> set[int]:
    """Ports of a policy's rule, with their names looked up in the pod."""
    named = {
        port["name"]: port["containerPort"]
        for container in pod["spec"]["containers"]
        for port in container["ports"]
    }
    return {named.get(port["port"], port["port"]) for port in rule["ports"]}


def policy(found: list[Object], name: str = "tusboat") -> Object:
    spec: Object = one(found, "NetworkPolicy", name)["spec"]
    return spec


def egress(*values: Path, settings: tuple[str, ...] = ()) -> dict[tuple[int, ...], Any]:
    """Where pods may go: peers by ports; None is anywhere."""
    found = objects(*values, settings=settings)
    name = "uploads" if EVERYTHING in values else "tusboat"
    return {
        tuple(port["port"] for port in rule["ports"]): rule.get("to")
        for rule in policy(found, name)["egress"]
    }


# --- policies ---


def test_a_policy_holds_the_pods_that_work_and_the_bundled_redis() -> None:
    found = objects(SPLIT)
    assert matched(policy(found)["podSelector"], found) == {"server", "worker"}
    of_redis = policy(found, "-redis")
    assert matched(of_redis["podSelector"], found) == {"redis"}
    for spec in (policy(found), of_redis):
        assert spec["policyTypes"] == ["Ingress", "Egress"]


def test_only_what_works_reaches_the_bundled_redis_and_it_reaches_nobody() -> None:
    found = objects(SPLIT)
    of_redis = policy(found, "-redis")
    (rule,) = of_redis["ingress"]
    assert port_numbers(rule, pods(found)["redis"]) == {6379}
    assert [matched(peer["podSelector"], found) for peer in rule["from"]] == [{"server", "worker"}]
    assert of_redis["egress"] == []
    ports = egress(SPLIT)
    (peer,) = ports[(6379,)]
    assert matched(peer["podSelector"], found) == {"redis"}


def test_everyone_or_who_is_named_reaches_the_server_and_helm_test_always() -> None:
    web, metrics = policy(objects(SPLIT))["ingress"]
    assert "from" not in web
    assert metrics["from"] == [{"podSelector": {}}]
    found = objects(EVERYTHING)
    web, metrics = policy(found, "uploads")["ingress"]
    server = pods(found)["server"]
    assert port_numbers(web, server) == {8080}
    assert port_numbers(metrics, server) == {9090}
    theirs, ours = web["from"]
    assert theirs["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "ingress"}
    assert matched(ours["podSelector"], found) == {"test"}
    (prometheus,) = metrics["from"]
    assert "monitoring" in str(prometheus)


def test_without_a_pod_of_helm_test_nobody_stands_beside_who_is_named() -> None:
    peers = ("networkPolicy.from[0].podSelector.matchLabels.a=b", "tokens.existingSecret=mine")
    found = objects(settings=(POLICY, *peers))
    assert policy(found)["ingress"][0]["from"] == [{"podSelector": {"matchLabels": {"a": "b"}}}]


def test_without_registries_and_redis_only_names_are_asked_for() -> None:
    assert egress(settings=(POLICY,)) == {(53, 53): None}


@pytest.mark.parametrize("values", [*CI, *EXAMPLES], ids=lambda path: path.name)
def test_nothing_but_names_is_asked_for_anywhere(values: Path) -> None:
    for each in objects(values):
        if each["kind"] == "NetworkPolicy":
            for rule in each["spec"]["egress"]:
                assert rule.get("to") or {port["port"] for port in rule["ports"]} == {53}
            assert "0.0.0.0/0" not in str(each)


REGISTRY_PORTS = [
    (["registries[0].host=a.test"], {443}),
    (["registries[0].host=a.test:5000"], {5000}),
    (["registries[0].host=a.test", "registries[0].plainHttp=true"], {80}),
    (["registries[0].host=[2001:db8::1]"], {443}),
    (["registries[0].host=[2001:db8::1]:5000"], {5000}),
    (["registries[0].host=a.test", "registries[1].host=b.test:8443"], {443, 8443}),
    (
        ["registries[0].host=a.test:5000", "registries[0].trustedHosts={t.test,s.test:9000}"],
        {5000, 443, 9000},
    ),
    (["registries[0].host=a.test", "networkPolicy.registryPorts={8443}"], {8443}),
]


@pytest.mark.parametrize(("assignments", "ports"), REGISTRY_PORTS, ids=str)
def test_the_ports_of_registries_are_open(assignments: list[str], ports: set[int]) -> None:
    rules = egress(settings=(POLICY, REGISTRIES, *assignments))
    del rules[(53, 53)]
    ((found, peers),) = rules.items()
    assert set(found) == ports
    assert peers == [{"ipBlock": {"cidr": "192.0.2.0/24"}}]


REDIS_PORTS = [
    ("redis.external.url=redis://redis.test", "", 6379),
    ("redis.external.url=rediss://redis.test:6380/3", "", 6380),
    ("redis.external.url=redis://[2001:db8::1]:7000", "", 7000),
    ("redis.external.existingSecret=redis", "", 6379),
    ("redis.external.existingSecret=redis", "networkPolicy.redisPort=6390", 6390),
    ("redis.external.url=redis://redis.test:6380", "networkPolicy.redisPort=6390", 6390),
]


@pytest.mark.parametrize(("where", "said", "port"), REDIS_PORTS, ids=str)
def test_the_port_of_an_external_redis_is_open(where: str, said: str, port: int) -> None:
    given = [POLICY, REDIS, "redis.mode=external", where, said]
    rules = egress(settings=tuple(one for one in given if one))
    assert rules == {(53, 53): None, (port,): [{"ipBlock": {"cidr": "192.0.2.9/32"}}]}


def test_the_example_opens_what_is_behind_harbors_services() -> None:
    assert set(egress(HARBOR)) == {(53, 53), (8443, 443)}


# --- Services and ways in ---


@pytest.mark.parametrize("values", [EVERYTHING, SPLIT, REPLICAS], ids=lambda path: path.name)
def test_the_service_is_of_servers_and_the_metrics_are_of_all(values: Path) -> None:
    found = objects(values)
    services = [each for each in found if each["kind"] == "Service"]
    reached = {
        each["metadata"]["labels"]["app.kubernetes.io/component"]: matched(
            {"matchLabels": each["spec"]["selector"]}, found
        )
        for each in services
    }
    assert reached["server"] == {"server"}
    assert reached["metrics"] == set(pods(found)) - {"redis", "test"}
    assert reached.get("redis", {"redis"}) == {"redis"}


def test_ways_in_end_at_the_service_of_servers_without_time_limits() -> None:
    found = objects(EVERYTHING)
    service = one(found, "Service", "uploads")
    (port,) = service["spec"]["ports"]
    ingress = one(found, "Ingress")["spec"]
    assert [rule["host"] for rule in ingress["rules"]] == ["tusboat.example", "uploads.example"]
    for rule in ingress["rules"]:
        (path,) = rule["http"]["paths"]
        assert (path["path"], path["pathType"]) == ("/", "Prefix")
        backend = path["backend"]["service"]
        assert backend == {"name": service["metadata"]["name"], "port": {"name": port["name"]}}
    (rule,) = one(found, "HTTPRoute")["spec"]["rules"]
    assert rule["backendRefs"] == [{"name": service["metadata"]["name"], "port": port["port"]}]
    assert port["port"] == 80
    assert rule["timeouts"] == {"request": "0s", "backendRequest": "0s"}
    assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": "/"}}]


# --- budgets and monitors ---


@pytest.mark.parametrize("values", [SPLIT, REPLICAS], ids=lambda path: path.name)
def test_each_deployment_of_several_pods_has_a_budget(values: Path) -> None:
    found = objects(values)
    budgets = [each["spec"] for each in found if each["kind"] == "PodDisruptionBudget"]
    assert [matched(each["selector"], found) for each in budgets] == [{"server"}, {"worker"}]
    assert [each["maxUnavailable"] for each in budgets] == [1, 1]


def test_one_pod_has_no_budget() -> None:
    assert not [each for each in objects() if each["kind"] == "PodDisruptionBudget"]


@pytest.mark.parametrize("values", [EVERYTHING, REPLICAS], ids=lambda path: path.name)
def test_the_monitor_finds_the_service_of_metrics_and_its_port(values: Path) -> None:
    found = objects(values)
    monitor = one(found, "ServiceMonitor")["spec"]
    wanted = monitor["selector"]["matchLabels"].items()
    services = [each for each in found if each["kind"] == "Service"]
    (service,) = [each for each in services if wanted <= each["metadata"]["labels"].items()]
    assert service["metadata"]["name"].endswith("-metrics")
    (endpoint,), (port,) = monitor["endpoints"], service["spec"]["ports"]
    assert endpoint["port"] == port["name"]
    expressions = [rule["expr"] for rule in alerts(found).values()]
    asked = {name for each in expressions for name in re.findall(r'service="([^"]+)"', each)}
    assert asked == {service["metadata"]["name"]}


def alerts(found: list[Object]) -> dict[str, Object]:
    (group,) = one(found, "PrometheusRule")["spec"]["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def test_an_alert_sees_that_servers_are_away_though_workers_are_there() -> None:
    """Workers tell every family of metrics: only a label of the pod tells them apart."""
    found = objects(REPLICAS)
    (label,) = one(found, "ServiceMonitor")["spec"]["podTargetLabels"]
    # As Prometheus writes the name of a label.
    name = re.sub(r"\W", "_", label)
    for alert, component in (("TusboatAway", "server"), ("TusboatWorkersAway", "worker")):
        assert f'{name}="{component}"' in alerts(found)[alert]["expr"]
        assert pods(found)[component]["metadata"]["labels"][label] == component
    assert "TusboatWorkersAway" not in alerts(objects(EVERYTHING))
