"""A report's plots, as SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure


def draw(said: dict[str, Any], out: Path) -> None:
    """Write throughput, latency, lag and memory over time."""
    series = said["series"]
    seconds = range(len(series["offered"]))
    axes = _axes("uploads a second")
    axes.plot(seconds, series["offered"], label="offered", color="0.6")
    axes.plot(seconds, series["judged"], label="judged")
    _write(axes, said, out / "throughput.svg")
    axes = _axes("latency, ms, by when an upload was due")
    axes.plot(seconds, series["p50_ms"], label="p50")
    axes.plot(seconds, series["p99_ms"], label="p99")
    axes.set_yscale("log")
    _write(axes, said, out / "latency.svg")
    axes = _axes("uploads without a verdict yet")
    axes.plot(seconds, series["backlog"], label="backlog")
    _write(axes, said, out / "lag.svg")
    axes = _axes("resident memory, MiB")
    for role, held in series["memory_mib"].items():
        axes.plot(series["memory_at_s"], held, label=role)
    _write(axes, said, out / "memory.svg")


def _axes(what: str) -> Axes:
    axes: Axes = Figure(figsize=(8, 3), layout="constrained").add_subplot()
    axes.set_xlabel("seconds")
    axes.set_ylabel(what)
    return axes


def _write(axes: Axes, said: dict[str, Any], file: Path) -> None:
    end = 0.0
    for phase in said["phases"][:-1]:
        end += phase["seconds"] + phase["drained_s"]
        axes.axvline(end, color="0.8", linewidth=0.8)
    axes.set_title(f"{said['scenario']}, seed {said['seed']}", fontsize="small")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    figure.savefig(file, metadata={"Date": None})
