"""A real Apache Kafka broker for tests.

Its jars come from the pom in this folder, are checked against `jars.sha256` and are kept in the git-ignored
`.cache/kafka/<version>/`. `python -m tests.servers.kafka fetch` fills that folder ahead of time.
"""

from tests.servers.kafka.broker import KafkaBroker, SecureListener

__all__ = ["KafkaBroker", "SecureListener"]
