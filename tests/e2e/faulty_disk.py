"""A file system that fails where it is told to: `python faulty_disk.py MOUNT BACKING CONTROL`.

In: a folder to mount on, one that holds the files, and a JSON file that says which write fails.
Out: a FUSE file system, spoken to the kernel directly (`/dev/fuse`), that does what BACKING does
until a write meets the fault. So the errors are the kernel's, whatever library or language writes.

CONTROL holds `{}` or `{"under": ".checkpoint-8.tmp", "name": "optimizer.pt", "what": ...}`, the
name with wildcards:

    ENOSPC, EIO     every write of the file fails with it
    short           one write takes half of its bytes and says so; later ones fail with ENOSPC
    fsync           writes succeed, flushing the file fails with EIO

Only what saving needs is there. It ends when it is unmounted.
"""

# requests of the kernel are answered by the system calls of the same names, on paths as they come
# ruff: noqa: PTH101, PTH102, PTH104, PTH106, PTH108, PTH118, PTH119, PTH208

from __future__ import annotations

import ctypes
import errno
import json
import os
import struct
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

(LOOKUP, FORGET, GETATTR, SETATTR, MKDIR, UNLINK, RMDIR, RENAME, OPEN, READ, WRITE, STATFS) = (
    1, 2, 3, 4, 9, 10, 11, 12, 14, 15, 16, 17,
)  # fmt: skip
(RELEASE, FSYNC, INIT, OPENDIR, READDIR, RELEASEDIR, FSYNCDIR, CREATE, INTERRUPT) = (
    18, 20, 26, 27, 28, 29, 30, 35, 36,
)  # fmt: skip
DESTROY, BATCH_FORGET, RENAME2 = 38, 42, 45

SILENT = (FORGET, INTERRUPT, BATCH_FORGET)
"""Requests that take no answer."""

MAX_WRITE = 128 * 1024
BUFFER = MAX_WRITE + 4096
DIRECT_IO = 1
"""Of an opened file: no page cache, so that the count of a write is the one that is returned."""

_ATTRIBUTES = struct.Struct("<6Q10I")
_SET_SIZE, _SET_MODE = 8, 1


class Failing:
    """The file system."""

    def __init__(self, backing: Path, control: Path) -> None:
        self._control = control
        self._paths: dict[int, str] = {1: str(backing)}
        self._nodes: dict[str, int] = {str(backing): 1}
        self._files: dict[int, tuple[int, str]] = {}
        """Handle -> descriptor and path."""
        self._halved: set[str] = set()
        self._answers: dict[int, Callable[[int, bytes], bytes]] = {
            LOOKUP: self._lookup, GETATTR: self._getattr, SETATTR: self._setattr,
            MKDIR: self._mkdir, UNLINK: self._unlink, RMDIR: self._rmdir,
            RENAME: self._rename, RENAME2: self._rename2, OPEN: self._open, CREATE: self._create,
            READ: self._read, WRITE: self._write, FSYNC: self._fsync, RELEASE: self._release,
            OPENDIR: self._opendir, READDIR: self._readdir, RELEASEDIR: lambda *_: b"",
            FSYNCDIR: lambda *_: b"", STATFS: self._statfs, INIT: self._init,
        }  # fmt: skip

    def answer(self, request: bytes) -> bytes | None:
        """The reply to one request of the kernel."""
        _, opcode, unique, node = struct.unpack_from("<IIQQ", request)
        if opcode in SILENT:
            return None
        found, error = b"", 0
        try:
            found = self._answers.get(opcode, _not_needed)(node, request[40:])
        except OSError as problem:
            error = -(problem.errno or errno.EIO)
        return struct.pack("<IiQ", 16 + len(found), error, unique) + found

    # what fails

    def _fault(self, path: str) -> str | None:
        told = json.loads(self._control.read_text() or "{}")
        wanted = told and fnmatch(os.path.basename(path), told["name"]) and told["under"] in path
        return told["what"] if wanted else None

    def _write(self, _node: int, body: bytes) -> bytes:
        handle, offset, size = struct.unpack_from("<QQI", body)
        descriptor, path = self._files[handle]
        data, what = body[40 : 40 + size], self._fault(path)
        if what in ("ENOSPC", "EIO") or (what == "short" and path in self._halved):
            raise OSError(getattr(errno, what, errno.ENOSPC), "as told")
        if what == "short":
            self._halved.add(path)
            data = data[: max(1, len(data) // 2)]
        return struct.pack("<II", os.pwrite(descriptor, data, offset), 0)

    def _fsync(self, _node: int, body: bytes) -> bytes:
        descriptor, path = self._files[struct.unpack_from("<Q", body)[0]]
        if self._fault(path) == "fsync":
            raise OSError(errno.EIO, "as told")
        os.fsync(descriptor)
        return b""

    # what does not

    def _init(self, _node: int, body: bytes) -> bytes:
        _, minor, ahead = struct.unpack_from("<III", body)
        return struct.pack(
            "<IIIIHHIIHHI7I", 7, min(minor, 31), ahead, 0, 12, 9, MAX_WRITE, 1, 0, 0, 0, *[0] * 7
        )

    def _at(self, node: int, name: bytes) -> str:
        return os.path.join(self._paths[node], os.fsdecode(name))

    def _node(self, path: str) -> int:
        if path not in self._nodes:
            number = max(self._paths) + 1
            self._nodes[path], self._paths[number] = number, path
        return self._nodes[path]

    def _attributes(self, path: str) -> bytes:
        seen = os.lstat(path)
        return _ATTRIBUTES.pack(
            *(self._node(path), seen.st_size, seen.st_blocks),
            *(int(seen.st_atime), int(seen.st_mtime), int(seen.st_ctime)),
            *(time % 10**9 for time in (seen.st_atime_ns, seen.st_mtime_ns, seen.st_ctime_ns)),
            *(seen.st_mode, seen.st_nlink, seen.st_uid, seen.st_gid, 0, 4096, 0),
        )

    def _entry(self, path: str) -> bytes:
        attributes = self._attributes(path)
        return struct.pack("<QQQQII", self._node(path), 0, 0, 0, 0, 0) + attributes

    def _lookup(self, node: int, body: bytes) -> bytes:
        return self._entry(self._at(node, body[:-1]))

    def _getattr(self, node: int, _body: bytes) -> bytes:
        return struct.pack("<QII", 0, 0, 0) + self._attributes(self._paths[node])

    def _setattr(self, node: int, body: bytes) -> bytes:
        valid, _, _, size = struct.unpack_from("<IIQQ", body)
        path = self._paths[node]
        if valid & _SET_SIZE:
            os.truncate(path, size)
        if valid & _SET_MODE:
            os.chmod(path, struct.unpack_from("<I", body, 68)[0] & 0o7777)
        return self._getattr(node, body)

    def _mkdir(self, node: int, body: bytes) -> bytes:
        path = self._at(node, body[8:-1])
        os.mkdir(path, struct.unpack_from("<I", body)[0])
        return self._entry(path)

    def _unlink(self, node: int, body: bytes) -> bytes:
        path = self._at(node, body[:-1])
        os.unlink(path)
        self._drop(path)
        return b""

    def _rmdir(self, node: int, body: bytes) -> bytes:
        path = self._at(node, body[:-1])
        os.rmdir(path)
        self._drop(path)
        return b""

    def _drop(self, path: str) -> None:
        """A later file of this name is another one; open handles keep their descriptor."""
        self._nodes.pop(path, None)
        self._halved.discard(path)

    def _rename(self, node: int, body: bytes) -> bytes:
        return self._move(node, struct.unpack_from("<Q", body)[0], body[8:])

    def _rename2(self, node: int, body: bytes) -> bytes:
        return self._move(node, struct.unpack_from("<Q", body)[0], body[16:])

    def _move(self, node: int, target: int, names: bytes) -> bytes:
        old, new = (os.fsdecode(name) for name in names[:-1].split(b"\0"))
        source, goal = self._at(node, old.encode()), self._at(target, new.encode())
        os.rename(source, goal)
        self._drop(goal)
        below = f"{source}/"
        for path in [path for path in self._nodes if path == source or path.startswith(below)]:
            number = self._nodes.pop(path)
            moved = goal + path[len(source) :]
            self._nodes[moved], self._paths[number] = number, moved
        return b""

    def _opened(self, path: str, flags: int) -> bytes:
        # the kernel does the appending: it gives every write its place
        descriptor = os.open(path, flags & ~(os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW))
        self._files[descriptor] = (descriptor, path)
        direct = DIRECT_IO if self._fault(path) == "short" else 0
        return struct.pack("<QII", descriptor, direct, 0)

    def _open(self, node: int, body: bytes) -> bytes:
        return self._opened(self._paths[node], struct.unpack_from("<I", body)[0])

    def _create(self, node: int, body: bytes) -> bytes:
        flags, mode = struct.unpack_from("<II", body)
        path = self._at(node, body[16:-1])
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, mode & 0o7777))
        return self._entry(path) + self._opened(path, flags)

    def _read(self, _node: int, body: bytes) -> bytes:
        handle, offset, size = struct.unpack_from("<QQI", body)
        return os.pread(self._files[handle][0], size, offset)

    def _release(self, _node: int, body: bytes) -> bytes:
        descriptor, _ = self._files.pop(struct.unpack_from("<Q", body)[0])
        os.close(descriptor)
        return b""

    def _opendir(self, _node: int, _body: bytes) -> bytes:
        return struct.pack("<QII", 0, 0, 0)

    def _readdir(self, node: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        found = b""
        names = [".", "..", *sorted(os.listdir(self._paths[node]))]
        for place, name in enumerate(names[offset:], offset + 1):
            raw = os.fsencode(name)
            entry = struct.pack("<QQII", place, place, len(raw), 0) + raw
            entry += bytes(-len(entry) % 8)
            if len(found) + len(entry) > size:
                break
            found += entry
        return found

    def _statfs(self, _node: int, _body: bytes) -> bytes:
        seen = os.statvfs(self._paths[1])
        counts = (seen.f_blocks, seen.f_bfree, seen.f_bavail, seen.f_files, seen.f_ffree)
        return struct.pack("<5Q4I6I", *counts, seen.f_bsize, 255, seen.f_frsize, 0, *[0] * 6)


def _not_needed(_node: int, _body: bytes) -> bytes:
    raise OSError(errno.ENOSYS, "not needed for saving")


def mount(folder: Path) -> int:
    """A descriptor that speaks for what lies at `folder`.

    Raises:
        OSError: there is no /dev/fuse, or this user may not mount.
    """
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    call: Any = ctypes.CDLL(None, use_errno=True).mount
    if call(b"faulty", os.fsencode(folder), b"fuse.faulty", 0, options.encode()):
        number = ctypes.get_errno()
        os.close(device)
        raise OSError(number, os.strerror(number), str(folder))
    return device


def unmount(folder: Path) -> None:
    """Whoever still has files open there is cut off."""
    detach = 2
    ctypes.CDLL(None).umount2(os.fsencode(folder), detach)


def main(argv: list[str]) -> int:
    """Serve until it is unmounted."""
    folder, backing, control = map(Path, argv)
    device = mount(folder)
    disk = Failing(backing, control)
    print("mounted", flush=True)
    while True:
        try:
            request = os.read(device, BUFFER)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                continue  # the request was taken back
            return 0  # ENODEV: unmounted
        reply = disk.answer(request)
        if reply is not None:
            try:
                os.write(device, reply)
            except OSError as error:
                if error.errno != errno.ENOENT:  # whoever asked was killed meanwhile
                    raise


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
