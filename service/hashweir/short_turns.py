"""Short turns on the processor, for threads that others wait for.

Where more threads want to run than there are processors, Linux (6.12 and later) lets that one run next whose turn would
end first, so who asks for short turns waits less and gets no more of the processor than before. Beside an import into
ten million entries that took a quarter off the slowest lookups (`decisions/0011-rows-that-never-change.md`).
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from typing import Final

TURN_NS: Final = 100_000
"""The shortest that Linux knows (`kernel/sched/syscalls.c`). Its default is 0.7 ms and more (`kernel/sched/fair.c`)."""
_CALL: Final = {"x86_64": 314, "aarch64": 274}
"""Numbers of `sched_setattr`, which Python does not have."""
_RESET_ON_FORK: Final = 1
_ATTRIBUTES: Final = struct.Struct("=IIQiIQQQ")
"""`struct sched_attr`, version 0: its size, policy, flags, nice, priority, runtime, deadline, period."""


def take_short_turns() -> None:
    """Have the calling thread run in short turns. What it starts does not, be it thread or process.

    Elsewhere than on Linux, or where that is forbidden or unknown, nothing happens.
    """
    number = _CALL.get(platform.machine())
    if sys.platform == "linux" and number is not None:
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        wanted = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, _RESET_ON_FORK, nice, 0, TURN_NS, 0, 0)
        ctypes.CDLL(None).syscall(ctypes.c_long(number), 0, wanted, 0)
