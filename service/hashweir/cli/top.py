"""`hashweir top`: what workers do now, read from their metrics pages. For those without Grafana, and for scripts."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from cyclopts import Parameter
from cyclopts.types import PositiveFloat

from hashweir.cli import FINDINGS, OK, Json, Usage, settings
from hashweir.cli.output import console, emit
from hashweir.cli.top_figures import Figures, Samples, figures, read
from hashweir.errors import Unreachable

if TYPE_CHECKING:
    from rich.text import Text

TIMEOUT_S = 5.0
MOST_BYTES = 64 * 2**20
Line = tuple[str, str, bool]
"""A label, what it says, and whether somebody should look at it."""


def top(
    *urls: str,
    every: Annotated[PositiveFloat, Parameter(help="seconds between two looks")] = 2.0,
    once: Annotated[bool, Parameter(negative="", help="look once (two scrapes), print, and end")] = False,
    json: Json = False,
) -> int:
    """Show what workers do now: traffic, latency, lag, index, failures. With --json one line per look.

    Without a terminal it looks once. Exit code 4 where none of them answers, 3 where one of several does not.

    Parameters
    ----------
    urls
        Metrics addresses such as `http://worker-0:9464`; without one, that of this configuration.
    """
    config = settings().metrics
    pages = [_address(url) for url in urls or (f"{config.host}:{config.port}",)]
    looks = _looks(pages, every)
    if once or not (json or console().is_terminal):
        shown = next(looks)
        emit(shown, as_json=json, human=lambda out: out.print(_plain(shown)))
        return FINDINGS if shown.unreachable else OK
    if json:
        for shown in looks:
            emit(shown, as_json=True, human=lambda _: None)
    from rich.live import Live

    with suppress(KeyboardInterrupt), Live(console=console(), auto_refresh=False, screen=True) as live:
        for shown in looks:
            live.update(_coloured(shown), refresh=True)
    return OK


def _address(url: str) -> str:
    whole = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(whole)
        bad = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
    except ValueError:
        bad = True
    if bad:
        raise Usage(f"{url!r} is no metrics address; give one such as http://worker-0:9464")
    return whole if parts.path.strip("/") else f"{whole.rstrip('/')}/metrics"


def _looks(pages: Sequence[str], every_s: float) -> Iterator[Figures]:
    """Figures for ever, each over the time since the last. Raises Unreachable where nobody answers at first."""
    with ThreadPoolExecutor(min(16, len(pages))) as threads:
        before, at = list(threads.map(_scrape, pages)), time.monotonic()
        if all(isinstance(one, str) for one in before):
            raise Unreachable("metrics_unreachable", "; ".join(str(one) for one in before))
        while True:
            time.sleep(max(0.0, at + every_s - time.monotonic()))
            after, then = list(threads.map(_scrape, pages)), time.monotonic()
            # A worker that answers for the first time is shown from the next look on.
            pairs = [
                (first, second)
                for first, second in zip(before, after, strict=True)
                if not isinstance(first, str) and not isinstance(second, str)
            ]
            missing = [one for one in after if isinstance(one, str)]
            yield figures(pairs, then - at, time.time(), missing)
            before, at = after, then


def _scrape(page: str) -> Samples | str:
    """The samples, or a sentence why not."""
    try:
        with urllib.request.urlopen(page, timeout=TIMEOUT_S) as answer:
            return read(answer.read(MOST_BYTES).decode())
    except urllib.error.URLError as error:
        return f"{page} does not answer: {error.reason}"
    except (OSError, http.client.HTTPException) as error:
        return f"{page} does not answer: {type(error).__name__}"
    except ValueError:
        return f"{page} is no metrics page of hashweir"


def lines(now: Figures) -> list[Line]:
    """What is shown, line by line."""
    lag_bad = now.lag_s > 30
    drain = f", done in {_seconds(now.drain_s)}" if now.drain_s is not None else ""
    usable = now.standing.get("verified", 0) == now.workers
    slow = now.in_time is not None and now.in_time < 0.99
    found = now.canaries.get("found", 0)
    return [
        ("workers", f"{now.workers} answer" + "".join(f"; {one}" for one in now.unreachable), bool(now.unreachable)),
        ("uploads", f"{now.uploads:.1f}/s  {_rates(now.outcomes)}", False),
        ("media", _rates(now.media), False),
        ("matches", _rates(now.actions), False),
        (
            "latency",
            f"p50 {_seconds(now.p50_s)}, p99 {_seconds(now.p99_s)}"
            + (f"; {now.in_time:.2%} of images and texts within 250 ms" if now.in_time is not None else ""),
            slow,
        ),
        ("stages p99", ", ".join(f"{stage} {_seconds(s)}" for stage, s in now.stages_p99_s.items()) or "-", False),
        (
            "lag",
            f"{now.lag_records:.0f} records, {_seconds(now.lag_s)}{drain}; {now.partitions:.0f} partitions",
            lag_bad,
        ),
        ("paused", _counts(now.paused), bool(now.paused.keys() - {"budget", "draining"})),
        ("in flight", f"{now.in_flight:.0f} uploads, {_mib(now.in_flight_bytes)}", False),
        (
            "index",
            f"{_counts(now.standing)}; verified {_seconds(now.verified_s)} ago, {now.behind:.0f} behind",
            not usable,
        ),
        ("entries", _counts(now.entries), False),
        ("sets", _counts(now.sets), False),
        ("alarms", _counts(now.alarms), bool(now.alarms)),
        (
            "scans",
            f"{now.scan_busy:.0f} of {now.scan_processes:.0f} processes busy, {now.scan_waiting:.0f} uploads waiting",
            False,
        ),
        ("process", f"{_mib(now.memory_bytes)}, {now.cores:.2f} cores, loop p99 {_seconds(now.loop_p99_s)}", False),
        ("faults", _rates(now.faults), bool(now.faults)),
        ("dead letters", _rates(now.dead_letters), False),
        ("scan deaths", _counts(now.deaths), bool(now.deaths.keys() - {"recycled"})),
        ("lost", f"{now.lost:.0f} records", now.lost > 0),
        ("canaries", _counts(now.canaries), found != sum(now.canaries.values())),
    ]


def _plain(now: Figures) -> str:
    return "\n".join(f"{label:12}  {text}{'  !' if bad else ''}" for label, text, bad in lines(now))


def _coloured(now: Figures) -> Text:
    from rich.text import Text

    out = Text(f"hashweir top, the last {now.seconds:.0f} s (Ctrl-C ends)\n\n", style="bold")
    for label, text, bad in lines(now):
        out.append(f"{label:12}  ", style="cyan")
        out.append(text + "\n", style="bold red" if bad else "")
    return out


def _rates(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}/s" for name, value in sorted(values.items())) or "-"


def _counts(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:,.0f}" for name, value in sorted(values.items())) or "-"


def _mib(value: float) -> str:
    return f"{value / 2**20:.0f} MiB"


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s" if value < 120 else f"{value / 60:.0f} min"
