"""`hashweir sets` as a process against a real Valkey: words, exit codes, files, and what is left in the store.

Long because every subcommand has its turn on the same store.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pty
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import redis

from hashweir.adapters.redis import RedisStore
from hashweir.adapters.redis_link import Access
from hashweir.sets.read import schema
from tests.servers.store import ValkeyServer

pytestmark = pytest.mark.store


def pdq(n: int) -> str:
    return hashlib.sha256(f"picture {n}".encode()).hexdigest()


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


class Cli:
    def __init__(self, url: str, prefix: str, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            "PATH": os.environ["PATH"],
            "HASHWEIR_STORE__URL": url,
            "HASHWEIR_STORE__PREFIX": prefix,
            "HASHWEIR_STORE__CONNECT_BUDGET_SECONDS": "0.5",
        }

    def __call__(self, *arguments: str, stdin: bytes = b"", **settings: str) -> subprocess.CompletedProcess[str]:
        ran = subprocess.run(
            [sys.executable, "-m", "hashweir", "sets", *arguments],
            input=stdin,
            capture_output=True,
            timeout=60,
            cwd=self.folder,
            env=self.environment | settings,
            check=False,
        )
        return subprocess.CompletedProcess(ran.args, ran.returncode, ran.stdout.decode(), ran.stderr.decode())

    def json(self, *arguments: str, code: int = 0, stdin: bytes = b"") -> Any:
        ran = self(*arguments, "--json", stdin=stdin)
        assert ran.returncode == code, ran.stderr
        return json.loads(ran.stdout)


@pytest.fixture
def cli(valkey: ValkeyServer, tmp_path: Path, request: pytest.FixtureRequest) -> Cli:
    prefix = "test" + hashlib.sha256(request.node.name.encode()).hexdigest()[:10]

    async def create() -> None:
        store = RedisStore(Access(url=valkey.url), prefix)
        await store.create(4)
        await store.close()

    asyncio.run(create())
    return Cli(valkey.url, prefix, tmp_path)


def made(cli: Cli, name: str = "demo", *more: str) -> None:
    ran = cli("create", name, "--owner", "team", "--origin", "own-review", *more)
    assert ran.returncode == 0, ran.stderr


def test_the_life_of_a_set(cli: Cli) -> None:
    empty = cli("list")
    assert (empty.returncode, "create one with" in empty.stderr) == (0, True)
    made(cli, "demo", "--surface", "post", "--pdq-radius", "20")
    one = cli.json("show", "demo")
    assert (one["state"], one["surfaces"], one["radius"]) == ("shadow", ["post"], {"pdq": 20, "tlsh": 100})
    added = cli.json("add", "demo", f"pdq:{pdq(1)}", f"pdq:{pdq(2)}", "--item", "march", "--label", "a", "--label", "b")
    assert added["outcomes"] == {"added": 2}
    on = cli.json("activate", "demo")
    assert (on["changed"], on["unapproved"]) == (True, True)
    gone = cli("withdraw", "demo", f"pdq:{pdq(1)}", "--reason", "overturned on appeal")
    assert (gone.returncode, gone.stdout) == (0, "demo: 1 withdrawn; 0 refused\n")
    assert "overturned on appeal" in gone.stderr
    assert cli.json("show", "demo")["entries"] == {"pdq": {"active": 1, "retired": 1}}
    assert cli("off", "demo").stdout == "set demo is off\n"
    assert cli("off", "demo").stdout == "set demo was off already\n"
    assert re.search(r"demo +off +review", cli("list").stdout)


def test_import_reports_line_by_line_and_goes_on(cli: Cli) -> None:
    made(cli)
    rows = [f"pdq,{pdq(n)},item {n}," for n in range(300)] + ["pdq,zz,,"] * 30 + [f"md5,{pdq(1)[:32]},,x|y"]
    file = cli.folder / "hashes.csv"
    file.write_text("\ufeff" + "\r\n".join(["kind,value,item,labels", *rows]))
    dry = cli("import", "demo", "--dry-run", str(file))
    assert (dry.returncode, dry.stdout) == (3, "demo: 301 would be written (dry run); 30 refused\n")
    assert dry.stderr.count("[bad_value]") == 20
    assert "line 302: a pdq value is 64 hexadecimal digits" in dry.stderr
    assert "and 10 more" in dry.stderr
    done = cli("import", "demo", "--rejects", "rejects.jsonl", str(file))
    assert (done.returncode, done.stdout) == (3, "demo: 301 added; 30 refused\n")
    rejects = [json.loads(line) for line in (cli.folder / "rejects.jsonl").read_text().splitlines()]
    assert [r["line"] for r in rejects] == list(range(302, 332))
    assert {r["reason"] for r in rejects} == {"bad_value"}
    again = cli.json("import", "demo", str(file), code=3)
    assert again["outcomes"] == {"unchanged": 301}
    assert sorted(path.name for path in cli.folder.iterdir()) == ["hashes.csv", "rejects.jsonl"]


def test_export_and_import_again_through_pipes(cli: Cli) -> None:
    made(cli)
    made(cli, "other")
    lines = f"pdq {pdq(1)}\nvideo_md5 {pdq(2)[:32]}\n".encode()
    assert cli.json("import", "demo", "-", "--label", "gifct", "--note", "seen twice", stdin=lines)["outcomes"] == {
        "added": 2
    }
    out = cli("export", "demo")
    assert out.returncode == 0
    found = [json.loads(line) for line in out.stdout.splitlines()]
    for line in found:
        jsonschema.validate(line, schema())
        assert (line["labels"], line["note"]) == (["gifct"], "seen twice")
    assert cli.json("import", "other", "-", stdin=out.stdout.encode())["outcomes"] == {"added": 2}
    summary = cli.json("export", "other", "--out", "other.jsonl")
    assert summary == {"set": "other", "entries": 2, "file": "other.jsonl"}
    written = cli.folder / "other.jsonl"
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert len(written.read_text().splitlines()) == 2


def test_mistakes_say_what_to_do_and_how_bad_it_is(cli: Cli) -> None:
    made(cli, "hold", "--ceiling", "hold")
    for arguments, code, words in (
        (("add", "x", f"pdq:{pdq(1)}"), 1, "no set 'x'; sets that exist: hold; create it with `hashweir sets create x"),
        (("export", "x", "--out", "kept.jsonl"), 1, "no set 'x'"),
        (("create", "hold", "--owner", "t", "--origin", "own-review"), 1, "exists already"),
        (("create", "Bad", "--owner", "t", "--origin", "own-review"), 1, "set 'Bad'"),
        (("create", "y", "--owner", "t", "--origin", "hearsay"), 2, "own-review"),
        (("activate", "hold"), 1, "one person may not activate it alone"),
        (("add", "hold"), 2, "KIND:VALUE"),
        (("add", "hold", "pdq"), 2, "KIND:VALUE"),
        (("add", "hold", "pdq:12"), 1, "hash 1: a pdq value is 64 hexadecimal digits"),
        (("withdraw", "hold", f"pdq:{pdq(1)}"), 2, "--reason"),
        (("withdraw", "hold", "--reason", "r"), 2, "--entry"),
        (("withdraw", "hold", f"pdq:{pdq(1)}", "--reason", "r"), 1, "not in set hold"),
        (("import", "hold", "nowhere.csv"), 2, "No such file"),
        (("import", "hold", "."), 2, "directory"),
    ):
        ran = cli(*arguments)
        assert (ran.returncode, words in ran.stderr, "Traceback" in ran.stderr) == (code, True, False), ran.stderr
    (cli.folder / "kept.jsonl").write_text("mine")
    assert cli("export", "x", "--out", "kept.jsonl").returncode == 1
    assert (cli.folder / "kept.jsonl").read_text() == "mine"
    allowed = cli("activate", "hold", HASHWEIR_SETS__ALLOW_LOCAL_ACTIVATION="true")
    assert allowed.returncode == 0
    assert '"unapproved": true' in allowed.stderr


def test_a_file_that_can_not_be_used_changes_nothing(cli: Cli) -> None:
    made(cli)
    ran = cli("import", "demo", "-", stdin=b"kind,value,colour\n" + f"pdq,{pdq(1)},red\n".encode() * 5)
    assert ran.returncode == 1
    assert "line 1: unknown columns 'colour'" in ran.stderr
    assert ran.stdout == "demo: nothing changed; 6 refused\n"
    assert "is empty" in cli("import", "demo", "-").stderr


def test_a_store_that_is_away_is_exit_4(cli: Cli) -> None:
    ran = cli("list", HASHWEIR_STORE__URL="redis://127.0.0.1:1/0")
    assert ran.returncode == 4
    assert "127.0.0.1:1" in ran.stderr
    assert cli("list", HASHWEIR_STORE__PREFIX="nothing-here").returncode == 1


def test_an_import_that_was_killed_is_completed_by_repeating_it(cli: Cli, valkey: ValkeyServer) -> None:
    made(cli)
    count = 60_000
    file = cli.folder / "many.jsonl"
    rows = (json.dumps({"kind": "pdq", "value": pdq(n), "item": f"item {n}"}) for n in range(count))
    file.write_text("\n".join(rows))
    command = ("import", "demo", "many.jsonl", "--operation", "monday")
    child = subprocess.Popen(
        [sys.executable, "-m", "hashweir", "sets", *command],
        cwd=cli.folder,
        env=cli.environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )

    async def entries() -> int:
        store = RedisStore(Access(url=valkey.url), cli.environment["HASHWEIR_STORE__PREFIX"])
        await store.open()
        heads = await store.heads()
        await store.close()
        counts = [head.counts.get("pdq", 0) for head in heads]
        assert counts == [head.position.seq for head in heads], "nothing is written twice"
        return sum(counts)

    try:
        deadline = time.monotonic() + 60
        while asyncio.run(entries()) < count // 10:
            assert time.monotonic() < deadline
    finally:
        child.kill()
        _, words = child.communicate()
    assert b"repeat the command with --operation monday" in words
    assert count // 10 <= asyncio.run(entries()) < count
    assert cli.json(*command)["outcomes"] == {"added": count}
    assert asyncio.run(entries()) == count
    assert cli.json("import", "demo", "many.jsonl")["outcomes"] == {"unchanged": count}


def test_damage_is_named_mended_or_accepted(cli: Cli, valkey: ValkeyServer) -> None:
    made(cli)
    cli("import", "demo", "-", stdin="".join(f"pdq {pdq(n)}\n" for n in range(2000)).encode())
    assert cli.json("repair", code=0) == []
    prefix = cli.environment["HASHWEIR_STORE__PREFIX"]
    raw = redis.Redis(port=valkey.port)
    try:
        cli("export", "demo", "--out", "demo.jsonl")
        raw.delete(*(f"{{{prefix}:{shard}}}:changes" for shard in range(4)))
        raw.setrange(f"{{{prefix}:1}}:c:pdq:0", 2 * 64, b"wrong")
        raw.setrange(f"{{{prefix}:2}}:c:pdq:0", 3 * 64, b"wrong")
    finally:
        raw.close()
    seen = cli("repair", "--dry-run")
    assert (seen.returncode, seen.stdout.splitlines()[-1]) == (3, "2 chunks damaged, 0 put right")
    assert "slots whose id does not follow from their value: 2" in seen.stdout
    assert cli("repair", "--from", "demo.jsonl").returncode == 2
    mended = cli("repair", "--from", "demo.jsonl", "--set", "demo")
    assert (mended.returncode, mended.stdout.splitlines()[-1]) == (0, "2 chunks damaged, 2 put right")
    assert "shard 1 pdq chunk 0: mended from export; slots 2" in mended.stdout
    assert cli.json("repair", code=0) == []


def test_what_cannot_be_mended_is_accepted_only_by_word(cli: Cli, valkey: ValkeyServer) -> None:
    made(cli)
    cli("add", "demo", f"pdq:{pdq(1)}")
    raw = redis.Redis(port=valkey.port)
    try:
        for shard in range(4):
            prefix = f"{{{cli.environment['HASHWEIR_STORE__PREFIX']}:{shard}}}"
            if raw.exists(f"{prefix}:c:pdq:0"):
                raw.delete(f"{prefix}:changes")
                raw.setrange(f"{prefix}:c:pdq:0", 0, b"wrong")
    finally:
        raw.close()
    left = cli("repair")
    assert (left.returncode, "--from FILE --set NAME" in left.stderr) == (3, True)
    asked = cli("repair", "--accept")
    assert (asked.returncode, "repeat with --yes" in asked.stderr) == (2, True)
    taken = cli("repair", "--accept", "--yes")
    assert (taken.returncode, taken.stdout.splitlines()[-1]) == (0, "1 chunks damaged, 1 put right")
    assert f"slot 0: pdq:{b'wrong'.hex()}" in taken.stderr
    assert cli.json("repair", code=0) == []


def test_reconciling_asks_first(cli: Cli) -> None:
    made(cli)
    cli("add", "demo", f"pdq:{pdq(1)}")
    before = cli.json("reconcile")
    assert [row["shard"] for row in before] == [0, 1, 2, 3, None]
    assert cli("reconcile", "--accept").returncode == 2
    assert cli.json("reconcile") == before
    after = cli.json("reconcile", "--accept", "--yes")
    pairs = list(zip(before, after, strict=True))
    assert all(a["epoch"] != b["epoch"] and a["sequence"] == b["sequence"] for a, b in pairs)
    assert cli.json("reconcile") == after
    assert cli.json("add", "demo", f"pdq:{pdq(2)}")["outcomes"] == {"added": 1}


def test_a_terminal_gets_a_progress_bar(cli: Cli) -> None:
    made(cli)
    file = cli.folder / "hashes.txt"
    file.write_text("".join(f"pdq {pdq(n)}\n" for n in range(600)))
    ours, theirs = pty.openpty()
    ran = subprocess.run(
        [sys.executable, "-m", "hashweir", "sets", "import", "demo", str(file)],
        stdout=subprocess.PIPE,
        stderr=theirs,
        stdin=subprocess.DEVNULL,
        timeout=60,
        env=cli.environment | {"TERM": "xterm", "COLUMNS": "80"},
        cwd=cli.folder,
        check=False,
    )
    os.close(theirs)
    shown = os.read(ours, 65_536).decode(errors="replace")
    os.close(ours)
    assert (ran.returncode, ran.stdout) == (0, b"demo: 600 added; 0 refused\n")
    assert "lines" in shown


def test_a_known_video_goes_in_and_comes_out_as_vpdq(cli: Cli) -> None:
    """Frames in vPDQ's JSON are entries of one item, and are written back as they came; repeats are left out."""
    cli(
        "create",
        "clips",
        "--owner",
        "o",
        "--origin",
        "own-review",
        "--video-share-upload",
        "0",
        "--video-share-known",
        "0.8",
    )
    frames = [f"{pdq(n)},{90 + n},{n * 1.001:.3f}" for n in range(5)]
    (cli.folder / "clip.json").write_text(json.dumps([*frames, frames[0], f"{pdq(9)},12,5"]))
    ran = cli("import", "clips", "clip.json", "--form", "vpdq", "--item", "march video")
    assert ran.returncode == 0, ran.stderr
    assert "2 frames left out" in ran.stderr
    assert cli("import", "clips", "clip.json", "--form", "vpdq").returncode == 2
    ran = cli("export", "clips", "--form", "vpdq", "--item", "march video")
    told = [line.split(",") for line in json.loads(ran.stdout)]
    assert [(value, int(quality), float(at)) for value, quality, at in told] == [
        (pdq(n), 90 + n, round(n * 1.001, 3)) for n in range(5)
    ]
    assert json.loads(cli("export", "clips", "--form", "vpdq", "--item", "another").stdout) == []
