"""What a decoder that was taken over would try next. Each takes the parent's process id."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import socket
import sys
from collections.abc import Callable
from typing import Final

_libc = ctypes.CDLL(None)
_page = mmap.mmap(-1, mmap.PAGESIZE)
_address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(_page)))
_EXECUTABLE: Final = mmap.PROT_READ | mmap.PROT_EXEC
# Numbers of kernel 5.1 and later, the same on all architectures.
_PIDFD_OPEN, _PIDFD_GETFD, _IO_URING_SETUP = 434, 438, 425
_X32: Final = 0x40000000 | 39  # getpid by the numbers of another architecture


def _call(number: int, *arguments: int) -> int:
    return int(_libc.syscall(number, *arguments))


ESCAPES: Final[dict[str, Callable[[int], object]]] = {
    "open": lambda _: os.open("/etc/hostname", os.O_RDONLY),
    "environment of the parent": lambda parent: os.open(f"/proc/{parent}/environ", os.O_RDONLY),
    "own environment": lambda _: os.open("/proc/self/environ", os.O_RDONLY),
    "list": lambda _: os.listdir("/"),  # noqa: PTH208, the call itself is meant
    "look": lambda _: os.stat("/etc/passwd"),  # noqa: PTH116
    "write": lambda _: os.open("/tmp/escaped", os.O_CREAT | os.O_WRONLY),
    "memory file": lambda _: os.memfd_create("code"),
    "socket": lambda _: socket.socket(),
    "abstract socket": lambda _: socket.socket(socket.AF_UNIX),
    "socket pair": lambda _: socket.socketpair(),
    "exec": lambda _: os.execv("/bin/true", ["true"]),
    "fork": lambda _: os.fork(),
    "spawn": lambda _: os.posix_spawn("/bin/true", ["true"], {}),
    "ptrace": lambda parent: _libc.ptrace(16, parent, None, None),  # PTRACE_ATTACH
    "read the parent": lambda parent: _libc.process_vm_readv(parent, None, 0, None, 0, 0),
    "open the parent": lambda parent: _call(_PIDFD_OPEN, parent, 0),
    "descriptor of another": lambda _: _call(_PIDFD_GETFD, 0, 0, 0),
    "copy of a descriptor": lambda _: os.dup(0),
    "signal to the parent": lambda parent: os.kill(parent, 0),
    "limit of the parent": lambda parent: resource.prlimit(parent, resource.RLIMIT_CPU),
    "own limits": lambda _: resource.getrlimit(resource.RLIMIT_NOFILE),
    "map of code": lambda _: mmap.mmap(-1, mmap.PAGESIZE, prot=_EXECUTABLE),
    "memory to code": lambda _: _libc.mprotect(_address, mmap.PAGESIZE, _EXECUTABLE),
    "new namespace": lambda _: _libc.unshare(0x10000000),
    "mount": lambda _: _libc.mount(b"none", b"/", b"tmpfs", 0, None),
    "ring of calls": lambda _: _call(_IO_URING_SETUP, 1, 0),
    "prctl": lambda _: _libc.prctl(4, 1, 0, 0, 0),  # dumpable again
    "change of root": lambda _: os.chroot("/"),
    "other user": lambda _: os.setuid(0),
    "ioctl": lambda _: os.isatty(0),
}
if os.uname().machine == "x86_64" and sys.maxsize > 2**32:
    ESCAPES["other architecture"] = lambda _: _call(_X32)
