"""A scan function that does what its content says: what a decoder that was taken over could do.

Tests tell scan processes to load this in place of the real one.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable

import msgspec

from hashweir.hashing import exact
from hashweir.model import Fingerprint, Limits, Scan


def prepare(limits: Limits) -> Callable[[bytes, str | None, object], Scan]:
    """The scan function. Its processes inherit nothing, and it reports that when asked."""
    return scan


def fail(limits: Limits) -> Callable[[bytes, str | None, object], Scan]:
    """A preparation that fails, as a missing library would."""
    raise ImportError("the codec is not there")


def scan(content: bytes, media_type: str | None, forms: object) -> Scan:
    """Content is a verb and an argument, with a space between them."""
    verb, _, argument = content.partition(b" ")
    match verb:
        case b"segv":
            ctypes.string_at(0)
        case b"signal":
            os.kill(os.getpid(), int(argument))
        case b"exit":
            os._exit(int(argument))
        case b"raise":
            raise RuntimeError("unforeseen")
        case b"hang":
            signal.pause()
        case b"spin":
            while True:
                pass
        case b"memory":
            return _claims(str(len(bytearray(int(argument)))))
        case b"send":
            os.write(int(sys.argv[1]), argument)
            signal.pause()
        case b"hang-up":
            os.close(int(sys.argv[1]))
            signal.pause()
        case b"lie":
            return msgspec.json.decode(argument, type=Scan)
        case b"try":
            return _claims(_try(argument.decode()))
    return _answer(content)


def _answer(content: bytes) -> Scan:
    fingerprints = exact.fingerprints(content)
    return Scan(media_class="image", media_type="image/png", fingerprints=fingerprints, checked={"sha256": "ok"})


def _claims(text: str) -> Scan:
    """A way to tell a test something: the media type is the one free text of an answer."""
    return Scan(media_class=None, media_type=text[:256], fingerprints=(_zero(),))


def _zero() -> Fingerprint:
    return Fingerprint(kind="md5", form="canonical", recipe="md5/canonical/1", value="0" * 32)


def _try(what: str) -> str:
    try:
        match what:
            case "environment":
                return repr(sorted(os.environ))
            case "descriptors":
                return repr([number for number in range(256) if _is_open(number)])
            case "open":
                os.open("/etc/hostname", os.O_RDONLY)
            case "fork":
                if os.fork() == 0:
                    os._exit(0)
            case "connect":
                socket.create_connection(("127.0.0.1", 9), timeout=1)
            case "pid":
                return str(os.getpid())
    except OSError as error:
        return type(error).__name__ + f" {error.errno}"
    return "done"


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
