"""The twin of the scan processes: scans right here. For tests and content that is trusted, never for uploads."""

from __future__ import annotations

from collections.abc import Callable

from hashweir.model import FormGroup, Scan, Upload
from hashweir.ports import Load


class MemorySandbox:
    """`ports.Sandbox` without processes, deadlines and fences."""

    def __init__(self, scan: Callable[[bytes, str | None, tuple[FormGroup, ...]], Scan]) -> None:
        """`scan` is a scan function: content, declared media type and wanted forms to a Scan."""
        self._scan = scan
        self._running = False

    async def start(self) -> None:
        """Nothing to start."""
        self._running = True

    async def scan(self, upload: Upload, forms: tuple[FormGroup, ...] = ()) -> Scan:
        """Scan on the caller's thread. Raises RuntimeError outside of `start` and `stop`."""
        if upload.content is None:
            raise ValueError("an upload without content can't be scanned")
        if not self._running:
            raise RuntimeError("the scan processes were stopped")
        return self._scan(upload.content, upload.media_type, forms)

    def load(self) -> Load:
        """Always idle: a scan blocks whoever could ask."""
        return Load()

    async def stop(self) -> None:
        """Nothing to end."""
        self._running = False
