"""Debian's nginx as a reverse proxy before a server, with a configuration of its own.

Knows: the few lines that an operator would write for uploads, how to start and stop nginx.
Must not know: what a test wants to prove.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Self

import pytest

from tests.live import free_port, wait_until

STOP_SECONDS = 15.0
# Who is not root may not have it on PATH.
SEARCH_PATH = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin"

CONFIG = """\
user {user};
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log info;
events {{ worker_connections 128; }}
http {{
    log_format one '$request_method $uri $status';
    access_log {directory}/access.log one;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location {prefix}/ {{
            proxy_pass http://127.0.0.1:{target}/;
            proxy_http_version 1.1;
            proxy_request_buffering {buffering};
            client_max_body_size 0;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Forwarded-Prefix {forwarded_prefix};
        }}
    }}
}}
"""


class Nginx:
    """nginx on a free loopback port; it sends everything below `prefix` to the target."""

    def __init__(
        self, directory: Path, target_port: int, *, buffered: bool = False, prefix: str = ""
    ) -> None:
        """With `buffered`, which is nginx's default, a body is passed on once it came whole."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}{prefix}"
        self.prefix = prefix
        self._directory = directory
        self._config = directory / "nginx.conf"
        directory.mkdir(parents=True, exist_ok=True)
        self._config.write_text(
            CONFIG.format(
                # The workers too: only this user may enter the directory.
                user=pwd.getpwuid(os.getuid()).pw_name,
                directory=directory,
                port=self.port,
                target=target_port,
                buffering="on" if buffered else "off",
                prefix=prefix,
                forwarded_prefix=prefix or '""',
            )
        )
        self._process: subprocess.Popen[bytes] | None = None

    def served(self) -> list[str]:
        """Method, path and status of each request that went through, in their order."""
        return (self._directory / "access.log").read_text().splitlines()

    def start(self) -> Self:
        """Start, and wait until it listens.

        A machine without nginx is no reason to pass over a test: it fails, and says what to run.
        """
        program = shutil.which("nginx", path=SEARCH_PATH)
        if program is None:
            pytest.fail("this test needs nginx: run .ci/setup", pytrace=False)
        log = self._directory / "error.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                # -e: else it complains of the log that was compiled in, which is root's.
                [program, "-e", str(log), "-c", str(self._config), "-g", "daemon off;"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            wait_until(self._listens, what="nginx listens")
        except AssertionError:
            self.stop()
            raise AssertionError(f"nginx does not start:\n{log.read_text()}") from None
        return self

    def stop(self) -> None:
        """Stop it with its workers, and reap it."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def __enter__(self) -> Self:
        """Start it."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.stop()

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5):
            return True
        return False
