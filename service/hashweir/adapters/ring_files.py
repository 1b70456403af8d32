"""The look-back's ring in a folder of this worker alone: one file per block, readable by nobody else."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from hashweir.errors import Refused

_SUFFIX = ".ring"


class RingFolder:
    """Implements `pipeline.ring_keeper.Files`. The folder is ours from `load` on until the process ends."""

    def __init__(self, folder: Path) -> None:
        """The folder is made where it is missing."""
        self._folder = folder
        self._lock: int | None = None

    def load(self) -> Iterator[tuple[str, bytes]]:
        """Every file with its name, from old to new. Raises OSError, Refused(ring_in_use)."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._lock is None:
            lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                # Held until the process ends, however it ends.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(lock)
                raise Refused("ring_in_use", f"{self._folder} is another worker's: give each its own") from None
            self._lock = lock
        for half in self._folder.glob("*.half"):
            half.unlink()
        for file in sorted(self._folder.glob(f"*{_SUFFIX}")):
            yield file.name.removesuffix(_SUFFIX), file.read_bytes()

    def write(self, files: Mapping[str, bytes], gone: Iterable[str]) -> None:
        """Replace these files, each at once, and remove others. Raises OSError."""
        for name, data in files.items():
            half = self._folder / f"{name}.half"
            # Made with its mode: there is no moment at which others could open it.
            with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(data)
            half.replace(self._folder / f"{name}{_SUFFIX}")
        for name in gone:
            (self._folder / f"{name}{_SUFFIX}").unlink(missing_ok=True)
