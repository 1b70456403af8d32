"""What commands print: data on stdout (JSON or for people), talk on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from rich.console import Console


def write_json(value: object) -> None:
    """One line of JSON on stdout: frozen structs, dictionaries, lists and plain values."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def emit(value: object, *, as_json: bool, human: Callable[[Console], None]) -> None:
    """Print `value` as one line of JSON, or call `human` with a console on stdout."""
    if as_json:
        write_json(value)
    else:
        human(console())


def console(*, stderr: bool = False) -> Console:
    """A console on stdout (or stderr): colours on a terminal only, and no markup from data."""
    from rich.console import Console

    out = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    # Data must not be cut or folded because a pipe has no width.
    if not out.is_terminal:
        out.width = 10_000
    return out


def table(out: Console, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under column names: ruled on a terminal, aligned text elsewhere. None is shown as a dash."""
    cells = [["-" if value is None else str(value) for value in row] for row in rows]
    if not out.is_terminal:
        lines = [list(columns), *cells]
        widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
        for line in lines:
            print("  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in cells:
        grid.add_row(*(Text(cell) for cell in row))
    out.print(grid)


def say(text: str) -> None:
    """One line of talk on stderr."""
    print(text, file=sys.stderr, flush=True)
