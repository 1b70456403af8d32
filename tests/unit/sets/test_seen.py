"""Rows seen before are known again, however many came between."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from hashweir.sets.seen import Seen


@given(numbers=st.lists(st.integers(0, 60), max_size=200), block=st.integers(1, 40), high=st.booleans())
def test_it_is_a_dictionary_of_first_lines(numbers: list[int], block: int, high: bool) -> None:
    """Also where many ids share their first bits."""
    seen, oracle = Seen(block), dict[bytes, int]()
    for line, number in enumerate(numbers, 1):
        id_ = (number << (57 if high else 0)).to_bytes(8, "big") + bytes(8)
        assert seen.first(id_, line) == oracle.setdefault(id_, line)


def test_runs_stay_few_and_everything_is_found() -> None:
    """30,000 random ids through blocks of 100, then all of them again."""
    rng = random.Random(3)
    ids = [rng.randbytes(16) for _ in range(30_000)]
    seen = Seen(100)
    assert all(seen.first(id_, line) == line for line, id_ in enumerate(ids, 1))
    assert all(seen.first(id_, 1_000_000) == line for line, id_ in enumerate(ids, 1))
