"""Content by reference to a file: below one root, opened so that no name, link or mount leads out of it.

A name that is checked first and opened later can be changed in between. So nothing is checked by name: the kernel
itself refuses to leave the root while it opens (openat2, Linux 5.6 and later), and where it can't, each folder is
opened in turn below the one before, links refused.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import stat
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from hashweir.errors import ConfigError, InputError

_SYS_OPENAT2: Final = 437
"""The same number on every architecture (include/uapi/asm-generic/unistd.h)."""
_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x02, 0x04, 0x08
_RESOLVE: Final = _NO_MAGICLINKS | _NO_SYMLINKS | _BENEATH
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
"""Non-blocking, for a pipe would wait for its other end for ever."""
_OUTSIDE: Final = frozenset({errno.EXDEV, errno.ELOOP})
_MISSING: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})
_NO_SUCH_CALL: Final = frozenset({errno.ENOSYS, errno.EPERM})

_libc = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class FileMedia:
    """`ports.MediaSource` over the regular files below `root`: named by `file://` addresses."""

    def __init__(self, root: Path, most_bytes: int, *, walk: bool = False) -> None:
        """`root` is an absolute path; addresses name paths below it in full, as in `file:///srv/media/a.mp4`.

        `walk` opens folder by folder even where the kernel has openat2. Raises ConfigError where the root is no
        folder that can be read.
        """
        if not root.is_absolute():
            raise ConfigError(f"media.file_root must be an absolute path, got {root}")
        self._root = os.fsencode(os.path.normpath(root))
        self._most_bytes = most_bytes
        self._walk = walk
        try:
            self._folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(f"media.file_root {root} can't be opened: {error.strerror}") from None

    async def fetch(self, uri: str) -> bytes:
        """The content of a file.

        Raises InputError: not_allowed_uri (another scheme or host, outside of the root, a link, no regular file),
        not_found, over_file_limit, unreadable.
        """
        return await asyncio.to_thread(self._read, self._names(uri))

    def close(self) -> None:
        """Let go of the root."""
        os.close(self._folder)

    def _names(self, uri: str) -> list[bytes]:
        try:
            parts = urlsplit(uri)
        except ValueError:
            raise InputError("not_allowed_uri", "the address is malformed") from None
        if parts.scheme != "file" or parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            raise InputError("not_allowed_uri", "only file:///path is fetched here, without host, query and fragment")
        path = unquote_to_bytes(parts.path)
        prefix = self._root.rstrip(b"/") + b"/"
        names = path.removeprefix(prefix).split(b"/")
        if not path.startswith(prefix) or b"\0" in path or any(name in (b"", b".", b"..") for name in names):
            raise InputError("not_allowed_uri", "the address is not below media.file_root")
        return names

    def _read(self, names: list[bytes]) -> bytes:
        try:
            descriptor = self._open(names)
        except OSError as error:
            if error.errno in _OUTSIDE:
                raise InputError("not_allowed_uri", "the address leads over a link, or out of the root") from None
            if error.errno in _MISSING:
                raise InputError("not_found", "there is no such file") from None
            raise InputError("unreadable", f"the file can't be opened: {error.strerror}") from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise InputError("not_allowed_uri", "it is no regular file")
            if status.st_size > self._most_bytes:
                raise InputError("over_file_limit", f"{status.st_size} bytes, the limit is {self._most_bytes}")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                content = file.read(self._most_bytes + 1)
        except OSError as error:
            raise InputError("unreadable", f"the file can't be read: {error.strerror}") from None
        finally:
            os.close(descriptor)
        if len(content) > self._most_bytes:  # it grew meanwhile
            raise InputError("over_file_limit", f"the limit is {self._most_bytes} bytes")
        return content

    def _open(self, names: list[bytes]) -> int:
        if not self._walk:
            how = _How(flags=_FLAGS, mode=0, resolve=_RESOLVE)
            descriptor = _libc.syscall(
                _SYS_OPENAT2, self._folder, b"/".join(names), ctypes.byref(how), ctypes.sizeof(how)
            )
            if descriptor >= 0:
                return int(descriptor)
            number = ctypes.get_errno()
            if number not in _NO_SUCH_CALL:
                raise OSError(number, os.strerror(number))
        return _walked(self._folder, names)


def _walked(folder: int, names: list[bytes]) -> int:
    """Open folder by folder; a name that is a link fails (ELOOP, or ENOTDIR for a folder's)."""
    here = os.dup(folder)
    try:
        for name in names[:-1]:
            below = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = below
        return os.open(names[-1], _FLAGS, dir_fd=here)
    finally:
        os.close(here)
