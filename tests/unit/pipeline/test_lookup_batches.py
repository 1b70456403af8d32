"""Laws of looking up together: the same answers as one by one, and one upload's error is nobody else's."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashweir.hashing import HASHERS
from hashweir.model import Fingerprint, Form, Kind, Scan
from hashweir.pipeline.lookup import lookup, lookup_many
from hashweir.pipeline.lookup_batches import Lookups
from hashweir.ports import Accept, Found, Query, View
from tests.unit.pipeline.views import ListView, flip, make_entry, make_set

BASE = "0f" * 32
TLSH = "T1" + "0A" * 35

entries = [
    *(make_entry(flip(BASE, bits), number=number) for number, bits in enumerate((0, 6, 20, 31), 1)),
    make_entry(flip(BASE, 4), set_name="other", number=9, item="00000000000000aa"),
    make_entry(flip(BASE, 9), set_name="other", number=10, item="00000000000000aa"),
    make_entry(TLSH, "tlsh", number=11, length=1_000),
]
SETS = {"own": make_set(), "other": make_set("other", min_quality=80), "off": make_set("off", state="off")}

pdq = st.builds(
    lambda bits, quality, form: Fingerprint(
        kind="pdq", form=form, recipe="pdq/canonical/1", value=flip(BASE, bits), quality=quality
    ),
    st.integers(0, 60),
    st.integers(40, 100),
    st.sampled_from(["canonical", "te-cmyk"]),
)
texts = st.builds(
    lambda digit, length: Fingerprint(
        kind="tlsh", form="normal", recipe="tlsh/normal/1", value=TLSH[:-1] + digit, length=length
    ),
    st.sampled_from("0123456789ABCDEF"),
    st.sampled_from([300, 1_000, 1_100, 30_000]),
)
frames = st.builds(
    lambda bits, second: Fingerprint(
        kind="pdq",
        form="canonical",
        recipe="pdq/canonical/1",
        value=flip(BASE, bits),
        quality=90,
        time_s=float(second),
        until_s=float(second),
        frames=1,
    ),
    st.integers(0, 60),
    st.integers(0, 5),
)
uploads = st.tuples(
    st.lists(pdq | texts | frames, max_size=6), st.sampled_from([(), ("mostly_ascii",), ("type_mismatch",)])
)


@given(st.lists(uploads, max_size=6))
def test_together_is_the_same_as_one_by_one(asked: list[tuple[list[Fingerprint], tuple[str, ...]]]) -> None:
    """Neither who else is looked up nor in what order changes an upload's neighbours, or their order."""
    view = ListView(entries, SETS)
    assert lookup_many(view, asked) == [lookup(view, prints, notes) for prints, notes in asked]
    assert lookup_many(view, asked[::-1]) == lookup_many(view, asked)[::-1]


@dataclass
class Watched(ListView):
    """Counts its searches, fails for one value, and holds back searches made in threads."""

    bad: str = ""
    calls: list[tuple[Kind, int, bool]] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)
    hold: threading.Event = field(default_factory=threading.Event)

    def search_many(self, kind: Kind, form: Form, queries: Sequence[Query], accept: Accept) -> list[Found]:
        on_loop = threading.current_thread() is threading.main_thread()
        self.calls.append((kind, len(queries), on_loop))
        self.begun.set()
        if not on_loop:
            assert self.hold.wait(10)
        if any(one.value == HASHERS[kind].parse(self.bad) for one in queries if self.bad):
            raise KeyError("a fault of ours")
        return super().search_many(kind, form, queries, accept)


def scan_of(*bits: int) -> Scan:
    prints = (
        Fingerprint(kind="pdq", form="canonical", recipe="pdq/canonical/1", value=flip(BASE, one), quality=90)
        for one in bits
    )
    return Scan(media_class="image", media_type="image/png", fingerprints=tuple(prints))


@pytest.fixture
def on_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call is cheap enough for the loop, however slow this machine is."""
    monkeypatch.setattr("hashweir.pipeline.lookup_batches.ON_THE_LOOP_S", math.inf)


async def test_what_waits_makes_one_call() -> None:
    """While the threads are busy, uploads gather."""
    view = Watched(entries, SETS)
    with ThreadPoolExecutor(1) as threads:
        lookups = Lookups(_always(view), threads, at_once=1)
        first = asyncio.create_task(lookups.lookup(scan_of(0)))
        await asyncio.to_thread(view.begun.wait, 10)
        rest = [asyncio.create_task(lookups.lookup(scan_of(bits))) for bits in range(1, 8)]
        await asyncio.sleep(0)
        view.hold.set()
        found = [await one for one in (first, *rest)]
        assert [(count, on_loop) for _, count, on_loop in view.calls[:2]] == [(1, False), (7, False)]
        assert [near for _, near, _ in found] == [lookup(view, scan_of(bits).fingerprints) for bits in range(8)]


@pytest.mark.usefixtures("on_the_loop")
@pytest.mark.parametrize("turns", range(6))
async def test_whoever_comes_when_the_last_call_ends_is_looked_up(turns: int) -> None:
    """However many turns of the loop later that is."""
    with ThreadPoolExecutor(1) as threads:
        lookups = Lookups(_always(ListView(entries, SETS)), threads, at_once=1)

        async def later() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            await lookups.lookup(scan_of(1))

        async with asyncio.timeout(10):
            await asyncio.gather(lookups.lookup(scan_of(0)), later())


@pytest.mark.usefixtures("on_the_loop")
async def test_those_that_come_in_one_turn_are_looked_up_together() -> None:
    """The first at once, the others in one call; who comes alone never waits for anybody."""
    view = Watched(entries, SETS)
    with ThreadPoolExecutor(1) as threads:
        lookups = Lookups(_always(view), threads)
        for bits in range(3):
            await lookups.lookup(scan_of(bits))
            await asyncio.sleep(0)
        await asyncio.gather(*(lookups.lookup(scan_of(bits)) for bits in range(6)))
        assert view.calls == [("pdq", count, True) for count in (1, 1, 1, 1, 5)]


@pytest.mark.usefixtures("on_the_loop")
async def test_who_waited_for_a_view_is_not_looked_up_one_by_one() -> None:
    """All that came while there was none: the loop would stand still until the last of them."""
    view, there = Watched(entries, SETS), asyncio.Event()

    async def usable_view() -> View:
        await there.wait()
        return view

    with ThreadPoolExecutor(1) as threads:
        lookups = Lookups(usable_view, threads, at_once=1)
        asked = []
        for bits in range(6):
            asked.append(asyncio.create_task(lookups.lookup(scan_of(bits))))
            await asyncio.sleep(0.001)
        there.set()
        blind_s = [seconds for _, _, seconds in await asyncio.gather(*asked)]
    assert [count for _, count, _ in view.calls] == [1, 5]
    assert blind_s == sorted(blind_s, reverse=True), "each had none for as long as it waited"
    assert blind_s[-1] > 0.0005


async def test_the_first_of_a_turn_does_not_wait_for_those_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds may wait there when there is a view again; whoever comes then had one all the time."""
    monkeypatch.setattr("hashweir.pipeline.lookup_batches.ON_THE_LOOP_S", 5)  # some: reckoned a second each
    view, there = Watched(entries, SETS), asyncio.Event()

    async def usable_view() -> View:
        await there.wait()
        return view

    with ThreadPoolExecutor(1) as threads:
        lookups = Lookups(usable_view, threads)
        asked = [asyncio.create_task(lookups.lookup(scan_of(bits % 60))) for bits in range(150)]
        await asyncio.sleep(0)
        there.set()
        await asked[0]
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await lookups.lookup(scan_of(0))
        assert not any(one.done() for one in asked[1:])
        view.hold.set()
        await asyncio.gather(*asked)
    assert view.calls.count(("pdq", 1, True)) == 2


async def test_an_error_is_that_of_one_upload() -> None:
    """The others of its batch have their answers."""
    view = Watched(entries, SETS, bad=flip(BASE, 3))
    view.hold.set()
    with ThreadPoolExecutor(1) as threads:
        lookups = Lookups(_always(view), threads, at_once=1)
        asked = [lookups.lookup(scan_of(bits)) for bits in (0, 3, 6)]
        first, bad, last = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(bad, KeyError)
    for one, bits in ((first, 0), (last, 6)):
        assert not isinstance(one, BaseException)
        assert one[1] == lookup(ListView(entries, SETS), scan_of(bits).fingerprints)


@pytest.mark.usefixtures("on_the_loop")
async def test_nobody_waits_for_a_runner_that_was_cancelled() -> None:
    """Not even where it was just looking up one by one, after an error."""
    asked, alone = 0, asyncio.Event()

    async def usable_view() -> View:
        nonlocal asked
        asked += 1
        if asked == 1:
            await asyncio.sleep(0)
        elif asked == 2:
            raise KeyError("a fault of ours")
        else:
            alone.set()
            await asyncio.Event().wait()
        return ListView(entries, SETS)

    with ThreadPoolExecutor(1) as threads:
        lookups = Lookups(usable_view, threads, at_once=1)
        first, *rest = (asyncio.create_task(lookups.lookup(scan_of(bits))) for bits in (0, 3, 6))
        async with asyncio.timeout(10):
            await first
            await alone.wait()
            (runner,) = lookups._runners._tasks
            runner.cancel()
            answers = await asyncio.gather(*rest, return_exceptions=True)
    assert [type(one) for one in answers] == [asyncio.CancelledError] * 2


async def test_who_gave_up_is_not_looked_up() -> None:
    """A cancelled upload costs no search, and holds up nobody."""
    view = Watched(entries, SETS)
    with ThreadPoolExecutor(1) as threads:
        lookups = Lookups(_always(view), threads, at_once=1)
        first, gone, there = (asyncio.create_task(lookups.lookup(scan_of(bits))) for bits in (0, 3, 6))
        await asyncio.to_thread(view.begun.wait, 10)
        gone.cancel()
        view.hold.set()
        await asyncio.gather(first, there)
        with pytest.raises(asyncio.CancelledError):
            await gone
    assert [count for _, count, _ in view.calls] == [1, 1]


def _always(view: View):  # type: ignore[no-untyped-def]
    async def usable() -> View:
        return view

    return usable
