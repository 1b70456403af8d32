"""What the load tests send: the same for the same seed, no two uploads of the same bytes, and media that still open."""

from __future__ import annotations

import io
import random
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pypdfium2
import pytest
from PIL import Image

from loadtests import generate, missed, scenario
from loadtests.drive import LINGER_MS, Driver, Sent
from tests.system import oracle
from tests.system.rig import PARTITIONS, Rig

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


@pytest.mark.parametrize("per_second", [5, 100, 4_000])
def test_batches_are_spread_evenly(per_second: int, tmp_path: Path) -> None:
    """Uploads that are due within a linger share a partition, and no partition has more of them than the others."""
    driver = Driver(Rig("", "", "load", tmp_path), SMALL, generate.Material())
    chance, due_ms, batches, uploads = random.Random(1), 0.0, [(-1.0, -1)], Counter[int]()
    for _ in range(20_000):
        due_ms += chance.expovariate(per_second) * 1000
        partition = driver.partition(due_ms)
        uploads[partition] += 1
        began, before = batches[-1]
        if before == -1 or due_ms >= began + LINGER_MS:
            assert partition != before
            batches.append((due_ms, partition))
        else:
            assert partition == before
    shared = Counter(partition for _, partition in batches[1:])
    assert max(shared.values()) - min(shared.values()) <= 1
    assert len(uploads) == PARTITIONS
    assert max(uploads.values()) < 1.1 * min(uploads.values())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_planted_copies_can_be_promised(seed: int) -> None:
    """As they are sent, whatever their number, the brute-force matcher finds every one."""
    made = generate.make(replace(SMALL, seed=seed, mix={"photo": 1, "post": 1, "frame": 1}))
    copies = [piece for piece in made.pieces() if piece.planted]
    assert {piece.medium for piece in copies} == {"photo", "post", "frame"}
    for piece in copies:
        assert piece.original in made.known
        for number in (0, 7, 526, 123_456):
            distance, radius = generate.measured(piece, number)
            assert distance <= radius, (piece.original, piece.edit, number)


def test_a_missed_copy_is_named(material: generate.Material) -> None:
    """Whoever reads the report learns which copy it was, how far it is, and what was said of it."""
    piece = next(one for one in material.pieces() if one.planted)
    assert piece.original is not None
    found = Sent(0.0, 0, piece, 9, verdict_ms=5, outcome="match")
    found.hits = (oracle.item_id(piece.original.set, piece.original.item),)
    other = Sent(0.0, 0, piece, 9, verdict_ms=5, outcome="match", hits=("0" * 16,))
    clear = Sent(0.0, 0, piece, 9, verdict_ms=5, outcome="clear")
    lost = Sent(0.0, 0, piece, 9)
    assert [one.missed for one in (found, other, clear, lost)] == [False, True, True, False]
    (said, row) = (missed.missed(526, clear), missed.missed_rows([missed.missed(526, clear)])[2])
    assert (said["copy_of"], said["edit"], said["outcome"]) == (piece.original.item, piece.edit, "clear")
    assert said["distance"] <= said["radius"]
    assert row.startswith("| 526 |")
    assert piece.original.item in row


def test_a_mix_has_its_shares(material: generate.Material) -> None:
    """Within what chance allows."""
    drawn = list(islice(generate.draw(material, {"photo": 3, "post": 1}, 0.2, "x"), 4_000))
    assert sum(one.medium == "photo" for one in drawn) / 4_000 == pytest.approx(0.75, abs=0.04)
    assert sum(one.planted for one in drawn) / 4_000 == pytest.approx(0.2, abs=0.04)
