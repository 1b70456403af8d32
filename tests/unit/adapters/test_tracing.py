"""The spans of uploads: what is in them, what is not, and that none of it touches an upload's way."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, format_span_id, format_trace_id

from hashweir import wiring
from hashweir.adapters.memory_stream import MemoryBroker, MemorySink
from hashweir.adapters.tracing import SEND_S, SpanTracer, otlp_tracer
from hashweir.config import Config, Tracing, load
from hashweir.errors import ConfigError
from hashweir.logs import quiet
from hashweir.metrics import Metrics
from hashweir.model import Judged, Record, Upload
from hashweir.pipeline.deliver import Delivery
from hashweir.pipeline.emit import Emitter
from hashweir.pipeline.retry import Brake
from hashweir.ports import Tracer
from hashweir.wiring import SystemClock
from tests.unit.pipeline.world import judged

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = PARENT[:-1] + "0"
MALFORMED = [
    b"",
    b"hello",
    b"\xff\xfe",
    b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01",
    b"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
    b"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    PARENT.encode() + b"-more",
    b"0" * 10_000,
]


class Judge:
    """Says `clear` of everything, after as much time as the timings say."""

    async def match(self, upload: Upload) -> Judged:
        timings = {"fetch": 0.0, "scan_wait": 0.001, "decode": 0.002, "hash": 0.003, "lookup": 0.004, "decide": 0.005}
        await asyncio.sleep(sum(timings.values()))
        one = judged(upload)
        return Judged(verdict=one.verdict, failure=None, as_of_ms=0, degraded=False, timings=timings)

    async def refuse(self, upload: Upload, reason: str) -> Judged:
        return judged(upload, reason)


class Street:
    """One delivery from record to verdicts, traced or not."""

    def __init__(self, tracer: Tracer | None) -> None:
        self.broker = MemoryBroker(SystemClock())
        self.delivery = Delivery(
            judge=Judge(),
            emitter=Emitter(worker="test", versions={}),
            sink=MemorySink(self.broker),
            clock=SystemClock(),
            metrics=Metrics(),
            log=quiet(),
            default_source="test",
            tracer=tracer,
        )

    async def deliver(
        self, headers: dict[str, bytes], value: bytes = b"the content itself", *, ours: bool = True
    ) -> dict[str, bytes]:
        """The headers of the verdict; empty where there is none."""
        given = {"ce_id": b"u1", "ce_source": b"app", "ce_account": b"token-7", "content-type": b"text/plain"}
        record = Record(
            topic="uploads",
            partition=3,
            offset=42,
            timestamp_ms=0,
            value=value,
            headers=tuple((given | headers).items()),
        )
        if not await self.delivery.deliver(record, Brake(), lambda: ours):
            return {}
        (verdict,) = self.broker.records("verdicts")
        return dict(verdict.headers)


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(spans: InMemorySpanExporter) -> Iterator[SpanTracer]:
    made = SpanTracer(SimpleSpanProcessor(spans), 1.0, "hashweir", "worker-0", "1.2.3")
    yield made
    made.stop()


def only(spans: InMemorySpanExporter) -> ReadableSpan:
    (span,) = spans.get_finished_spans()
    return span


def carried(span: ReadableSpan) -> bytes:
    """The `traceparent` that names a span as parent."""
    context = span.get_span_context()
    assert context is not None
    return (
        f"00-{format_trace_id(context.trace_id)}-{format_span_id(context.span_id)}-{context.trace_flags:02x}".encode()
    )


async def test_one_upload_is_one_span_below_its_senders(tracer: SpanTracer, spans: InMemorySpanExporter) -> None:
    """The trace goes on: the sender's span is the parent, and verdicts name this span as theirs."""
    verdict = await Street(tracer).deliver({"traceparent": PARENT.encode(), "tracestate": b"app=1,other=2"})
    span = only(spans)
    assert span.parent is not None
    assert format_span_id(span.parent.span_id) == PARENT.split("-")[2]
    assert verdict["traceparent"] == carried(span)
    assert verdict["traceparent"].split(b"-")[1] == PARENT.encode().split(b"-")[1]
    assert verdict["tracestate"] == b"app=1,other=2"
    assert span.status.status_code is StatusCode.UNSET


async def test_the_stages_are_events_in_their_order(tracer: SpanTracer, spans: InMemorySpanExporter) -> None:
    """received, scanned, looked_up, decided, acked: at times that agree with the stages' durations."""
    await Street(tracer).deliver({})
    span = only(spans)
    at = {event.name: event.timestamp for event in span.events}
    assert list(at) == ["received", "scanned", "looked_up", "decided", "acked"]
    assert span.start_time is not None
    assert span.end_time is not None
    moments = [span.start_time, *at.values(), span.end_time]
    assert all(early <= late for early, late in pairwise(moments))
    assert at["looked_up"] - at["scanned"] == 4_000_000
    assert at["decided"] - at["looked_up"] == 5_000_000
    assert at["scanned"] - at["received"] >= 6_000_000


async def test_a_refused_upload_was_never_scanned(tracer: SpanTracer, spans: InMemorySpanExporter) -> None:
    """A span tells of no stage that was not gone through."""
    assert await Street(tracer).deliver({}, b"")
    span = only(spans)
    assert [event.name for event in span.events] == ["received", "looked_up", "decided", "acked"]
    assert span.attributes is not None
    assert span.attributes["hashweir.reason"] == "empty_value"


async def test_nothing_of_the_upload_itself_is_in_a_span(tracer: SpanTracer, spans: InMemorySpanExporter) -> None:
    """No content, no id, no source, no account, no fingerprint: the closed list of attributes is all there is."""
    await Street(tracer).deliver({"ce_id": b"secret-id", "ce_source": b"secret-source"}, b"secret-content")
    span = only(spans)
    text = span.to_json()
    assert not any(word in text for word in ("secret", "token-7"))
    assert span.attributes is not None
    allowed = {"outcome", "action", "media_class", "reason", "degraded"}
    for name in span.attributes:
        own = name.removeprefix("hashweir.")
        assert name.startswith("messaging.") or own in allowed or own.startswith("timing."), name


async def test_an_upload_that_is_not_done_ends_its_span_as_an_error(
    tracer: SpanTracer, spans: InMemorySpanExporter
) -> None:
    """It comes again, in a span of its own; this one does not say `acked`."""
    assert not await Street(tracer).deliver({}, ours=False)
    span = only(spans)
    assert span.status.status_code is StatusCode.ERROR
    assert "acked" not in [event.name for event in span.events]


@pytest.mark.parametrize("header", MALFORMED, ids=range(len(MALFORMED)))
async def test_a_malformed_traceparent_costs_nothing(
    header: bytes, tracer: SpanTracer, spans: InMemorySpanExporter
) -> None:
    """The upload is judged as any other, and its span begins a trace of its own."""
    verdict = await Street(tracer).deliver({"traceparent": header, "tracestate": b"app=1"})
    span = only(spans)
    assert span.parent is None
    assert verdict["traceparent"] == carried(span)
    assert "tracestate" not in verdict, "a state without the trace it belongs to means nothing"
    assert await Street(None).deliver({"traceparent": header})


async def test_the_senders_decision_not_to_sample_is_kept(tracer: SpanTracer, spans: InMemorySpanExporter) -> None:
    """No span is sent, and what follows the verdict is told so too."""
    verdict = await Street(tracer).deliver({"traceparent": UNSAMPLED.encode()})
    assert spans.get_finished_spans() == ()
    assert verdict["traceparent"].endswith(b"-00")
    assert verdict["traceparent"].split(b"-")[1] == UNSAMPLED.encode().split(b"-")[1]


async def test_without_tracing_a_trace_passes_through() -> None:
    """Off is not deaf: who sent the upload and who reads the verdict are still one trace."""
    verdict = await Street(None).deliver({"traceparent": PARENT.encode(), "tracestate": b"app=1"})
    assert (verdict["traceparent"], verdict["tracestate"]) == (PARENT.encode(), b"app=1")
    assert "traceparent" not in await Street(None).deliver({})


async def test_what_is_left_is_sent_before_the_end() -> None:
    """Over real HTTP: a collector has every span once `stop` returns."""
    bodies: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Nothing on stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        listening = threading.Thread(target=server.serve_forever, args=(0.05,))
        listening.start()
        tracer = otlp_tracer(f"http://127.0.0.1:{server.server_port}/v1/traces", 1.0, "g", "worker-0", "0")
        for _ in range(3):
            assert await Street(tracer).deliver({})
        await asyncio.to_thread(tracer.stop)
        server.shutdown()
        listening.join()
    requests = [ExportTraceServiceRequest.FromString(body) for body in bodies]
    sent = [span for one in requests for by in one.resource_spans for scope in by.scope_spans for span in scope.spans]
    assert [span.name for span in sent] == ["process uploads"] * 3


async def test_a_collector_that_is_away_holds_nothing_up() -> None:
    """Uploads go on, and the stop is over within its bound."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: every connection is refused
        tracer = otlp_tracer(f"http://127.0.0.1:{taken.getsockname()[1]}/v1/traces", 1.0, "g", "w", "0")
        assert await Street(tracer).deliver({})
        began = time.monotonic()
        tracer.stop()
        assert time.monotonic() - began < SEND_S + 5


def test_only_a_configured_endpoint_makes_a_tracer() -> None:
    """Installed is not asked for."""
    assert wiring.tracer(Config()) is None
    made = wiring.tracer(Config(tracing=Tracing(endpoint="http://127.0.0.1:4318/v1/traces")))
    assert made is not None
    made.stop()


@pytest.mark.parametrize("endpoint", ["collector:4318", "grpc://collector:4317", "http://user:s3cret@collector:4318"])
def test_an_endpoint_that_is_none_is_refused(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, and without repeating what may be a password."""
    monkeypatch.setenv("HASHWEIR_TRACING__ENDPOINT", endpoint)
    with pytest.raises(ConfigError, match="HASHWEIR_TRACING__ENDPOINT") as raised:
        load()
    assert "s3cret" not in str(raised.value)


def test_without_the_extra_the_configuration_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for and not to be had: said at the start, with what to install."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"hashweir\[tracing\]"):
        otlp_tracer("http://127.0.0.1:4318/v1/traces", 1.0, "g", "w", "0")
