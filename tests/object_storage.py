"""A file system in user space that can do only what it is allowed to: as object stores are mounted.

Knows: the kernel's FUSE protocol, as far as plain file work needs it; everything is in memory.
Must not know: what a test wants to prove.

`mounted(directory, kind="fuse.s3fs", lacks={"hard links"})` is a real mount, whose type in
/proc/self/mountinfo is that kind; what it lacks is answered as such file systems do.

Source: linux/fuse.h, protocol 7.31.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

_READ_BYTES = 2**20 + 4096
_IN, _OUT = struct.Struct("<IIQQIIII"), struct.Struct("<IiQ")
_ATTR = struct.Struct("<6Q10I")
_ENTRY = struct.Struct("<4Q2I")
_ROOT = 1
_POSIX_LOCKS = 1 << 1
_SET_MODE, _SET_UID, _SET_GID, _SET_SIZE = 1, 2, 4, 8

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class _Node:
    number: int
    mode: int
    uid: int = 0
    gid: int = 0
    links: int = 1
    data: bytearray = field(default_factory=bytearray)
    children: dict[bytes, _Node] = field(default_factory=dict)


class _Refused(Exception):
    def __init__(self, code: int) -> None:
        self.code = code


class _FileSystem:
    """Answers the kernel's requests until the mount is gone."""

    def __init__(self, device: int, lacks: Collection[str]) -> None:
        self._device = device
        self._lacks = lacks
        self._nodes = {_ROOT: _Node(_ROOT, stat.S_IFDIR | 0o755)}
        self._handlers: dict[int, Callable[[_Node, bytes], bytes]] = {
            1: self._lookup,
            3: lambda node, _: self._attributes(node),
            4: self._setattr,
            5: lambda node, _: bytes(node.data),
            6: self._symlink,
            8: self._mknod,
            9: self._mkdir,
            10: self._unlink,
            11: self._rmdir,
            12: lambda node, body: self._rename(node, body[:8], body[8:]),
            13: self._link,
            14: lambda _node, _body: bytes(16),
            15: self._read,
            16: self._write,
            17: lambda _node, _body: struct.pack("<5Q10I", *[2**20] * 5, 4096, 255, 4096, *[0] * 7),
            18: lambda _node, _body: b"",
            20: lambda _node, _body: b"",
            25: lambda _node, _body: b"",
            26: self._init,
            27: lambda _node, _body: bytes(16),
            28: self._readdir,
            29: lambda _node, _body: b"",
            30: lambda _node, _body: b"",
            32: self._setlk,
            33: self._setlk,
            35: self._create,
            45: lambda node, body: self._rename(node, body[:8], body[16:]),
        }

    def run(self) -> None:
        """Serve; for a thread."""
        while True:
            try:
                request = os.read(self._device, _READ_BYTES)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR):
                    continue
                return
            length, opcode, unique, number, uid, gid, _, _ = _IN.unpack_from(request)
            if opcode in (2, 36, 42):
                # Forgetting and interrupting want no answer.
                continue
            self._caller = (uid, gid)
            try:
                body, code = self._answer(opcode, number, request[_IN.size : length]), 0
            except _Refused as refused:
                body, code = b"", -refused.code
            with contextlib.suppress(OSError):
                os.write(self._device, _OUT.pack(_OUT.size + len(body), code, unique) + body)

    def _answer(self, opcode: int, number: int, body: bytes) -> bytes:
        handler = self._handlers.get(opcode)
        if handler is None:
            raise _Refused(errno.ENOSYS)
        return handler(self._nodes.get(number, self._nodes[_ROOT]), body)

    def _require(self, ability: str, code: int = errno.EPERM) -> None:
        if ability in self._lacks:
            raise _Refused(code)

    def _init(self, _: _Node, body: bytes) -> bytes:
        ahead = struct.unpack_from("<I", body, 8)[0]
        flags = _POSIX_LOCKS if "locks" in self._lacks else 0
        return struct.pack("<4I2H2I2H8I", 7, 31, ahead, flags, 16, 12, 65536, 1, 16, 0, *[0] * 8)

    def _attr(self, node: _Node) -> bytes:
        size, now = len(node.data), int(time.time())
        numbers = (node.number, size, -(-size // 512), now, now, now)
        owner = (0, 0) if "owners" in self._lacks else (node.uid, node.gid)
        return _ATTR.pack(*numbers, 0, 0, 0, node.mode, node.links, *owner, 0, 4096, 0)

    def _attributes(self, node: _Node) -> bytes:
        return struct.pack("<QII", 0, 0, 0) + self._attr(node)

    def _entry(self, node: _Node) -> bytes:
        return _ENTRY.pack(node.number, 0, 0, 0, 0, 0) + self._attr(node)

    def _child(self, parent: _Node, name: bytes) -> _Node:
        found = parent.children.get(self._folded(name))
        if found is None:
            raise _Refused(errno.ENOENT)
        return found

    def _folded(self, name: bytes) -> bytes:
        return name.lower() if "case" in self._lacks else name

    def _lookup(self, parent: _Node, body: bytes) -> bytes:
        return self._entry(self._child(parent, body.rstrip(b"\0")))

    def _make(self, parent: _Node, name: bytes, mode: int) -> _Node:
        uid, gid = self._caller
        if "modes" in self._lacks:
            mode = stat.S_IFMT(mode) | 0o755
        node = _Node(max(self._nodes) + 1, mode, uid, gid)
        self._nodes[node.number] = node
        parent.children[self._folded(name)] = node
        return node

    def _setattr(self, node: _Node, body: bytes) -> bytes:
        valid = struct.unpack_from("<I", body)[0]
        size = struct.unpack_from("<Q", body, 16)[0]
        mode, _, uid, gid = struct.unpack_from("<4I", body, 68)
        if valid & _SET_MODE and "modes" not in self._lacks:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode)
        if valid & (_SET_UID | _SET_GID):
            node.uid = uid if valid & _SET_UID else node.uid
            node.gid = gid if valid & _SET_GID else node.gid
        if valid & _SET_SIZE:
            node.data = node.data[:size] + bytes(max(0, size - len(node.data)))
        return self._attributes(node)

    def _symlink(self, parent: _Node, body: bytes) -> bytes:
        self._require("symbolic links", errno.ENOSYS)
        name, target, _ = body.split(b"\0")
        node = self._make(parent, name, stat.S_IFLNK | 0o777)
        node.data[:] = target
        return self._entry(node)

    def _mknod(self, parent: _Node, body: bytes) -> bytes:
        mode = struct.unpack_from("<I", body)[0]
        if not stat.S_ISREG(mode):
            self._require("named pipes")
        return self._entry(self._make(parent, body[16:].rstrip(b"\0"), mode))

    def _mkdir(self, parent: _Node, body: bytes) -> bytes:
        mode = struct.unpack_from("<I", body)[0]
        return self._entry(self._make(parent, body[8:].rstrip(b"\0"), stat.S_IFDIR | mode))

    def _create(self, parent: _Node, body: bytes) -> bytes:
        mode = struct.unpack_from("<I", body, 4)[0]
        return self._entry(self._make(parent, body[16:].rstrip(b"\0"), mode)) + bytes(16)

    def _unlink(self, parent: _Node, body: bytes) -> bytes:
        name = body.rstrip(b"\0")
        self._child(parent, name).links -= 1
        del parent.children[self._folded(name)]
        return b""

    def _rmdir(self, parent: _Node, body: bytes) -> bytes:
        if self._child(parent, body.rstrip(b"\0")).children:
            raise _Refused(errno.ENOTEMPTY)
        return self._unlink(parent, body)

    def _rename(self, parent: _Node, new_parent: bytes, names: bytes) -> bytes:
        old, new, _ = names.split(b"\0")
        node = self._child(parent, old)
        if stat.S_ISDIR(node.mode):
            self._require("renames", errno.ENOSYS)
        del parent.children[self._folded(old)]
        self._nodes[struct.unpack("<Q", new_parent)[0]].children[self._folded(new)] = node
        return b""

    def _link(self, parent: _Node, body: bytes) -> bytes:
        self._require("hard links")
        node = self._nodes[struct.unpack_from("<Q", body)[0]]
        node.links += 1
        parent.children[self._folded(body[8:].rstrip(b"\0"))] = node
        return self._entry(node)

    def _read(self, node: _Node, body: bytes) -> bytes:
        offset, size = struct.unpack_from("<QI", body, 8)
        return bytes(node.data[offset : offset + size])

    def _write(self, node: _Node, body: bytes) -> bytes:
        offset, size = struct.unpack_from("<QI", body, 8)
        node.data += bytes(max(0, offset - len(node.data)))
        node.data[offset : offset + size] = body[40 : 40 + size]
        return struct.pack("<II", size, 0)

    def _readdir(self, node: _Node, body: bytes) -> bytes:
        offset = struct.unpack_from("<Q", body, 8)[0]
        listing = b""
        for place, (name, child) in enumerate(node.children.items(), 1):
            if place > offset:
                kind = stat.S_IFMT(child.mode) >> 12
                row = struct.pack("<QQII", child.number, place, len(name), kind) + name
                listing += row + bytes(-len(row) % 8)
        return listing[:4096] if len(listing) <= 4096 else listing[: 4096 // 32 * 32]

    def _setlk(self, _: _Node, _body: bytes) -> bytes:
        self._require("locks", errno.ENOSYS)
        return b""


@contextlib.contextmanager
def mounted(
    directory: Path, *, kind: str = "fuse.s3fs", source: str = "bucket", lacks: Collection[str] = ()
) -> Iterator[Path]:
    """Mount it on a new directory; root only.

    It may lack `case`, `hard links`, `symbolic links`, `named pipes`, `renames` (of directories),
    `modes`, `owners`, `locks`.
    """
    directory.mkdir()
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
    arguments = (source.encode(), os.fsencode(directory), kind.encode(), 0, options.encode())
    if _libc.mount(*arguments):
        code = ctypes.get_errno()
        os.close(device)
        raise OSError(code, os.strerror(code), str(directory))
    serving = threading.Thread(target=_FileSystem(device, lacks).run, daemon=True)
    serving.start()
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)
        serving.join(10)
        os.close(device)
