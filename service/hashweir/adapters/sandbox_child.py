"""A scan process: the program that the parent starts as `python -I -m hashweir.adapters.sandbox_child FD PARENT FD`.

It reads its set-up, prepares the scan function (imports and runs everything once), locks itself down, says what
fences stand, and then answers one job after the other until the parent hangs up. It holds no credentials, and
from the lock-down on it opens nothing.
"""

from __future__ import annotations

import ctypes
import gc
import math
import mmap
import os
import pkgutil
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable

from hashweir.adapters.sandbox_fences import PR_SET_PDEATHSIG, lock_down, prctl
from hashweir.adapters.sandbox_frames import LENGTH_BYTES, Ready, Reply, pack, unpack_jobs, unpack_setup
from hashweir.model import FormGroup, Scan

_UNFORESEEN = 70
"""Exit status after an exception that nobody caught: EX_SOFTWARE of sysexits.h."""


Scanning = Callable[[bytes, str | None, tuple[FormGroup, ...], bytes | None], Scan]
_FRAME_BYTES = 2**16
"""Most frames are shorter, and are read at once."""


def main(descriptor: int, parent: int, contents: int) -> None:
    """Serve the socket `descriptor` until it is closed at the other end.

    `parent` is the parent's process id, `contents` the descriptor of the memory through which most contents come.
    """
    _die_with(parent)
    address = _mapped(contents)
    with socket.socket(fileno=descriptor) as link:
        setup = unpack_setup(_receive(link, bytearray(_FRAME_BYTES)))
        sys.path[:0] = setup.path
        scan = pkgutil.resolve_name(setup.scan)(setup.limits)
        # A traceback would be printed with lines of source files, which can't be opened any more: that attempt
        # would end the process as if it had been taken over.
        sys.excepthook = lambda *error: os._exit(_UNFORESEEN)
        gc.freeze()  # what is here now stays to the end
        fences, lacking = lock_down(setup.memory_bytes)
        link.sendall(pack(Ready(fences=fences, lacking=lacking)))
        allowance = Allowance()
        room = bytearray(_FRAME_BYTES)
        while True:
            _answer(link, _receive(link, room), scan, address, allowance)


def _answer(link: socket.socket, jobs: memoryview, scan: Scanning, address: int, allowance: Allowance) -> None:
    """Do these jobs and send the answers. What it held is let go of when that is done, and not with the next job."""
    replies = []
    for job in unpack_jobs(jobs):
        allowance.allow(job.cpu_s)
        try:
            content = ctypes.string_at(address, job.size) if job.content is None else job.content
            found = scan(content, job.media_type, job.forms, job.sha256)
        except MemoryError:
            found = None
        replies.append(Reply(number=job.number, scan=found))
    link.sendall(pack(replies))


def _die_with(parent: int) -> None:
    """Be killed when the parent's thread that started this process ends: a killed parent leaves no orphans."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        sys.exit(1)


class Allowance:
    """The processor time of a job: a second fence behind the parent's deadline, for when the parent itself is stuck.

    Renewed once a second and not for each job, for three system calls cost more than all else around a small one. One
    thread uses at most a second of it in a second.
    """

    def __init__(self) -> None:
        self._until = 0.0
        self._seconds = 0

    def allow(self, seconds: int) -> None:
        """From now on this process may take so many seconds, up to two of rounding more."""
        now = time.monotonic()
        if seconds == self._seconds and now < self._until:
            return
        usage = resource.getrusage(resource.RUSAGE_SELF)
        used = math.ceil(usage.ru_utime + usage.ru_stime)
        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (used + seconds + 1, most))
        self._seconds, self._until = seconds, now + 1


def _mapped(descriptor: int) -> int:
    """The address at which this memory can be read, for good. Nothing of it stays open."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
    size = os.fstat(descriptor).st_size
    # Not by Python's own mmap, which keeps a copy of the descriptor.
    address: int = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "the memory for contents can't be mapped")
    os.close(descriptor)
    return address


def _receive(link: socket.socket, room: bytearray) -> memoryview:
    """One frame from the parent, who sends no second one before it has the answer. In `room`, where it is short."""
    got = 0
    while got < LENGTH_BYTES:
        got += _receive_into(link, memoryview(room)[got:])
    end = LENGTH_BYTES + int.from_bytes(room[:LENGTH_BYTES], "big")
    if end > len(room):
        room = room + bytes(end - len(room))
    while got < end:
        got += _receive_into(link, memoryview(room)[got:end])
    return memoryview(room)[LENGTH_BYTES:end]


def _receive_into(link: socket.socket, room: memoryview) -> int:
    """What there is, one byte at least. Ends the process, in peace, where the parent hung up."""
    got = link.recv_into(room)
    if got == 0:
        os._exit(0)  # an orderly end of the interpreter makes system calls that are not allowed
    return got


if __name__ == "__main__":
    main(*(int(one) for one in sys.argv[1:4]))
