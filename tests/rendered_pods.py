"""Containers of a rendered pod as processes of this machine.

Knows: how paths, ports, mounts, Secrets and security contexts of a container become a directory,
free ports, files, `setpriv`, read-only mounts and a user namespace. Seccomp profiles are not
imitated.
Must not know: what a test wants to prove.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from tests.charts import Object, config, pod_spec
from tests.live import COMMAND, STOP_SECONDS, environment, free_port, wait_until
from tests.namespaces import map_ids

_PORT = re.compile(r"\b(8080|9090|6379)\b")
_MOUNT = re.compile(r"(?<![\w/.])/(etc/redis|etc/tusboat|data|tmp|test)\b")

# The directory of the cluster is what is mounted in a container, and all that can be written to.
_READ_ONLY = """\
mount --bind "$1" "$1"
mount -t tmpfs tmpfs /run
mount -o "remount,bind,$2" /
cd "$1"
shift 2
exec "$@"
"""
# Whoever makes a user namespace is nobody in it until its ids are mapped, from outside.
_AS_ROOT = 'read _ || true; exec setpriv --reuid 0 --regid 0 --clear-groups "$@"'
# Root inside is the user 1 of this machine. What this checkout's owner may read has an id inside,
# too: without one, no capability reaches it. Its setuid programs would make root that user: nosuid.
_IDS = "0 1 1\n1 0 1\n"
# What the image has on PATH.
_TUSBOAT = f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n'


@dataclass
class Cluster:
    """A directory in which everything that was rendered runs; what is elsewhere has other files."""

    directory: Path
    objects: list[Object]
    # What Secrets and ConfigMaps of others hold, by path below /etc/tusboat.
    others: Mapping[str, bytes] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Write the files that are mounted."""
        for name in ("8080", "9090", "6379"):
            self.ports.setdefault(name, free_port())
        self.ports["worker"] = free_port()
        texts = {"tusboat/config/tusboat.toml": config(self.objects), **self._secrets()}
        for name, text in texts.items():
            self._write(f"etc/{name}", self.here(text).encode())
        for name, data in self.others.items():
            self._write(f"etc/{name}", data)
        for each in self.objects:
            if each["kind"] == "ConfigMap" and "archive.py" in each["data"]:
                self._write("test/archive.py", each["data"]["archive.py"].encode())
        for name in ("data", "tmp"):
            (self.directory / name).mkdir()
        self._write("bin/tusboat", _TUSBOAT.encode())
        (self.directory / "bin" / "tusboat").chmod(0o755)

    def _write(self, name: str, data: bytes) -> None:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def _secrets(self) -> dict[str, str]:
        found = {}
        for each in self.objects:
            if each["kind"] == "Secret":
                folder = "redis" if "redis" in each["metadata"]["name"] else "tusboat/tokens"
                found |= {f"{folder}/{key}": text for key, text in each["stringData"].items()}
        return found

    def secret(self, name: str) -> str:
        """What a key of one of the rendered Secrets holds."""
        return self._secrets()[name]

    def here(self, text: str, *, worker: bool = False) -> str:
        """The text with places and ports of this directory in it."""
        text = _MOUNT.sub(lambda found: f"{self.directory}/{found[1]}", text)
        ports = {**self.ports, "9090": self.ports["worker"]} if worker else self.ports
        return _PORT.sub(lambda found: str(ports[found[1]]), text)

    def start(
        self, container: Object, *, worker: bool = False, host_users: bool = True
    ) -> subprocess.Popen[bytes]:
        """Start a container's command with its environment, user rights and mounts."""
        rights = self._rights(container["securityContext"], host_users=host_users)
        words = [self.here(word, worker=worker) for word in container["command"]]
        log = (self.directory / f"{container['name']}-{len(self.running)}.log").open("wb")
        with log:
            process = subprocess.Popen(
                [*rights, *words],
                env=self._environment(container, worker=worker),
                cwd=self.directory,
                stdin=subprocess.DEVNULL if host_users else subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        self.running.append(process)
        if not host_users:
            map_ids(process, _IDS)
        return process

    def _environment(self, container: Object, *, worker: bool) -> dict[str, str]:
        given: dict[str, str] = {}
        for variable in container.get("env", ()):
            if "value" in variable:
                value = re.sub(r"\$\((\w+)\)", lambda found: given[found[1]], variable["value"])
            else:
                reference = variable["valueFrom"]["secretKeyRef"]
                folder = "redis" if "redis" in reference["key"] else "tusboat/tokens"
                value = (self.directory / "etc" / folder / reference["key"]).read_text()
            given[variable["name"]] = self.here(value)
        # Services have names in a cluster only, and tests listen on loopback only.
        for name in ("TUSBOAT_REDIS_URL", "TUSBOAT_SERVER"):
            if name in given:
                given[name] = re.sub(r"(@|//)rel-[\w-]+:", r"\g<1>127.0.0.1:", given[name])
        if "TUSBOAT_HOST" in given:
            given["TUSBOAT_HOST"] = "127.0.0.1"
        if worker:
            given["TUSBOAT_METRICS_PORT"] = str(self.ports["worker"])
        variables = environment(self.directory / "home", **given)
        return {**variables, "PATH": f"{self.directory}/bin:{variables['PATH']}"}

    def log(self) -> str:
        """What everything said so far."""
        paths = sorted(self.directory.glob("*.log"))
        return "\n".join(f"{path.name}:\n{path.read_text(errors='replace')}" for path in paths)

    def said(self, name: str) -> str:
        """What the last container of that name said."""
        numbers = [
            int(path.stem.rpartition("-")[2]) for path in self.directory.glob(f"{name}-*.log")
        ]
        return (self.directory / f"{name}-{max(numbers)}.log").read_text()

    def run(self, container: Object, seconds: float = 60, *, host_users: bool = True) -> int:
        """Run a container to its end; its exit code."""
        return self.start(container, host_users=host_users).wait(seconds)

    def start_pod(self, workload: Object) -> subprocess.Popen[bytes]:
        """Run the init containers of a workload, then its container, until it is ready."""
        spec = pod_spec(workload)
        host_users = spec.get("hostUsers", True)
        for container in spec.get("initContainers", ()):
            assert self.run(container, host_users=host_users) == 0, self.log()
        (container,) = spec["containers"]
        worker = container["command"][1] == "worker"
        process = self.start(container, worker=worker, host_users=host_users)
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            wait_until(
                lambda: self._passes(container, container[probe], process, worker=worker),  # noqa: B023
                seconds=60,
                what=f"{container['name']}: {probe}",
            )
        return process

    def _passes(
        self, container: Object, probe: Object, process: subprocess.Popen[bytes], *, worker: bool
    ) -> bool:
        assert process.poll() is None, self.log()
        kind = "httpGet" if "httpGet" in probe else "tcpSocket"
        named = {port["name"]: port["containerPort"] for port in container["ports"]}
        port = int(self.here(str(named[probe[kind]["port"]]), worker=worker))
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.connect()
            if kind == "tcpSocket":
                return True
            connection.request("GET", probe["httpGet"]["path"])
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def stop(self) -> list[int]:
        """SIGTERM to all that still runs, the last first; their exit codes."""
        codes = []
        for process in reversed(self.running):
            if process.poll() is None:
                process.terminate()
                try:
                    codes.append(process.wait(STOP_SECONDS))
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    raise AssertionError(f"did not stop\n{self.log()}") from None
        return codes

    def _rights(self, security: Object, *, host_users: bool = True) -> list[str]:
        """What leaves a process the capabilities of its container, and a root that is read-only.

        Users stay: a file of this checkout may be readable for its owner only. Without root there
        is nothing to drop; where something would be left, the test is not what it says.
        """
        added = [name.lower() for name in security["capabilities"].get("add", ())]
        if os.geteuid() != 0:
            if added or not host_users:
                pytest.skip("only root can give a process the rights of its container")
            return []
        bounded = ",".join(["-all", *(f"+{name}" for name in added)])
        options = "ro" if host_users else "ro,nosuid"
        words = ["unshare", "--mount", "sh", "-ec", _READ_ONLY, "sh", str(self.directory), options]
        if not host_users:
            words += ["unshare", "--user", "--mount", "--keep-caps", "sh", "-ec", _AS_ROOT, "sh"]
        words += ["setpriv", "--ambient-caps", "-all", "--inh-caps", "-all"]
        words += ["--bounding-set", bounded]
        if security.get("allowPrivilegeEscalation") is False:
            words.append("--no-new-privs")
        return [*words, "--"]
