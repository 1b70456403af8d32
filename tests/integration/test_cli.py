"""The command line as a process: files, a real store, addresses where nobody answers, a whole small demo.

Long because every command has its turn in the same folder of media.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jsonschema
import pytest

from hashweir.cli.demo_media import edited, picture, text
from tests.servers.kafka import KafkaBroker
from tests.servers.store import ValkeyServer


def hashweir(
    *arguments: str, cwd: Path, stdin: bytes = b"", timeout: float = 110, **settings: str
) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run(
        [sys.executable, "-m", "hashweir", *arguments],
        input=stdin,
        capture_output=True,
        timeout=timeout,
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "HASHWEIR_SCAN__PROCESSES": "1"} | settings,
        check=False,
    )
    return subprocess.CompletedProcess(ran.args, ran.returncode, ran.stdout.decode(), ran.stderr.decode())


def lines(ran: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in ran.stdout.splitlines()]


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture, an edited copy of it, another picture, a text, and files that can't be hashed."""
    folder = tmp_path_factory.mktemp("media")
    (folder / "known.jpeg").write_bytes(picture(1, 0).content)
    (folder / "copy.jpeg").write_bytes(edited(picture(1, 0), "scaled to 40 %", 1).content)
    (folder / "other.png").write_bytes(picture(1, 1).content)
    (folder / "long.txt").write_bytes(text(1, 0).content)
    (folder / "broken.jpeg").write_bytes(b"\xff\xd8\xff and then nothing")
    (folder / "empty.txt").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


# ── hash ──


def test_hash_prints_every_fingerprint(media: Path) -> None:
    """Kind, form, recipe, value, quality and time, one JSON line per file, in the order asked."""
    ran = hashweir("hash", "known.jpeg", "long.txt", "--json", cwd=media)
    assert (ran.returncode, ran.stderr) == (0, "")
    image, document = lines(ran)
    assert [image["file"], document["file"]] == ["known.jpeg", "long.txt"]
    found = {(one["kind"], one["form"]): one for one in image["fingerprints"]}  # type: ignore[attr-defined]
    assert found["pdq", "canonical"]["quality"] == 100
    assert len(found["pdq", "canonical"]["value"]) == 64
    assert found["pdq", "canonical"]["recipe"].startswith("pdq/canonical/")
    assert set(image["timings"]) == {"decode", "hash"}  # type: ignore[call-overload]
    kinds = {one["kind"] for one in document["fingerprints"]}  # type: ignore[attr-defined]
    assert kinds == {"tlsh", "text", "sha256", "md5"}


def test_other_forms_are_printed_where_they_are_asked_for(media: Path) -> None:
    ran = hashweir("hash", "known.jpeg", "--forms", "dihedral", "--json", cwd=media)
    (image,) = lines(ran)
    recipes = [one["recipe"] for one in image["fingerprints"]]  # type: ignore[attr-defined]
    assert sum(recipe.startswith("pdq/dihedral-") for recipe in recipes) == 7
    wrong = hashweir("hash", "known.jpeg", "--forms", "sideways", cwd=media)
    assert wrong.returncode == 2
    assert "no form 'sideways'" in wrong.stderr


def test_a_bad_file_never_stops_the_others(media: Path) -> None:
    """Each is reported with its reason on stderr, the rest is printed, the exit code is 3."""
    ran = hashweir("hash", "missing.png", "broken.jpeg", "empty.txt", "known.jpeg", "--json", cwd=media)
    assert ran.returncode == 3
    assert [line.get("reason") for line in lines(ran)] == ["unreadable", "undecodable", "empty_value", None]
    assert [line.rsplit("[")[-1] for line in ran.stderr.splitlines()] == ["unreadable]", "undecodable]", "empty_value]"]


def test_standard_input_is_a_file(media: Path) -> None:
    """The same bytes give the same fingerprints, piped or named."""
    content = (media / "known.jpeg").read_bytes()
    (piped,) = lines(hashweir("hash", "-", "--json", cwd=media, stdin=content))
    (named,) = lines(hashweir("hash", "known.jpeg", "--json", cwd=media))
    assert piped["fingerprints"] == named["fingerprints"]


# ── match ──


def test_match_explains_each_hit(media: Path, valkey: ValkeyServer) -> None:
    """From a hash in a set to a verdict on an edited copy: set, distance of radius, band, and who decides."""

    def on_store(*arguments: str) -> subprocess.CompletedProcess[str]:
        return hashweir(*arguments, cwd=media, HASHWEIR_STORE__URL=valkey.url, HASHWEIR_STORE__PREFIX="match")

    (known,) = lines(hashweir("hash", "known.jpeg", "--json", cwd=media))
    value = next(one["value"] for one in known["fingerprints"] if one["kind"] == "pdq")  # type: ignore[attr-defined]
    assert on_store("match", "copy.jpeg").returncode == 1  # nobody made the store yet
    assert on_store("check", "--create").returncode == 0
    for name, entry in (("north", f"pdq:{value}"), ("south", f"pdq:{'1f' * 32}")):
        on_store("sets", "create", name, "--owner", "o", "--origin", "own-review")
        on_store("sets", "add", name, entry)
        on_store("sets", "activate", name)

    told = on_store("match", "copy.jpeg", "other.png", "long.txt", "--exit-code")
    assert told.returncode == 3
    assert "copy.jpeg: match, recommended: review (a person decides)" in told.stdout
    assert "set north (own-review)" in told.stdout
    assert " of 31 (band " in told.stdout
    assert "other.png: clear of north, south" in told.stdout
    assert "long.txt: unscanned, which is not the same as clear" in told.stdout

    by_hash = on_store("match", "--hash", f"pdq:{value}", "--json")
    assert by_hash.returncode == 0
    verdict = lines(by_hash)[0]["verdict"]
    schema = json.loads(hashweir("schema", "verdict", cwd=media).stdout)
    jsonschema.Draft202012Validator(schema).validate(verdict)
    assert [hit["distance"] for hit in verdict["hits"]] == [0]  # type: ignore[index]

    narrowed = on_store("match", "copy.jpeg", "--set", "south", "--exit-code")
    assert (narrowed.returncode, narrowed.stdout) == (0, "copy.jpeg: clear of south\n")
    assert on_store("match", "copy.jpeg", "--set", "west").returncode == 1
    assert on_store("match", "missing.jpeg").returncode == 3

    halves = [
        on_store("match", "known.jpeg", "other.png", "--json", "--shards", half) for half in ("0-7/16", "8-15/16")
    ]
    said = [[dict(line["verdict"]) for line in lines(half)] for half in halves]  # type: ignore[call-overload]
    assert {verdict["outcome"] for verdict, _ in said} == {"match", "unscanned"}
    for (_, other), others in zip(said, ("8-15/16", "0-7/16"), strict=True):
        assert (other["outcome"], other["reason"]) == ("unscanned", "shards_missing")
        assert other["notes"] == [f"shards_missing:{others}"]
    eighth = on_store("match", "known.jpeg", "--shards", "0-3/8")
    assert (eighth.returncode, eighth.stdout) == (2, "")
    assert "0-3/8, but the store has 16 shards [shards_mismatch]" in eighth.stderr


# ── check, and what is not there ──


def silent_port() -> tuple[socket.socket, int]:
    """A port that takes connections and never answers."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(64)
    return listening, listening.getsockname()[1]


@pytest.mark.parametrize("command", [["check"], ["match", "known.jpeg"], ["sets", "list"]])
@pytest.mark.parametrize("silent", [False, True], ids=["refuses", "is silent"])
def test_an_unreachable_store_is_named_in_time(command: Sequence[str], silent: bool, media: Path) -> None:
    """Exit code 4 and the address, within the budget, whether the port refuses or never answers."""
    listening, port = silent_port()
    if not silent:
        listening.close()
    address = f"redis://127.0.0.1:{port}"
    began = time.monotonic()
    ran = hashweir(*command, cwd=media, HASHWEIR_STORE__URL=address, HASHWEIR_STORE__CONNECT_BUDGET_SECONDS="1")
    listening.close()
    assert ran.returncode == 4
    assert address in ran.stdout + ran.stderr
    assert "[store_unreachable]" in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("silent", [False, True], ids=["refuses", "is silent"])
def test_an_unreachable_broker_is_named_in_time(silent: bool, media: Path) -> None:
    """The same for Kafka."""
    listening, port = silent_port()
    if not silent:
        listening.close()
    began = time.monotonic()
    ran = hashweir(
        "check",
        cwd=media,
        HASHWEIR_KAFKA__BOOTSTRAP=f"127.0.0.1:{port}",
        HASHWEIR_KAFKA__CONNECT_BUDGET_SECONDS="2",
    )
    listening.close()
    assert ran.returncode == 4
    assert f"127.0.0.1:{port}" in ran.stdout
    assert "[stream_unreachable]" in ran.stdout
    assert time.monotonic() - began < 20


@pytest.mark.broker
def test_check_makes_topics_only_when_asked(tmp_path: Path) -> None:
    """Missing topics are findings; --create makes them as configured; a repeat changes nothing."""
    with KafkaBroker() as broker:

        def check(*arguments: str) -> subprocess.CompletedProcess[str]:
            return hashweir(
                "check",
                *arguments,
                cwd=tmp_path,
                HASHWEIR_KAFKA__BOOTSTRAP=broker.bootstrap,
                HASHWEIR_KAFKA__TOPIC_PARTITIONS="3",
            )

        missing = check()
        assert missing.returncode == 3
        assert "hashweir.uploads" in missing.stdout
        assert "[stream_topic_missing]" in missing.stdout
        made = check("--create")
        assert (made.returncode, "5 of them made now" in made.stdout) == (0, True), made.stdout
        assert check("--create").stdout.splitlines()[-1].endswith(": 5 topics")
        assert check().returncode == 0


def test_check_shows_what_is_in_force_but_no_secret(tmp_path: Path) -> None:
    """Values from file and environment; a password is a row of stars."""
    (tmp_path / "hashweir.toml").write_text("[worker]\nin_flight_items = 77\n")
    ran = hashweir("check", "--json", cwd=tmp_path, HASHWEIR_STORE__PASSWORD="s3cret")
    (report,) = lines(ran)
    assert ran.returncode == 2  # nothing to connect to is configured
    assert report["config"]["worker"]["in_flight_items"] == 77  # type: ignore[index]
    assert report["config"]["store"]["password"] == "********"  # type: ignore[index]
    assert "s3cret" not in ran.stdout + ran.stderr


@pytest.mark.parametrize("command", [["check"], ["work"], ["match", "x"], ["sets", "list"], ["demo"], ["hash", "x"]])
def test_an_unknown_key_stops_every_command(command: Sequence[str], tmp_path: Path) -> None:
    """Exit code 2 and the nearest key, before anything is done."""
    ran = hashweir(*command, cwd=tmp_path, HASHWEIR_STORE__ULR="redis://x")
    assert ran.returncode == 2
    assert "did you mean HASHWEIR_STORE__URL?" in ran.stderr


# ── schema, pipes ──


def test_schemas_are_printed(tmp_path: Path) -> None:
    """By name; without one the names; an unknown name is usage."""
    names = [line.split()[0] for line in hashweir("schema", cwd=tmp_path).stdout.splitlines()]
    assert "verdict" in names
    for name in names:
        jsonschema.Draft202012Validator.check_schema(json.loads(hashweir("schema", name, cwd=tmp_path).stdout))
    assert hashweir("schema", "nope", cwd=tmp_path).returncode == 2


def test_a_reader_that_goes_away_is_no_error(media: Path) -> None:
    """`hashweir ... | head -1` says nothing on stderr."""
    program = f"'{sys.executable}' -m hashweir hash --json {'known.jpeg ' * 4} | head -c 1"
    ran = subprocess.run(program, shell=True, cwd=media, capture_output=True, timeout=60, check=False)  # noqa: S602
    assert (ran.stdout, ran.stderr) == (b"{", b"")


# ── work, demo ──


def test_work_needs_brokers_and_a_store(tmp_path: Path) -> None:
    """Exit code 2, and every key that is missing is named."""
    ran = hashweir("work", cwd=tmp_path)
    assert ran.returncode == 2
    assert "HASHWEIR_KAFKA__BOOTSTRAP" in ran.stderr
    assert "HASHWEIR_STORE__URL" in ran.stderr


def test_work_refuses_a_part_of_the_shards_that_nobody_meant(tmp_path: Path) -> None:
    """By option or by key: exit code 2, the missing shards named; --partial goes on, as all shards do."""
    for arguments, only in ((("--shards", "0-3/16"), ""), ((), "0-3/16")):
        ran = hashweir("work", *arguments, cwd=tmp_path, HASHWEIR_SHARDS__ONLY=only)
        assert ran.returncode == 2
        assert "without shards 4-15/16" in ran.stderr
        assert "[shards_missing]" in ran.stderr
        ran = hashweir("work", *arguments, "--partial", cwd=tmp_path, HASHWEIR_SHARDS__ONLY=only)
        assert "[bad_config]" in ran.stderr
    assert "[bad_config]" in hashweir("work", "--shards", "0-15/16", cwd=tmp_path).stderr
    wrong = hashweir("work", "--shards", "3-0/16", cwd=tmp_path)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    wrong = hashweir("work", cwd=tmp_path, HASHWEIR_SHARDS__ONLY="16/16")
    assert (wrong.returncode, "HASHWEIR_SHARDS__ONLY" in wrong.stderr) == (2, True)


def test_a_worker_saves_what_it_knows_and_begins_with_it(tmp_path: Path) -> None:
    """SIGTERM leaves the file; the next worker loads it and is ready."""
    folder = tmp_path / "copy"
    environment = {"PATH": os.environ["PATH"], "HASHWEIR_SCAN__PROCESSES": "1", "HASHWEIR_METRICS__PORT": "0"}
    for expected in (["copy.saved"], ["copy.loaded", "copy.saved"]):
        with subprocess.Popen(
            [
                sys.executable,
                "-m",
                "hashweir",
                "work",
                "--embedded",
                "--allow-empty",
                "--data",
                str(tmp_path / "store"),
            ],
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment | {"HASHWEIR_INDEX__FOLDER": str(folder)},
        ) as worker:
            assert worker.stderr is not None
            said = list[str]()
            for line in worker.stderr:
                event = json.loads(line)["event"] if line.startswith("{") else ""
                said.append(event)
                if event == "service.ready":
                    worker.send_signal(signal.SIGTERM)
            assert worker.wait(60) == 0
        assert [event for event in said if event.startswith("copy.")] == expected
        assert (folder / "known.copy").stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
def test_a_small_demo_misses_nothing(tmp_path: Path) -> None:
    """Real Valkey, scan processes and pipeline: all planted edits found, nothing else, one JSON line on stdout."""
    ran = hashweir("demo", "--seconds", "4", "--rate", "15", "--seed", "11", "--json", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    (summary,) = lines(ran)
    assert summary["uploads"] == 60
    assert summary["planted"] == summary["matched"] == 30
    assert (summary["missed"], summary["false"], summary["unscanned"], summary["unjudged"]) == (0, 0, 0, 0)
    assert summary["transport"] == "in-process"
    assert 0 < summary["p50_ms"] <= summary["p99_ms"]  # type: ignore[operator]


@pytest.mark.slow
def test_a_demo_can_be_interrupted(tmp_path: Path) -> None:
    """Ctrl-C drains and ends it with 130; no child process is left behind."""
    demo = subprocess.Popen(
        [sys.executable, "-m", "hashweir", "demo", "--seconds", "60", "--rate", "5"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert demo.stderr is not None
        for line in demo.stderr:
            if b"judged" in line:
                break
        os.killpg(demo.pid, signal.SIGINT)
        said, errors = demo.communicate(timeout=40)
        assert demo.returncode == 130, errors
        assert said == b""
        assert b"Traceback" not in errors
        with pytest.raises(ProcessLookupError):
            os.killpg(demo.pid, 0)
    finally:
        if demo.poll() is None:
            os.killpg(demo.pid, signal.SIGKILL)
            demo.wait()
