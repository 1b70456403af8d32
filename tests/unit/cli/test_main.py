"""The one door: exit codes, one sentence per error, and a help that loads nothing heavy."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

import hashweir.cli
from hashweir.cli import main
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
