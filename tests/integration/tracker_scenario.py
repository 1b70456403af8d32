"""One run of tracker members against a broker: topics of its own, a ledger of what was sent, and the count."""

import asyncio
import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete

PROGRAM = Path(__file__).parent / "tracker_member.py"
SERVICE = Path(__file__).parents[2] / "service"
NEW_PROCESS_NEEDED = 70


class MemberProcess:
    """A member, started once or many times; every start of it appends to the same two files."""

    def __init__(self, name: str, folder: Path, settings: dict[str, object]) -> None:
        self._settings = settings
        self._events_file = folder / f"{name}.jsonl"
        self._log_file = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.failures = 0

    def start(self) -> None:
        with self._events_file.open("ab") as events, self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(PROGRAM), json.dumps(self._settings)],
                stdout=events,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(SERVICE)},
            )

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def tend(self) -> None:
        """What a supervisor does: start it again when it asked for a new process."""
        if self._process is not None and self._process.poll() == NEW_PROCESS_NEEDED:
            self.failures += 1
            self.start()

    def ended_with(self) -> int | None:
        assert self._process is not None
        return self._process.poll()

    def events(self, kind: str) -> list[dict[str, Any]]:
        if not self._events_file.exists():
            return []
        lines = self._events_file.read_text().splitlines(keepends=True)
        events = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in events if event["event"] == kind]

    def log(self) -> str:
        return self._log_file.read_text()[-3000:] if self._log_file.exists() else ""


class Scenario:
    """Topics `<name>.in` and `<name>.out`, one group, the ledger `sent`, and the members."""

    def __init__(self, bootstrap: str, name: str, folder: Path) -> None:
        self.source, self.sink, self.group = f"{name}.in", f"{name}.out", name
        self.bootstrap = bootstrap
        self.members: dict[str, MemberProcess] = {}
        # id -> partition of every upload that the broker acknowledged
        self.sent: dict[str, int] = {}
        self._folder = folder
        self._admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        self._producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap, enable_idempotence=True, metadata_max_age_ms=1_000
        )
        self.outputs: Counter[str] = Counter()
        self._reader = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")

    async def open(self, partitions: int) -> None:
        await self._admin.start()
        await self._admin.create_topics([NewTopic(self.source, partitions, 1), NewTopic(self.sink, 1, 1)])
        await self._producer.start()
        await self._reader.start()
        self._reader.assign([TopicPartition(self.sink, 0)])

    async def close(self) -> None:
        for member in self.members.values():
            member.kill()
        await self._reader.stop()
        await self._producer.stop()
        await self._admin.close()

    def member(self, name: str, *, instance: str | None = None, send_seconds: float = 15) -> MemberProcess:
        """Start a member; its static id is its name unless another is given."""
        settings = {"bootstrap": self.bootstrap, "group": self.group, "work_ms": 20, "send_seconds": send_seconds}
        settings |= {"source": self.source, "sink": self.sink, "instance": instance or name}
        self.members[name] = MemberProcess(name, self._folder, settings)
        self.members[name].start()
        return self.members[name]

    async def send(self, count: int, partition: int | None = None) -> None:
        """Send that many uploads and note those acknowledged (all of them, or it raises)."""
        names = [f"{random.randbytes(8).hex()}" for _ in range(count)]
        futures = [await self._producer.send(self.source, n.encode(), partition=partition) for n in names]
        for name, receipt in zip(names, await asyncio.gather(*futures), strict=True):
            self.sent[name] = receipt.partition

    @asynccontextmanager
    async def feed(self, per_second: int) -> AsyncIterator[None]:
        """Send at that rate as long as the block lasts, and play the members' supervisor."""
        ended = asyncio.Event()

        async def keep_on() -> None:
            due = time.monotonic()
            while not ended.is_set():
                await self.send(per_second // 20)
                for member in self.members.values():
                    member.tend()
                due += 0.05
                await asyncio.sleep(max(0.0, due - time.monotonic()))

        task = asyncio.create_task(keep_on())
        try:
            yield
        finally:
            ended.set()
            await task

    async def until(self, what: str, holds: Callable[[], bool | Awaitable[bool]], seconds: float) -> None:
        """Wait for a condition; when the deadline passes, fail with what the members said last."""
        deadline = time.monotonic() + seconds
        while True:
            answer = holds()
            if answer if isinstance(answer, bool) else await answer:
                return
            if time.monotonic() > deadline:
                said = "\n".join(f"{name}: {member.log()}" for name, member in self.members.items())
                raise AssertionError(f"not within {seconds:.0f} s: {what}\n{said}")
            for member in self.members.values():
                member.tend()
            await asyncio.sleep(0.05)

    async def read_outputs(self) -> None:
        for records in (await self._reader.getmany(timeout_ms=100)).values():
            self.outputs.update(record.value.decode() for record in records)

    async def all_answered(self) -> bool:
        await self.read_outputs()
        return self.sent.keys() <= self.outputs.keys()

    async def committed(self) -> dict[int, int]:
        """Partition -> committed position of the group."""
        offsets = await self._admin.list_consumer_group_offsets(self.group)
        return {tp.partition: meta.offset for tp, meta in offsets.items() if meta.offset >= 0}

    async def ends(self) -> dict[int, int]:
        """Partition -> end of the log."""
        partitions = await self._producer.partitions_for(self.source)
        ends = await self._reader.end_offsets([TopicPartition(self.source, p) for p in partitions])
        return {tp.partition: offset for tp, offset in ends.items()}

    async def stop_members(self) -> None:
        """SIGTERM to all: each must end with code 0 within its bounds."""
        for member in self.members.values():
            member.signal(signal.SIGTERM)
        codes = [member.ended_with for member in self.members.values()]
        await self.until("members end", lambda: all(code() is not None for code in codes), 20)
        assert [code() for code in codes] == [0] * len(codes)

    async def add_partitions(self, total: int) -> None:
        await self._admin.create_partitions({self.source: NewPartitions(total)})

    async def truncate(self, partition: int, before: int) -> None:
        """Remove what lies below that offset from the log, as retention would."""
        tp = TopicPartition(self.source, partition)
        assert await self._admin.delete_records({tp: RecordsToDelete(before)}) == {tp: before}

    async def forget_offsets(self, partitions: int) -> bool:
        """Delete the group's committed offsets; False while the broker still counts members in the group.

        OffsetDelete (key 47, version 0) is not among the client's requests, so it is written by hand.
        """
        host, port = self.bootstrap.split(":")
        body = struct.pack(">hhih", 47, 0, 1, -1) + _text(self.group) + struct.pack(">i", 1) + _text(self.source)
        body += struct.pack(f">i{partitions}i", partitions, *range(partitions))
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(struct.pack(">i", len(body)) + body)
        reply = await reader.readexactly(int.from_bytes(await reader.readexactly(4)))
        writer.close()
        await writer.wait_closed()
        # correlation id, error, throttle, one topic: name, then per partition its number and error
        group_error = struct.unpack_from(">h", reply, 4)[0]
        at = 10 + 4 + 2 + len(self.source.encode()) + 4
        errors = [group_error] if group_error else [
            struct.unpack_from(">ih", reply, at + 6 * index)[1] for index in range(partitions)
        ]  # fmt: skip
        return not any(errors)


def _text(value: str) -> bytes:
    return struct.pack(">h", len(value.encode())) + value.encode()


@asynccontextmanager
async def scenario(bootstrap: str, name: str, folder: Path, partitions: int) -> AsyncIterator[Scenario]:
    """A scenario with its topics made; whatever happens, no member outlives it."""
    run = Scenario(bootstrap, name, folder)
    try:
        await run.open(partitions)
        yield run
    finally:
        await run.close()
