"""Laws of the vPDQ rule and of keeping near-identical frames once."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hashweir.hashing.video import NEAR_IDENTICAL, Frame, condense, plan, step_of

values = st.integers(0, 255).map(lambda low: bytes(31) + bytes([low]))
frames = st.lists(
    st.builds(Frame, time_s=st.floats(0, 100), value=values, quality=st.integers(0, 100)), max_size=30
).map(lambda some: sorted(some, key=lambda one: one.time_s))


@given(frames)
def test_condensing_covers_every_frame(some: list[Frame]) -> None:
    """Each frame lies in one span, in order, at most 4 bits from its hash; no quality is lost."""
    spans = condense(some)
    assert sum(span.frames for span in spans) == len(some)
    rest = iter(some)
    for span in spans:
        members = [next(rest) for _ in range(span.frames)]
        assert (span.time_s, span.until_s) == (members[0].time_s, members[-1].time_s)
        assert span.value == members[0].value
        assert span.quality == max(one.quality for one in members)
        for one in members:
            assert (int.from_bytes(one.value) ^ int.from_bytes(span.value)).bit_count() <= NEAR_IDENTICAL


@pytest.mark.parametrize(
    ("fps", "seconds", "step"), [(29.97, 1, 29), (30, 1, 30), (25, 0.5, 12), (0.2, 1, 1), (24, 2, 48)]
)
def test_step(fps: float, seconds: float, step: int) -> None:
    """int(seconds x fps), and never 0."""
    assert step_of(fps, seconds) == step


@example(gaps=[1.0], claimed=2.2244267490786e-236, seconds=2.625, most=1)
@example(gaps=[1.0], claimed=5e-324, seconds=0.1, most=1)
@example(gaps=[0.01] * 48, claimed=0.7, seconds=1.1, most=7)
@given(
    gaps=st.lists(st.floats(0.001, 3), min_size=1, max_size=400),
    claimed=st.floats(0, 10_000),
    seconds=st.floats(0.1, 5),
    most=st.integers(1, 600),
)
def test_a_plan_keeps_its_limits_whatever_is_claimed(
    gaps: list[float], claimed: float, seconds: float, most: int
) -> None:
    """The first frame is always hashed, regular samples keep to the limit, and no claim stretches them in time."""
    times = [sum(gaps[:number]) for number in range(len(gaps) + 1)]
    made = plan(times, claimed, seconds, most)
    regular = [number for number in range(len(times)) if number % made.step == 0]
    assert regular[0] == 0
    assert len(regular) <= most
    measured = len(gaps) / times[-1]
    assert made.fps <= 1.1 * measured + 1e-9
    if not made.coarse:
        assert made.step <= max(1, int(seconds * made.fps))


@given(st.integers(1, 5000), st.sampled_from([24.0, 25.0, 29.97, 30.0, 60.0]))
def test_a_steady_rate_is_sampled_by_the_rule_alone(count: int, fps: float) -> None:
    """Nothing is added to, or taken from, what vPDQ would hash."""
    made = plan([number / fps for number in range(count)], fps, 1.0, 5000)
    assert made.more == frozenset()
    assert (made.step, made.coarse, made.doubtful) == (int(fps), False, False)
