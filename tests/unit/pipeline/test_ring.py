"""The ring equals a deque of the last uploads: in what it holds, in what it finds, and after a restart."""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hashweir.errors import InputError
from hashweir.hashing import HASHERS, RECIPES
from hashweir.index._native import LEVEL
from hashweir.index.scan import near
from hashweir.model import KINDS, Fingerprint, Footage, Kind, Scan, Upload
from hashweir.pipeline import ring as ring_module
from hashweir.pipeline.ring import Ring, near_many, near_one
from hashweir.pipeline.ring_block import decode, encode

RADII: dict[Kind, int] = {"pdq": 31, "tlsh": 60}
PLENTY = 2**30


@st.composite
def values(draw: st.DrawFn, kind: Kind) -> bytes:
    """One of a few values, or a near neighbour of it."""
    width = HASHERS[kind].width
    base = bytearray(hashlib.shake_128(f"{kind} {draw(st.integers(0, 4))}".encode()).digest(width))
    if kind in RADII:
        for bit in draw(st.lists(st.integers(64, 8 * width - 1), max_size=40)):
            base[bit // 8] ^= 1 << bit % 8
    return bytes(base)


@st.composite
def prints(draw: st.DrawFn) -> Fingerprint:
    """A fingerprint of any kind and form, with any of what may stand beside it."""
    kind, form = draw(st.sampled_from(sorted(RECIPES)))
    extra: dict[str, Any] = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "quality": st.integers(0, 100),
                "length": st.integers(0, 2**32),
                "page": st.integers(1, 200),
                "time_s": st.floats(0, 1e6),
                "until_s": st.floats(0, 1e6),
                "frames": st.integers(1, 1000),
            },
        )
    )
    recipe = draw(st.sampled_from([RECIPES[kind, form], "another/9"]))
    return Fingerprint(kind=kind, form=form, recipe=recipe, value=HASHERS[kind].show(draw(values(kind))), **extra)


def item(name: str = "") -> tuple[Upload, Scan]:
    """An upload of which little is known, and a scan that found nothing."""
    return Upload(source="kafka:one", id=name, media_type=None), Scan(media_class=None, media_type=None, checked={})


@st.composite
def items(draw: st.DrawFn) -> tuple[Upload, Scan]:
    """An upload without content, and a scan of it."""
    upload = Upload(
        source=draw(st.sampled_from(["kafka:one", "a platform"])),
        id=draw(st.text(max_size=20)),
        media_type=draw(st.sampled_from([None, "image/png"])),
        account=draw(st.sampled_from([None, "token"])),
        surface=draw(st.sampled_from([None, "post"])),
        notes=draw(st.sampled_from([(), ("bad_header",)])),
    )
    scan = Scan(
        media_class=draw(st.sampled_from([None, "image", "video"])),
        media_type=draw(st.sampled_from([None, "image/png"])),
        fingerprints=tuple(draw(st.lists(prints(), max_size=5))),
        checked=draw(st.sampled_from([{}, {"pdq": "ok", "sha256": "ok"}])),
        notes=draw(st.sampled_from([(), ("type_mismatch",)])),
        reason=draw(st.sampled_from([None, "undecodable"])),
        footage=draw(st.sampled_from([None, Footage(duration_s=1.5, frames=2, every_s=1.0, share_checked=0.5)])),
        attempts=draw(st.integers(1, 2)),
    )
    return upload, scan


@dataclass
class Held:
    """What a deque remembers of an upload."""

    item: tuple[Upload, Scan]
    at_ms: int
    said: int
    marks: int


def check(ring: Ring, model: deque[Held]) -> None:
    """They hold the same."""
    assert len(ring) == len(model)
    numbers = range(ring.first, ring.first + len(ring))
    for number, held in zip(numbers, model, strict=True):
        assert ring.kept(number) == held.item
        assert ring.said(number) == held.said
    for beyond in (numbers.start - 1, numbers.stop):
        with pytest.raises(IndexError):
            ring.kept(beyond)
    assert ring.oldest_ms == (model[0].at_ms if model else 0)
    for mask in (1, 2, 3):
        assert ring.marked(mask) == [n for n, held in zip(numbers, model, strict=True) if held.marks & mask]


def check_finds(ring: Ring, model: deque[Held], kind: Kind, asked: list[bytes]) -> None:
    """One by one or all together, the same uploads are found as by comparing each pair."""
    hasher, radius = HASHERS[kind], RADII.get(kind, 0)

    def holds(held: Held, some: list[bytes]) -> bool:
        mine = [hasher.parse(one.value) for one in held.item[1].fingerprints if one.kind == kind]
        return any(hasher.distance(value, other) <= radius for value in some for other in mine)

    tables = ring.tables()
    for value in asked:
        wanted = [ring.first + place for place, held in enumerate(model) if holds(held, [value])]
        assert near_one(tables, kind, value, radius).tolist() == wanted
    wanted = [ring.first + place for place, held in enumerate(model) if holds(held, asked)]
    assert near_many(tables, kind, b"".join(asked), radius).tolist() == wanted


def restarted(ring: Ring, files: dict[str, bytes], uploads: int) -> Ring:
    """What a successor has of it, by way of its files."""
    blocks, gone = ring.changed()
    assert ring.changed() == ([], [])
    files.update({block.name: encode(block.parts()) for block in blocks})
    for name in gone:
        files.pop(name, None)
    after = Ring(uploads, PLENTY)
    after.adopt([decode(files[name]) for name in sorted(files)])
    return after


@pytest.fixture(autouse=True)
def _few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small rings of several blocks with several uploads each."""
    monkeypatch.setattr(ring_module, "BLOCKS", 4)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_the_ring_is_a_deque(data: st.DataObject) -> None:
    """After any adds, marks and restarts it holds the last uploads, in order, and finds just those."""
    uploads = data.draw(st.integers(0, 25), "uploads")
    ring, model, files = Ring(uploads, PLENTY), deque[Held](maxlen=uploads), dict[str, bytes]()
    # A few items, many times: it is the wrapping round that is tested.
    some = data.draw(st.lists(items(), min_size=1, max_size=4), "items")
    clock = 0
    for _ in range(data.draw(st.integers(1, 3), "restarts")):
        for step in range(clock, clock + data.draw(st.integers(0, 40), "adds")):
            clock += 1
            held = Held(some[step % len(some)], step, step + 7, step % 4)
            number = ring.add(*held.item, at_ms=held.at_ms, said=held.said, marks=held.marks)
            assert number == ring.first + len(ring) - 1
            model.append(held)
        if model:
            place = data.draw(st.integers(0, len(model) - 1), "said again")
            ring.say(ring.first + place, 2**64 - 1, 1)
            model[place].said, model[place].marks = 2**64 - 1, 1
        ring.say(ring.first - 1, 5, 3)
        check(ring, model)
        ring = restarted(ring, files, uploads)
        check(ring, model)
        kind = data.draw(st.sampled_from(KINDS), "kind")
        check_finds(ring, model, kind, data.draw(st.lists(values(kind), min_size=1, max_size=3), "asked"))


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(some=[item()] * 3 + [item("1" * 200)], most=288)
@given(st.lists(items(), min_size=1, max_size=4), st.integers(1, 20_000))
def test_memory_is_bounded_and_the_oldest_go_first(some: list[tuple[Upload, Scan]], most: int) -> None:
    """Never more bytes than allowed, but for the newest block, which one large upload can fill; the newest are left."""
    ring = Ring(10_000, most)
    added = []
    for step in range(60):
        added.append(some[step % len(some)])
        ring.add(*added[-1], at_ms=step)
        assert ring.bytes <= most or len(ring.tables()) == 1
    kept = [ring.kept(number) for number in range(ring.first, ring.first + len(ring))]
    assert kept == added[len(added) - len(kept) :]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(items(), st.data())
def test_a_damaged_file_is_refused(item: tuple[Upload, Scan], data: st.DataObject) -> None:
    """Whatever byte is changed or cut off, a file is refused with its reason."""
    ring = Ring(10, PLENTY)
    ring.add(*item, at_ms=1)
    good = encode(ring.changed()[0][0].parts())
    place = data.draw(st.integers(0, len(good) - 1))
    flipped = good[:place] + bytes([good[place] ^ data.draw(st.integers(1, 255))]) + good[place + 1 :]
    for bad in (flipped, good[:place], b"", good + b"x"):
        with pytest.raises(InputError) as caught:
            decode(bad)
        assert caught.value.reason == "ring_damaged"


def test_nothing_that_a_verdict_needs_is_forgotten() -> None:
    """A field that is new in an upload, a scan or a fingerprint is kept in the ring too, or named here."""
    let_go = {"content", "uri", "size", "sha256", "traceparent", "tracestate", "fingerprints"}
    assert set(Upload.__struct_fields__) - let_go == {"source", "id", "media_type", "account", "surface", "notes"}
    of_scan = {"media_class", "media_type", "fingerprints", "checked", "notes", "reason", "footage", "attempts"}
    assert set(Scan.__struct_fields__) - {"timings"} == of_scan
    beside = {"quality", "length", "page", "time_s", "until_s", "frames"}
    assert set(Fingerprint.__struct_fields__) == {"kind", "form", "recipe", "value"} | beside


def test_a_search_is_not_disturbed_by_what_comes_meanwhile() -> None:
    """Tables that were handed out stay as they were while the ring goes on."""
    one = Fingerprint(kind="pdq", form="canonical", recipe="pdq/canonical/1", value="0f" * 32)
    text = Fingerprint(kind="tlsh", form="raw", recipe="tlsh/raw/1", value="T1" + "5A" * 35)
    scan = Scan(media_class="image", media_type=None, fingerprints=(one, text))
    ring = Ring(500, PLENTY)
    for n in range(100):
        ring.add(Upload(source="s", id=str(n)), scan, at_ms=n)
    tables = ring.tables()
    for n in range(100, 5_000):
        ring.add(Upload(source="s", id=str(n)), scan, at_ms=n)
    for fingerprint in (one, text):
        value = HASHERS[fingerprint.kind].parse(fingerprint.value)
        assert near_one(tables, fingerprint.kind, value, 0).tolist() == list(range(100))
        assert near_many(ring.tables(), fingerprint.kind, value, 0).tolist() == list(range(4_500, 5_000))


@pytest.mark.parametrize("rows", [0, 1, 65_535, 65_536, 131_073])
def test_a_scan_of_codes_equals_counting_bits(rows: int) -> None:
    """At block borders too, at the very radius, and where many are near in their first half only."""
    rng = np.random.default_rng(rows)
    codes = rng.integers(0, 256, (rows, 32), np.uint8)
    query = rng.integers(0, 256, 32, np.uint8)
    codes[::5, :16] = query[:16]
    for place, bits in ((0, 31), (rows - 1, 32), (rows // 2, 0)):
        if rows:
            codes[place] = query ^ np.packbits(np.arange(256) < bits)
    far = np.unpackbits(codes ^ query, axis=1).sum(axis=1)
    for level in range(LEVEL + 1):
        fronts = np.ascontiguousarray(codes[:, :16])
        assert near(fronts, codes, query.tobytes(), 31, level).tolist() == np.nonzero(far <= 31)[0].tolist()
        for few in (codes[1:], codes[:, :31].copy()) if rows else ():
            with pytest.raises(ValueError, match="as many of each"):
                near(fronts, few, query.tobytes(), 31, level)
    with pytest.raises(ValueError, match="as many of each"):
        near(fronts, codes, b"short", 31)
