"""`hashweir top`: figures of two scrapes, and what is said where nobody answers."""

from __future__ import annotations

import bisect
import http.server
import json
import math
import socket
import threading
from collections.abc import Iterator
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from rich.console import Console

from hashweir.cli import main, top
from hashweir.cli.top_figures import Figures, Samples, figures, read
from hashweir.lifecycle import Health, HealthServer
from hashweir.metrics import SECONDS, Metrics


class Clock:
    def now_ms(self) -> int:
        return 0

    def monotonic(self) -> float:
        return 0.0


def page(made: Metrics) -> Samples:
    return read(generate_latest(made.registry).decode())


def judge(
    made: Metrics, count: int, *, outcome: str = "clear", reason: str | None = None, seconds: float = 0.2
) -> None:
    for _ in range(count):
        made.count_judged(
            media="image",
            outcome=outcome,
            action="none",
            reason=reason,
            hits=(),
            dead_letter=None,
            seconds=seconds,
        )


def test_rates_are_what_happened_between_the_two_looks() -> None:
    """Of all workers together; what was before does not count."""
    first, second = Metrics(), Metrics()
    judge(first, 1000, seconds=60)
    before = page(first), page(second)
    judge(first, 30)
    judge(second, 20, outcome="unscanned", reason="scan_died")
    shown = figures([(before[0], page(first)), (before[1], page(second))], 10.0, 0.0)
    assert shown.workers == 2
    assert shown.uploads == 5.0
    assert shown.outcomes == {"clear": 3.0, "unscanned": 2.0}
    assert shown.faults == {"scan_died": 2.0}
    assert shown.in_time == 1.0
    assert shown.p99_s is not None
    assert 0.1 < shown.p99_s <= 0.25


def test_a_worker_that_began_anew_counts_from_zero() -> None:
    """As Prometheus has it: a counter that went back is a new one."""
    old, new = Metrics(), Metrics()
    judge(old, 1000)
    judge(new, 7)
    assert figures([(page(old), page(new))], 1.0, 0.0).uploads == 7


def test_nothing_has_happened_yet() -> None:
    """No division by zero, nothing to worry about."""
    one = page(Metrics())
    shown = figures([(one, one)], 1.0, 1000.0)
    assert shown.p99_s is None
    assert shown.in_time is None
    assert shown.drain_s is None
    assert shown.lag_s == 0
    assert [label for label, _, bad in top.lines(shown) if bad] == ["index"], "which is empty"
    assert figures([], 1.0, 0.0, ["one is away"]).workers == 0


def test_lag_is_told_in_records_seconds_and_time_to_drain() -> None:
    made = Metrics()
    made.lag.labels("uploads", "0").set(100)
    before = page(made)
    made.lag.labels("uploads", "0").set(60)
    made.oldest_unfinished.labels("uploads", "0").set(955)
    made.oldest_unfinished.labels("uploads", "1").set(0)
    shown = figures([(before, page(made))], 4.0, 1000.0)
    assert (shown.lag_records, shown.lag_s, shown.drain_s) == (60, 45, 6)
    assert "lag" in [label for label, _, bad in top.lines(shown) if bad]


@pytest.mark.slow
@given(st.lists(st.floats(0, 200), min_size=1, max_size=50), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], share: float) -> None:
    made = Metrics()
    before = page(made)
    for value in values:
        made.canary_seconds.observe(value)
        made.end_to_end.labels("image").observe(value)
    shown = figures([(before, page(made))], 1.0, 0.0)
    true = sorted(values)[math.ceil(0.99 * len(values)) - 1]
    bucket = bisect.bisect_left(SECONDS, true)
    assert shown.p99_s is not None
    low = SECONDS[bucket - 1] if bucket else 0.0
    assert low <= shown.p99_s <= (SECONDS[bucket] if bucket < len(SECONDS) else SECONDS[-1])


@pytest.fixture
def worker() -> Iterator[tuple[Metrics, str]]:
    made = Metrics()
    server = HealthServer(Health(Clock(), {}), made.registry, "127.0.0.1", 0)
    server.start()
    yield made, f"127.0.0.1:{server.port}"
    server.stop()


def test_scripts_get_one_line_of_json(worker: tuple[Metrics, str], capsys: pytest.CaptureFixture[str]) -> None:
    made, address = worker
    made.in_flight_items.set(3)
    assert main(["top", address, "--once", "--json", "--every", "0.05"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["in_flight"] == 3


def test_without_a_terminal_it_looks_once(worker: tuple[Metrics, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", f"http://{worker[1]}/metrics", "--every", "0.05"]) == 0
    assert "uploads" in capsys.readouterr().out


def test_one_of_two_that_does_not_answer_is_named(
    worker: tuple[Metrics, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The rest is shown all the same; the exit code tells a script."""
    gone = closed_port()
    assert main(["top", worker[1], f"127.0.0.1:{gone}", "--once", "--every", "0.05"]) == 3
    assert f"127.0.0.1:{gone}/metrics does not answer" in capsys.readouterr().out


def test_where_nobody_answers_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """The address, why, and exit code 4."""
    gone = closed_port()
    assert main(["top", f"127.0.0.1:{gone}", "--once"]) == 4
    said = capsys.readouterr()
    assert said.out == ""
    assert f"http://127.0.0.1:{gone}/metrics does not answer: [Errno 111] Connection refused" in said.err
    assert "[metrics_unreachable]" in said.err


class Page(http.server.BaseHTTPRequestHandler):
    body = b""
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>hello</html>"),
        (200, b"\xff\xfe"),
        (200, b""),
        (200, b"# TYPE other counter\nother_total 1\n"),
        (404, b"no"),
        (500, b""),
    ],
)
def test_another_page_is_no_worker(status: int, body: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), type("One", (Page,), {"status": status, "body": body}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert main(["top", f"127.0.0.1:{server.server_port}", "--once"]) == 4
    finally:
        server.shutdown()
        server.server_close()
    assert "[metrics_unreachable]" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["ftp://host", "http://", "http://host:99999", "file:///etc/passwd", "http://[::1"])
def test_what_is_no_address_is_told_at_once(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", url, "--once"]) == 2
    assert "is no metrics address" in capsys.readouterr().err


def test_the_live_view_holds_all_lines() -> None:
    """On a terminal of ordinary size, without a fold."""
    made = Metrics()
    before = page(made)
    judge(made, 100)
    shown: Figures = figures([(before, page(made))], 2.0, 0.0)
    out = Console(file=StringIO(), width=120, height=40, force_terminal=True)
    out.print(top._coloured(shown))
    told = out.file.getvalue()  # type: ignore[attr-defined]
    assert all(label in told for label, _, _ in top.lines(shown))
    assert told.count("\n") < 26


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
