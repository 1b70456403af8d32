"""A scan process: the program that the parent starts as `python -I -m hashweir.adapters.sandbox_child FD PARENT`.

It reads its set-up, prepares the scan function (imports and runs everything once), locks itself down, says what
fences stand, and then answers one job after the other until the parent hangs up. It holds no credentials, and
from the lock-down on it opens nothing.
"""

from __future__ import annotations

import ctypes
import math
import os
import pkgutil
import resource
import signal
import socket
import sys

from hashweir.adapters.sandbox_frames import LENGTH_BYTES, Ready, Reply, pack, unpack_job, unpack_setup

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def main(descriptor: int, parent: int) -> None:
    """Serve the socket `descriptor` until it is closed at the other end. `parent` is the parent's process id."""
    _die_with(parent)
    with socket.socket(fileno=descriptor) as link:
        setup = unpack_setup(_receive(link))
        sys.path[:0] = setup.path
        scan = pkgutil.resolve_name(setup.scan)(setup.limits)
        link.sendall(pack(Ready(fences=lock_down(setup.memory_bytes))))
        while True:
            job = unpack_job(_receive(link))
            _allow_processor_time(job.cpu_s)
            try:
                reply = Reply(number=job.number, scan=scan(job.content, job.media_type, job.forms))
            except MemoryError:
                reply = Reply(number=job.number, scan=None)
            link.sendall(pack(reply))


def lock_down(memory_bytes: int) -> tuple[str, ...]:
    """Raise every fence that this machine allows, for good; give their names.

    `limits`: no new files, processes, core dumps or file growth, and at most `memory_bytes` of address space.
    `no_new_privileges`: no set-user-id program gives any. `not_dumpable`: a neighbour under the same user can't
    attach to this process. `no_network`: a network namespace of its own with nothing in it, where the kernel lets
    an ordinary user have one. Raises OSError where one of the first three can't be had.
    """
    fences = ["limits", "no_new_privileges", "not_dumpable"]
    # Before the two below: a new user namespace makes a process dumpable again.
    if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0:
        fences.append("no_network")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 0),  # descriptors that are open stay so
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(limit, (value, value))
    return tuple(fences)


def _die_with(parent: int) -> None:
    """Be killed when the parent's thread that started this process ends: a killed parent leaves no orphans."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        sys.exit(1)


def _allow_processor_time(seconds: int) -> None:
    """A second fence behind the parent's deadline, for when the parent itself is stuck."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = math.ceil(usage.ru_utime + usage.ru_stime)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (used + seconds, most))


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def _receive(link: socket.socket) -> bytearray:
    """One frame from the parent. Ends the process, in peace, where the parent hung up."""
    length = int.from_bytes(_receive_exactly(link, LENGTH_BYTES), "big")
    return _receive_exactly(link, length)


def _receive_exactly(link: socket.socket, length: int) -> bytearray:
    buffer = bytearray(length)
    rest = memoryview(buffer)
    while rest:
        got = link.recv_into(rest)
        if got == 0:
            sys.exit(0)
        rest = rest[got:]
    return buffer


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
