"""What a run's processes take of the machine, once a second, from /proc; and facts about the machine itself."""

from __future__ import annotations

import asyncio
import os
import platform
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.system.rig import Node

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Sample:
    """One look. Processor seconds count from each process's start; memory is resident bytes."""

    at_s: float
    """Unix time."""
    cpu_s: dict[str, float]
    """By role; `machine` is all that the machine was busy with."""
    memory: dict[str, int]
    decode_hash_s: float
    """Sum of the stages decode and hash, wall time as the scan processes report it: when `look` was called last."""


@dataclass
class Watch:
    """Samples the processes of a run until stopped. `pids` are the roots by role; workers come from the nodes."""

    nodes: list[Node]
    pids: dict[str, int]
    samples: list[Sample] = field(default_factory=list)

    async def look(self) -> Sample:
        """Take a sample now, and keep it."""
        stages_s = await asyncio.to_thread(lambda: sum(map(_stages, self.nodes)))
        return await self._keep(stages_s)

    async def run(self) -> None:
        """Take a sample once a second until cancelled: without the stages, for a scrape costs the worker as much as
        some photos do."""
        while True:
            await self._keep(self.samples[-1].decode_hash_s if self.samples else 0.0)
            await asyncio.sleep(1.0)

    async def _keep(self, stages_s: float) -> Sample:
        taken = await asyncio.to_thread(self._sample, stages_s)
        self.samples.append(taken)
        return taken

    def _sample(self, stages_s: float) -> Sample:
        cpu, memory = {"machine": _machine_busy()}, {}
        for role, pid in self.pids.items():
            cpu[role], memory[role] = _process(pid)
        cpu["worker"] = cpu["scan"] = 0.0
        memory["worker"] = memory["scan"] = 0
        for node in self.nodes:
            if node.process is None:
                continue
            own_cpu, own_memory = _process(node.process.pid)
            cpu["worker"] += own_cpu
            memory["worker"] += own_memory
            # Scan processes that were replaced count for the worker that waited for them.
            cpu["scan"] += _waited_for(node.process.pid)
            for child in _below(node.process.pid):
                used, held = _process(child)
                cpu["scan"] += used + _waited_for(child)
                memory["scan"] += held
        return Sample(time.time(), cpu, memory, stages_s)


def facts() -> dict[str, str | int | float]:
    """The machine, as a reader of a report needs it."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    memory = os.sysconf("SC_PHYS_PAGES") * PAGE
    return {
        "processor": model or platform.machine(),
        "cores": os.cpu_count() or 0,
        "memory_gib": round(memory / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def _process(pid: int) -> tuple[float, int]:
    """Processor seconds and resident bytes; 0 of one that is gone."""
    with suppress(OSError):
        parts = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(parts[11]) + int(parts[12])) / TICKS, int(parts[21]) * PAGE
    return 0.0, 0


def _waited_for(pid: int) -> float:
    with suppress(OSError):
        parts = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(parts[13]) + int(parts[14])) / TICKS
    return 0.0


def _below(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                for child in (task / "children").read_text(encoding="utf-8").split():
                    found += [int(child), *_below(int(child))]
    return found


def _machine_busy() -> float:
    parts = [int(one) for one in Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:]]
    return (sum(parts[:8]) - parts[3] - parts[4]) / TICKS


def _stages(node: Node) -> float:
    lines = node.page("/metrics")[1].splitlines()
    starts = tuple(f'hashweir_stage_duration_seconds_sum{{stage="{stage}"}}' for stage in ("decode", "hash"))
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(starts))
