"""One process from start to exit: the run group, health beside the metrics, and the one place that says how to stop.

Started in the reverse order of stopping. The first SIGTERM or SIGINT drains; a second one ends at once, which is
safe: what was not committed comes again, under the same ids. Long because starting and stopping are one order.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app

from hashweir.errors import ConfigError, HashweirError, Unreachable
from hashweir.logs import Logger
from hashweir.pipeline.worker import Worker
from hashweir.ports import Clock, Sandbox, Sink, Source, Store, Tracer

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_UNREACHABLE = 0, 1, 2, 4
EXIT_STUCK = 70
"""The stream went silent or gave our place to another: only a new process helps, to be started at once."""
RESERVE_S = 6.0
"""Part of the drain that is kept for all that follows the uploads: flush, commit, leave, close."""


_SWITCH_S = 0.0005
"""How long a thread waits for one that computes in Python: a tenth of the default, which lookups would wait for several
times each while a table is compacted."""


def calm() -> None:
    """Keep this process' pauses short, now that all is loaded.

    The collector leaves alone what there is by now: looking through it took 40 to 60 ms, in which all threads stand.
    """
    sys.setswitchinterval(_SWITCH_S)
    gc.collect()
    gc.freeze()


def exit_code(error: BaseException) -> int:
    """The process's exit code for the error that ended it."""
    if isinstance(error, HashweirError) and error.reason in ("stream_stuck", "stream_fenced"):
        return EXIT_STUCK
    if isinstance(error, Unreachable):
        return EXIT_UNREACHABLE
    return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED


class Health:
    """What `/live`, `/started` and `/ready` answer. Asked from the metrics server's threads."""

    def __init__(self, clock: Clock, ready: Mapping[str, Callable[[], bool]], *, stalled_s: float = 30.0) -> None:
        """`ready` are named checks; the loop counts as stalled after `stalled_s` seconds without a beat."""
        self._clock = clock
        self._ready = ready
        self._stalled_s = stalled_s
        self._beat = clock.monotonic()
        self.started = False
        self.draining = False

    def beat(self) -> None:
        """The event loop still turns."""
        self._beat = self._clock.monotonic()

    def live(self) -> dict[str, bool]:
        """Whether restarting would help: only a stalled loop says so, never a dependency."""
        return {"loop_turns": self._clock.monotonic() - self._beat < self._stalled_s}

    def ready(self) -> dict[str, bool]:
        """Whether work is done here now."""
        checks = {name: check() for name, check in self._ready.items()}
        return {"started": self.started, **checks, "not_draining": not self.draining}


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Probes every few seconds are no news."""


class HealthServer:
    """`/metrics`, `/live`, `/started`, `/ready` on their own port and threads, so that a busy loop still answers."""

    def __init__(self, health: Health, registry: CollectorRegistry, host: str, port: int) -> None:
        self.health = health
        self._metrics = make_wsgi_app(registry)
        self._address = (host, port)
        self._server: WSGIServer | None = None

    @property
    def port(self) -> int:
        """The port in use, once started."""
        return self._server.server_port if self._server else self._address[1]

    def start(self) -> None:
        """Listen. Raises ConfigError where the address is taken or not ours."""
        try:
            self._server = make_server(*self._address, self._answer, server_class=_Server, handler_class=_Silent)
        except OSError as error:
            raise ConfigError(f"metrics: can't listen on {self._address}: {error.strerror}") from None
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="health", daemon=True).start()

    def stop(self) -> None:
        """Close the port."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _answer(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            page: Iterable[bytes] = self._metrics(environ, start)
            return page
        if path == "/live":
            return _json(start, self.health.live())
        if path == "/started":
            return _json(start, {"started": self.health.started})
        if path == "/ready":
            return _json(start, self.health.ready())
        start("404 Not Found", [("Content-Type", "text/plain")])
        return [b"/metrics, /live, /started, /ready\n"]


def _json(start: StartResponse, checks: Mapping[str, bool]) -> Iterable[bytes]:
    good = all(checks.values())
    headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
    start("200 OK" if good else "503 Service Unavailable", headers)
    return [json.dumps({"ok": good, "checks": checks}).encode() + b"\n"]


@dataclass(kw_only=True)
class Parts:
    """What a process is made of; a part that it has not is None.

    `background` are tasks that live as long as the process (following the shards, ...): they are cancelled before
    the store closes, and where one ends by itself the process ends. So is `look_back`, but for it publishes: it is
    cancelled before the sink stops.
    """

    server: HealthServer | None = None
    sandbox: Sandbox | None = None
    store: Store | None = None
    background: Mapping[str, Callable[[], Coroutine[Any, Any, None]]] = field(default_factory=dict)
    sink: Sink | None = None
    source: Source | None = None
    worker: Worker | None = None
    tracer: Tracer | None = None
    look_back: Callable[[], Coroutine[Any, Any, None]] | None = None


class Lifecycle:
    """Runs one set of parts once."""

    def __init__(self, parts: Parts, *, clock: Clock, log: Logger, drain_s: float = 25.0) -> None:
        """`drain_s` bounds the whole drain: keep it below what the platform waits before it kills (30 s)."""
        self._parts = parts
        self._clock = clock
        self._log = log
        self._drain_s = drain_s
        self._health = parts.server.health if parts.server else Health(clock, {})
        self._stop = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def stop(self) -> None:
        """Begin the drain, as the first signal does."""
        self._stop.set()

    async def run(self) -> int:
        """Start, run until a signal, `stop` or a failure, drain; give the exit code. Never raises."""
        began, code = self._clock.monotonic(), EXIT_OK
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        starting = asyncio.create_task(self._start())
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait([starting])
        elif error := starting.exception():
            code = self._failed("start", error)
        else:
            await asyncio.wait([stopping, *self._tasks.values()], return_when=asyncio.FIRST_COMPLETED)
            for name, task in self._tasks.items():
                if task.done():
                    code = self._failed(name, task.exception() or RuntimeError(f"{name} ended by itself"))
        stopping.cancel()
        await self._drain()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        self._log.info("service.stopped", exit_code=code, seconds=self._since(began))
        return code

    def _on_signal(self, number: signal.Signals) -> None:
        self._log.warning("service.signal", signal=number.name)
        if self._stop.is_set():
            os._exit(128 + number)
        self._stop.set()

    def _failed(self, task: str, error: BaseException) -> int:
        reason = error.reason if isinstance(error, HashweirError) else "internal_error"
        self._log.critical("service.task_failed", task=task, reason=reason, error=error, exc_info=error)
        return exit_code(error)

    async def _start(self) -> None:
        parts = self._parts
        if parts.server:
            parts.server.start()
        if parts.sandbox:
            await parts.sandbox.start()
        if parts.store:
            await parts.store.open()
        for name, task in parts.background.items():
            self._tasks[name] = asyncio.create_task(task())
        if parts.sink:
            await parts.sink.start()
        if parts.look_back:
            self._tasks["look_back"] = asyncio.create_task(parts.look_back())
        if parts.worker:
            self._tasks["worker"] = asyncio.create_task(parts.worker.run())
        self._tasks["beat"] = asyncio.create_task(self._beat())
        self._health.started = True
        self._log.info("service.started")

    async def _beat(self) -> None:
        was_ready = was_calm = False
        while True:
            self._health.beat()
            ready = all(self._health.ready().values())
            if ready and not was_ready:
                self._log.info("service.ready")
            if ready and not was_calm:
                calm()
            was_ready, was_calm = ready, was_calm or ready
            await asyncio.sleep(1.0)

    async def _drain(self) -> None:
        """The order of stopping. Each step is bounded, none can keep the next from its turn."""
        parts, worker = self._parts, self._parts.worker
        until = self._clock.monotonic() + self._drain_s
        # Not ready first, so that nobody sends more work here.
        self._health.draining = True
        if worker:
            # Take nothing more, and let what is in flight end: what ends is committed and is no duplicate later.
            worker.stop_polling()
            taking = self._tasks.pop("worker", None)
            if taking is not None:
                await self._step("stop_polling", asyncio.wait([taking], timeout=RESERVE_S), until)
            left_s = max(0.0, until - RESERVE_S - self._clock.monotonic())
            await self._step("finish_in_flight", worker.finish(left_s), until)
        if looking := self._tasks.pop("look_back", None):
            # It saves what it remembers, which all that was in flight now belongs to.
            looking.cancel()
            await self._step("save_look_back", asyncio.wait([looking]), until)
        if parts.sink:
            # After this every ack has come that will come ...
            await self._step("flush_sink", parts.sink.stop(), until)
        if worker:
            # ... so this commit holds all that was published, and a successor repeats none of it.
            await self._step("final_commit", worker.commit_rest(RESERVE_S / 2), until)
        if parts.source:
            # Leaving comes after the commit: it hands the partitions to others at once.
            await self._step("leave_group", parts.source.stop(), until)
        await self._step("stop_background", self._cancel_all(), until)
        if parts.store:
            await self._step("close_store", parts.store.close(), until)
        if parts.sandbox:
            await self._step("stop_scan", parts.sandbox.stop(), until)
        if parts.tracer:
            await self._step("flush_spans", asyncio.to_thread(parts.tracer.stop), until)
        if parts.server:
            # Last, so that the drain itself can be watched.
            await self._step("stop_metrics", asyncio.to_thread(parts.server.stop), until)

    async def _cancel_all(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values())

    async def _step(self, step: str, work: Awaitable[object], until: float) -> None:
        began = self._clock.monotonic()
        try:
            # Even past the deadline a step gets a moment: most have nothing to wait for.
            async with asyncio.timeout(max(0.5, until - began)):
                await work
        except Exception as error:  # noqa: BLE001 - a step that fails must not keep the next from its turn
            self._log.error(
                "service.drain_step_failed", step=step, seconds=self._since(began), error=error, exc_info=error
            )
        else:
            self._log.info("service.drain_step", step=step, seconds=self._since(began))

    def _since(self, began: float) -> float:
        return round(self._clock.monotonic() - began, 3)
