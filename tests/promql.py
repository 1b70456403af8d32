"""What can be said of a PromQL expression without a server: whether it names only what exists."""

from __future__ import annotations

import re
from collections.abc import Collection

from hashweir.metrics import PREFIX, TABLE

_SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}
SERIES = {PREFIX + row.name + suffix: row for row in TABLE for suffix in _SUFFIXES[row.kind]}
"""Each series that a scrape gives, and its row."""
FOREIGN = {
    *(f"process_{name}" for name in ("resident_memory_bytes", "cpu_seconds_total", "open_fds", "start_time_seconds")),
    "ALERTS",
}
SCRAPED = {"job", "instance"}
_NAME = re.compile(r"\b[a-z]+:\w+:\w+|\b(?:hashweir|process)_\w+")
_SELECTOR = re.compile(r"((?:[a-z]+:\w+:\w+|\b(?:hashweir|process)_\w+))\{([^}]*)\}")
_MATCHER = re.compile(r'(\w+)(=~|=|!~|!=)"([^"]*)"')


def names(expression: str) -> set[str]:
    """The metrics and recorded series that an expression reads."""
    return set(_NAME.findall(re.sub(r'"[^"]*"', '""', expression)))


def complaints(expression: str, recorded: Collection[str] = ()) -> list[str]:
    """What an expression names that does not exist: a metric, a label of it, or a value of a closed list."""
    found = [f"no metric {name}" for name in names(expression) if name not in {*SERIES, *FOREIGN, *recorded}]
    for name, matchers in _SELECTOR.findall(expression):
        row = SERIES.get(name)
        for label, how, value in _MATCHER.findall(matchers):
            if row is None or label in SCRAPED or "$" in value:
                continue
            if label == "le" and row.kind == "histogram":
                if how == "=" and float(value) not in row.edges:
                    found.append(f"{name} has no edge {value}")
            elif label not in row.labels:
                found.append(f"{name} has no label {label}")
            elif (values := row.labels[label]) is not None:
                wanted = value.split("|") if "~" in how else [value]
                found += [f"{label} of {name} is never {one}" for one in wanted if one not in values]
    return found
