"""What a scan process that was taken over can see and do: nothing, and the attempt is counted."""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from hashweir.adapters.sandbox_fences import LEVELS, Fence, reached
from hashweir.errors import ConfigError
from hashweir.metrics import DEATHS, FENCES
from tests.integration.test_sandbox_faults import ROOT, Pool, require_failed, running, upload
from tests.servers.escapes import ESCAPES

GIB = 2**30


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    async with running(memory_bytes=GIB) as made:
        yield made


@pytest.fixture
def fenced(pool: Pool) -> Pool:
    assert "seccomp" in pool.sandbox.fences, "no libseccomp here: apt-get install libseccomp2"
    return pool


async def ask(pool: Pool, what: str) -> str:
    return (await pool.sandbox.scan(upload(b"try " + what.encode()))).media_type or ""


@pytest.mark.parametrize("name", ESCAPES)
async def test_an_escape_ends_the_process_and_is_counted(fenced: Pool, name: str) -> None:
    content = b"escape " + name.encode()
    before = set(fenced.sandbox.pids)
    require_failed(await fenced.sandbox.scan(upload(content)), content, "scan_died")
    assert fenced.ends == {"forbidden": 2}
    await fenced.back_to(2)
    assert len(before & set(fenced.sandbox.pids)) == 1, "the neighbour was touched"
    assert (await fenced.sandbox.scan(upload(b"fine"))).reason is None
    assert not os.access("/tmp/escaped", os.F_OK)


async def test_what_libraries_may_ask_for_is_refused_in_peace(fenced: Pool) -> None:
    assert (await ask(fenced, "thread")).startswith("RuntimeError can't start new thread")
    assert await ask(fenced, "limit") == "done"
    assert not fenced.ends


async def test_nothing_of_the_parent_is_in_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = b"-".join((b"only", b"the", b"parent", b"knows", b"this"))
    monkeypatch.setenv("HASHWEIR_STORE__PASSWORD", secret.decode())
    async with running(scan="tests.servers.hostile_scan:prepare_and_search", count=1) as pool:
        assert await ask(pool, "secrets") == "0"
        environment = await ask(pool, "environment")
        assert "HASHWEIR" not in environment
        assert "PATH" not in environment
        assert "HOME" not in environment
        # Standard streams and the link; nothing of this test's files and sockets.
        assert len(msgspec.json.decode(await ask(pool, "descriptors"))) <= 4


async def test_the_limits_stand(pool: Pool) -> None:
    assert LEVELS["rlimits"] <= set(pool.sandbox.fences)
    for pid in pool.sandbox.pids:
        assert resource.prlimit(pid, resource.RLIMIT_AS) == (GIB, GIB)
        for limit in (resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE, resource.RLIMIT_NOFILE):
            assert resource.prlimit(pid, limit) == (0, 0)
        status = await asyncio.to_thread(Path(f"/proc/{pid}/status").read_text)
        assert "NoNewPrivs:\t1" in status
        assert ("Seccomp:\t2" in status) == ("seccomp" in pool.sandbox.fences)
    assert resource.getrlimit(resource.RLIMIT_AS)[0] != GIB


LANDLOCK = """
import os, sys
from hashweir.adapters import sandbox_fences
try:
    sandbox_fences._restrict_files()
except OSError as error:
    sys.exit(f"lacking: {error}")
for attempt in (lambda: os.open("/etc/hostname", os.O_RDONLY), lambda: os.listdir("/"), lambda: os.mkdir("/tmp/new")):
    try:
        attempt()
    except PermissionError:
        continue
    os._exit(3)
os._exit(0)
"""


def test_landlock_alone_keeps_files_away() -> None:
    """The second fence, tried without the first."""
    done = subprocess.run([sys.executable, "-c", LANDLOCK], capture_output=True, text=True, check=False)
    if "lacking" in done.stderr:
        pytest.skip(f"needs Landlock (Linux 5.13, and not switched off at boot); {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("level", ["seccomp", "full"])
async def test_no_start_behind_less_than_required(tmp_path: Path, level: str) -> None:
    """As where libseccomp is not installed: its binding can't be imported."""
    (tmp_path / "pyseccomp.py").write_text("raise RuntimeError('Unable to find libseccomp')\n")
    pool = Pool(path=(str(tmp_path), ROOT), require=level)
    with pytest.raises(ConfigError, match=f"scan.require_fences is {level}.*seccomp: Unable to find libseccomp"):
        await pool.sandbox.start()
    assert pool.sandbox.pids == ()
    async with running(path=(str(tmp_path), ROOT), require="rlimits") as weaker:
        assert "seccomp" not in weaker.sandbox.fences
        assert (await weaker.sandbox.scan(upload(b"fine"))).reason is None


async def test_what_stands_is_told_once() -> None:
    told: list[tuple[tuple[Fence, ...], dict[Fence, str]]] = []
    async with running(when_ready=lambda fences, lacking: told.append((fences, dict(lacking)))) as pool:
        os.kill(pool.sandbox.pids[0], 9)
        await pool.back_to(2, without={pool.sandbox.pids[0]})
        ((fences, lacking),) = told
        assert set(fences) | set(lacking) == set(FENCES)
        assert not set(fences) & set(lacking)
        assert all(lacking.values())
        assert LEVELS[reached(fences)] <= set(fences)


def test_levels_only_grow() -> None:
    ladder = list(LEVELS.values())
    assert all(low < high for low, high in itertools.pairwise(ladder))
    assert ladder[-1] == set(FENCES)
    assert "forbidden" in DEATHS
