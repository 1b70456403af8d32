"""The look-back's ring in a folder of this worker alone: one file per block, readable by nobody else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from hashweir.adapters.folders import claim, put, sweep

_SUFFIX = ".ring"


class RingFolder:
    """Implements `pipeline.ring_keeper.Files`. The folder is ours from `load` on until the process ends."""

    def __init__(self, folder: Path) -> None:
        """The folder is made where it is missing."""
        self._folder = folder
        self._lock: int | None = None

    def load(self) -> Iterator[tuple[str, bytes]]:
        """Every file with its name, from old to new. Raises OSError, Refused(ring_in_use)."""
        if self._lock is None:
            self._lock = claim(self._folder, "ring_in_use")
        sweep(self._folder)
        for file in sorted(self._folder.glob(f"*{_SUFFIX}")):
            yield file.name.removesuffix(_SUFFIX), file.read_bytes()

    def write(self, files: Mapping[str, bytes], gone: Iterable[str]) -> None:
        """Replace these files, each at once, and remove others. Raises OSError."""
        for name, data in files.items():
            put(self._folder / f"{name}{_SUFFIX}", [data])
        for name in gone:
            (self._folder / f"{name}{_SUFFIX}").unlink(missing_ok=True)
