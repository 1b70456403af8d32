"""A worker with a fault: it takes an upload for done before its verdict is acked. The main test must notice."""

from __future__ import annotations

import sys

from hashweir.cli import main
from hashweir.pipeline.offsets import Tracker


class Hasty(Tracker):
    """Everything taken is done at once."""

    def take(self, offset: int, size: int, now: float, stamp_ms: int = 0) -> None:
        super().take(offset, size, now, stamp_ms)
        super().done(offset)

    def done(self, offset: int) -> None: ...


if __name__ == "__main__":
    import hashweir.pipeline.worker as worker

    vars(worker)["Tracker"] = Hasty
    sys.exit(main())
