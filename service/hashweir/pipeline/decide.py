"""Neighbours and set policy to a verdict. Pure: same upload, scan, neighbours and view, same verdict.

Precedence is match > unscanned > clear. `clear` is said only where every perceptual kind that active sets hold for
this media class was really checked. Nothing here ever raises an action; every rule can only lower it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hashweir.canary import CANARY_SET, is_canary
from hashweir.model import (
    ACTIONS,
    EXACT_BANDS,
    KINDS_OF,
    PERCEPTUAL,
    Action,
    AnyForm,
    Band,
    Fingerprint,
    Hit,
    Kind,
    Neighbour,
    Outcome,
    Scan,
    Set,
    Upload,
    Verdict,
    derive,
)
from hashweir.ports import View

MAX_HITS = 100
MAX_STRETCHES = 50
KIND_CEILINGS: dict[Kind, Action] = {"tlsh": "review", "text": "review", "md5": "review"}
"""Kinds that are too easily matched by chance, by form letters or by design to do more than ask a person."""
_MAIN: tuple[AnyForm, ...] = ("canonical", "fast")
"""Forms of a picture whose quality says whether it could be checked; the others are looked up in addition."""
_BANDS: tuple[Band, ...] = ("exact", "a", "b", "c")


def verdict_id(source: str, upload: str) -> str:
    """Id of the verdict on an upload as 32 hex: the same for every delivery of the same upload."""
    return derive(16, source.encode(), upload.encode()).hex()


def hit_id(verdict: str, set_name: str, entry: str, kind: Kind) -> str:
    """Id of a hit as 32 hex."""
    return derive(16, verdict.encode(), set_name.encode(), entry.encode(), kind.encode()).hex()


def decide(upload: Upload, scan: Scan, neighbours: Sequence[Neighbour], view: View) -> Verdict:
    """The verdict on one upload.

    `scan.reason` says that nothing perceptual could be computed: then only a hit can lift it from `unscanned`.
    """
    verdict = verdict_id(upload.source, upload.id)
    cap: Action = "review" if view.standing == "degraded" else "block"
    canary = is_canary(upload)
    applicable = {
        name: one for name, one in view.sets.items() if (name == CANARY_SET) is canary and _applies(one, upload)
    }
    hits = _nearest(
        _hit(verdict, near, applicable[near.entry.set], upload, scan, view, cap)
        for near in neighbours
        if near.entry.set in applicable
    )
    active = [hit for hit in hits if hit.state == "active"]
    checked = _checked(scan, applicable, view)
    outcome, reason, notes = _outcome(bool(active), scan, checked, applicable, view)
    listed = tuple(hits[:MAX_HITS])
    return Verdict(
        id=verdict,
        source=upload.source,
        upload=upload.id,
        sha256=next((one.value for one in scan.fingerprints if one.kind == "sha256"), None),
        media_type=scan.media_type or upload.media_type,
        media_class=scan.media_class,
        surface=upload.surface,
        account=upload.account,
        outcome=outcome,
        action=_strongest(hit.action for hit in active),
        reason=reason,
        checked=checked,
        notes=tuple(sorted({*upload.notes, *scan.notes, *notes})),
        hits=listed,
        hits_total=len(hits),
        fingerprints=_of_hits(scan.fingerprints, listed, neighbours),
        sets={name: one.version for name, one in sorted(applicable.items())},
        position=view.position,
        footage=scan.footage,
    )


def _applies(one: Set, upload: Upload) -> bool:
    """A set limited to surfaces also sees uploads of unknown surface, but only logs them (`_ceiling`)."""
    return one.state != "off" and (not one.surfaces or upload.surface is None or upload.surface in one.surfaces)


def _hit(verdict: str, near: Neighbour, owner: Set, upload: Upload, scan: Scan, view: View, cap: Action) -> Hit:
    entry, fingerprint = near.entry, near.fingerprint
    band = _band(owner, entry.kind, near.distance)
    ceiling = _weakest(owner.ceiling, cap, _ceiling(near, owner, upload, scan))
    batch = view.batch(entry.batch)
    upload_share, known_share = _shares(near, owner, scan) if near.frames else (None, None)
    below = (
        upload_share is not None
        and known_share is not None
        and (
            upload_share < owner.video_share_upload
            or known_share < owner.video_share_known
            # How many entries the known video has in shards that are not followed, nobody here can say.
            or (bool(view.missing) and owner.video_share_known > 0)
        )
    )
    return Hit(
        id=hit_id(verdict, owner.name, entry.id, entry.kind),
        kind=entry.kind,
        form=fingerprint.form,
        set=owner.name,
        entry=entry.id,
        item=entry.item,
        distance=near.distance,
        radius=near.radius,
        band=band,
        quality=fingerprint.quality,
        entry_quality=entry.quality,
        origin=owner.origin,
        labels=batch.labels if batch else (),
        ceiling=ceiling,
        action="none" if below else _weakest(owner.actions.get(band, "none"), ceiling),
        state="shadow" if owner.state != "active" else "below_share" if below else "active",
        length_unknown=near.length_unknown,
        page=fingerprint.page,
        share_upload=upload_share,
        share_known=known_share,
        times=_times(near.frames, scan),
    )


def _shares(near: Neighbour, owner: Set, scan: Scan) -> tuple[float, float]:
    """Which share of the upload's frames hit the item, and which share of the item's entries they hit.

    As in vPDQ, frames under the quality floor are not counted on the upload's side: a black one is evidence of
    nothing. Both are rounded, so that a verdict's bytes do not hang on the last bit of a division.
    """
    floor = owner.min_quality
    counted = [
        one for one in scan.fingerprints if one.time_s is not None and (one.quality is None or one.quality >= floor)
    ]
    total = sum(one.frames or 1 for one in counted)
    hit = sum(one.frames or 1 for one in near.frames)
    return round(min(1.0, hit / max(1, total)), 4), round(near.entries_hit / max(1, near.entries), 4)


def _times(frames: Sequence[Fingerprint], scan: Scan) -> tuple[tuple[float, float], ...]:
    """When the frames stand in the upload: stretches in seconds, neighbouring ones joined."""
    gap = 1.5 * scan.footage.every_s if scan.footage else 0.0
    joined: list[tuple[float, float]] = []
    for start, end in sorted((one.time_s or 0.0, one.until_s or one.time_s or 0.0) for one in frames):
        if joined and start <= joined[-1][1] + gap:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return tuple(joined[:MAX_STRETCHES])


def _band(owner: Set, kind: Kind, distance: int) -> Band:
    if kind in EXACT_BANDS:
        return "exact"
    a, b = owner.bands.get(kind, (0, 0))
    return "a" if distance <= a else "b" if distance <= b else "c"


def _ceiling(near: Neighbour, owner: Set, upload: Upload, scan: Scan) -> Action:
    """The strongest action that the quality of this one piece of evidence allows."""
    entry = near.entry
    raw_of_two_byte_script = near.fingerprint.form == "raw" and "mostly_ascii" not in scan.notes
    surface_unknown = bool(owner.surfaces) and upload.surface is None
    if raw_of_two_byte_script or surface_unknown or near.length_unknown or near.only_logs:
        return "log"
    if owner.origin == "government-referral":
        return "review"
    return KIND_CEILINGS.get(entry.kind, "block")


def _nearest(hits: Iterable[Hit]) -> list[Hit]:
    """One hit per (set, item): the strongest recommendation, then the best band, then the nearest."""

    def rank(hit: Hit) -> tuple[bool, int, int, int, str, str]:
        below = hit.state == "below_share"
        return (below, -ACTIONS.index(hit.action), _BANDS.index(hit.band), hit.distance, hit.kind, hit.entry)

    best: dict[tuple[str, str], Hit] = {}
    for hit in hits:
        key = hit.set, hit.item
        if key not in best or rank(hit) < rank(best[key]):
            best[key] = hit
    return sorted(best.values(), key=lambda hit: (hit.state != "active", *rank(hit), hit.set))


def _checked(scan: Scan, applicable: dict[str, Set], view: View) -> dict[Kind, str]:
    """What was checked of each kind; a picture or page under the floor of any active set was not fully checked.

    Of frames, the best one counts: most videos have a black one somewhere. Where shards are missing, nothing was.
    """
    checked = dict(scan.checked)
    main = [one for one in scan.fingerprints if one.form in _MAIN and one.quality is not None]
    qualities = [one.quality or 0 for one in main if one.time_s is None]
    if best := [one.quality or 0 for one in main if one.time_s is not None]:
        qualities = [max(qualities + best)]
    floor = max((one.min_quality for one in applicable.values() if one.state == "active"), default=0)
    if qualities and min(qualities) < floor and checked.get("pdq") == "ok":
        checked["pdq"] = "low_quality"
    if view.missing:
        checked = {kind: "shards_missing" if said == "ok" else said for kind, said in checked.items()}
    return checked


def _outcome(
    matched: bool, scan: Scan, checked: dict[Kind, str], applicable: dict[str, Set], view: View
) -> tuple[Outcome, str | None, tuple[str, ...]]:
    missing = (f"shards_missing:{view.missing}",) if view.missing else ()
    if matched:
        return "match", None, missing
    if scan.reason is not None:
        return "unscanned", scan.reason, missing
    if scan.media_class is None:
        return "unscanned", "not_provided", missing
    if view.missing:
        # Whatever else is known: what would have matched, or which kinds active sets hold, may stand elsewhere.
        return "unscanned", "shards_missing", missing
    held = {
        kind
        for name, one in applicable.items()
        if one.state == "active"
        for kind in view.holds(name)
        if kind in KINDS_OF[scan.media_class]
    }
    if not held:
        return "unscanned", "no_active_set", ()
    perceptual = held & PERCEPTUAL[scan.media_class]
    for kind in sorted(perceptual or held):
        if checked.get(kind, "not_provided") != "ok":
            return "unscanned", checked.get(kind, "not_provided"), ()
    return "clear", None, () if perceptual else ("exact_only",)


def _of_hits(
    fingerprints: Sequence[Fingerprint], hits: Sequence[Hit], neighbours: Sequence[Neighbour]
) -> tuple[Fingerprint, ...]:
    """The fingerprints behind the hits; of a video, those of the frames that hit."""
    hit = {(one.kind, one.form) for one in hits}
    items = {(one.set, one.item) for one in hits}
    frames = {one for near in neighbours if (near.entry.set, near.entry.item) in items for one in near.frames}
    return tuple(
        one for one in fingerprints if (one in frames if one.time_s is not None else (one.kind, one.form) in hit)
    )


def _strongest(actions: Iterable[Action]) -> Action:
    return max(actions, key=ACTIONS.index, default="none")


def _weakest(*actions: Action) -> Action:
    return min(actions, key=ACTIONS.index)
