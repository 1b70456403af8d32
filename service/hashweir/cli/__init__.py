"""The command line: it parses, calls the wiring and prints; one file per noun.

Data goes to stdout, talk to stderr. Exit codes are the same for every command (`EXIT_CODES`).

A command is a function that returns an exit code (or None for 0) and raises HashweirError. Commands are named
here by path and imported when they run, so that `hashweir --help` does not load numpy or any client library.
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Coroutine, Sequence
from difflib import get_close_matches
from inspect import isfunction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from cyclopts import App, CycloptsError, Parameter, UnknownCommandError

from hashweir import __version__
from hashweir.errors import ConfigError, HashweirError, Unreachable

if TYPE_CHECKING:
    from hashweir.config import Config

OK, FAILED, USAGE, FINDINGS, UNREACHABLE, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 3, 4, 130, 141
EXIT_CODES = {
    OK: "ok",
    FAILED: "failed",
    USAGE: "usage or configuration",
    FINDINGS: "findings",
    UNREACHABLE: "a dependency is unreachable",
    # Its home is `lifecycle`, which `--help` does not load.
    70: "the stream went silent or its place was taken: start `work` anew",
    INTERRUPTED: "interrupted",
    BROKEN_PIPE: "the reader of stdout went away",
    143: "a second SIGTERM",
}
"""Every exit code of every command, as `--help` and the README have them."""

T = TypeVar("T")
Json = Annotated[bool, Parameter(name="--json", negative="", help="print JSON on stdout")]
"""The `--json` flag of every command."""
Shards = Annotated[str | None, Parameter(help="follow only these shards, as 0-3/16; nothing is `clear` then")]
"""The `--shards` option of what judges: `shards.only` for this one run."""

app = App(
    name="hashweir",
    help="Checks a stream of uploads against sets of known media by perceptual hash.",
    version=f"hashweir {__version__}",
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
    help_epilogue=f"Exit codes: {', '.join(f'{code} {what}' for code, what in EXIT_CODES.items())}.",
)
app["--help"].group = app["--version"].group = "Options"
COMMANDS = (
    ("demo", "demo:demo", "Everything embedded on this machine: generated uploads with planted edits."),
    ("hash", "hash:hash_files", "Fingerprints of files."),
    ("match", "match:match", "Judge files or a hash against the sets in the store."),
    ("sets", "sets:app", "Hash sets: list, create, import, add, withdraw, activate, off."),
    ("work", "work:work", "The long-running worker: uploads from Kafka in, verdicts out."),
    ("top", "top:top", "What workers do now, live, from their metrics pages."),
    ("capacity", "capacity:capacity", "Cores, memory, partitions and store that a load needs, by measurement."),
    (
        "check",
        "check:check",
        "Show the configuration, test the connections; --create makes what is missing.",
    ),
    ("schema", "schema:schema", "JSON schemas of every message."),
)
for _name, _path, _help in COMMANDS:
    app.command(f"hashweir.cli.{_path}", name=_name, help=_help)


class Usage(HashweirError):
    """The command line itself is wrong (exit 2)."""

    def __init__(self, message: str, reason: str = "bad_field") -> None:
        super().__init__(reason, message)


class _Globals:
    """What the options before the command said."""

    debug: bool = False
    config: Path | None = None


def settings(shards: str | None = None) -> Config:
    """The configuration from `--config`, HASHWEIR_CONFIG or ./hashweir.toml, and the environment.

    `shards` stands in for `shards.only`. Raises ConfigError naming the key at fault, Usage for `shards`.
    """
    from hashweir.config import load
    from hashweir.shards.subset import parse

    config = load(_Globals.config)
    if shards is None:
        return config
    try:
        only = str(parse(shards))
    except ValueError as error:
        raise Usage(f"--shards: {error}") from None
    return config.model_copy(update={"shards": config.shards.model_copy(update={"only": only})})


def run(work: Coroutine[object, object, T]) -> T:
    """Run a command's coroutine to its end; Ctrl-C cancels it, and its clean-up still runs."""
    return asyncio.run(work)


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    debug: Annotated[bool, Parameter(negative="", help="show tracebacks")] = False,
    config: Annotated[Path | None, Parameter(help="configuration file (default: ./hashweir.toml)")] = None,
) -> int | None:
    _Globals.debug, _Globals.config = debug, config
    result = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    return result if isinstance(result, int) else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command (default: the process's arguments) and return its exit code. Never raises."""
    tokens = sys.argv[1:] if arguments is None else list(arguments)
    # Looked for before parsing, because parsing (which imports the command) can fail too.
    _Globals.debug, _Globals.config = "--debug" in tokens, None
    try:
        if {"-h", "--help"} & set(tokens):
            _explain(tokens)
        code = app.meta(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
        return code or OK
    except UnknownCommandError as error:
        word = next(iter(error.unused_tokens or []), "")
        near = get_close_matches(word, [name for name, _, _ in COMMANDS], n=1)
        meant = f" Did you mean `{near[0]}`?" if near else " Try `hashweir --help`."
        return _fail(USAGE, f"there is no command `{word}`.{meant}", "usage")
    except CycloptsError as error:
        return _fail(USAGE, f"{str(error).strip()} Try `hashweir --help`.", "usage")
    except Usage as error:
        return _fail(USAGE, str(error), error.reason)
    except ConfigError as error:
        return _fail(USAGE, str(error), error.reason)
    except Unreachable as error:
        return _fail(UNREACHABLE, str(error), error.reason)
    except HashweirError as error:
        return _fail(FAILED, str(error), error.reason)
    except BrokenPipeError:
        # The interpreter flushes stdout once more at exit: give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("hashweir: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last door: a person gets a sentence, --debug the traceback
        text = f"unexpected {type(error).__name__}: {error}. Run again with --debug for the traceback."
        return _fail(FAILED, text, "internal_error")


def _explain(tokens: Sequence[str]) -> None:
    """Have a command's own page say all of its docstring, not the line that lists it before it is loaded."""
    for reached in app.parse_commands(tokens)[1]:
        if isfunction(reached.default_command) and reached.default_command.__module__.startswith(__name__):
            reached.help = reached.default_command.__doc__ or ""


def _fail(code: int, sentence: str, reason: str) -> int:
    if _Globals.debug:
        traceback.print_exc()
    print(f"hashweir: {' '.join(sentence.split())} [{reason}]", file=sys.stderr)
    return code
