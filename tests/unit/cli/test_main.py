"""The one door: exit codes, one sentence per error, and a help that loads nothing heavy."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import hashweir.cli
from hashweir import lifecycle
from hashweir.cli import EXIT_CODES, main
from hashweir.errors import ConfigError, HashweirError, InputError, OutcomeUnknown, Refused, Unreachable


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("wrong"), 2),
        (hashweir.cli.Usage("wrong"), 2),
        (InputError("bad_row", "wrong"), 1),
        (Refused("not_allowed", "wrong"), 1),
        (Unreachable("store_unreachable", "redis://there"), 4),
        (OutcomeUnknown("outcome_unknown", "wrong"), 4),
        (HashweirError("internal_error", "wrong"), 1),
        (RuntimeError("wrong"), 1),
        (KeyboardInterrupt(), 130),
    ],
    ids=repr,
)
def test_every_error_has_its_exit_code_and_one_line(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A script can tell what went wrong by the code, a person by the one line; no traceback."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(hashweir.cli, "app", SimpleNamespace(meta=fail))
    assert main([]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("hashweir: ")
    if isinstance(error, HashweirError):
        assert f"[{error.reason}]" in said.err


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """--debug is looked for before parsing, so it helps wherever the error arises."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("deep")

    monkeypatch.setattr(hashweir.cli, "app", SimpleNamespace(meta=fail))
    assert main(["--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["mtch"], ["schema", "--nope"], ["demo", "--seconds", "never"], ["hash"]])
def test_a_wrong_command_line_is_usage(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Unknown command, option, value, or an argument that is missing: exit code 2, and what to do."""
    assert main(wrong) == 2
    assert "[usage]" in capsys.readouterr().err


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    """A slip of the finger costs one look."""
    main(["mtch"])
    assert "`match`" in capsys.readouterr().err


def test_help_loads_nothing_heavy() -> None:
    """`hashweir --help` answers at once: no numpy, no clients, no decoders."""
    program = """
import sys
from hashweir.cli import main
code = main(["--help"])
heavy = {"numpy", "redis", "aiokafka", "PIL", "pydantic", "pdqhash", "prometheus_client"} & set(sys.modules)
print(code, sorted(heavy), file=sys.stderr)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stderr == "0 []\n"
    for command in ("demo", "hash", "match", "sets", "work", "check", "schema"):
        assert command in ran.stdout


def test_every_help_describes_every_command_and_option() -> None:
    """On the page of each command, each row has words beside its name: what is empty there nobody finds.

    In a process of its own, and parents first: a command that is loaded already has a docstring to be listed by.
    """
    program = """
from hashweir.cli import app, main
def walk(path, here):
    print("=", *path)
    main([*path, "--help"])
    for name in here:
        if not name.startswith("-"):
            walk([*path, name], here[name])
walk([], app)
"""
    wide = {**os.environ, "COLUMNS": "400"}
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120, env=wide
    )
    pages = dict(page.split("\n", 1) for page in ran.stdout.split("= ")[1:])
    assert {"sets import", "sets reconcile", "work", "top"} <= pages.keys()
    for path, page in pages.items():
        head, *boxes = page.split("╭─ ")
        assert len([line for line in head.splitlines() if line.strip()]) > 1, f"{path} says only how it is called"
        shown = re.sub(r"\[(default|choices|required)[^]]*\]", lambda found: " " * len(found[0]), "".join(boxes))
        rows = [line.strip("│ *") for line in shown.splitlines() if line.startswith("│")]
        assert rows, path
        assert not [row for row in rows if not re.search(r"\S {2,}\S", row)], path


def test_a_page_of_help_says_all_that_the_docstring_does(capsys: pytest.CaptureFixture[str]) -> None:
    """The line that lists a command does not stand in for it on the command's own page."""
    main(["sets", "reconcile", "--help"])
    assert "First repeat what was lost" in capsys.readouterr().out


def test_every_exit_code_is_told_of() -> None:
    """In `--help` and the README, as in the code: what the command line and the worker exit with, and no more."""
    used = {value for name, value in vars(lifecycle).items() if name.startswith("EXIT_")}
    used |= {128 + signal.SIGINT, 128 + signal.SIGTERM}  # a second signal ends a worker at once
    names = ("OK", "FAILED", "USAGE", "FINDINGS", "UNREACHABLE", "INTERRUPTED", "BROKEN_PIPE")
    used |= {getattr(hashweir.cli, name) for name in names}
    assert used == EXIT_CODES.keys()
    told = ", ".join(f"{code} {what}" for code, what in EXIT_CODES.items())
    assert told in str(hashweir.cli.app.help_epilogue)
    readme = Path(__file__).resolve().parents[3] / "README.md"
    assert told in " ".join(readme.read_text(encoding="utf-8").split())
