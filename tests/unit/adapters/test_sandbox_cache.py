"""Laws of the cache of scans: bounded, complete scans only, and nothing of a process that proved to be bad."""

from __future__ import annotations

import msgspec
import pytest

from hashweir.adapters.sandbox_cache import FINGERPRINTS_PER_SCAN, Key, ScanCache
from hashweir.hashing import exact
from hashweir.model import Scan

GOOD = Scan(
    media_class="image",
    media_type="image/png",
    fingerprints=exact.fingerprints(b"x"),
    checked={"pdq": "ok", "sha256": "ok", "md5": "ok"},
    timings={"decode": 0.1, "hash": 0.1},
)


def key(number: int) -> Key:
    return exact.sha256(b"%d" % number), "image/png", ()


def test_what_was_put_comes_back_without_timings() -> None:
    """Nothing was decoded this time, so no stage may count the old time again."""
    cache = ScanCache(4)
    cache.put(key(1), GOOD, 1)
    assert cache.get(key(1)) == msgspec.structs.replace(GOOD, timings={})
    assert cache.get((key(1)[0], "text/plain", ())) is None
    assert cache.get((key(1)[0], "image/png", ("turns",))) is None


def test_the_longest_unused_goes_first() -> None:
    """At most so many scans; reading one makes it young."""
    cache = ScanCache(3)
    for number in range(3):
        cache.put(key(number), GOOD, 1)
    assert cache.get(key(0))
    cache.put(key(3), GOOD, 1)
    assert [cache.get(key(number)) is not None for number in range(4)] == [True, False, True, True]
    assert len(cache) == 3


def test_long_videos_do_not_take_all_memory() -> None:
    """Fingerprints are bounded too, however few scans hold them."""
    cache = ScanCache(10)
    for number in range(10):
        cache.put(key(number), msgspec.structs.replace(GOOD, fingerprints=GOOD.fingerprints * 9), 1)
    assert len(cache) == 10 * FINGERPRINTS_PER_SCAN // 18


@pytest.mark.parametrize(
    "change",
    [{"reason": "undecodable"}, {"attempts": 2}, {"checked": {"pdq": "truncated", "sha256": "ok", "md5": "ok"}}],
    ids=str,
)
def test_only_complete_scans_are_kept(change: dict[str, object]) -> None:
    """What ended for a reason is tried again next time."""
    cache = ScanCache(4)
    cache.put(key(1), msgspec.structs.replace(GOOD, **change), 1)
    assert len(cache) == 0


def test_what_a_bad_process_said_is_forgotten() -> None:
    """It may have lied before it was found out; the others' answers stay."""
    cache = ScanCache(9)
    for number in range(6):
        cache.put(key(number), GOOD, number % 2)
    cache.forget(1)
    assert [cache.get(key(number)) is not None for number in range(6)] == [True, False] * 3


def test_none_at_all() -> None:
    """With room for none, every upload is scanned."""
    cache = ScanCache(0)
    cache.put(key(1), GOOD, 1)
    assert cache.get(key(1)) is None
