"""A lane of their own for uploads that take long, so that no picture waits behind a video."""

from __future__ import annotations

import asyncio
from collections.abc import Set

from hashweir.adapters.sandbox_upload import class_of
from hashweir.model import FormGroup, MediaClass, Scan, Upload
from hashweir.ports import Load, Sandbox


class Lanes:
    """`ports.Sandbox` over two: one for some media classes (by magic bytes, else as declared), one for the rest."""

    def __init__(self, short: Sandbox, long: Sandbox, classes: Set[MediaClass]) -> None:
        """Uploads of `classes` go to `long`."""
        self._short = short
        self._long = long
        self._classes = classes

    async def start(self) -> None:
        """Start both; where one fails, neither runs on. Raises what the one that failed raises."""
        try:
            async with asyncio.TaskGroup() as group:
                for lane in (self._short, self._long):
                    group.create_task(lane.start())
        except BaseExceptionGroup as errors:
            await self.stop()
            raise errors.exceptions[0] from None

    async def scan(self, upload: Upload, forms: tuple[FormGroup, ...] = ()) -> Scan:
        """Scan in the lane of its class."""
        media_class = class_of(upload.content or b"", upload.media_type)
        lane = self._long if media_class in self._classes else self._short
        return await lane.scan(upload, forms)

    def load(self) -> Load:
        """Of both."""
        return Load(*map(sum, zip(self._short.load(), self._long.load(), strict=True)))

    async def stop(self) -> None:
        """End both."""
        await asyncio.gather(self._short.stop(), self._long.stop())
