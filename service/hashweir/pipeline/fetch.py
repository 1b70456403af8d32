"""An upload's content to hand: inline as it came, or by reference through the MediaSource seam."""

from __future__ import annotations

import msgspec

from hashweir.errors import InputError
from hashweir.model import Upload
from hashweir.ports import MediaSource


async def fetch(upload: Upload, media: MediaSource | None) -> Upload:
    """The upload with its content. Raises InputError(no_media_source) where references are not enabled."""
    if upload.uri is None:
        return upload
    if media is None:
        raise InputError("no_media_source", "content by reference (`uri`) is not enabled here: send it inline")
    return msgspec.structs.replace(upload, content=await media.fetch(upload.uri))
