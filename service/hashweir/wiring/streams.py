"""Where streams are: Kafka's access, connection and topics, or a stream inside this process."""

from __future__ import annotations

from hashweir.adapters.kafka_admin import KafkaAdmin, TopicPlan
from hashweir.adapters.kafka_link import Access as KafkaAccess
from hashweir.adapters.memory_stream import MemoryBroker
from hashweir.config import Config
from hashweir.pipeline.emit import LONG_TOPIC
from hashweir.wiring.clock import SystemClock
from hashweir.wiring.required import require

TOPICS = ("uploads", LONG_TOPIC, "verdicts", "matches", "dead-letters")

Stream = MemoryBroker
"""A stream inside one process."""


def memory_broker() -> Stream:
    """A stream inside this process."""
    return MemoryBroker(SystemClock(), default_partitions=4)


def kafka_access(config: Config) -> KafkaAccess:
    """Where the brokers are and how to be let in. Raises ConfigError where `kafka.bootstrap` is missing."""
    require(config, "kafka.bootstrap")
    part = config.kafka
    return KafkaAccess(
        bootstrap=part.bootstrap,
        protocol=part.security_protocol,
        mechanism=part.sasl_mechanism,
        username=part.sasl_username,
        password=part.sasl_password.get_secret_value(),
        ca_file=part.ssl_ca_file,
        cert_file=part.ssl_cert_file,
        key_file=part.ssl_key_file,
        key_password=part.ssl_key_password.get_secret_value(),
        connect_s=part.connect_budget_seconds,
    )


def kafka_admin(config: Config) -> KafkaAdmin:
    """A connection for questions and for making topics, not started yet. Raises ConfigError."""
    return KafkaAdmin(kafka_access(config))


def topic_plans(config: Config) -> list[TopicPlan]:
    """The topics as they should be."""
    part = config.kafka
    return [
        TopicPlan(
            name=part.topic_prefix + name,
            partitions=part.topic_partitions,
            replication=part.topic_replication,
            retention_s=part.topic_retention_seconds,
            max_message_bytes=part.topic_max_message_bytes,
        )
        for name in TOPICS
    ]
