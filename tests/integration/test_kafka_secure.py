"""The whole way to Kafka through TLS and SASL: topics made, uploads read, verdicts written; and who is kept out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import get_args

import pytest

from hashweir.adapters.kafka_admin import Difference, KafkaAdmin, TopicPlan
from hashweir.adapters.kafka_link import Access, Protocol
from hashweir.adapters.kafka_sink import KafkaSink
from hashweir.adapters.kafka_source import KafkaSource
from hashweir.config import Kafka
from hashweir.errors import ConfigError, HashweirError, Unreachable
from hashweir.model import Message, Record
from hashweir.ports import Partition
from tests.servers.kafka import KafkaBroker

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def secure_broker() -> Iterator[KafkaBroker]:
    with KafkaBroker(secure=True) as running:
        yield running


@pytest.fixture
def access(secure_broker: KafkaBroker) -> Access:
    listener = secure_broker.secure
    assert listener is not None
    return Access(
        bootstrap=listener.bootstrap,
        protocol="SASL_SSL",
        mechanism="SCRAM-SHA-512",
        username=listener.username,
        password=listener.password,
        ca_file=str(listener.ca_file),
        connect_s=10.0,
    )


class _Nobody:
    async def on_assigned(self, epoch: int, partitions: Sequence[Partition]) -> None:
        self.epoch = epoch

    async def on_revoked(self, epoch: int) -> None:
        pass


async def test_topics_are_made_and_records_go_both_ways(access: Access) -> None:
    """With certificate, user and password everything works; topics get what the plan says."""
    plans = [
        TopicPlan(name="w.uploads", partitions=2, replication=1, retention_s=3600, max_message_bytes=3_000_000),
        TopicPlan(name="w.verdicts", partitions=1),
    ]
    async with KafkaAdmin(access) as admin:
        assert (await admin.default_source()).removeprefix("kafka:") == await admin.cluster_id() != ""
        assert [(one.topic, one.what) for one in await admin.check(plans)] == [
            ("w.uploads", "topic"),
            ("w.verdicts", "topic"),
        ]
        assert await admin.create(plans) == ["w.uploads", "w.verdicts"]
        assert await admin.check(plans) == []
        assert await admin.create(plans) == []
        other = replace(plans[0], partitions=3, retention_s=7200)
        assert await admin.check([other]) == [
            Difference("w.uploads", "partitions", "3", "2"),
            Difference("w.uploads", "retention.ms", "7200000", "3600000"),
        ]
        with pytest.raises(HashweirError, match="topic w"):
            await admin.create([TopicPlan(name="w.much", partitions=1, replication=7)])
    sink = KafkaSink(access, prefix="w.", topics=["uploads"])
    source = KafkaSource(access, group="g", topic="w.uploads")
    try:
        await sink.start()
        message = Message(topic="uploads", key=b"k", value=b"x" * 1_500_000, headers=(("ce_id", b"1"),))
        await sink.publish([message])
        listener = _Nobody()
        await source.start(listener)
        records: list[Record] = []
        async with asyncio.timeout(30):
            while not records:
                records = await source.poll(0.1)
        assert (records[0].value, records[0].headers) == (message.value, message.headers)
        await source.commit(listener.epoch, {(records[0].topic, records[0].partition): 1})
    finally:
        await source.stop()
        await sink.stop()


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"password": "a guess"}, "uthentication"),
        ({"ca_file": ""}, "CERTIFICATE_VERIFY_FAILED|certificate verify failed"),
    ],
)
async def test_strangers_get_nothing_and_are_told_why(access: Access, wrong: dict[str, str], why: str) -> None:
    """A wrong password and an unknown authority end the start, with what the client said and without the password."""
    stranger = replace(access, connect_s=1.0, **wrong)  # type: ignore[arg-type]
    for part in (KafkaSink(stranger), KafkaSource(stranger, group="g", topic="w.uploads")):
        with pytest.raises(Unreachable, match=why) as raised:
            await (part.start() if isinstance(part, KafkaSink) else part.start(_Nobody()))
        assert access.bootstrap in str(raised.value)
        assert "guess" not in str(raised.value)


async def test_what_makes_no_sense_is_a_fault_of_the_configuration(access: Access) -> None:
    """A file that is not there, an address that is none, a protocol with users and none given."""
    for wrong in (
        replace(access, ca_file="nowhere.pem"),
        replace(access, bootstrap="here:there"),
        replace(access, username=""),
    ):
        with pytest.raises(ConfigError):
            await KafkaSink(wrong).start()


def test_every_protocol_that_can_be_configured_is_known_here() -> None:
    """The adapter takes plain values; the configuration's words are its words."""
    assert get_args(Kafka.model_fields["security_protocol"].annotation) == get_args(Protocol)
