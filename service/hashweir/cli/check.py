"""`hashweir check`: what is configured, and whether what it names answers. `--create` makes what is missing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from msgspec import Struct

from hashweir.cli import FINDINGS, OK, UNREACHABLE, USAGE, Json, run, settings
from hashweir.cli.documents import DOCUMENTS, Document
from hashweir.cli.output import emit, say, table
from hashweir.errors import REASONS, HashweirError, Refused, Unreachable

if TYPE_CHECKING:
    from rich.console import Console

    from hashweir.config import Config


class Finding(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one check. `reason` is set where it failed."""

    check: str
    ok: bool
    detail: str
    reason: str | None = None


class Report(Struct, frozen=True, kw_only=True):
    """What `--json` prints: the effective configuration, secrets masked, and every check."""

    config: dict[str, dict[str, object]]
    checks: tuple[Finding, ...]


def check(
    *,
    create: Annotated[
        bool, Parameter(negative="", help="make missing topics and an empty store, and load the function library")
    ] = False,
    json: Json = False,
    document: Annotated[Document | None, Parameter(help="print one of the generated pages as Markdown")] = None,
) -> int:
    """Show the effective configuration, secrets masked, and test the connections to Kafka and the store.

    Exit code 4 where one does not answer, 3 where something is missing that --create would make.
    """
    from hashweir.config import shown

    if document:
        print(DOCUMENTS[document](), end="")
        return OK
    config = settings()
    findings, code = run(_checks(config, create=create))
    report = Report(config=shown(config), checks=tuple(findings))
    emit(report, as_json=json, human=lambda out: _show(out, report))
    return code


async def _checks(config: Config, *, create: bool) -> tuple[list[Finding], int]:
    """Every check, one after the other: one that fails does not keep the next from its turn."""
    checks: list[tuple[str, str, Callable[[Config, bool], Awaitable[str]]]] = [
        ("store", config.store.url, _store),
        ("kafka", config.kafka.bootstrap, _kafka),
    ]
    findings: list[Finding] = []
    code = OK
    for name, address, work in checks:
        if not address:
            findings.append(Finding(check=name, ok=True, detail="not configured"))
            continue
        try:
            findings.append(Finding(check=name, ok=True, detail=f"ok, {address}: {await work(config, create)}"))
        except HashweirError as error:
            findings.append(Finding(check=name, ok=False, detail=str(error), reason=error.reason))
            code = max(code, UNREACHABLE if isinstance(error, Unreachable) else FINDINGS)
    if not any(address for _, address, _ in checks):
        code = USAGE
        say("nothing to check: neither store.url nor kafka.bootstrap is configured")
    return findings, code


async def _store(config: Config, create: bool) -> str:
    from hashweir import wiring
    from hashweir.sets.canary_set import canary_state, ensure_canary
    from hashweir.sets.commands import LOCAL

    store = wiring.store(config)
    try:
        made = await store.create(config.store.shards) if create else False
        await store.open()
        heads = await store.heads()
        entries = sum(sum(head.counts.values()) for head in heads)
        if config.worker.canary_period_seconds:
            if create:
                await ensure_canary(store, LOCAL)
            if (state := await canary_state(store)) != "active":
                words = f"canaries are configured, and the set `canary` is {state or 'missing'}: "
                how = "sets activate canary" if state == "off" else "check --create"
                raise Refused("set_not_found", f"{words}run `hashweir {how}`")
        sets = len((await store.read_sets()).sets)
        return f"{'created, ' if made else ''}{store.shards} shards, {sets} sets, {entries} slots in use"
    finally:
        await store.close()


async def _kafka(config: Config, create: bool) -> str:
    from hashweir import wiring

    plans = wiring.topic_plans(config)
    async with wiring.kafka_admin(config) as admin:
        made = await admin.create(plans) if create else []
        differences = await admin.check(plans)
    if missing := [one.topic for one in differences if one.what == "topic"]:
        raise Refused("stream_topic_missing", f"no such topic: {', '.join(missing)}; run `hashweir check --create`")
    told = f"{len(plans)} topics"
    if made:
        told += f", {len(made)} of them made now"
    # What an operator set otherwise is no fault: it is said, and left alone.
    for one in differences:
        told += f"; {one.topic} has {one.what} {one.found}, planned is {one.planned}"
    return told


def _show(out: Console, report: Report) -> None:
    rows = [
        (f"{section}.{name}", "" if value is None else value)
        for section, values in report.config.items()
        for name, value in values.items()
    ]
    table(out, ("key", "value"), rows)
    print()
    for one in report.checks:
        if one.reason is None:
            print(f"{one.check}: {one.detail}")
            continue
        print(f"{one.check}: FAILED: {one.detail} [{one.reason}]")
        if REASONS[one.reason].help not in one.detail:
            print(f"    {REASONS[one.reason].help}")
