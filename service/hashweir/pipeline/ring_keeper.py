"""Keeps the look-back's ring in files: block by block while it grows, so that a restart begins with what was there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Protocol

from hashweir.errors import HashweirError, InputError
from hashweir.logs import Logger
from hashweir.metrics import Metrics
from hashweir.pipeline.ring import Ring
from hashweir.pipeline.ring_block import Block, decode, encode
from hashweir.ports import Clock


class Files(Protocol):
    """Where blocks of the ring are kept, by name. Both raise OSError; `load` HashweirError(ring_in_use)."""

    def load(self) -> Iterable[tuple[str, bytes]]:
        """Every file with its name, from old to new."""

    def write(self, files: Mapping[str, bytes], gone: Iterable[str]) -> None:
        """Replace these files, each at once, and remove others."""


class Keeper:
    """Loads a ring once and saves what changed of it. Without `files` it does nothing."""

    def __init__(
        self, ring: Ring, files: Files | None, *, every_s: float, clock: Clock, metrics: Metrics, log: Logger
    ) -> None:
        """Saves every `every_s` seconds while `run` runs."""
        self._ring, self._files, self._every_s = ring, files, every_s
        self._clock, self._metrics, self._log = clock, metrics, log
        self._saving: asyncio.Task[None] | None = None

    async def load(self) -> bool:
        """Take what a former process saved; whether there was any. A file that can't be used is removed.

        Never raises: where nothing can be saved, the ring serves without.
        """
        if self._files is None:
            return False
        began = self._clock.monotonic()
        try:
            blocks, refused = await asyncio.to_thread(_read, self._files)
            for name, why in refused:
                self._log.error("lookback.refused", file=name, reason=why.reason, error=why)
        except (HashweirError, OSError) as error:
            reason = error.reason if isinstance(error, HashweirError) else "ring_unwritable"
            self._not_saved(reason, error)
            self._files = None
            return False
        self._ring.adopt(blocks)
        seconds = round(self._clock.monotonic() - began, 3)
        self._log.info("lookback.loaded", uploads=len(self._ring), blocks=len(blocks), seconds=seconds)
        return bool(blocks)

    async def run(self) -> None:
        """Save again and again."""
        while True:
            await asyncio.sleep(self._every_s)
            await self.save()

    async def save(self) -> None:
        """Write what changed since the last time. Never raises: a ring that can't be saved still serves."""
        if self._files is None:
            return
        if self._saving is not None:
            # Whoever waited for it may have been cancelled; its thread goes on, and two must not write one file.
            await asyncio.wait([self._saving])
        self._saving = asyncio.create_task(self._save(self._files))
        await asyncio.shield(self._saving)

    async def _save(self, files: Files) -> None:
        blocks, gone = self._ring.changed()
        parts = [block.parts() for block in blocks]
        try:
            await asyncio.to_thread(lambda: files.write({one[0]: encode(one) for one in parts}, gone))
        except Exception as error:  # noqa: BLE001 - whatever it is, uploads are judged all the same
            self._ring.touch([*(block.name for block in blocks), *gone])
            self._not_saved("ring_unwritable", error)
        else:
            self._metrics.look_back_saved.set(self._clock.now_ms() / 1000)

    def _not_saved(self, reason: str, error: Exception) -> None:
        self._log.error("lookback.not_saved", reason=reason, error=error)
        self._metrics.save_failures.labels(reason).inc()


def _read(files: Files) -> tuple[list[Block], list[tuple[str, InputError]]]:
    """All blocks that can be used; the others' files are removed."""
    blocks: list[Block] = []
    refused: list[tuple[str, InputError]] = []
    for name, data in files.load():
        try:
            blocks.append(decode(data))
        except InputError as error:
            refused.append((name, error))
            files.write({}, [name])
    return blocks, refused
