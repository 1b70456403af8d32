"""The delivery tracker against a model that keeps everything and recounts it each time."""

import time
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hashweir.pipeline.offsets import Budget, EpochEnded, OffsetNotInFlight, OffsetRepeated, Tracker

SIZES = st.integers(min_value=0, max_value=40)


class TrackerAgainstModel(RuleBasedStateMachine):
    """A list of (offset, size, since) in received order is all there is to know; the rest is counting."""

    def __init__(self) -> None:
        super().__init__()
        self.tracker = Tracker(epoch=7, max_items=8, max_bytes=100)
        self.taken: list[tuple[int, int, float]] = []
        self.finished: set[int] = set()
        self.head = -1
        self.now = 0.0

    @initialize(start=st.integers(min_value=0, max_value=2**40))
    def begins_at(self, start: int) -> None:
        self.head = start - 1

    @rule(hole=st.integers(min_value=0, max_value=3), size=SIZES, wait=st.integers(0, 5))
    def take(self, hole: int, size: int, wait: int) -> None:
        self.now += wait
        self.head += 1 + hole
        self.tracker.take(self.head, size, self.now)
        self.taken.append((self.head, size, self.now))

    @precondition(lambda self: len(self.finished) < len(self.taken))
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from([o for o, _, _ in self.taken if o not in self.finished]))
        self.tracker.done(offset)
        self.finished.add(offset)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def repeat_is_refused(self, data: st.DataObject) -> None:
        offset = data.draw(st.integers(min_value=0, max_value=self.taken[-1][0]))
        with pytest.raises(OffsetRepeated):
            self.tracker.take(offset, 1, self.now)

    @rule(data=st.data())
    def done_without_take_is_refused(self, data: st.DataObject) -> None:
        never_taken = st.integers(min_value=self.head + 1, max_value=self.head + 5)
        candidates = st.one_of(never_taken, st.sampled_from(sorted(self.finished))) if self.finished else never_taken
        with pytest.raises(OffsetNotInFlight):
            self.tracker.done(data.draw(candidates))

    @rule()
    def next_epoch(self) -> None:
        """Dropping forgets everything, and late completions of the old epoch change nothing."""
        old = self.tracker
        old.drop()
        for offset, _, _ in self.taken:
            old.done(offset)
        assert (old.ended, old.items, old.bytes, old.span_items, old.span_bytes) == (True, 0, 0, 0, 0)
        assert old.committable is None
        assert old.oldest_age(self.now) == 0
        with pytest.raises(EpochEnded):
            old.take(self.head + 1, 1, self.now)
        self.tracker = Tracker(epoch=old.epoch + 1, max_items=8, max_bytes=100)
        self.taken, self.finished = [], set()

    @invariant()
    def equals_the_model(self) -> None:
        contiguous = 0
        while contiguous < len(self.taken) and self.taken[contiguous][0] in self.finished:
            contiguous += 1
        waiting = [t for t in self.taken if t[0] not in self.finished]
        span = self.taken[contiguous:]
        tracker = self.tracker
        assert tracker.committable == (self.taken[contiguous - 1][0] + 1 if contiguous else None)
        assert (tracker.items, tracker.bytes) == (len(waiting), sum(size for _, size, _ in waiting))
        assert (tracker.span_items, tracker.span_bytes) == (len(span), sum(size for _, size, _ in span))
        assert tracker.full == (len(span) >= 8 or sum(size for _, size, _ in span) >= 100)
        assert tracker.oldest_age(self.now) == (self.now - waiting[0][2] if waiting else 0)


TestTrackerAgainstModel = TrackerAgainstModel.TestCase
TestTrackerAgainstModel.settings = settings(max_examples=150, stateful_step_count=40)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_committable_never_passes_an_unfinished_upload(holes: list[int], random: Random) -> None:
    """However uploads finish, all that was taken below `committable` is done, and it never goes back."""
    tracker = Tracker(epoch=1)
    offsets, at = [], 0
    for hole in holes:
        at += 1 + hole
        offsets.append(at)
        tracker.take(at, 1, 0.0)
    order = list(offsets)
    random.shuffle(order)
    finished: set[int] = set()
    before = 0
    for offset in order:
        tracker.done(offset)
        finished.add(offset)
        position = tracker.committable or 0
        assert position >= before
        assert all(taken in finished for taken in offsets if taken < position)
        before = position
    assert tracker.committable == offsets[-1] + 1


def test_the_default_caps_are_2048_uploads_or_64_mib() -> None:
    """A tracker is full at 2,048 uploads or 64 MiB, whichever is first, and done uploads still count."""
    many = Tracker(epoch=1)
    full_at = []
    for offset in range(2048):
        full_at.append(many.full)
        many.take(offset, 0, 0.0)
    for offset in range(1, 2048):
        many.done(offset)
    assert full_at == [False] * 2048
    assert (many.items, many.span_items, many.full) == (1, 2048, True)
    many.done(0)
    assert (many.span_items, many.full) == (0, False)
    large = Tracker(epoch=1)
    large.take(0, 64 * 1024 * 1024 - 1, 0.0)
    assert (large.span_bytes, large.full) == (64 * 1024 * 1024 - 1, False)
    large.take(1, 1, 0.0)
    assert (large.span_bytes, large.full) == (64 * 1024 * 1024, True)


def test_finishing_in_reverse_costs_no_more_than_in_order() -> None:
    """Completions are O(1) amortised: 200,000 of them backwards take seconds at most, not hours."""
    tracker = Tracker(epoch=1, max_items=10**9)
    for offset in range(200_000):
        tracker.take(offset, 1, 0.0)
    started = time.process_time()
    for offset in reversed(range(200_000)):
        tracker.done(offset)
    assert time.process_time() - started < 10
    assert tracker.committable == 200_000


class BudgetAgainstModel(RuleBasedStateMachine):
    """What is held is the sum of what was added and not released; the brake remembers only its last edge."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = Budget(max_items=10, max_bytes=100)
        self.held: list[int] = []
        self.paused = False

    def note(self) -> None:
        if len(self.held) >= 8 or sum(self.held) >= 80:
            self.paused = True
        elif len(self.held) <= 5 and sum(self.held) <= 50:
            self.paused = False

    @rule(size=SIZES)
    def add(self, size: int) -> None:
        self.budget.add(size)
        self.held.append(size)
        self.note()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.held) - 1))
        self.budget.release(self.held.pop(index))
        self.note()

    @rule(excess=st.integers(min_value=1, max_value=9))
    def giving_back_too_much_is_refused(self, excess: int) -> None:
        with pytest.raises(ValueError, match="more than"):
            self.budget.release(sum(self.held) + excess)

    @invariant()
    def equals_the_model(self) -> None:
        assert (self.budget.items, self.budget.bytes) == (len(self.held), sum(self.held))
        assert self.budget.paused == self.paused
        assert self.budget.room == max(0, 10 - len(self.held))


TestBudgetAgainstModel = BudgetAgainstModel.TestCase
TestBudgetAgainstModel.settings = settings(max_examples=100)


@pytest.mark.parametrize(("items", "size", "pause", "resume"), [(0, 1, 0.8, 0.5), (1, 0, 0.8, 0.5), (1, 1, 0.5, 0.5)])
def test_a_budget_that_could_never_resume_is_refused(items: int, size: int, pause: float, resume: float) -> None:
    """Caps are positive and the brake lets go below the point where it takes hold."""
    with pytest.raises(ValueError, match="budget needs"):
        Budget(items, size, pause_at=pause, resume_at=resume)
