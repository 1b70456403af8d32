"""What a process did with its time, by the kernel's own count: on a processor, and waiting for one.

`/proc/PID/task/TID/schedstat` has nanoseconds of both since the thread began (Linux, `Documentation/scheduler/
sched-stats.rst`). Waiting for a lock, the interpreter's among them, is neither.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Spent(NamedTuple):
    """Nanoseconds."""

    running: int
    waiting: int


def of_threads(pid: int) -> dict[int, Spent]:
    """Every thread of a process; none where it is gone."""
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            running, waiting, _ = (task / "schedstat").read_text().split()
        except OSError:
            continue
        found[int(task.name)] = Spent(int(running), int(waiting))
    return found


class Account:
    """Shares of a core that a process' threads used, and waited for, since somebody last asked."""

    def __init__(self, pid: int | None = None, names: Mapping[str, str] | None = None) -> None:
        """Of this process, threads are told apart by what their name begins with: `names` says what to call them."""
        self._pid, self._names = pid or os.getpid(), names or {}
        self._at, self._before = time.monotonic(), of_threads(self._pid)

    def tell(self) -> dict[str, str]:
        """By kind of thread: per cent of a core on a processor + waiting for one."""
        at, now = time.monotonic(), of_threads(self._pid)
        named = {thread.native_id: thread.name for thread in threading.enumerate()}
        sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for tid, spent in now.items():
            before = self._before.get(tid, Spent(0, 0))
            own = named.get(tid, "") if self._names else ""
            called = next((name for prefix, name in self._names.items() if own.startswith(prefix)), "all")
            sums[called][0] += spent.running - before.running
            sums[called][1] += spent.waiting - before.waiting
        passed, self._at, self._before = (at - self._at) * 1e7, at, now
        return {name: f"{running / passed:.0f} + {waiting / passed:.0f}" for name, (running, waiting) in sums.items()}
