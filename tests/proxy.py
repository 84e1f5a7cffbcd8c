"""A TCP proxy between a client and a server that does to the line what bad networks do.

Knows: bytes in both directions over real loopback sockets; cutting, stalling, counting.
Must not know: what a test wants to prove, HTTP.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Self

READ_BYTES = 64 * 1024
_TCP_ESTABLISHED = 1

Fault = Callable[[socket.socket, socket.socket], bool]


class CuttingProxy:
    """Forwards a free loopback port, and hurts the connection at chosen places.

    Every byte from client to server is counted over all connections (`bytes_up`), and the places
    below are in that count: "cut after 3 MiB" means 3 MiB through this proxy since it started.
    A place is used once; what was sent up to it has been forwarded when its fault happens.
    """

    def __init__(self, target_port: int) -> None:
        """Forward to `target_port`; call `start`, or use `with`."""
        self.bytes_up = 0
        self.connections = 0
        self._target = ("127.0.0.1", target_port)
        self._faults: list[tuple[int, Fault]] = []
        self._mute_at: int | None = None
        self._heavy: tuple[int, Callable[[], object]] | None = None
        self._flip = False
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._closing = False
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def at(self, count: int, action: Callable[[], object]) -> None:
        """Run `action` (in the proxy's thread; nothing is forwarded meanwhile), then go on."""

        def fault(_client: socket.socket, _server: socket.socket) -> bool:
            action()
            return True

        self._add(count, fault)

    def when_one_has_carried(self, count: int, action: Callable[[], object]) -> None:
        """The same soon after a connection has carried so many bytes by itself."""
        self._heavy = (count, action)

    def cut_after(self, *counts: int) -> None:
        """Reset the connection that carries each of these places."""
        for count in counts:
            self._add(count, lambda _client, _server: False)

    def stall_after(self, count: int) -> None:
        """From this place on the connection stays open, and nothing passes any more."""

        def fault(client: socket.socket, _server: socket.socket) -> bool:
            self._wait_for_close(client)
            return False

        self._add(count, fault)

    def corrupt_after(self, count: int) -> None:
        """Every bit of the byte after this place arrives as its opposite."""

        def fault(_client: socket.socket, _server: socket.socket) -> bool:
            self._flip = True
            return True

        self._add(count, fault)

    def lose_answer_after(self, count: int) -> None:
        """Reset the connection instead of giving the next answer after this place to the client."""
        self._mute_at = count

    def cut_now(self) -> None:
        """Reset every open connection."""
        with self._lock:
            for one in self._open:
                _reset(one)

    def start(self) -> Self:
        """Listen and forward, in threads."""
        self._spawn(self._accept)
        return self

    def close(self) -> None:
        """Stop listening, cut what is open, and wait for the threads."""
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_now()
        for thread in list(self._threads):
            thread.join(5)

    def __enter__(self) -> Self:
        """Start it."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _add(self, count: int, fault: Fault) -> None:
        self._faults.append((count, fault))
        self._faults.sort(key=lambda row: row[0])

    def _spawn(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, 5)
            except OSError:
                _reset(client)
                client.close()
                continue
            server.settimeout(None)
            self.connections += 1
            with self._lock:
                self._open |= {client, server}
            self._spawn(self._carry, client, server)

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        """Both directions of one connection, until either ends or a fault cuts it."""
        down = threading.Thread(target=self._pump_down, args=(server, client), daemon=True)
        down.start()
        if self._pump_up(client, server):
            # An orderly end: the answer may still be on its way down.
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_WR)
        else:
            _reset(client)
            _reset(server)
        down.join()
        with self._lock:
            self._open -= {client, server}
        client.close()
        server.close()

    def _pump_up(self, client: socket.socket, server: socket.socket) -> bool:
        """Forward until the client is done (true), or the connection is to be cut (false)."""
        carried = 0
        for block in _blocks(client):
            carried += len(block)
            if self._heavy and carried >= self._heavy[0]:
                action, self._heavy = self._heavy[1], None
                action()
            rest = block
            while rest:
                place = self._faults[0][0] if self._faults else None
                room = len(rest) if place is None else max(place - self.bytes_up, 0)
                part, rest = rest[:room], rest[room:]
                if self._flip and part:
                    self._flip = False
                    part = bytes([part[0] ^ 0xFF]) + part[1:]
                try:
                    server.sendall(part)
                except OSError:
                    return False
                self.bytes_up += len(part)
                fault = None if place is None else self._due(place)
                if fault and not fault(client, server):
                    return False
        return True

    def _due(self, place: int) -> Fault | None:
        """The fault of this place, for the one connection that comes first."""
        with self._lock:
            if self.bytes_up < place or not self._faults or self._faults[0][0] != place:
                return None
            return self._faults.pop(0)[1]

    def _pump_down(self, server: socket.socket, client: socket.socket) -> None:
        for block in _blocks(server):
            if self._mute_at is not None and self.bytes_up >= self._mute_at:
                self._mute_at = None
                break
            try:
                client.sendall(block)
            except OSError:
                break
        else:
            # An orderly end: a reset would take the answer away from the client again.
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_WR)
            return
        _reset(client)
        _reset(server)

    def _wait_for_close(self, client: socket.socket) -> None:
        """Take nothing in until somebody closes: the client's buffers fill, as on a dead line."""
        with contextlib.suppress(OSError):
            while not self._closing:
                if client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != _TCP_ESTABLISHED:
                    return
                time.sleep(0.02)


def _blocks(source: socket.socket) -> Iterator[bytes]:
    """What arrives, until the end or an error."""
    with contextlib.suppress(OSError):
        while block := source.recv(READ_BYTES):
            yield block


def _reset(one: socket.socket) -> None:
    """Make an end in both directions that the peer sees as a reset, not as an orderly close."""
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.shutdown(socket.SHUT_RDWR)
