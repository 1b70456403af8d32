"""The index under sanitizers: the extension is built anew with them, and a program searches it from many threads."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "service/hashweir/index/_native.c"
COMPILER = shlex.split(sysconfig.get_config_var("CC"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def stress(folder: Path, sanitizers: str, runtime: str, *options: str) -> subprocess.CompletedProcess[str]:
    """The program with an extension that these sanitizers watch, and their library loaded before all others."""
    extension = folder / "_native.so"
    include = "-I" + sysconfig.get_path("include")
    build = ["-std=c11", "-O1", "-g", "-fPIC", "-shared", f"-fsanitize={sanitizers}", include, "-o", str(extension)]
    subprocess.run([*COMPILER, *build, str(SOURCE)], check=True)
    library = subprocess.run([*COMPILER, f"-print-file-name={runtime}"], check=True, capture_output=True, text=True)
    environment = os.environ | {
        "LD_PRELOAD": library.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter keeps memory to its end
        "UBSAN_OPTIONS": "halt_on_error=1",
        "TSAN_OPTIONS": "halt_on_error=1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    # Without random addresses: the shadow memory of older ThreadSanitizers has fixed places.
    program = ["setarch", platform.machine(), "-R", sys.executable, "-m", "tests.integration.index_stress"]
    return subprocess.run(
        [*program, str(extension), *options], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_no_access_outside_and_nothing_undefined(tmp_path: Path) -> None:
    """AddressSanitizer and UndefinedBehaviorSanitizer have nothing to say, and answers are right."""
    done = stress(tmp_path, "address,undefined", "libasan.so")
    assert (done.returncode, done.stderr) == (0, "")


def test_no_data_race(tmp_path: Path) -> None:
    """Nor has ThreadSanitizer."""
    done = stress(tmp_path, "thread", "libtsan.so")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_thread_sanitizer_sees_this_program(tmp_path: Path) -> None:
    """It does find buckets that are sorted while they are read."""
    done = stress(tmp_path, "thread", "libtsan.so", "--torn")
    assert done.returncode != 0
    assert "data race" in done.stderr
