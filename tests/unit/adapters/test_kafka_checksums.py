"""A batch with a wrong byte is refused exactly where aiokafka refuses it, and a whole one is read as it reads it."""

from __future__ import annotations

import random
from typing import Any

import google_crc32c
import pytest
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from hashweir.adapters.kafka_checksums import CheckedRecords, check_by_instruction

SUMMED_FROM = 17
"""Bytes in front of the checksum say where a batch begins and ends; the sum says nothing of them."""

NOISE = random.Random(1).randbytes(9000)
values = st.lists(
    st.builds(lambda start, noise: start + NOISE * noise, st.binary(max_size=300), st.booleans()),
    min_size=1,
    max_size=4,
)
"""Of a few bytes, and of so many that a batch is no longer left to aiokafka."""


def batch(first: int, values: list[bytes], codec: int = 0, magic: int = 2) -> bytes:
    """A batch as a broker stores it, beginning with this offset."""
    if magic < 2:
        old = LegacyRecordBatchBuilder(magic=magic, compression_type=codec, batch_size=2**20)
        for number, value in enumerate(values):
            old.append(first + number, timestamp=1, key=None, value=value)
        return bytes(old.build())
    made = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 2**20)
    for number, value in enumerate(values):
        made.append(number, timestamp=1, key=b"key", value=value, headers=[("ce_id", b"1")])
    return first.to_bytes(8, "big") + bytes(made.build())[8:]


def read(records: Any) -> tuple[list[tuple[int, bytes | None]], str]:
    """Offsets and values that a consumer gets, and what it ends with."""
    found: list[tuple[int, bytes | None]] = []
    try:
        for one in fetcher.PartitionRecords(TopicPartition("t", 0), records, None, 0, None, None, True, 0):
            found += [(one.offset, one.value)]
    except Exception as error:  # noqa: BLE001 - whatever it is, it must be the same
        return found, repr(error)
    return found, ""


@given(all_values=st.lists(values, min_size=1, max_size=3), codec=st.sampled_from([0, 1, 3]), data=st.data())
def test_any_wrong_byte_is_met_as_aiokafka_meets_it(
    all_values: list[list[bytes]], codec: int, data: st.DataObject
) -> None:
    batches, first = [], 0
    for values in all_values:
        batches.append(batch(first, values, codec))
        first += len(values)
    whole = b"".join(batches)
    expected = [value for values in all_values for value in values]
    assert read(CheckedRecords(whole)) == (list(enumerate(expected)), "")
    at = data.draw(st.integers(0, len(whole) - 1))
    wrong = bytearray(whole)
    wrong[at] ^= data.draw(st.integers(1, 255))
    assert read(CheckedRecords(bytes(wrong))) == read(MemoryRecords(bytes(wrong)))


@given(
    values=values,
    good=values,
    flip=st.integers(1, 255),
    at=st.floats(0, 1, exclude_max=True),
)
def test_nothing_of_a_batch_with_a_wrong_byte_is_read(
    values: list[bytes], good: list[bytes], flip: int, at: float
) -> None:
    second = bytearray(batch(len(good), values))
    second[SUMMED_FROM + int(at * (len(second) - SUMMED_FROM))] ^= flip
    found, why = read(CheckedRecords(batch(0, good) + bytes(second)))
    assert found == list(enumerate(good))
    assert why == repr(CorruptRecordException(f"Invalid CRC - {TopicPartition('t', 0)}"))


@pytest.mark.parametrize("magic", [0, 1])
def test_older_formats_are_left_to_aiokafka(magic: int) -> None:
    whole = batch(0, [b"one", b"two"], magic=magic)
    assert read(CheckedRecords(whole)) == ([(0, b"one"), (1, b"two")], "")
    wrong = whole[:-1] + bytes([whole[-1] ^ 1])
    assert read(CheckedRecords(wrong)) == read(MemoryRecords(wrong))


def test_what_is_cut_short_is_read_as_far_as_it_goes() -> None:
    whole = batch(0, [b"one" * 3000]) + batch(1, [b"two" * 3000])
    for length in (*range(100), *range(len(whole) // 2 - 100, len(whole) // 2 + 100), len(whole) - 1):
        assert read(CheckedRecords(whole[:length])) == read(MemoryRecords(whole[:length]))


def test_consumers_of_this_process_check_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were it of no use with another aiokafka, its own check would hold, and this test would say so."""
    monkeypatch.setattr(fetcher, "MemoryRecords", MemoryRecords)
    monkeypatch.setattr(google_crc32c, "implementation", "python")
    check_by_instruction()
    assert fetcher.MemoryRecords is MemoryRecords
    monkeypatch.setattr(google_crc32c, "implementation", "c")
    check_by_instruction()
    assert fetcher.MemoryRecords is CheckedRecords
