"""`hashweir schema`: the JSON schema of every message, made from the types. service/schemas holds the same text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from hashweir.cli import Usage
from hashweir.cli.output import say
from hashweir.model import DeadLetter, SetEvent, UploadMessage, Verdict

MESSAGES: dict[str, tuple[type, str]] = {
    "upload": (UploadMessage, "topic `uploads`, in, where content-type is application/vnd.hashweir.upload+json"),
    "verdict": (Verdict, "topic `verdicts`, out: one per upload, always"),
    "match": (Verdict, "topic `matches`, out: the verdicts with hits in active sets"),
    "dead-letter": (DeadLetter, "topic `dead-letters`, out: a reference to an upload that is beyond use"),
    "set-event": (SetEvent, "topic `changes`, out: entries and sets that platforms may have to act on"),
}


def schema(
    name: str | None = None,
    /,
    *,
    write: Annotated[Path | None, Parameter(help="write all schemas into this folder")] = None,
) -> int:
    """JSON schemas of every message.

    Parameters
    ----------
    name
        upload, verdict, match, dead-letter or set-event; without it the messages are listed.
    """
    if write is not None:
        write.mkdir(parents=True, exist_ok=True)
        for one in MESSAGES:
            (write / f"{one}.json").write_text(text(one), encoding="utf-8")
        say(f"{len(MESSAGES)} schemas written to {write}")
    elif name is None:
        for one, (_, where) in MESSAGES.items():
            print(f"{one:12}  {where}")
    elif name in MESSAGES:
        print(text(name), end="")
    else:
        raise Usage(f"there is no message {name!r}: choose from {', '.join(MESSAGES)}")
    return 0


def text(name: str) -> str:
    """The JSON schema (draft 2020-12) of a message of `MESSAGES`, as indented JSON."""
    kind, where = MESSAGES[name]
    (root,), definitions = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    whole: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"hashweir {name}",
        "$comment": where,
        **root,
        "$defs": definitions,
    }
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"
