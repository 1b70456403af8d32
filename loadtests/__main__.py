"""Run a scenario, or lay two reports side by side.

    python -m loadtests run SCENARIO [--workers N] [--scan-processes N] [--seconds S] [--seed N] [--out DIR]
    python -m loadtests list
    python -m loadtests compare A B          two folders of reports

Exit codes: 0 ok, 1 something was lost, wrong or not sent, 2 usage.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from loadtests import plots, report
from loadtests.run import BARE_SECONDS, run
from loadtests.scenario import ScenarioError, load, names


def main(arguments: list[str] | None = None) -> int:
    """Parse, run, write. Talk goes to stderr; the report's Markdown to stdout as well as to its folder."""
    parser = argparse.ArgumentParser(prog="python -m loadtests", description=__doc__.partition("\n")[0])
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("A", "B"), help="the same as `compare A B`")
    commands = parser.add_subparsers(dest="command")
    runs = commands.add_parser("run", help="run a scenario and write a report")
    runs.add_argument("scenario", help=f"a TOML file, or one of {', '.join(names())}")
    runs.add_argument("--workers", type=int, help="worker processes (default: the scenario's)")
    runs.add_argument("--scan-processes", type=int, help="per worker (default: the cores, divided among the workers)")
    runs.add_argument("--seconds", type=float, help="length of all phases together, without draining")
    runs.add_argument("--bare-seconds", type=float, default=BARE_SECONDS, help="length of the bare processes' turn")
    runs.add_argument("--seed", type=int, help="another seed")
    runs.add_argument("--out", type=Path, help="folder of the report (default: ./loadtest-SCENARIO)")
    commands.add_parser("list", help="the scenarios")
    compares = commands.add_parser("compare", help="lay two reports side by side")
    compares.add_argument("reports", nargs=2, type=Path)
    options = parser.parse_args(arguments)
    try:
        if options.compare or options.command == "compare":
            print(report.compared(*map(_read, options.compare or options.reports)), end="")
            return 0
        if options.command == "list":
            print("\n".join(f"{name:15} {load(name).title}" for name in names()))
            return 0
        if options.command == "run":
            return _run(options)
    except (ScenarioError, OSError, ValueError) as error:
        print(f"loadtests: {error}", file=sys.stderr)
        return 2
    parser.print_usage(sys.stderr)
    return 2


def _run(options: argparse.Namespace) -> int:
    scenario = load(options.scenario)
    if options.seed is not None:
        scenario = replace(scenario, seed=options.seed)
    if options.seconds is not None:
        scenario = scenario.lasting(options.seconds)
    workers = options.workers or scenario.workers
    scan_processes = options.scan_processes or max(1, (os.cpu_count() or 1) // workers)
    ran = asyncio.run(
        run(scenario, workers, scan_processes, lambda what: print(what, file=sys.stderr), options.bare_seconds)
    )
    said = report.figures(ran)
    out = options.out or Path(f"loadtest-{scenario.name}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    (out / "report").with_suffix(".md").write_text(report.markdown(said), encoding="utf-8")
    plots.draw(said, out)
    print(report.markdown(said), end="")
    return 1 if said["lost"] or said["wrong"] or said["refused"] or said["unscanned_by_fault"] else 0


def _read(folder: Path) -> Any:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
