"""What was scanned lately, by SHA-256: it turns a flood of copies into lookups."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import msgspec

from hashweir.model import FormGroup, Scan

Key = tuple[bytes, str | None, tuple[FormGroup, ...]]
"""SHA-256 of the content as this process computed it, the declared media type without parameters, the wanted forms.

The whole type and not its class alone, for a scan's notes say whether it fits the content. Recipes and limits are
not in the key: they can't change while a process runs, and the cache ends with it.
"""

FINGERPRINTS_PER_SCAN: Final = 4
"""So many are reckoned per scan, in the mean: one long video may not hold the room of hundreds of pictures."""
_DONE: Final = frozenset({"ok", "too_short"})


class ScanCache:
    """At most `scans` complete scans, the longest unused forgotten first; with 0, none. Not for several threads."""

    def __init__(self, scans: int) -> None:
        """One scan of a picture takes some 2 kB."""
        self._scans = scans
        self._held: OrderedDict[Key, tuple[Scan, int]] = OrderedDict()
        self._fingerprints = 0

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: Key) -> Scan | None:
        """The scan of an equal upload, without timings: nothing was decoded or hashed this time."""
        held = self._held.get(key)
        if held is None:
            return None
        self._held.move_to_end(key)
        return held[0]

    def put(self, key: Key, scan: Scan, process: int) -> None:
        """Keep what this process answered, where it is complete: every kind was done, in the first attempt."""
        if scan.reason is not None or scan.attempts != 1 or not _DONE.issuperset(scan.checked.values()):
            return
        self._remove(key)
        self._held[key] = (msgspec.structs.replace(scan, timings={}), process)
        self._fingerprints += len(scan.fingerprints)
        while len(self._held) > self._scans or self._fingerprints > FINGERPRINTS_PER_SCAN * self._scans:
            self._remove(next(iter(self._held)))

    def forget(self, process: int) -> None:
        """Drop what came from a process that proved to be bad: it may have lied before it was found out."""
        for key in [key for key, (_, maker) in self._held.items() if maker == process]:
            self._remove(key)

    def _remove(self, key: Key) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            self._fingerprints -= len(held[0].fingerprints)
