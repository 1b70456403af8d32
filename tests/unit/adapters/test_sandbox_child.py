"""A job may always take the processor time that it is given, and not much more."""

from __future__ import annotations

import resource
import time
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashweir.adapters.sandbox_child import Allowance


@given(steps=st.lists(st.tuples(st.floats(0, 40), st.floats(0, 1), st.sampled_from([3, 32])), min_size=1, max_size=30))
def test_the_time_of_a_job_is_left_when_it_begins(steps: list[tuple[float, float, int]]) -> None:
    clock, used, limits = 1000.0, 0.0, [0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: clock)
        patch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_utime=used, ru_stime=0.0))
        patch.setattr(resource, "setrlimit", lambda _, both: limits.append(both[0]))
        allowance = Allowance()
        for passed, share, seconds in steps:
            clock, used = clock + passed, used + passed * share
            allowance.allow(seconds)
            assert seconds <= limits[-1] - used <= seconds + 2
