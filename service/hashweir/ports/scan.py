"""Content: where it is fetched from, and where it is decoded and hashed."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from hashweir.model import FormGroup, Scan, Upload


class MediaSource(Protocol):
    """Content by reference."""

    async def fetch(self, uri: str) -> bytes:
        """The content. Raises InputError with a reason."""


class Load(NamedTuple):
    """How busy a sandbox is: processes that are ready, those with an upload, uploads that wait, bytes of memory."""

    processes: int = 0
    busy: int = 0
    waiting: int = 0
    resident_bytes: int = 0


class Sandbox(Protocol):
    """Decoding and hashing of untrusted bytes, away from credentials."""

    async def start(self) -> None:
        """Start the scan processes and wait until each answers."""

    async def scan(self, upload: Upload, forms: tuple[FormGroup, ...] = ()) -> Scan:
        """Scan one upload's content, and compute these forms of a picture too. Waits for a free process.

        Always answers: deaths and deadlines are reasons.
        """

    def load(self) -> Load:
        """How busy it is now. Cheap."""

    async def stop(self) -> None:
        """End all scan processes, by id, within a bounded time."""
