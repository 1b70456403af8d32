"""Keeps what is known in a file, so that a restart begins with it and reads only what changed since.

What a file says is never trusted: its shards are doubtful until the store's stream and heads agree with them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from hashweir.errors import HashweirError, InputError
from hashweir.logs import Logger
from hashweir.ports import Clock, Head
from hashweir.shards.known import LiveKnown
from hashweir.shards.restored import Restored, restore
from hashweir.shards.saved import Copy, Piece
from hashweir.shards.trust import Followed

_BYTES_PER_S = 100 << 20
"""Written beside serving at most so fast, to leave the disk to others."""


class File(Protocol):
    """Where the state is kept. Both raise OSError; `read` HashweirError(saved_in_use)."""

    def read(self) -> memoryview:
        """The file; empty where there is none."""

    def write(self, pieces: Iterable[Piece]) -> None:
        """Replace it at once, or leave it as it is."""


class Saver:
    """Loads a file once and saves again and again. Whatever is wrong with it, the store is followed all the same."""

    def __init__(
        self,
        file: File,
        *,
        every_s: float,
        clock: Clock,
        log: Logger,
        when_failed: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """Saves every `every_s` seconds while `run` runs, if something changed. `when_failed` gets the reason."""
        self.saved_ms = 0
        """When it was last saved, in milliseconds since 1970; 0: not yet."""
        self._file: File | None = file
        self._every_s, self._clock, self._log, self._when_failed = every_s, clock, log, when_failed
        self._total, self._known, self._followed = 0, LiveKnown(clock), list[Followed]()
        self._last = b""
        self._saving: asyncio.Task[None] | None = None
        self._hurry = self._stop = False

    async def load(self, known: LiveKnown, followed: Sequence[Followed], heads: Sequence[Head]) -> bool:
        """Put what a former process saved in place of nothing; whether there was any. Never raises.

        `heads` are those of all shards of the store: a file of which no shard shares its history is another store's.
        """
        self._total, self._known, self._followed = len(heads), known, list(followed)
        if self._file is None:
            return False
        began = self._clock.monotonic()
        try:
            found = await asyncio.to_thread(_read, self._file)
            if found is not None:
                _belongs(found, self._followed, heads)
        except InputError as error:
            self._log.error("copy.refused", reason=error.reason, error=error)
            return False
        except (HashweirError, OSError) as error:
            self._give_up(error)
            return False
        if found is None:
            return False
        found.begin(known, self._followed)
        entries = sum(sum(one.shard.counts().values()) for one in self._followed)
        self._log.info("copy.loaded", slots=entries, seconds=round(self._clock.monotonic() - began, 3))
        return True

    async def run(self) -> None:
        """Save again and again."""
        while True:
            await asyncio.sleep(self._every_s)
            await self.save()

    async def last(self) -> None:
        """Save once more, as fast as it goes. For the end: what was saved last is what a successor begins with."""
        self._hurry = True
        try:
            await self.save()
        except asyncio.CancelledError:
            self._stop = True  # the thread must not keep the process from its end
            raise

    async def save(self) -> None:
        """Write what is known, unless it was written already or is in doubt. Raises nothing of its own."""
        if self._saving is not None:
            # Whoever waited for it may have been cancelled; its thread goes on, and two must not write one file.
            await asyncio.wait([self._saving])
        digest = self._known.view().content.digest
        ready = self._followed and all(one.loaded and one.doubt is None for one in self._followed)
        if self._file is None or not ready or digest == self._last or not self._known.sets_position.epoch:
            return
        copy = Copy(self._total, self._known, self._followed)
        self._saving = asyncio.create_task(self._write(self._file, copy, digest))
        await asyncio.shield(self._saving)

    async def _write(self, file: File, copy: Copy, digest: bytes) -> None:
        began = self._clock.monotonic()
        try:
            await asyncio.to_thread(file.write, self._paced(copy))
        except Exception as error:  # noqa: BLE001 - whatever it is, uploads are judged all the same
            self._not_saved("saved_unwritable", error)
        else:
            self._last, self.saved_ms = digest, self._clock.now_ms()
            self._log.info("copy.saved", seconds=round(self._clock.monotonic() - began, 3))

    def _paced(self, copy: Copy) -> Iterator[Piece]:
        began, size = time.monotonic(), 0
        for piece in copy.pieces():
            if self._stop:
                raise InterruptedError("the process ends")
            yield piece
            size += len(piece)
            ahead = size / _BYTES_PER_S - (time.monotonic() - began)
            if ahead > 0 and not self._hurry:
                time.sleep(min(ahead, 0.1))

    def _give_up(self, error: HashweirError | OSError) -> None:
        self._not_saved(error.reason if isinstance(error, HashweirError) else "saved_unwritable", error)
        self._file = None

    def _not_saved(self, reason: str, error: Exception) -> None:
        self._log.error("copy.not_saved", reason=reason, error=error)
        self._when_failed(reason)


def _read(file: File) -> Restored | None:
    view = file.read()
    return restore(view) if len(view) else None


def _belongs(found: Restored, followed: Sequence[Followed], heads: Sequence[Head]) -> None:
    """Raises InputError(saved_foreign)."""
    epochs = found.epochs()
    if found.total != len(heads) or list(epochs) != [one.shard.number for one in followed]:
        raise InputError("saved_foreign", "the file of the last state is of other shards")
    if not any(heads[number].position.epoch in some for number, some in epochs.items()):
        raise InputError("saved_foreign", "the file of the last state is of another store")
