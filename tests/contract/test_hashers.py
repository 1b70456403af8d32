"""What holds for every hash kind. A new kind is picked up from the table; it has to bring its vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashweir.errors import InputError
from hashweir.hashing import HASHERS, RECIPES, parse, show
from hashweir.model import KINDS, Kind
from hashweir.ports import Hasher

VECTORS = Path(__file__).parents[1] / "vectors"


def vectors(kind: Kind) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((VECTORS / f"{kind}.json").read_text())
    return loaded


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


@pytest.fixture
def hasher(kind: Kind) -> Hasher:
    return HASHERS[kind]


def test_the_table_holds_every_kind_and_a_recipe_of_each() -> None:
    assert set(HASHERS) == set(KINDS) == {kind for kind, _ in RECIPES}
    for (kind, form), recipe in RECIPES.items():
        name_kind, name_form, version = recipe.split("/")
        assert (name_kind, name_form) == (kind, form)
        assert int(version) >= 1


def test_a_hasher_knows_its_kind(kind: Kind, hasher: Hasher) -> None:
    assert hasher.kind == kind


@given(data=st.data())
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_shown_is_parsed_again(kind: Kind, data: st.DataObject) -> None:
    hasher = HASHERS[kind]
    value = data.draw(st.binary(min_size=hasher.width, max_size=hasher.width))
    text = hasher.show(value)
    assert hasher.parse(text) == hasher.parse(text.lower()) == hasher.parse(text.upper()) == value
    assert len(text) <= 72


@given(data=st.data())
@pytest.mark.parametrize("kind", KINDS)
def test_distance_is_symmetric_and_zero_to_itself(kind: Kind, data: st.DataObject) -> None:
    hasher = HASHERS[kind]
    a, b = data.draw(st.tuples(*[st.binary(min_size=hasher.width, max_size=hasher.width)] * 2))
    assert hasher.distance(a, a) == 0
    assert hasher.distance(a, b) == hasher.distance(b, a) >= 0
    if kind != "tlsh":  # which leaves its length byte out
        assert (hasher.distance(a, b) == 0) == (a == b)


@given(data=st.data())
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"tlsh"}))
def test_distance_is_a_metric(kind: Kind, data: st.DataObject) -> None:
    hasher = HASHERS[kind]
    a, b, c = data.draw(st.tuples(*[st.binary(min_size=hasher.width, max_size=hasher.width)] * 3))
    assert hasher.distance(a, c) <= hasher.distance(a, b) + hasher.distance(b, c)


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(max_size=80))
def test_text_parses_or_is_refused_with_a_reason(kind: Kind, text: str) -> None:
    error = None
    try:
        value = HASHERS[kind].parse(text)
    except InputError as refused:
        error = refused
    if error is None:
        assert len(value) == HASHERS[kind].width
    else:
        assert error.reason == "bad_value"
        assert str(error).isascii()
        assert len(str(error)) < 1000


def test_spellings(kind: Kind, hasher: Hasher) -> None:
    for row in vectors(kind)["parse"]:
        assert show(kind, parse(kind, row["text"])) == row["value"]


def test_bad_values(kind: Kind, hasher: Hasher) -> None:
    for text in vectors(kind)["bad"]:
        with pytest.raises(InputError) as caught:
            hasher.parse(text)
        assert caught.value.reason == "bad_value"


def test_distances(kind: Kind, hasher: Hasher) -> None:
    for row in vectors(kind)["distance"]:
        assert hasher.distance(hasher.parse(row["a"]), hasher.parse(row["b"])) == row["distance"]


def test_showing_a_value_of_the_wrong_width_is_a_bug_of_the_caller(hasher: Hasher) -> None:
    for width in (0, hasher.width - 1, hasher.width + 1):
        with pytest.raises(ValueError, match="bytes"):
            hasher.show(bytes(width))
