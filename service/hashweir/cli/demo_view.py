"""What the demo shows while it runs: a live board on a terminal, a plain line now and then elsewhere. On stderr."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Self

from hashweir.cli.match import explain_hit
from hashweir.cli.output import console, say
from hashweir.model import Hit

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live

PLAIN_EVERY_S = 3.0
LATEST = 8


@dataclass
class Progress:
    """How far the run is. Written by the event loop, read by the board's thread."""

    total: int
    seed: int
    stage: str = "starting"
    known: int = 0
    generated: int = 0
    sent: int = 0
    judged: int = 0
    planted: int = 0
    matched: int = 0
    false: int = 0
    unscanned: int = 0
    began: float = 0.0
    missed_edits: list[str] = field(default_factory=list)
    latest: deque[str] = field(default_factory=lambda: deque(maxlen=LATEST))

    def hit(self, name: str, what: str, hit: Hit) -> None:
        """Note a hit, to be shown with its explanation."""
        self.latest.append(f"{name} ({what}): {explain_hit(hit)}")

    def line(self) -> str:
        """Everything that counts, in one line."""
        if self.stage != "streaming":
            return f"{self.stage}: {self.generated} of {self.total}" if self.generated else self.stage
        rate = self.judged / max(time.monotonic() - self.began, 0.001)
        return (
            f"{self.judged} of {self.total} uploads judged ({rate:.0f}/s), {self.planted} planted edits seen: "
            f"{self.matched} matched, {len(self.missed_edits)} missed, {self.false} false"
        )


class Board:
    """Shows a Progress while its context lasts."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._done = threading.Event()
        self._live: Live | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        out = console(stderr=True)
        if out.is_terminal:
            from rich.live import Live

            self._live = Live(console=out, get_renderable=self._render, refresh_per_second=5)
            self._live.start()
        else:
            self._thread = threading.Thread(target=self._lines, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._live is not None:
            self._live.stop()
        if self._thread is not None:
            self._thread.join()
        for edit in self._progress.missed_edits:
            say(f"missed: {edit}")

    def _lines(self) -> None:
        shown = ""
        while not self._done.wait(PLAIN_EVERY_S if shown else 0.5):
            shown = self._show(shown)
        self._show(shown)

    def _show(self, shown: str) -> str:
        progress = self._progress
        if (line := progress.line()) != shown:
            say(line)
            if progress.latest:
                say(f"  {progress.latest.pop()}")
        return line

    def _render(self) -> Group:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        progress = self._progress
        done = progress.judged if progress.stage == "streaming" else progress.generated
        title = f"hashweir demo, seed {progress.seed}, {progress.known} known hashes"
        return Group(
            Text(title, style="bold"),
            Text(progress.line()),
            ProgressBar(total=progress.total, completed=done, width=60),
            *(Text(f"  {line}", overflow="ellipsis", no_wrap=True) for line in progress.latest),
        )
