"""A scan function that does what its content says: what a decoder that was taken over could do.

Tests tell scan processes to load this in place of the real one.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from hashweir.hashing import exact
from hashweir.model import Limits, Scan
from tests.servers.escapes import ESCAPES

_seen: dict[str, str] = {}
"""What a process could see before it was locked down."""


def prepare(limits: Limits) -> Callable[[bytes, str | None, object, object], Scan]:
    """The scan function. Its processes inherit nothing, and it reports that when asked."""
    _seen["environment"] = repr(sorted(os.environ))
    _seen["descriptors"] = repr(sorted(int(entry.name) for entry in Path("/proc/self/fd").iterdir())[:-1])
    return scan


def prepare_and_search(limits: Limits) -> Callable[[bytes, str | None, object, object], Scan]:
    """The same, after a search of all memory for what only the parent should know."""
    # Not one literal, or the search would find itself.
    _seen["secrets"] = str(_own_memory().count(b"-".join((b"only", b"the", b"parent", b"knows", b"this"))))
    return prepare(limits)


def fail(limits: Limits) -> Callable[[bytes, str | None, object, object], Scan]:
    """A preparation that fails, as a missing library would."""
    raise ImportError("the codec is not there")


def scan(content: bytes, media_type: str | None, forms: object, sha256: object) -> Scan:
    """Content is a verb and an argument, with a space between them."""
    verb, _, argument = content.partition(b" ")
    match verb:
        case b"segv":
            ctypes.string_at(0)
        case b"signal":
            signal.raise_signal(int(argument))
        case b"exit":
            os._exit(int(argument))
        case b"raise":
            raise RuntimeError("unforeseen")
        case b"hang":
            _hang()
        case b"spin":
            while True:
                pass
        case b"memory":
            return _claims(content, str(len(bytearray(int(argument)))))
        case b"send":
            os.write(int(sys.argv[1]), argument)
            _hang()
        case b"hang-up":
            os.close(int(sys.argv[1]))
            _hang()
        case b"lie":
            return msgspec.json.decode(argument, type=Scan)
        case b"try":
            return _claims(content, _try(argument.decode()))
        case b"escape":
            ESCAPES[argument.decode()](int(sys.argv[2]))
        case b"mistake":
            return _answer(b"another upload")
    return _answer(content)


def _answer(content: bytes) -> Scan:
    fingerprints = exact.fingerprints(content)
    return Scan(media_class="image", media_type="image/png", fingerprints=fingerprints, checked={"sha256": "ok"})


def _claims(content: bytes, text: str) -> Scan:
    """A way to tell a test something: the media type is the one free text of an answer."""
    return Scan(media_class=None, media_type=text[:256], fingerprints=exact.fingerprints(content))


def _hang() -> None:
    """Wait for ever, by a system call that is allowed."""
    lock = threading.Lock()
    with lock:
        lock.acquire()


_kept: list[bytes] = []


def _try(what: str) -> str:
    try:
        match what.partition(" "):
            case ("pid", _, _):
                return str(os.getpid())
            case ("thread", _, _):
                threading.Thread(target=print).start()
            case ("keep", _, size):
                _kept.append(b"\1" * int(size))
            case ("limit", _, _):
                resource.setrlimit(resource.RLIMIT_CPU, resource.getrlimit(resource.RLIMIT_CPU))
            case (seen, _, _):
                return _seen[seen]
    except (OSError, RuntimeError) as error:
        return f"{type(error).__name__} {error}"
    return "done"


def _own_memory() -> bytes:
    """All of this process's memory that can be read, of regions up to 64 MiB."""
    parts = []
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    with Path("/proc/self/mem").open("rb", buffering=0) as memory:
        for line in maps:
            span, rights, *_ = line.split()
            first, last = (int(number, 16) for number in span.split("-"))
            if rights.startswith("r") and last - first <= 2**26 and not line.endswith(("[vvar]", "[vsyscall]")):
                try:
                    memory.seek(first)
                    parts.append(memory.read(last - first))
                except (OSError, OverflowError):
                    continue
    return b"".join(parts)
