"""What the load tests send: the same for the same seed, no two uploads of the same bytes, and media that still open."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import islice

import av
import numpy as np
import pypdfium2
import pytest
from PIL import Image

from loadtests import generate, scenario
from tests.system import oracle

SMALL = replace(scenario.load("smoke"), mix={"photo": 1, "post": 1, "pdf": 1}, also={}, pool=4)


@pytest.fixture(scope="module")
def material() -> generate.Material:
    return generate.make(SMALL)


def test_a_seed_gives_the_same_uploads(material: generate.Material) -> None:
    """A figure can be measured again."""
    again = generate.make(SMALL)
    assert again.known == material.known
    assert again.pieces() == material.pieces()


def test_numbers_change_the_bytes_and_nothing_else(material: generate.Material) -> None:
    """Each medium shows the same under every number."""
    for piece in [*material.pieces(), generate.clip(0, frames=20)]:
        one, other = (generate.numbered(piece, number) for number in (7, 123_456))
        assert len({one, other, piece.content}) == 3
        match piece.media_type:
            case b"image/jpeg":
                seen = [np.asarray(Image.open(io.BytesIO(content))) for content in (piece.content, other)]
                assert (seen[0] == seen[1]).all()
            case b"text/plain":
                assert oracle.normal(other.decode()) == oracle.normal(piece.content.decode())
            case b"application/pdf":
                assert len(pypdfium2.PdfDocument(other)) == len(pypdfium2.PdfDocument(piece.content))
            case _:
                with av.open(io.BytesIO(other), "r") as clip:
                    assert len(list(clip.decode(video=0))) == 20


def test_a_mix_has_its_shares(material: generate.Material) -> None:
    """Within what chance allows."""
    drawn = list(islice(generate.draw(material, {"photo": 3, "post": 1}, 0.2, "x"), 4_000))
    assert sum(one.medium == "photo" for one in drawn) / 4_000 == pytest.approx(0.75, abs=0.04)
    assert sum(one.planted for one in drawn) / 4_000 == pytest.approx(0.2, abs=0.04)
