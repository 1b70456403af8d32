"""A scan process: the program that the parent starts as `python -I -m hashweir.adapters.sandbox_child FD PARENT`.

It reads its set-up, prepares the scan function (imports and runs everything once), locks itself down, says what
fences stand, and then answers one job after the other until the parent hangs up. It holds no credentials, and
from the lock-down on it opens nothing.
"""

from __future__ import annotations

import math
import os
import pkgutil
import resource
import signal
import socket
import sys

from hashweir.adapters.sandbox_fences import PR_SET_PDEATHSIG, lock_down, prctl
from hashweir.adapters.sandbox_frames import LENGTH_BYTES, Ready, Reply, pack, unpack_job, unpack_setup

_UNFORESEEN = 70
"""Exit status after an exception that nobody caught: EX_SOFTWARE of sysexits.h."""


def main(descriptor: int, parent: int) -> None:
    """Serve the socket `descriptor` until it is closed at the other end. `parent` is the parent's process id."""
    _die_with(parent)
    with socket.socket(fileno=descriptor) as link:
        setup = unpack_setup(_receive(link))
        sys.path[:0] = setup.path
        scan = pkgutil.resolve_name(setup.scan)(setup.limits)
        # A traceback would be printed with lines of source files, which can't be opened any more: that attempt
        # would end the process as if it had been taken over.
        sys.excepthook = lambda *error: os._exit(_UNFORESEEN)
        fences, lacking = lock_down(setup.memory_bytes)
        link.sendall(pack(Ready(fences=fences, lacking=lacking)))
        while True:
            job = unpack_job(_receive(link))
            _allow_processor_time(job.cpu_s)
            try:
                reply = Reply(number=job.number, scan=scan(job.content, job.media_type, job.forms))
            except MemoryError:
                reply = Reply(number=job.number, scan=None)
            link.sendall(pack(reply))


def _die_with(parent: int) -> None:
    """Be killed when the parent's thread that started this process ends: a killed parent leaves no orphans."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        sys.exit(1)


def _allow_processor_time(seconds: int) -> None:
    """A second fence behind the parent's deadline, for when the parent itself is stuck."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = math.ceil(usage.ru_utime + usage.ru_stime)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (used + seconds, most))


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
            os._exit(0)  # an orderly end of the interpreter makes system calls that are not allowed
        rest = rest[got:]
    return buffer


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
