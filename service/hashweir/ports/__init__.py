"""Seams. Stream, store and scan processes have two implementations each at least, held to one contract suite.

Real ones live in `adapters/` (Kafka, Redis, scan processes) and `shards/` (Known), twins in `adapters/memory*`.
"""

from __future__ import annotations

from hashweir.ports.clock import Clock
from hashweir.ports.known import Accept, Found, Hasher, Hits, Index, Known, Query, Standing, View
from hashweir.ports.scan import Load, MediaSource, Sandbox
from hashweir.ports.store import (
    Applied,
    Chunk,
    Edit,
    EditResult,
    Head,
    PackedPart,
    Part,
    Position,
    SetsState,
    SlotChange,
    Store,
)
from hashweir.ports.stream import AssignmentLost, Partition, PartitionListener, RangeLost, Sink, Source
from hashweir.ports.trace import Trace, Tracer

__all__ = [
    "Accept",
    "Applied",
    "AssignmentLost",
    "Chunk",
    "Clock",
    "Edit",
    "EditResult",
    "Found",
    "Hasher",
    "Head",
    "Hits",
    "Index",
    "Known",
    "Load",
    "MediaSource",
    "PackedPart",
    "Part",
    "Partition",
    "PartitionListener",
    "Position",
    "Query",
    "RangeLost",
    "Sandbox",
    "SetsState",
    "Sink",
    "SlotChange",
    "Source",
    "Standing",
    "Store",
    "Trace",
    "Tracer",
    "View",
]
