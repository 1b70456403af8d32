"""Laws about the tree itself: pins, sizes, names, and what must not be in it."""

import ast
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PINS = ("build", "run", "demo", "image", "dev")
NOT_SOURCE = {
    ".git",
    ".venv",
    ".cache",
    ".hypothesis",
    "build",
    "dist",
    "data",
    "node_modules",
    "__pycache__",
}
TEXT = {
    "",
    ".c",
    ".cfg",
    ".conf",
    ".csv",
    ".h",
    ".in",
    ".ini",
    ".json",
    ".lua",
    ".md",
    ".py",
    ".pyi",
    ".sh",
    ".toml",
}
TEXT |= {".txt", ".yaml", ".yml"}


def files(*tops: str) -> Iterator[Path]:
    """Every file that could be committed, below the root or only below the folders named."""
    for top in tops or (".",):
        for folder, below, names in os.walk(ROOT / top):
            below[:] = [b for b in below if b not in NOT_SOURCE and not b.endswith(("_cache", ".egg-info"))]
            yield from (path for name in names if (path := Path(folder, name)).is_file())


def texts() -> Iterator[tuple[Path, str]]:
    """The files that people read, apart from this one, which names what it forbids."""
    for path in files():
        if path.suffix in TEXT and path != Path(__file__).resolve():
            yield path.relative_to(ROOT), path.read_text(encoding="utf-8", errors="replace")


def pinned(name: str) -> dict[str, list[str]]:
    """Requirement lines of one file, each with its options, by the name of the package."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text().replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for line in filter(None, (raw.partition("#")[0].strip() for raw in text.splitlines())):
        found.setdefault(re.split(r"[=<>!~ \[@]", line, maxsplit=1)[0], []).append(line)
    return found


def canonical(name: str) -> str:
    """A package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("name", PINS)
def test_every_requirement_is_one_version_with_hashes(name: str) -> None:
    """Nothing is installed whose bytes were not known when the pins were made."""
    lines = [line for lines in pinned(name).values() for line in lines]
    assert lines
    loose = [
        line
        for line in lines
        if not re.fullmatch(r"[a-z0-9-]+==[^\s;]+( ; [^\\]+?)?(\s+--hash=sha256:[0-9a-f]{64})+", line)
    ]
    assert loose == []


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").iterdir()), ids=lambda path: path.name)
def test_requirement_files_name_no_index(path: Path) -> None:
    """Where packages come from is the machine's business, so that a mirror works."""
    assert not re.search(r"://|--(extra-)?index|--find-links|^-[fi]\b|file:", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", PINS)
def test_all_pins_agree(name: str) -> None:
    """A package has the same version for building, running, showing and testing."""
    dev = pinned("dev")
    assert {p: lines for p, lines in pinned(name).items() if dev.get(p, lines) != lines} == {}


def test_what_the_project_declares_is_pinned() -> None:
    """The pins follow pyproject.toml and the lists beside them: after an edit, `make pins`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [line for line in (ROOT / "requirements/dev.in").read_text().splitlines() if line.strip()]
    for name, wanted in {
        "run": project["dependencies"],
        "demo": project["dependencies"]
        + [one for extra in ("embedded", "video") for one in project["optional-dependencies"][extra]],
        "image": project["dependencies"]
        + [one for extra in ("pdf", "tracing", "video") for one in project["optional-dependencies"][extra]],
        "dev": [line for line in listed if not line.startswith("#")],
    }.items():
        names = {canonical(re.split(r"[\[<>=!~;\s]", line, maxsplit=1)[0]) for line in wanted}
        assert names <= pinned(name).keys()


def test_the_promised_commands_exist() -> None:
    """README, CONTRIBUTING and .ci/run rely on these targets."""
    makefile = (ROOT / "Makefile").read_text()
    for target in ("help", "demo", "test", "check", "venv", "servers", "pins", "clean"):
        assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE), target
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert "make test" in (ROOT / ".ci/run").read_text()


def opening(path: Path, text: str) -> str:
    """What a source file says of itself: its docstring, or the comment at its head."""
    if path.suffix == ".py":
        return ast.get_docstring(ast.parse(text)) or ""
    return re.match(r"(?:\s*(?:#!|//|--|/?\*).*\n|\s*\n)*", text)[0]  # type: ignore[index]


def test_a_long_file_says_why() -> None:
    """A file above 300 lines is rare, and its opening has the sentence that begins with "Long because"."""
    silent = [
        path
        for path in files("service", "tests", "loadtests", "deploy")
        if path.suffix in {".py", ".c", ".h", ".lua"}
        and len((text := path.read_text()).splitlines()) > 300
        and "Long because" not in opening(path, text)
    ]
    assert silent == []


def test_no_file_has_a_name_that_says_nothing() -> None:
    """A file is named by what it does."""
    idle = re.compile(r"(.*_)?(utils?|helpers?|common|managers?|misc)")
    assert [path for path in files("service", "tests", "loadtests") if idle.fullmatch(path.stem)] == []


def test_load_tests_know_only_wire_formats() -> None:
    """What measures the service from outside shares no code with it."""
    for path in files("loadtests"):
        if path.suffix == ".py":
            assert not re.search(r"^\s*(from|import) hashweir\b", path.read_text(), re.MULTILINE), path


def test_nothing_points_outside_the_tree() -> None:
    """No path of the machine, no address of a package registry, no page that is not in the tree."""
    outside = [re.escape(str(place)) + r"\b" for place in {ROOT, Path.home()} if len(place.parts) > 1]
    outside += [
        r"pypi\.org",
        r"pythonhosted\.org",
        r"repo1?\.maven\.(apache\.)?org",
        r"/shared/",
        r"\bDESIGN\b",
    ]
    pattern = re.compile("|".join(outside))
    pages = {path.name for path in files() if path.suffix == ".md"}
    found = [f"{path}: {match[0]}" for path, text in texts() for match in pattern.finditer(text)]
    found += [
        f"{path}: {page}"
        for path, text in texts()
        for page in re.findall(r"[\w./-]+\.md\b", text)
        if Path(page).name not in pages
    ]
    assert found == []
