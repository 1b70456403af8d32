"""How a part of the shards is written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashweir.shards.subset import Subset, parse


@given(
    st.integers(1, 1024).flatmap(
        lambda total: st.tuples(st.sets(st.integers(0, total - 1), min_size=1), st.just(total))
    )
)
def test_what_is_written_is_read(some: tuple[set[int], int]) -> None:
    """Text and numbers say the same, and the missing shards are exactly the others."""
    numbers, total = some
    subset = Subset(tuple(sorted(numbers)), total)
    assert parse(str(subset)) == subset
    others = set(parse(subset.missing).numbers) if subset.missing else set[int]()
    assert (others | numbers, others & numbers) == (set(range(total)), set())


@pytest.mark.parametrize(
    "wrong",
    ["", "3", "/16", "0-3", "4/4", "0-16/16", "3-0/16", "0/0", "0/1025", "-1/4", "0,/4", "0 /4", "0-1-2/4", "\u0663/4"],
)
def test_what_names_no_shards_is_refused(wrong: str) -> None:
    """In a sentence."""
    with pytest.raises(ValueError, match=r"shards|before"):
        parse(wrong)
