"""A store's memory and bulk import, end to end, on real servers: `python -m tests.bench.store [ENTRIES]`.

`hashweir sets import` reads a file in our JSON form (PDQ values, item names, labels, a source note, quality) into one
server with `appendonly` and `everysec`. Twice: alone, and while somebody else adds single entries. Printed beside the
rates is processor time, to which no neighbour on the machine adds.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import platform
import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hashweir.adapters.redis import RedisStore
from hashweir.adapters.redis_link import Access, Link
from hashweir.sets import commands
from hashweir.sets.read import Line, Row, show_line
from tests.servers.store import RedisServer, ValkeyServer

SHARDS = 16
SEED = 1
CLI = (sys.executable, "-m", "hashweir", "sets", "import", "known")


def write_file(path: Path, size: int, seed: int) -> None:
    """An item has three pictures; labels and note are the whole file's, as those of one exchange are."""
    rng = random.Random(seed)
    with path.open("wb") as out:
        for n in range(size):
            line = Line(
                kind="pdq",
                value=rng.randbytes(32).hex(),
                item=f"{seed}-{n // 3}",
                labels=("march", "flag"),
                note="exchange of 2026-03",
                quality=50 + n % 51,
            )
            out.write(show_line(line))


async def info(link: Link, section: str) -> dict[str, str]:
    (text,) = await link.exchange(("INFO", section))
    return dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)


async def cpu_s(link: Link) -> float:
    """Seconds of processor time of the server, its background saving left out."""
    usage = await info(link, "cpu")
    return float(usage["used_cpu_user"]) + float(usage["used_cpu_sys"])


async def used_memory(link: Link) -> int:
    return int((await info(link, "memory"))["used_memory"])


async def run_import(url: str, file: Path) -> dict[str, Any]:
    environment = {**os.environ, "HASHWEIR_STORE__URL": url, "HASHWEIR_STORE__PREFIX": "weir"}
    child = await asyncio.create_subprocess_exec(
        *CLI, str(file), "--json", env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    out, _ = await child.communicate()
    assert child.returncode == 0, child.returncode
    answer: dict[str, Any] = json.loads(out)
    return answer


async def single_adds(store: RedisStore, stop: asyncio.Event) -> list[float]:
    """Seconds of one add after the other, from the call to the answer."""
    took: list[float] = []
    while not stop.is_set():
        row = Row(kind="pdq", value=hashlib.sha256(f"single {len(took)}".encode()).hexdigest())
        began = time.perf_counter()
        await commands.add(store, commands.LOCAL, "known", [row])
        took.append(time.perf_counter() - began)
        await asyncio.sleep(0.005)
    return sorted(took)


def summary(took: list[float]) -> dict[str, float]:
    return {
        "count": len(took),
        "p50_ms": round(took[len(took) // 2] * 1e3, 2),
        "p99_ms": round(took[int(len(took) * 0.99)] * 1e3, 2),
    }


async def weights(link: Link, size: int) -> dict[str, float]:
    kinds = {"slots": "c:pdq:", "sides": "s:pdq:", "dedupe": "d:", "changes": "changes", "answers": "op:"}
    found = {}
    for name, middle in kinds.items():
        (keys,) = await link.exchange(("KEYS", f"*}}:{middle}*"))
        usage = [await link.exchange(("MEMORY", "USAGE", key, "SAMPLES", 0)) for key in keys]
        found[name] = round(sum(one for (one,) in usage) / size, 1)
    return found


async def measure(server: RedisServer | ValkeyServer, size: int, folder: Path) -> dict[str, Any]:
    store, link = RedisStore(Access(url=server.url), "weir"), Link(Access(url=server.url))
    await store.create(SHARDS)
    await store.open()
    await commands.create(store, commands.LOCAL, name="known", owner="bench", origin="vetted-exchange")
    first, second = folder / "first", folder / "second"
    write_file(first, size, SEED)
    write_file(second, size // 4, SEED + 1)

    before, busy = await used_memory(link), await cpu_s(link)
    mine = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    answer = await run_import(server.url, first)
    seconds = time.perf_counter() - began
    assert answer["outcomes"] == {"added": size}, answer
    after, busy = await used_memory(link), await cpu_s(link) - busy
    child = resource.getrusage(resource.RUSAGE_CHILDREN)
    client_s = child.ru_utime + child.ru_stime - mine.ru_utime - mine.ru_stime
    of_which = await weights(link, size)

    stop = asyncio.Event()
    quiet = asyncio.create_task(single_adds(store, stop))
    await asyncio.sleep(2)
    stop.set()
    alone = await quiet
    stop = asyncio.Event()
    beside = asyncio.create_task(single_adds(store, stop))
    await run_import(server.url, second)
    stop.set()
    during = await beside
    await store.close()
    await link.close()
    return {
        "server": server.version().split(" sha")[0],
        "entries": size,
        "bytes_per_entry": round((after - before) / size, 1),
        "of_which": of_which,
        "import_per_s": round(size / seconds),
        "client_cpu_us_per_entry": round(client_s / size * 1e6, 1),
        "server_cpu_us_per_entry": round(busy / size * 1e6, 1),
        "client_peak_mb": round(child.ru_maxrss / 1024),
        "single_add_alone": summary(alone),
        "single_add_during_import": summary(during),
    }


def main() -> None:
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    print(json.dumps({"seed": SEED, "cpus": os.cpu_count(), "load": os.getloadavg()[0], "machine": platform.machine()}))
    for kind in (ValkeyServer, RedisServer):
        with (
            kind(append_only=True, settings=["--appendfsync", "everysec"]) as server,
            tempfile.TemporaryDirectory() as folder,
        ):
            print(json.dumps(asyncio.run(measure(server, size, Path(folder))), indent=1), flush=True)


if __name__ == "__main__":
    main()
