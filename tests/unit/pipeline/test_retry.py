"""Laws of trying again and of giving up."""

from __future__ import annotations

import random
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashweir.errors import REASONS
from hashweir.pipeline.retry import Again, Brake, Breaker, DeadLetter, RetryPolicy, StopPartition

FAULTS = [reason for reason, row in REASONS.items() if row.klass == "fault"]


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_delays_grow_and_stay_bounded(attempt: int, jitter: float) -> None:
    """A delay is positive, at most the cap, and never shrinks from one attempt to the next."""
    policy = RetryPolicy(first_s=0.1, most_s=5.0)
    assert 0.05 <= policy.delay(attempt, jitter) <= policy.delay(attempt + 1, jitter) <= 5.0


@pytest.mark.parametrize("reason", [reason for reason, row in REASONS.items() if row.klass == "input"])
def test_the_same_bytes_are_not_tried_twice(reason: str) -> None:
    """An input reason ends at once."""
    assert RetryPolicy().decide(reason, 1, 0.0) == DeadLetter(reason)


@given(st.sampled_from(FAULTS), st.booleans())
def test_every_fault_ends_but_those_of_a_dependency(reason: str, refusing: bool) -> None:
    """Trying again ends within the budget, unless the store or the stream is out: that is nobody's upload's fault."""
    policy, elapsed = RetryPolicy(), 0.0
    for attempt in range(1, 1000):
        decision = policy.decide(reason, attempt, elapsed, refusing=refusing)
        if not isinstance(decision, Again):
            break
        elapsed += decision.delay_s
    if REASONS[reason].stage in ("store", "stream"):
        assert isinstance(decision, Again)
    else:
        assert decision == (StopPartition(reason) if refusing else DeadLetter(reason))
        assert elapsed <= policy.budget_s


def test_an_unexpected_error_is_tried_twice() -> None:
    """The first may have been a neighbour's doing, the second is believed."""
    policy = RetryPolicy()
    assert isinstance(policy.decide("internal_error", 1, 0.0), Again)
    assert policy.decide("internal_error", 2, 0.1) == DeadLetter("internal_error")


@given(
    st.lists(st.sampled_from(["good", "garbage", "fault"]), max_size=300),
    st.integers(1, 50),
    st.integers(0, 5),
    st.integers(1, 20),
)
def test_the_brake_equals_counting_by_hand(outcomes: list[str], window: int, faults: int, in_a_row: int) -> None:
    """Against a naive model; once stopped, it stays so."""
    brake = Brake(window=window, most_faults=faults, most_in_a_row=in_a_row)
    recent: deque[str] = deque(maxlen=window)
    row, stopped = 0, False
    for outcome in outcomes:
        recent.append(outcome)
        row = 0 if outcome == "good" else row + 1
        stopped = stopped or recent.count("fault") > faults or row >= in_a_row
        assert brake.note(fault=outcome == "fault", dead_letter=outcome != "good") == stopped
        assert (brake.faults, brake.in_a_row, brake.stopped) == (recent.count("fault"), row, stopped)


def test_ordinary_garbage_never_trips_the_brake_and_faults_do() -> None:
    """Half of the uploads malformed is the world (seed 7); more than 5 % faults is us."""
    rng, brake = random.Random(7), Brake()
    for _ in range(100_000):
        assert not brake.note(fault=False, dead_letter=rng.random() < 0.5)
    for n in range(51):
        assert brake.note(fault=True, dead_letter=True) == (n == 50)
        if n < 50:
            brake.note(fault=False, dead_letter=False)


def test_a_breaker_opens_at_once_lets_through_later_and_closes_at_the_first_success() -> None:
    """It can't stay open where nobody is left to try, and many uploads that fail together are one failure."""
    breaker, now = Breaker(first_s=1.0, most_s=8.0), 100.0
    assert not breaker.is_open(now)
    for pause in (1.0, 2.0, 4.0, 8.0, 8.0):
        breaker.failed(now)
        breaker.failed(now + pause / 2)
        assert breaker.is_open(now + pause - 0.01)
        now += pause
        assert not breaker.is_open(now)
    breaker.failed(now)
    breaker.succeeded()
    assert not breaker.is_open(now)
    assert breaker.failures == 0
