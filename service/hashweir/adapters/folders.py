"""Folders that one process owns: locked until it ends, every file whole or not there, readable by nobody else."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path

from hashweir.errors import Refused

HALF = ".half"
"""Suffix of what is not complete yet."""


def claim(folder: Path, reason: str) -> int:
    """Make and lock a folder; the lock's descriptor.

    Held until it is closed or the process ends, however it ends. Raises OSError, Refused(reason) where another
    process has it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise Refused(reason, f"{folder} is another worker's: give each its own") from None
    return lock


def sweep(folder: Path) -> None:
    """Remove what a former process left half written. Raises OSError."""
    for half in folder.glob(f"*{HALF}"):
        half.unlink()


def put(file: Path, pieces: Iterable[bytes | memoryview], *, sync: bool = False) -> None:
    """Replace a file at once; with `sync` it is on the disk by then. Raises OSError, and what `pieces` raises."""
    half = file.with_suffix(HALF)
    try:
        # Made with its mode: there is no moment at which others could open it.
        with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", 0) as to:
            for piece in pieces:
                rest = memoryview(piece)
                while rest:
                    rest = rest[to.write(rest) :]
            if sync:
                os.fsync(to.fileno())
    except BaseException:
        half.unlink(missing_ok=True)
        raise
    half.replace(file)
    if sync:
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
