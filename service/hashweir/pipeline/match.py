"""The spine: fetch, scan, look up, decide. Kafka and the command line both go through here.

No verdict is ever made of an unverified state: `usable_view` gives a view that is fit for judging, waiting for one
where its caller can wait, and the view is asked for again when it turned doubtful meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor

import msgspec

from hashweir.errors import InputError
from hashweir.hashing.exact import fingerprints as exact_fingerprints
from hashweir.model import FORMS, KINDS_OF, Fingerprint, FormGroup, Judged, Kind, MediaClass, Scan, Upload
from hashweir.pipeline.decide import decide
from hashweir.pipeline.fetch import fetch
from hashweir.pipeline.lookup import wanted_forms
from hashweir.pipeline.lookup_batches import Lookups
from hashweir.ports import Known, MediaSource, Sandbox, View

USABLE = frozenset({"verified", "degraded"})
"""Standings of a view that may be judged by."""


class Matcher:
    """Judges uploads. Lookups that take long run in `threads`, so that a large scan never stalls the loop."""

    def __init__(
        self,
        *,
        sandbox: Sandbox,
        known: Known,
        usable_view: Callable[[], Awaitable[View]],
        threads: Executor,
        media: MediaSource | None = None,
        references_at_once: int = 4,
    ) -> None:
        self._sandbox = sandbox
        self._known = known
        self._lookups = Lookups(usable_view, threads)
        self._media = media
        self._forms: tuple[FormGroup, ...] = ()
        """What the view that was last judged by wanted of a scan: most likely the next one wants it too."""
        # What is fetched is up to a file's limit long, not a record's: few are held at once.
        self._references = asyncio.Semaphore(references_at_once)

    async def match(self, upload: Upload) -> Judged:
        """The verdict on an upload: always one, whatever its content is."""
        if upload.uri is None:
            return await self._match(upload)
        async with self._references:
            return await self._match(upload)

    async def _match(self, upload: Upload) -> Judged:
        started = time.perf_counter()
        try:
            upload = await fetch(upload, self._media)
        except InputError as error:
            return await self.refuse(upload, error.reason)
        fetched = time.perf_counter()
        while True:
            forms = self._forms
            scan = await self._scan(upload, forms)
            waited = time.perf_counter() - fetched - sum(scan.timings.values())
            timings = {"fetch": fetched - started, "scan_wait": max(waited, 0.0), **scan.timings}
            judged, wanted = await self._judge(upload, scan, timings)
            self._forms = wanted
            # A verdict must be what anybody would say at its position: sets that want other forms want another scan.
            if upload.content is None or wanted == forms:
                return judged

    async def refuse(self, upload: Upload, reason: str) -> Judged:
        """The verdict on an upload whose content is beyond use, or not to be had, for this reason."""
        judged, _ = await self._judge(upload, Scan(media_class=None, media_type=None, reason=reason), {})
        return judged

    async def again(self, upload: Upload, scan: Scan) -> Judged:
        """The verdict of now on an upload that was scanned before."""
        judged, _ = await self._judge(upload, scan, {})
        return judged

    async def _scan(self, upload: Upload, forms: tuple[FormGroup, ...]) -> Scan:
        if upload.content is None:
            return given(upload)
        scan = await self._sandbox.scan(upload, forms)
        if not scan.fingerprints:
            # Whatever the scan process made of it, a file that is known byte for byte is still found.
            exact = tuple(exact_fingerprints(upload.content))
            scan = msgspec.structs.replace(scan, fingerprints=exact)
        return scan

    async def _judge(
        self, upload: Upload, scan: Scan, timings: dict[str, float]
    ) -> tuple[Judged, tuple[FormGroup, ...]]:
        """The verdict, and the forms that its view wanted of the scan."""
        while True:
            started = time.perf_counter()
            view, neighbours, viewless_s = await self._lookups.lookup(scan)
            looked_up = time.perf_counter()
            verdict = decide(upload, scan, neighbours, view)
            if self._known.view().standing in USABLE:
                break
        timings = timings | {"lookup": looked_up - started - viewless_s, "decide": time.perf_counter() - looked_up}
        judged = Judged(
            verdict=verdict,
            failure=scan.reason,
            as_of_ms=view.as_of_ms,
            degraded=view.standing == "degraded",
            timings=timings,
            attempts=scan.attempts,
            scan=scan,
        )
        return judged, wanted_forms(view.sets)


def given(upload: Upload) -> Scan:
    """The scan of an upload that came as fingerprints only: what was not sent was not checked."""
    kinds: set[Kind] = {one.kind for one in upload.fingerprints if one.form in (*FORMS, "fast")}
    media_class = _class_of(upload.media_type, kinds)
    checked = {kind: "ok" if kind in kinds else "not_provided" for kind in KINDS_OF.get(media_class or "text", ())}
    return Scan(
        media_class=media_class,
        media_type=upload.media_type,
        fingerprints=_unique(_timed(upload.fingerprints) if media_class == "video" else upload.fingerprints),
        checked=checked if media_class else dict.fromkeys(kinds, "ok"),
    )


def _class_of(media_type: str | None, kinds: set[Kind]) -> MediaClass | None:
    if media_type == "application/pdf":
        return "document"
    declared = (media_type or "").split("/")[0]
    if declared in ("image", "video", "text"):
        return declared  # type: ignore[return-value]
    if "pdq" in kinds:
        return "image"
    return "text" if kinds & {"tlsh", "text"} else None


def _timed(fingerprints: tuple[Fingerprint, ...]) -> tuple[Fingerprint, ...]:
    """Frames of a video that came without times: one a second, in the order in which they came, as vPDQ makes them."""
    return tuple(
        one
        if one.kind != "pdq" or one.time_s is not None
        else msgspec.structs.replace(one, time_s=float(second), until_s=float(second), frames=1)
        for second, one in enumerate(fingerprints)
    )


def _unique(fingerprints: tuple[Fingerprint, ...]) -> tuple[Fingerprint, ...]:
    return tuple(dict.fromkeys(fingerprints))
