"""What is promised of content by reference to files: nothing but regular files below the root, ever."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from hashweir.adapters.file_media import FileMedia
from hashweir.errors import ConfigError, InputError
from hashweir.model import Upload
from hashweir.pipeline.fetch import fetch


@pytest.fixture(params=[False, True], ids=["openat2", "walk"])
def walk(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "clip one.mp4").write_bytes(b"content")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "media-not").mkdir()
    (tmp_path / "media-not" / "x").write_bytes(b"secret")
    return folder


async def reason(media: FileMedia, uri: str) -> str:
    with pytest.raises(InputError) as caught:
        await media.fetch(uri)
    return caught.value.reason


async def test_a_file_below_the_root(root: Path, walk: bool) -> None:
    """Percent signs are undone once; the host may be empty or localhost."""
    media = FileMedia(root, 100, walk=walk)
    for host in ("", "localhost"):
        assert await media.fetch(f"file://{host}{root}/a/clip%20one.mp4") == b"content"
    media.close()


@pytest.mark.parametrize(
    "uri",
    [
        "http://localhost{root}/a/clip%20one.mp4",
        "file://elsewhere{root}/a/clip%20one.mp4",
        "file://{root}/../secret",
        "file://{root}/a/%2e%2e/%2e%2e/secret",
        "file://{root}/a/..%2f..%2fsecret",
        "file://{root}-not/x",
        "file:///etc/passwd",
        "file://{root}",
        "file://{root}/",
        "file://{root}/a//clip%20one.mp4",
        "file://{root}/a/clip%20one.mp4%00.jpg",
        "file://{root}/a/clip%20one.mp4?x=1",
        "file://{root}/a/clip%20one.mp4#x",
        "file://{root}/a",
        "{root}/a/clip%20one.mp4",
        "file://[::1",
        "",
    ],
)
async def test_everything_else_is_not_allowed(root: Path, walk: bool, uri: str) -> None:
    """By address alone nothing outside is reached."""
    media = FileMedia(root, 100, walk=walk)
    assert await reason(media, uri.replace("{root}", str(root))) == "not_allowed_uri"
    media.close()


async def test_links_pipes_and_sockets(root: Path, walk: bool) -> None:
    """A link is refused wherever it stands and leads; what is no regular file is never waited for."""
    (root / "link").symlink_to(root / "a" / "clip one.mp4")
    (root / "out").symlink_to(root.parent)
    (root / "inside").symlink_to("a")
    os.mkfifo(root / "pipe")
    media = FileMedia(root, 100, walk=walk)
    for name in ("link", "out/secret", "inside/clip%20one.mp4", "pipe"):
        assert await reason(media, f"file://{root}/{name}") in ("not_allowed_uri", "not_found"), name
    media.close()


async def test_limits_and_missing_files(root: Path, walk: bool) -> None:
    """Each failure has a reason of its own."""
    media = FileMedia(root, 6, walk=walk)
    assert await reason(media, f"file://{root}/a/clip%20one.mp4") == "over_file_limit"
    assert await reason(media, f"file://{root}/a/none") == "not_found"
    assert await reason(media, f"file://{root}/a/" + "x" * 300) == "not_found"
    assert await reason(media, f"file://{root}/a/clip%20one.mp4/more") == "not_found"
    media.close()


async def test_the_root_itself_must_be_there(tmp_path: Path) -> None:
    """Said at the start, not at the first upload."""
    for root in (tmp_path / "none", Path("relative")):
        with pytest.raises(ConfigError):
            FileMedia(root, 1)


async def test_a_root_that_is_replaced_stays_the_one_that_was_opened(root: Path, walk: bool) -> None:
    """The root is opened once: moving another folder to its name leads nobody astray."""
    media = FileMedia(root, 100, walk=walk)
    os.rename(root, root.parent / "moved")  # noqa: PTH104
    (root / "a").mkdir(parents=True)
    (root / "a" / "clip one.mp4").write_bytes(b"other")
    assert await media.fetch(f"file://{root}/a/clip%20one.mp4") == b"content"
    media.close()


@pytest.mark.parametrize(
    ("claims", "wanted"),
    [
        ({}, None),
        ({"size": 7, "sha256": hashlib.sha256(b"content").hexdigest()}, None),
        ({"size": 8}, "size_mismatch"),
        ({"sha256": "0" * 64}, "digest_mismatch"),
    ],
)
async def test_what_the_upload_says_of_its_content_must_be_true(
    root: Path, claims: dict[str, object], wanted: str | None
) -> None:
    """Content that was changed between upload and scan is not judged under the upload's name."""
    media = FileMedia(root, 100)
    upload = Upload(source="s", id="u", uri=f"file://{root}/a/clip%20one.mp4", **claims)  # type: ignore[arg-type]
    if wanted is None:
        assert (await fetch(upload, media)).content == b"content"
    else:
        with pytest.raises(InputError) as caught:
            await fetch(upload, media)
        assert caught.value.reason == wanted
    media.close()
