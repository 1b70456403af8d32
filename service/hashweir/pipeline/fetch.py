"""An upload's content to hand: inline as it came, or by reference through the MediaSource seam."""

from __future__ import annotations

import asyncio
import hashlib

import msgspec

from hashweir.errors import InputError
from hashweir.model import Upload
from hashweir.ports import MediaSource


async def fetch(upload: Upload, media: MediaSource | None) -> Upload:
    """The upload with its content, which is the one that it names where it names size or SHA-256.

    Raises InputError: no_media_source where references are not enabled, size_mismatch and digest_mismatch for a
    content that was changed or mixed up on its way, empty_value, and whatever reason the source has.
    """
    if upload.uri is None:
        return upload
    if media is None:
        raise InputError("no_media_source", "content by reference (`uri`) is not enabled here: send it inline")
    content = await media.fetch(upload.uri)
    if upload.size is not None and len(content) != upload.size:
        raise InputError("size_mismatch", f"{len(content)} bytes were fetched, the upload says {upload.size}")
    if upload.sha256 is not None:
        digest = await asyncio.to_thread(lambda: hashlib.sha256(content).hexdigest())
        if digest != upload.sha256:
            raise InputError("digest_mismatch", f"SHA-256 {digest} was fetched, the upload says {upload.sha256}")
    if not content:
        raise InputError("empty_value", "the content is empty")
    return msgspec.structs.replace(upload, content=content)
