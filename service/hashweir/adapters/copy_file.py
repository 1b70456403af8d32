"""The file of the last verified state, in a folder of this worker alone."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from pathlib import Path

from hashweir.adapters.folders import claim, put, sweep

_NAME = "known.copy"


class CopyFile:
    """Implements `shards.keep.File`. The folder is ours from `read` on until the process ends."""

    def __init__(self, folder: Path) -> None:
        """The folder is made where it is missing."""
        self._folder = folder
        self._lock: int | None = None

    def read(self) -> memoryview:
        """The file, mapped; empty where there is none. Raises OSError, Refused(saved_in_use)."""
        if self._lock is None:
            self._lock = claim(self._folder, "saved_in_use")
        sweep(self._folder)
        try:
            with (self._folder / _NAME).open("rb") as file:
                # It is replaced, never written to, so what is mapped stays as it is.
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (FileNotFoundError, ValueError):  # ValueError: an empty file can't be mapped
            return memoryview(b"")

    def close(self) -> None:
        """Let another worker have the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Replace the file at once, on the disk. Raises OSError, and what `pieces` raises."""
        put(self._folder / _NAME, pieces, sync=True)
