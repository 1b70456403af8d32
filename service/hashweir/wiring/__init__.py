"""The one package that names concrete adapters: it turns a configuration into running parts.

A change of adapter is a change here and nowhere else.
"""

from __future__ import annotations

from hashweir.wiring.clock import SystemClock
from hashweir.wiring.judging import Judging, one_shot
from hashweir.wiring.required import require
from hashweir.wiring.scanning import sandbox
from hashweir.wiring.stores import embedded, store
from hashweir.wiring.streams import Stream, kafka_admin, memory_broker, topic_plans
from hashweir.wiring.workers import kafka_worker, memory_worker, tracer

__all__ = [
    "Judging",
    "Stream",
    "SystemClock",
    "embedded",
    "kafka_admin",
    "kafka_worker",
    "memory_broker",
    "memory_worker",
    "one_shot",
    "require",
    "sandbox",
    "store",
    "topic_plans",
    "tracer",
]
