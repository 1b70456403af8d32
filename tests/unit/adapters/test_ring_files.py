"""The ring's folder: files come back as they were written, to their owner alone."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from hashweir.adapters.ring_files import RingFolder
from hashweir.errors import Refused


def test_files_come_back_in_order(tmp_path: Path) -> None:
    """What was written last, without what was removed, and nothing half written."""
    folder = RingFolder(tmp_path / "deep" / "ring")
    assert list(folder.load()) == []
    folder.write({"2": b"two", "1": b"one", "3": b"three"}, [])
    folder.write({"1": b"one again"}, ["3", "never there"])
    (tmp_path / "deep" / "ring" / "4.half").write_bytes(b"cut")
    assert list(folder.load()) == [("1", b"one again"), ("2", b"two")]
    assert {one.name for one in (tmp_path / "deep" / "ring").iterdir()} == {"lock", "1.ring", "2.ring"}


def test_nobody_else_may_read(tmp_path: Path) -> None:
    """0700 for the folder, 0600 for every file in it."""
    folder = RingFolder(tmp_path / "ring")
    list(folder.load())
    folder.write({"1": b"one"}, [])
    assert stat.S_IMODE((tmp_path / "ring").stat().st_mode) == 0o700
    assert {stat.S_IMODE(one.stat().st_mode) for one in (tmp_path / "ring").iterdir()} == {0o600}


def test_a_folder_is_one_workers(tmp_path: Path) -> None:
    """A second one is refused, with the reason."""
    first, second = RingFolder(tmp_path), RingFolder(tmp_path)
    list(first.load())
    with pytest.raises(Refused) as caught:
        list(second.load())
    assert caught.value.reason == "ring_in_use"


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    """An OSError, which the keeper turns into a reason."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        list(RingFolder(tmp_path / "file").load())
