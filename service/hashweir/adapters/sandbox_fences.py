"""The fences of a scan process: limits, a network namespace, Landlock, and an allow-list of system calls.

A process raises them on itself, once, after everything it will ever need is loaded and before the first byte of
an upload. None of them can be taken down again.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final, Literal

Fence = Literal["limits", "no_new_privileges", "not_dumpable", "no_network", "landlock", "seccomp"]
"""`limits`: no new files, processes, core dumps or file growth, and a bound on address space.
`no_new_privileges`: no set-user-id program gives any. `not_dumpable`: a neighbour under the same user can't attach.
`no_network`: a user and a network namespace of its own, with nothing in them. `landlock`: no file can be reached,
no TCP, no abstract socket, no other process signalled (as far as the kernel's version of it goes).
`seccomp`: any system call that is not in the list below kills the process with SIGSYS."""

Level = Literal["none", "rlimits", "seccomp", "full"]

_BASE: Final[frozenset[Fence]] = frozenset({"limits", "no_new_privileges", "not_dumpable"})
LEVELS: Final[Mapping[Level, frozenset[Fence]]] = MappingProxyType(
    {
        "none": frozenset(),
        "rlimits": _BASE,
        "seccomp": _BASE | {"seccomp"},
        "full": _BASE | {"seccomp", "landlock", "no_network"},
    }
)
"""The fences that have to stand for each level that a configuration may require."""

# From the kernel's uapi headers prctl.h, sched.h and landlock.h; the numbers of newer system calls are the same on
# all architectures.
PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38
_CLONE_THREAD: Final = 0x00010000
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_LANDLOCK_CREATE_RULESET: Final = 444
_LANDLOCK_RESTRICT_SELF: Final = 446
_LANDLOCK_VERSION: Final = 1
_LANDLOCK_FS: Final = {1: 13, 2: 14, 3: 15, 5: 16}
"""How many rights over files each version of Landlock knows, from the lowest bit up, where the number changed."""
_LANDLOCK_NET: Final = 0b11  # bind and connect of TCP, from version 4 on
_LANDLOCK_SCOPED: Final = 0b11  # abstract sockets and signals, from version 6 on

_ALLOWED: Final = (
    # The link to the parent. Nothing else that is open leads anywhere: /dev/null and a file that can't grow.
    *("read", "write", "recvfrom", "sendto", "close"),
    # Memory; what may be mapped is below.
    *("brk", "munmap", "mremap", "madvise"),
    # Locks, clocks, its own numbers, and going.
    *("futex", "sched_yield", "sched_getaffinity", "clock_gettime", "gettimeofday", "getrandom", "getpid", "gettid"),
    *("getrusage", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "restart_syscall", "exit", "exit_group"),
)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _Ruleset(ctypes.Structure):
    """`struct landlock_ruleset_attr`. Older kernels take the longer form where what they don't know is zero."""

    _fields_ = [("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


def lock_down(memory_bytes: int) -> tuple[tuple[Fence, ...], dict[Fence, str]]:
    """Raise every fence that this machine allows, for good: those that stand, and why the others do not.

    `memory_bytes` is the most address space that the process may have from now on. Raises OSError where one of the
    first three of `Fence`, which every Linux has, can't be had.
    """
    lacking: dict[Fence, str] = {}
    load: list[Callable[[], None]] = []
    _try("seccomp", lambda: load.append(_prepared_filter()), lacking)  # opens a library: before all else
    # Before the next three: a new user namespace makes a process dumpable again.
    _try("no_network", _leave_network, lacking)
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    prctl(_PR_SET_DUMPABLE, 0)
    _try("landlock", _restrict_files, lacking)  # takes a descriptor for a moment, so before the limits
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 0),  # descriptors that are open stay so
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(limit, (value, value))
    for last in load:
        _try("seccomp", last, lacking)
    every: tuple[Fence, ...] = (*sorted(_BASE), "no_network", "landlock", "seccomp")
    return tuple(fence for fence in every if fence not in lacking), lacking


def reached(fences: Iterable[Fence]) -> Level:
    """The highest level that these fences make."""
    standing = frozenset(fences)
    return max((level for level, needed in LEVELS.items() if needed <= standing), key=list(LEVELS).index)


def prctl(option: int, value: int) -> None:
    """`prctl(2)` with one argument. Raises OSError."""
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def _try(fence: Fence, step: Callable[[], object], lacking: dict[Fence, str]) -> None:
    try:
        step()
    # The binding of libseccomp raises RuntimeError on import where the library is not there.
    except (OSError, ImportError, RuntimeError) as error:
        lacking[fence] = str(error)


def _leave_network() -> None:
    if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare: no namespaces for ordinary users here")


def _restrict_files() -> None:
    version = _libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION)
    if version < 1:
        raise OSError(ctypes.get_errno(), "the kernel has no Landlock, or it is off")
    rights = max(bits for since, bits in _LANDLOCK_FS.items() if since <= version)
    ruleset = _Ruleset(
        fs=2**rights - 1,
        net=_LANDLOCK_NET if version >= 4 else 0,
        scoped=_LANDLOCK_SCOPED if version >= 6 else 0,
    )
    descriptor = _libc.syscall(_LANDLOCK_CREATE_RULESET, ctypes.byref(ruleset), ctypes.sizeof(ruleset), 0)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset failed")
    try:
        # Everything that is handled and that no rule allows is forbidden, and there is no rule.
        if _libc.syscall(_LANDLOCK_RESTRICT_SELF, descriptor, 0) != 0:
            raise OSError(ctypes.get_errno(), "landlock_restrict_self failed")
    finally:
        os.close(descriptor)


def _prepared_filter() -> Callable[[], None]:
    """What loads the filter. Raises ImportError, RuntimeError or OSError where there is no libseccomp."""
    import pyseccomp as seccomp

    made = seccomp.SyscallFilter(seccomp.KILL_PROCESS)
    # Calls by the numbers of another architecture (32 bit, x32) end the process too, not only a thread.
    made.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.KILL_PROCESS)
    made.set_attr(seccomp.Attr.CTL_TSYNC, 1)
    for name in _ALLOWED:
        made.add_rule(seccomp.ALLOW, name)
    for name in ("mmap", "mprotect"):  # memory, never code
        made.add_rule(seccomp.ALLOW, name, seccomp.Arg(2, seccomp.MASKED_EQ, mmap.PROT_EXEC, 0))
    # abort() and raise() of the process itself, so that a crash shows as what it is.
    made.add_rule(seccomp.ALLOW, "tgkill", seccomp.Arg(0, seccomp.EQ, os.getpid()))
    made.add_rule(
        seccomp.ALLOW,
        "prlimit64",
        seccomp.Arg(0, seccomp.EQ, 0),
        seccomp.Arg(1, seccomp.EQ, resource.RLIMIT_CPU),
    )
    # A library that asks for a thread hears that there is none, and works without or gives up by itself; clone3's
    # flags can't be seen by a filter, and every libc falls back from it to clone.
    made.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    made.add_rule(seccomp.ERRNO(errno.EAGAIN), "clone", seccomp.Arg(0, seccomp.MASKED_EQ, _CLONE_THREAD, _CLONE_THREAD))
    load: Callable[[], None] = made.load
    return load
