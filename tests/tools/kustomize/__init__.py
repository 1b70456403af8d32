"""The pinned Kustomize, built from the Go module proxy by the Go of the pinned packages.

`go.mod` names its version, `go.sum` the sum of every module; the binary is kept in the git-ignored
`.cache/kustomize/<version>/`. `python -m tests.tools.kustomize` fills that folder ahead of time.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import go

_HERE = Path(__file__).parent
_CACHE = Path(__file__).parents[3] / ".cache" / "kustomize"


class KustomizeError(RuntimeError):
    """Kustomize can't be built, or it refuses a folder; the message is its own."""


def binary() -> Path:
    """The program, built if need be (a minute, once). Raises KustomizeError."""
    found = re.search(r"kustomize/v5 (v\S+)", (_HERE / "go.mod").read_text())
    assert found
    program = _CACHE / found[1] / "kustomize"
    if program.exists():
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    # Built beside and renamed, so that an interrupted or a parallel build leaves no half program. Go's caches are
    # thrown away with it: nothing else here is written in Go.
    with tempfile.TemporaryDirectory(dir=_CACHE) as staging:
        made = Path(staging) / "kustomize"
        environment = os.environ | {
            "GOPATH": f"{staging}/path",
            "GOCACHE": f"{staging}/cache",
            "GOFLAGS": "-modcacherw -buildvcs=false",
            "GOTOOLCHAIN": "local",
            "CGO_ENABLED": "0",
        }
        compiler = Path(go.__file__).parent / "bin" / "go"
        options = ["-trimpath", "-ldflags=-s -w", "-o", str(made)]
        _run([str(compiler), "build", *options, "sigs.k8s.io/kustomize/kustomize/v5"], environment)
        made.replace(program)
    return program


def build(folder: Path) -> str:
    """The manifests of a folder, as one YAML stream. Raises KustomizeError with the reason."""
    return _run([str(binary()), "build", str(folder.resolve())], dict(os.environ))


def _run(command: list[str], environment: dict[str, str]) -> str:
    run = subprocess.run(command, cwd=_HERE, env=environment, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise KustomizeError(run.stderr[-2000:] or f"{command[0]} ended with {run.returncode}")
    return run.stdout


def main() -> None:
    """Build it, or say in one line why that fails."""
    try:
        print(binary())
    except KustomizeError as failure:
        sys.exit(str(failure))
