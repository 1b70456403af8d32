"""PDF files written by hand: pages of text, pictures, and whatever else a stranger may send."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

A4 = (595, 842)


@dataclass(frozen=True)
class Sheet:
    """One page: its content stream, the pictures that it names /I0, /I1, ..., and its size in points."""

    drawing: bytes = b""
    pictures: tuple[Image.Image, ...] = ()
    size: tuple[int, int] = A4
    rotate: int = 0


def lines(text: str, size: int = 10) -> bytes:
    """Drawing operators for a text in Helvetica, 90 characters a line, from the top of an A4 page."""
    cut = [text[at : at + 90] for at in range(0, len(text), 90)]
    shown = b"".join(b"(%s) Tj T*\n" % one.encode("latin-1") for one in cut)
    return b"BT /F %d Tf %d TL 50 800 Td\n%sET\n" % (size, size + 2, shown)


def placed(number: int, left: float, bottom: float, width: float, height: float) -> bytes:
    """Drawing operators for picture /I<number> in this rectangle, in points."""
    return b"q %f 0 0 %f %f %f cm /I%d Do Q\n" % (width, height, left, bottom, number)


def stream(body: bytes, head: bytes = b"", deflated: int = 1) -> bytes:
    """A stream object, deflated so many times."""
    for _ in range(deflated):
        body = zlib.compress(body, 9)
    names = b"/FlateDecode " * deflated
    return b"<<%s /Filter [%s] /Length %d>> stream\n%s\nendstream" % (head, names, len(body), body)


def picture(image: Image.Image) -> bytes:
    """A picture object with a JPEG inside."""
    file = BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=90)
    head = b"/Type /XObject /Subtype /Image /ColorSpace /DeviceRGB /BitsPerComponent 8 /Filter /DCTDecode"
    sides = b"/Width %d /Height %d /Length %d" % (*image.size, len(file.getvalue()))
    return b"<<%s %s>> stream\n%s\nendstream" % (head, sides, file.getvalue())


def assembled(objects: Sequence[bytes], trailer: bytes = b"") -> bytes:
    """A file of these objects, numbered from 1; the first is the catalog."""
    file, places = b"%PDF-1.7\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(file))
        file += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    head = b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    end = b"trailer\n<</Size %d /Root 1 0 R %s>>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, trailer, len(file))
    return file + head + table + end


def pdf(*sheets: Sheet, deflated: int = 1, trailer: bytes = b"") -> bytes:
    """A file of these pages."""
    objects = [b"<</Type /Catalog /Pages 2 0 R>>", b"", b"<</Type /Font /Subtype /Type1 /BaseFont /Helvetica>>"]
    kids = []
    for sheet in sheets:
        names = b""
        for number, image in enumerate(sheet.pictures):
            objects.append(picture(image))
            names += b"/I%d %d 0 R " % (number, len(objects))
        objects.append(stream(sheet.drawing, deflated=deflated))
        resources = b"<</Font <</F 3 0 R>> /XObject <<%s>>>>" % names
        box = b"/MediaBox [0 0 %d %d] /Rotate %d" % (*sheet.size, sheet.rotate)
        page = b"<</Type /Page /Parent 2 0 R %s /Contents %d 0 R /Resources %s>>"
        objects.append(page % (box, len(objects), resources))
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<</Type /Pages /Kids [%s] /Count %d>>" % (b" ".join(kids), len(kids))
    return assembled(objects, trailer)


def scanned(image: Image.Image) -> Sheet:
    """A page that is one picture from edge to edge."""
    return Sheet(placed(0, 0, 0, *image.size), (image,), image.size)


def locked() -> bytes:
    """A file that only opens with a password (standard handler, revision 2; the checksums are of no password)."""
    owner = hashlib.sha256(b"owner").digest()
    handler = b"/Encrypt <</Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s>>>" % (
        owner.hex().encode(),
        hashlib.sha256(b"user").hexdigest().encode(),
    )
    return pdf(Sheet(lines("secret")), trailer=handler + b" /ID [<00> <00>]")
