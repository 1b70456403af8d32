"""Spans of uploads, sent to an OpenTelemetry collector. The only file that knows OpenTelemetry.

What leaves the process is where an upload stood in the stream, how long its stages took and what came out. No
content, no fingerprint, no id, no account: a trace store is read by more people than a verdict is.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

import msgspec

from hashweir.errors import ConfigError
from hashweir.model import Judged, Record

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Span

HEADERS = ("traceparent", "tracestate")
"""Of W3C Trace Context, level 1."""
SEND_S = 3.0
"""The longest that one batch is tried, and that `stop` waits."""


def otlp_tracer(endpoint: str, sample_ratio: float, group: str, instance: str, version: str) -> SpanTracer:
    """A tracer that sends to `endpoint` (OTLP over HTTP) from a thread of its own; what it can't send it drops.

    Raises ConfigError where the extra `tracing` is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise ConfigError("tracing.endpoint needs OpenTelemetry: pip install 'hashweir[tracing]'") from None
    processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=SEND_S))
    return SpanTracer(processor, sample_ratio, group, instance, version)


class SpanTracer:
    """A `Tracer` over one span processor.

    An upload that comes with a `traceparent` is sampled where its sender's span is, any other with a probability
    of `sample_ratio`.
    """

    def __init__(self, processor: SpanProcessor, sample_ratio: float, group: str, instance: str, version: str) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        # It warns of every span that finds the queue full and of every odd header: a line per upload.
        logging.getLogger("opentelemetry").setLevel(logging.ERROR)
        names = {"service.name": "hashweir", "service.version": version, "service.instance.id": instance}
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
            resource=Resource.create(names),
            shutdown_on_exit=False,  # it may take half a minute; `stop` is asked to in time
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("hashweir", version)
        self._context = TraceContextTextMapPropagator()
        self._group = group

    def begin(self, record: Record) -> UploadTrace:
        """The span of an upload, below the one that its `traceparent` names where that is well-formed. Never waits."""
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind, set_span_in_context

        given = {name.lower(): raw.decode(errors="replace") for name, raw in record.headers if name.lower() in HEADERS}
        span = self._tracer.start_span(
            f"process {record.topic}",
            # An empty context, and not that of this task: a malformed header must leave nothing to inherit from.
            context=self._context.extract(given, Context()),
            kind=SpanKind.CONSUMER,
            attributes={
                "messaging.system": "kafka",
                "messaging.operation.type": "process",
                "messaging.operation.name": "process",
                "messaging.destination.name": record.topic,
                "messaging.destination.partition.id": str(record.partition),
                "messaging.consumer.group.name": self._group,
                "messaging.kafka.offset": record.offset,
                "messaging.message.body.size": len(record.value),
            },
        )
        span.add_event("received")
        carried: dict[str, str] = {}
        self._context.inject(carried, set_span_in_context(span, Context()))
        rest = tuple(header for header in record.headers if header[0].lower() not in HEADERS)
        headers = rest + tuple((name, text.encode()) for name, text in carried.items())
        return UploadTrace(span, msgspec.structs.replace(record, headers=headers))

    def stop(self) -> None:
        """Send what is left, for at most a few seconds. Blocks."""
        # The library may wait 30 s for a collector that does not answer, and can't be told otherwise.
        closing = threading.Thread(target=self._provider.shutdown, name="flush-spans", daemon=True)
        closing.start()
        closing.join(SEND_S)


class UploadTrace:
    """A `Trace` over one span."""

    def __init__(self, span: Span, record: Record) -> None:
        self._span = span
        self.record = record

    def judged(self, judged: Judged) -> None:
        """There is a verdict, of this moment. The moments of the stages before it are counted back from it."""
        if not self._span.is_recording():
            return
        timings, verdict, now = judged.timings, judged.verdict, time.time_ns()
        decide_ns, lookup_ns = (int(timings.get(stage, 0.0) * 1e9) for stage in ("decide", "lookup"))
        if "scan_wait" in timings:
            self._span.add_event("scanned", timestamp=now - decide_ns - lookup_ns)
        self._span.add_event("looked_up", timestamp=now - decide_ns)
        self._span.add_event("decided", timestamp=now)
        told = {
            "outcome": verdict.outcome,
            "action": verdict.action,
            "media_class": verdict.media_class,
            "reason": verdict.reason,
            "degraded": judged.degraded,
            **{f"timing.{stage}": seconds for stage, seconds in timings.items()},
        }
        self._span.set_attributes({f"hashweir.{name}": value for name, value in told.items() if value is not None})

    def end(self, *, acked: bool) -> None:
        """Nothing more comes: all that was to be sent is acked, or the upload is not done and comes again."""
        from opentelemetry.trace import StatusCode

        if acked:
            self._span.add_event("acked")
        else:
            self._span.set_status(StatusCode.ERROR, "not done: it comes again")
        self._span.end()
