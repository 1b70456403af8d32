"""Time, as a value that is passed in."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Time, settable in tests. Fences and ages use `monotonic` only."""

    def now_ms(self) -> int:
        """Wall-clock time in milliseconds since 1970."""

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps."""
